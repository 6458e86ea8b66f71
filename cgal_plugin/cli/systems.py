"""``cgal run`` and ``cgal validate`` for a configuration with several systems."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml

from cgal_plugin.plain_text import plain


def run(config: Path, out: Path, *, dry_run: bool, accept_changes: bool) -> None:
    """Run active learning of one potential for several systems; see ``cgal run``."""
    from cgal_plugin.config.systems import load_systems

    settings = load_systems(config)
    if dry_run:
        describe(config)
        return
    from cgal_plugin.cli.progress import RichReporter
    from cgal_plugin.components.resources import start_training_helper

    start_training_helper(settings.main)
    from cgal_plugin.systems import run_systems

    reporter = RichReporter()
    result = run_systems(settings, out, reporter=reporter, accept_changes=accept_changes)
    reporter.message(f"done: report {result.report}, model {result.checkpoint}")


def describe(config: Path, *, resolved: bool = False) -> None:
    """Build what a configuration describes and say what was read, system by system.

    ``resolved``: also print the configuration with all defaults to standard output.
    """
    from cgal_plugin.config.decisions import decision_lines
    from cgal_plugin.config.models import OpenMMOracleConfig
    from cgal_plugin.config.systems import load_systems
    from cgal_plugin.errors import CGALError, ConfigError
    from cgal_plugin.systems.build import build_systems

    settings = load_systems(config)
    try:
        found = build_systems(settings).systems
    except ConfigError:
        raise
    except CGALError as error:
        raise ConfigError(str(error)) from error
    seed_ns, label_ns = 0.0, list[float]()
    for system in settings.systems:
        components = found[system.name]
        typer.echo(plain(f"system {system.name} ({system.role}):"), err=resolved)
        decided = [f"  {line}" for line in decision_lines(components.config.decided)]
        for line in (*components.what_was_read, *decided):
            typer.echo(plain(f"  {line}"), err=resolved)
        oracle = components.config.oracle
        if system.role == "train" and isinstance(oracle, OpenMMOracleConfig):
            seed_ns += components.seed_ns
            label_ns.append(oracle.n_starts * (oracle.relax_ps + oracle.production_ps) / 1000)
    rounds = max(s.config.stopping.rounds for s in settings.of_role("train"))
    if label_ns:
        most = rounds * settings.n_select * max(label_ns)
        budget = settings.main.stopping.oracle_ns
        limit = "" if budget is None else f"; stopping.oracle_ns limits both to {budget:g} ns"
        typer.echo(
            f"all-atom MD: {seed_ns:.3f} ns of seed data, at most {most:.3f} ns of labels{limit}",
            err=resolved,
        )
    typer.echo(
        f"labels per round: {settings.n_select}, shared by {settings.share} among "
        f"{len(settings.of_role('train'))} systems; {len(settings.of_role('test'))} are never labelled",
        err=resolved,
    )
    if resolved:
        typer.echo(yaml.safe_dump(settings.resolved(), sort_keys=False, allow_unicode=True), nl=False)


def status(run_dir: Path, *, as_json: bool) -> None:
    """Show the state of the run and of each system; see ``cgal status``."""
    import json

    from cgal_plugin.cli.status_text import systems_text
    from cgal_plugin.systems.status import systems_status

    found = systems_status(run_dir)
    typer.echo(json.dumps(found, indent=2) if as_json else systems_text(found))

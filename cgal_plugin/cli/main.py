"""The ``cgal`` command. Each function calls one library function, which a script can call as well."""

from __future__ import annotations

import atexit
import codecs
import gc
import io
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from cgal_plugin import interrupts
from cgal_plugin.cli import import_data, import_model, oracle, priors, stages, systems
from cgal_plugin.cli.options import ConfigFile
from cgal_plugin.errors import CGALError, CGALWarning, ConfigError
from cgal_plugin.execution.resources import Auto
from cgal_plugin.plain_text import plain

if TYPE_CHECKING:
    from cgal_plugin.components.build import Components
    from cgal_plugin.config import Config

app = typer.Typer(
    help="Active learning of coarse-grained neural potentials.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    oracle.seed,
    oracle.reference,
    import_data.import_data,
    import_data.export_data,
    stages.fit_priors,
    priors.import_priors,
    priors.export_priors,
    stages.train,
    import_model.import_model,
    stages.export,
    stages.simulate,
    stages.select,
    oracle.backmap,
    oracle.label,
    stages.evaluate,
):
    app.command()(command)


@app.command()
def run(
    config: ConfigFile,
    out: Annotated[Path | None, typer.Option(help="Run directory (default: runs/<file name>).")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost; run nothing.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume with a changed configuration.")
    ] = False,
) -> None:
    """Run the active-learning loop; repeat the command to resume."""
    from cgal_plugin.config import load_yaml
    from cgal_plugin.config.systems import has_systems

    folder = out or Path("runs") / config.stem
    if has_systems(config):
        systems.run(config, folder, dry_run=dry_run, accept_changes=accept_changes)
        return
    settings = load_yaml(config)
    if dry_run:
        from cgal_plugin.runs.cost import plan

        components = _built(settings)
        for line in components.what_was_read:
            typer.echo(plain(line))
        typer.echo(plan(components.config, components.molecule))
        for line in (components.resources.text, *components.resources.notes):
            typer.echo(line)
        return
    from cgal_plugin.cli.progress import RichReporter
    from cgal_plugin.components.resources import start_training_helper

    start_training_helper(settings)
    from cgal_plugin.driver import run as run_loop

    reporter = RichReporter()
    result = run_loop(settings, folder, reporter=reporter, accept_changes=accept_changes)
    reporter.message(f"done: report {result.report}, potential {result.potential}")


@app.command()
def validate(config: ConfigFile) -> None:
    """Build what a configuration describes, say what was read, and print it with all defaults.

    The configuration goes to standard output, everything else to standard error.
    """
    from cgal_plugin.config import dump_yaml, load_yaml
    from cgal_plugin.config.decisions import decision_lines
    from cgal_plugin.config.systems import has_systems
    from cgal_plugin.runs.cost import plan

    if has_systems(config):
        systems.describe(config, resolved=True)
        return
    components = _built(load_yaml(config))
    settings = components.config
    decided = [f"  {line}" for line in decision_lines(settings.decided)]
    heading = ["keys that were left out or auto:"] * bool(decided)
    for line in (*components.what_was_read, *heading, *decided, plan(settings, components.molecule)):
        typer.echo(plain(line), err=True)
    typer.echo(dump_yaml(settings), nl=False)


def _built(settings: Config) -> Components:
    """Build what a configuration describes; whatever is wrong with it is an error of the configuration."""
    from cgal_plugin.components.build import build_components

    try:
        return build_components(settings)
    except ConfigError:
        raise
    except CGALError as error:
        raise ConfigError(str(error)) from error


@app.command()
def template(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write (default: print).")] = None,
    preset: Annotated[str | None, typer.Option(help="Write the values of a preset, such as paper.")] = None,
) -> None:
    """Write a commented configuration: the defaults, or a preset."""
    from cgal_plugin.config.template import template as text

    content = text(preset)
    if out is None:
        typer.echo(content, nl=False)
        return
    if out.exists():
        raise ConfigError(f"{out} already exists; choose another name")
    out.write_text(content, encoding="utf-8")


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration."""
    from cgal_plugin.config.template import schema as text

    typer.echo(text())


@app.command()
def benchmark(
    config: ConfigFile,
    out: Annotated[Path | None, typer.Option(help="Folder (default: runs/<file name>).")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Arms at the same time, which share the cores. Default: one per core."),
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Run only this arm (repeatable).")] = None,
    small: Annotated[bool, typer.Option("--small", help="Apply the section `small` of the file.")] = False,
) -> None:
    """Compare selection strategies at equal oracle cost, over several seeds; repeat the command to resume."""
    from cgal_plugin.benchmark.config import load_benchmark
    from cgal_plugin.benchmark.run import report_benchmark, run_benchmark

    folder = out or Path("runs") / (config.stem + ("_small" if small else ""))
    loaded = load_benchmark(config, small=small)
    at_once: int | Auto = "auto" if workers is None else workers
    run_benchmark(loaded, folder, workers=at_once, arms=arm or (), message=typer.echo)
    typer.echo(str(report_benchmark(folder)))


@app.command()
def status(
    run_dir: Annotated[Path, typer.Argument(help="Run directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the rounds, queue, throughput, failures and remaining time of a run. Nothing is written."""
    import json

    from cgal_plugin.cli.status_text import status_text
    from cgal_plugin.runs.status import run_status
    from cgal_plugin.systems.directory import is_systems_run

    if is_systems_run(run_dir):
        systems.status(run_dir, as_json=as_json)
        return
    found = run_status(run_dir)
    typer.echo(json.dumps(found, indent=2) if as_json else status_text(found))


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="Run directory or benchmark folder.")]) -> None:
    """Write report.html of a run or a benchmark; it may be unfinished."""
    from cgal_plugin.benchmark.run import SETTINGS, report_benchmark
    from cgal_plugin.reporting.collect import report_run
    from cgal_plugin.systems.directory import is_systems_run
    from cgal_plugin.systems.report import report_systems

    made = report_benchmark if (run_dir / SETTINGS).is_file() else report_run
    typer.echo(str((report_systems if is_systems_run(run_dir) else made)(run_dir)))


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename2 or error.filename}: {error.strerror}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}; --debug shows the traceback"


def _plain_output() -> None:
    """Print what the terminal's encoding lacks without failing (Å as A), and warnings as one line."""

    def replace(error: UnicodeError) -> tuple[str | bytes, int]:
        if isinstance(error, UnicodeEncodeError) and error.object[error.start] == "Å":
            return "A", error.start + 1
        return codecs.backslashreplace_errors(error)

    codecs.register_error("cgal", replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="cgal")
    show = warnings.showwarning

    def one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        if file is None and issubclass(category, CGALWarning):
            print(f"note: {plain(message)}", file=sys.stderr, flush=True)
        else:
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = one_line


def _interrupted(interrupted: interrupts.Interrupted) -> None:
    command = shlex.join(["cgal", *sys.argv[1:]])
    print(
        f"ended by {interrupted}; completed work is kept. To resume, run again:\n  {command}",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    """Run the command line; an error becomes one message and an exit code instead of a traceback.

    Exit codes: 0 success; 1 error; 2 wrong usage or configuration; 130, 143 or 138 if ended by SIGINT,
    SIGTERM or SIGUSR1. With ``--debug`` anywhere, the traceback is shown.
    """
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) != len(sys.argv) - 1
    _plain_output()
    atexit.register(gc.freeze)  # at its end Python searches all objects for cycles: 3 s after importing torch
    try:
        with interrupts.handled(keyboard=False), interrupts.last_words(_interrupted):
            app(args=arguments, prog_name="cgal")
    except CGALError as error:
        if debug:
            raise
        print(f"error: {plain(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        if debug:
            raise
        print(f"error: {plain(_unexpected(error))}", file=sys.stderr)
        raise SystemExit(1) from error
    except interrupts.Interrupted as interrupted:
        _interrupted(interrupted)
        sys.exit(interrupted.exit_code)


if __name__ == "__main__":
    main()

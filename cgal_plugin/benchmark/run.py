"""Run the arms of a benchmark. Each completed arm and seed is one line of results; a second call resumes."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgal_plugin.benchmark.config import LoadedBenchmark
from cgal_plugin.benchmark.report import write_benchmark_report
from cgal_plugin.benchmark.statistics import METRICS
from cgal_plugin.components.model_test import FES_RANGE, STARTS, TEST_VERSION
from cgal_plugin.config import Config
from cgal_plugin.driver.loop import run
from cgal_plugin.errors import AnalysisError, CGALError, ConfigError, StateError
from cgal_plugin.execution.map_tasks import map_tasks
from cgal_plugin.execution.resources import Auto, available_cores, resolve_threads
from cgal_plugin.provenance import atomic_write, hash_file, versions, write_json
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import REFINEMENT, test_stages
from cgal_plugin.runs.log import LOG

RESULTS, SETTINGS, MODELS = "results.jsonl", "benchmark.json", "models"
#: folders that the arms of one seed share if these sections of their configurations are equal
_SHARED = (
    (("seed", "data"), ("seed", "system", "seed_data")),
    (("priors",), ("training",)),
    (("rounds/round_000/train",), ()),
    ((STARTS, "rounds/round_000/test"), ("evaluation", "test")),
    (("rounds/round_000/simulate", "rounds/round_000/evaluate"), ("simulation",)),
)
#: files and folders of a completed run that are not copied to an arm that refines the run
_END = (
    REFINEMENT,
    "config.yaml",
    "run.json",
    "run.lock",
    LOG,
    "model.ckpt",
    "potential.pt",
    "report.html",
)
#: results of a round that are kept in the results of an arm
_ROUND_KEYS = (
    "round",
    "n_frames",
    "oracle_ns",
    "n_selected",
    "n_labelled",
    "n_new_frames",
    "n_blow_ups",
    "coverage",
    "drift_text",
)
#: results of a test that are not kept in the results of an arm
_TEST_ONLY = ("trajectories", "events", "reference_read")


@dataclass(frozen=True)
class ArmTask:
    """One arm and seed for a worker process; ``start_from`` is the baseline's run or the one it refines."""

    arm: str
    seed: int
    config: Config
    folder: Path
    start_from: Path | None
    refines: bool


def run_benchmark(
    benchmark: LoadedBenchmark,
    out_dir: str | os.PathLike[str],
    *,
    workers: int | Auto = "auto",
    arms: Sequence[str] = (),
    message: Callable[[str], None] = lambda text: None,
) -> Path:
    """Run each arm and seed that has no result yet; return the results file.

    The baseline runs first. The other arms of a seed start from its seed data, priors and first model. Arms
    that refine another arm run last and start from its completed runs. If an arm fails, the error is
    reported, the other arms continue, and the next call runs the arm again.

    Parameters
    ----------
    benchmark
        Result of :func:`cgal_plugin.benchmark.config.load_benchmark`.
    out_dir
        Folder for ``results.jsonl`` (one line per arm and seed), ``benchmark.json``, ``models/`` (checkpoint
        and potential of each) and ``runs/``.
    arms
        Run only these arms and the baseline; default: all.
    workers
        Number of arms that run at the same time, each in a process; they share the cores. ``"auto"``: one per
        core; 0 runs all arms in this process.
    message
        Receives status messages, one line at a time.

    Raises
    ------
    ConfigError
        An arm is not in the file.
    StateError
        The folder contains results of another benchmark, or is in use by another process.
    """
    out = Path(out_dir)
    with RunDirectory(out).locked():
        _adopt(benchmark, out)
        done = {(r["arm"], r["seed"]) for r in read_results(out)}
        wanted = {*arms, benchmark.settings.baseline} if arms else {*benchmark.settings.arms}
        unknown = sorted(wanted - {*benchmark.settings.arms})
        if unknown:
            raise ConfigError(f"arms {unknown} are not in the file: {', '.join(benchmark.settings.arms)}")
        todo = [job for job in benchmark.jobs if job not in done and job[0] in wanted]
        message(f"{len(done)} of {len(benchmark.jobs)} runs (arm, seed) have a result")
        baseline = benchmark.settings.baseline
        arm_of = benchmark.settings.arms

        def turn(arm: str) -> int:
            return 0 if arm == baseline else 2 if arm_of[arm].refines else 1

        for now in range(3):
            jobs = [job for job in todo if turn(job[0]) == now]
            tasks = [_task(benchmark, job, out) for job in jobs]

            def keep(position: int, result: dict[str, Any], tasks: list[ArmTask] = tasks) -> None:
                name = f"{tasks[position].arm}, seed {tasks[position].seed}"
                error = result.get("error") or _other_starts(result, baseline, read_results(out))
                if error:
                    message(f"{name}: FAILED: {error}")
                    return
                _store(out, result, tasks[position].folder)
                w1, ucsc = (result["test"][m]["value"] for m in ("w1", "w1_ucsc"))
                drift = result["test"].get("drift_text")
                message(
                    f"{name}: W1 {w1:.3f}, w1_ucsc {ucsc:.3f}, {result['seconds'] / 60:.1f} min"
                    + (f", W1 drifts: {drift}" if drift else "")
                )

            # the arms that run at the same time share the cores
            at_once = resolve_threads(workers, len(tasks))
            cores = max(1, available_cores() // max(1, min(at_once, len(tasks))))
            map_tasks(run_arm, tasks, keep, workers=at_once, limited=False, cores=cores)
    return out / RESULTS


def _other_starts(
    result: Mapping[str, Any], baseline: str, results: Sequence[Mapping[str, Any]]
) -> str | None:
    """Say that an arm was tested from other starts than the baseline; None if it was not."""
    ours = result["test"]["start_id"]
    for row in results:
        theirs = row["test"].get("start_id")
        if row["arm"] == baseline and row["seed"] == result["seed"] and theirs not in (None, ours):
            return (
                f"it was tested from other starts ({ours}) than the baseline {baseline!r} ({theirs}), so "
                "that their results cannot be compared: give both the same seed data, or a system "
                "with a fold that can be stretched (system.structure)"
            )
    return None


def read_results(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the results in a benchmark's folder, one dict per arm and seed.

    Raises
    ------
    StateError
        A line is damaged.
    """
    path = Path(folder) / RESULTS
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise StateError(
                f"{path}:{number} is damaged ({error}); delete that line and run the benchmark again"
            ) from error
    return rows


def report_benchmark(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``figure.png`` and ``summary.json`` of the available results.

    Raises
    ------
    StateError
        The folder contains no benchmark or no results, or results of different tests.
    AnalysisError
        The baseline has no result yet.
    """
    path = Path(folder) / SETTINGS
    results = read_results(folder)
    if not path.is_file() or not results:
        raise StateError(f"{folder} contains no benchmark results yet")
    versions_found = {row.get("test_version", 1) for row in results}
    if len(versions_found) > 1:
        raise StateError(
            f"{Path(folder) / RESULTS} mixes results of different tests (test_version "
            f"{', '.join(map(str, sorted(versions_found)))}), which cannot be compared: keep the lines of "
            "one version, and the others in another folder"
        )
    settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
    return write_benchmark_report(Path(folder), results, settings, FES_RANGE)


def run_arm(task: ArmTask) -> dict[str, Any]:
    """Run one arm to its end and test its model; a :class:`CGALError` becomes ``{"error": ...}``."""
    started = time.monotonic()
    try:
        _share_start(task)
        result = run(task.config, task.folder)
        directory = RunDirectory(task.folder)
        test = _final_test(directory)
    except CGALError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if task.start_from is not None:
        test = {
            k: v for k, v in test.items() if k != "reference_histogram"
        }  # it is in the baseline's results
    seed_ns = directory.stage("seed").results()["oracle_ns"]
    return {
        "arm": task.arm,
        "seed": task.seed,
        "config_hash": task.config.hash,
        "test_version": TEST_VERSION,
        "versions": versions(),
        "seconds": time.monotonic() - started,
        "seed_ns": seed_ns,
        "oracle_ns": seed_ns + sum(float(r.get("oracle_ns", 0.0)) for r in result.rounds),
        "rounds": [_round(r) for r in result.rounds],
        "test": test,
    }


def _final_test(directory: RunDirectory) -> dict[str, Any]:
    """Return the results of the test of a run's final model.

    Raises
    ------
    AnalysisError
        Its W1 could not be computed.
    """
    label, stage = test_stages(directory)[-1]
    found = {k: v for k, v in stage.results().items() if k not in _TEST_ONLY}
    missing = [metric for metric in METRICS if found.get(metric) is None]
    if missing or found.get("histogram") is None:
        reasons = "; ".join(f"{k}: {v}" for k, v in found.get("not_evaluated", {}).items())
        raise AnalysisError(f"the test of the final model ({label}) has no result: {reasons}")
    return found


def _round(row: Mapping[str, Any]) -> dict[str, Any]:
    known = [m for m in METRICS if row.get(m)]
    distances = {m: {k: row[m][k] for k in ("value", "interval", "floor")} for m in known}
    return {k: row[k] for k in _ROUND_KEYS if k in row} | distances


def _task(benchmark: LoadedBenchmark, job: tuple[str, int], out: Path) -> ArmTask:
    arm, seed = job
    settings = benchmark.settings
    refined = settings.arms[arm].refines
    origin = None if arm == settings.baseline else out / "runs" / (refined or settings.baseline)
    return ArmTask(
        arm,
        seed,
        benchmark.jobs[job],
        out / "runs" / arm / f"seed_{seed}",
        None if origin is None else origin / f"seed_{seed}",
        refined is not None,
    )


def _adopt(benchmark: LoadedBenchmark, out: Path) -> None:
    path = out / SETTINGS
    facts: dict[str, Any] = {
        "settings": benchmark.settings.model_dump(mode="json"),
        "jobs": {f"{arm}/{seed}": digest for (arm, seed), digest in benchmark.hashes.items()},
        "reference": benchmark.reference,
    }
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        before = known["jobs"]
        rows = read_results(out)
        done = {f"{r['arm']}/{r['seed']}" for r in rows}
        old = [r for r in rows if r.get("test_version", 1) != TEST_VERSION]
        if old:
            raise StateError(
                f"{out} has {len(old)} results of an earlier version of the test, which new ones cannot be "
                "compared with (their rounds have the W1 of the exploration, and nothing says whether a test "
                "drifts): use another folder. `cgal report` still reads this one"
            )
        if done and known.get("reference", benchmark.reference) != benchmark.reference:
            raise StateError(
                f"{out} has results with another content of evaluation.reference: restore it, or use another "
                "folder"
            )
        other = sorted(j for j in done if facts["jobs"].get(j) != before[j])
        if other:
            raise StateError(
                f"{out} has results of another configuration for {', '.join(other)}; use another folder, or "
                f"delete their lines in {out / RESULTS} and their folders in {out / 'runs'}"
            )
    write_json(path, facts)


def _share_start(task: ArmTask) -> None:
    """Copy the stages that an arm shares with the baseline of its seed, or the run that it refines."""
    if task.start_from is None or (task.folder / "config.yaml").exists():
        return
    theirs = RunDirectory(task.start_from)
    if not (theirs.root / "model.ckpt").exists():
        return
    if task.refines:
        shutil.rmtree(task.folder, ignore_errors=True)  # an incomplete copy, if the process was killed
        root = str(theirs.root)
        shutil.copytree(root, task.folder, ignore=lambda at, names: _END if at == root else ())
        return
    a, b = theirs.config().resolved(), task.config.resolved()
    if a["oracle"].get("solvent") != b["oracle"].get("solvent"):
        return
    for folders, sections in _SHARED:
        if any(a[section] != b[section] for section in sections):
            return
        for name in folders:
            target = task.folder / name
            shutil.rmtree(target, ignore_errors=True)  # an incomplete copy, if the process was killed
            shutil.copytree(theirs.root / name, target)


def _store(out: Path, result: dict[str, Any], folder: Path) -> None:
    models = out / MODELS / result["arm"] / f"seed_{result['seed']}"
    models.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for name in ("model.ckpt", "potential.pt"):
        with atomic_write(models / name) as handle:
            handle.write((folder / name).read_bytes())
        hashes[name] = hash_file(models / name)
    text = "".join(json.dumps(row) + "\n" for row in [*read_results(out), result | {"models": hashes}])
    with atomic_write(out / RESULTS, "w") as handle:
        handle.write(text)

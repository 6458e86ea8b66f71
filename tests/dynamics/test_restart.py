"""An interrupted and resumed simulation ends with the same bytes as an uninterrupted one."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.dynamics import Guard, simulate
from cgal_plugin.errors import DamageError, StateError
from cgal_plugin.mapping import CGTopology
from tests.dynamics.potentials import CROSSED, WELL, HarmonicChain, chain_start, coil_start, save_potential
from tests.torchforce import DEFAULT, TORCHFORCE

STEPS = 800
N = 3
ARGUMENTS = {"timestep_fs": 4.0, "temperature": 300.0, "friction": 1.0, "seed": 11, "report_interval": 20}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["healthy", "parked", "restarted"])
def scenario(request, chignolin, tmp_path_factory):
    """A potential, arguments and the uninterrupted simulation: without and with blow-ups."""
    folder = tmp_path_factory.mktemp(request.param)
    fault = 0 if request.param == "healthy" else 1
    module = HarmonicChain(N, 10, well=WELL * fault, fault=fault, limit=CROSSED)
    potential = save_potential(module, folder / "p.pt")
    start = coil_start(N, 10)
    arguments = ARGUMENTS | {
        "guard": Guard(max_temperature_ratio=None, restart_blown=request.param == "restarted")
    }
    full = simulate(potential, chignolin, start, steps=STEPS, out_dir=folder / "full", **arguments)
    assert {event.replica for event in full.events} == ({1} if fault else set())
    return potential, start, arguments, full


def assert_same(result, full):
    assert result.events == full.events
    assert result.n_frames == full.n_frames
    assert result.steps_done == full.steps_done
    for path, expected in zip(result.trajectories, full.trajectories, strict=True):
        assert path.read_bytes() == expected.read_bytes()


class Interrupted(Exception):
    """Raised by a progress callback."""


def stop_at(step):
    def progress(done, total):
        if done >= step:
            raise Interrupted

    return progress


@pytest.mark.parametrize("backend", [TORCHFORCE, "python"])
def test_interruptions_leave_no_trace(scenario, chignolin, tmp_path, backend):
    potential, start, arguments, full = scenario
    arguments = arguments | {"backend": backend, "out_dir": tmp_path / "sim", "steps": STEPS}
    for at, every in ((100, 60), (440, 200), (660, 20)):
        with pytest.raises(Interrupted):
            simulate(
                potential, chignolin, start, progress=stop_at(at), checkpoint_interval=every, **arguments
            )
    # a process killed after writing frames and before the checkpoint leaves extra frames
    with (tmp_path / "sim" / "replica_000.dcd").open("ab") as handle:
        handle.write(bytes(1000))
    seen = []
    result = simulate(potential, chignolin, start, progress=lambda d, t: seen.append(d), **arguments)
    assert seen[0] > 640
    if backend == DEFAULT:
        assert_same(result, full)
    else:  # backends may differ in the last digits, so compare with this backend
        whole = simulate(potential, chignolin, start, **arguments | {"out_dir": tmp_path / "whole"})
        assert_same(result, whole)


@pytest.mark.integration
@pytest.mark.parametrize("scenario", ["parked"], indirect=True)
def test_sigkill_leaves_no_trace(scenario, chignolin, tmp_path):
    potential, start, arguments, full = scenario
    guard = arguments["guard"]
    script = textwrap.dedent(f"""
        import sys
        import numpy as np
        from cgal_plugin.dynamics import Guard, simulate
        from cgal_plugin.mapping import CGTopology

        def progress(done, total):
            print(done, flush=True)
            if done >= 400:
                sys.stdin.readline()  # blocks until the kill

        simulate({str(potential)!r}, CGTopology.from_sequence({chignolin.sequence!r}),
                 np.load({str(tmp_path / "start.npy")!r}), steps={STEPS}, out_dir={str(tmp_path / "sim")!r},
                 guard=Guard(**{guard.to_dict()!r}), progress=progress, checkpoint_interval=140,
                 **{ARGUMENTS!r})
    """)
    np.save(tmp_path / "start.npy", start)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        for line in process.stdout:
            if int(line) >= 400:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    seen = []
    result = simulate(
        potential,
        chignolin,
        start,
        steps=STEPS,
        out_dir=tmp_path / "sim",
        progress=lambda done, total: seen.append(done),
        **arguments,
    )
    assert seen[0] in range(280, 340, 20)
    assert_same(result, full)


def test_a_finished_simulation_returns_at_once_and_can_be_made_longer(scenario, chignolin, tmp_path):
    potential, start, arguments, full = scenario
    arguments = arguments | {"out_dir": tmp_path / "sim"}
    simulate(potential, chignolin, start, steps=410, **arguments)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "sim").glob("[!.]*")}
    seen = []
    again = simulate(potential, chignolin, start, steps=410, progress=lambda *a: seen.append(a), **arguments)
    assert again.steps_done == 410
    assert seen == []
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "sim").glob("[!.]*")} == before
    assert_same(simulate(potential, chignolin, start, steps=STEPS, **arguments), full)
    manifest = json.loads((tmp_path / "sim" / "simulation.json").read_text())
    assert manifest["steps_done"] == STEPS
    assert manifest["n_frames"] == list(full.n_frames)


def test_damage_is_an_error_that_names_the_file(chignolin, tmp_path):
    potential = save_potential(HarmonicChain(N, 10), tmp_path / "p.pt")
    arguments = ARGUMENTS | {"out_dir": tmp_path / "sim"}
    simulate(potential, chignolin, coil_start(N, 10), steps=100, **arguments)
    checkpoint = tmp_path / "sim" / "checkpoint.npz"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:100])
    with pytest.raises(StateError, match=r"checkpoint.npz' is damaged"):
        simulate(potential, chignolin, coil_start(N, 10), steps=200, **arguments)
    checkpoint.write_bytes(content)
    (tmp_path / "sim" / "replica_001.dcd").write_bytes(b"")
    with pytest.raises(StateError, match=r"replica_001.dcd' is damaged"):
        simulate(potential, chignolin, coil_start(N, 10), steps=200, **arguments)


@pytest.mark.parametrize("when", ["interrupted", "finished"])
def test_a_flipped_bit_in_a_trajectory_is_seen(scenario, chignolin, tmp_path, when):
    potential, start, arguments, _ = scenario
    call = {**arguments, "steps": STEPS, "out_dir": tmp_path / "run"}
    progress = stop_at(500) if when == "interrupted" else None
    if when == "interrupted":
        with pytest.raises(Interrupted):
            simulate(potential, chignolin, start, progress=progress, checkpoint_interval=100, **call)
    else:
        simulate(potential, chignolin, start, **call)
    path = tmp_path / "run" / "replica_000.dcd"
    content = bytearray(path.read_bytes())
    content[400] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(StateError, match=r"replica_000\.dcd' is damaged; delete"):
        simulate(potential, chignolin, start, **call)


def test_a_simulation_without_its_manifest_is_damaged(chignolin: CGTopology, tmp_path: Path) -> None:
    """Unlike trajectories of another program: a run makes it again."""
    potential = save_potential(HarmonicChain(1, 10), tmp_path / "p.pt")
    options = {"steps": 20, "report_interval": 10, "temperature": 300.0, "timestep_fs": 1.0, "friction": 1.0}
    out = tmp_path / "s"

    def go() -> None:
        simulate(potential, chignolin, chain_start(1, 10), seed=0, out_dir=out, backend="python", **options)

    go()
    (out / "simulation.json").unlink()
    with pytest.raises(DamageError, match=r"simulation\.json' is damaged \(it is missing\); delete") as error:
        go()
    shutil.rmtree(str(error.value).split("delete '")[1].partition("'")[0])
    go()

"""Files, invalid arguments and blow-ups of simulations."""

from __future__ import annotations

import json

import mdtraj
import numpy as np
import pytest
import torch

from cgal_plugin.dynamics import Guard, read_dcd, simulate
from cgal_plugin.dynamics.folder import SimulationFolder
from cgal_plugin.dynamics.guard import bond_lengths
from cgal_plugin.errors import DynamicsError, StateError
from cgal_plugin.provenance import hash_file
from tests.dynamics.potentials import (
    CROSSED,
    WELL,
    HarmonicChain,
    chain_start,
    coil_start,
    largest_extent,
    save_potential,
)
from tests.torchforce import DEFAULT, TORCHFORCE, needs_torchforce

COMMON = {"timestep_fs": 4.0, "temperature": 300.0, "friction": 1.0, "seed": 7, "report_interval": 20}


@pytest.fixture
def run(chignolin, tmp_path):
    """Simulate replicas of ten beads; keywords override the defaults."""

    def call(out="sim", start=None, module=None, n=3, **changes):
        path = tmp_path / f"{out}.pt"
        if not path.exists():
            save_potential(module or HarmonicChain(n, 10), path)
        start = chain_start(n, 10) if start is None else start
        arguments = {**COMMON, "steps": 200, "out_dir": tmp_path / out} | changes
        return simulate(path, chignolin, start, **arguments)

    return call


def test_frames_are_bonded_centred_and_readable_by_mdtraj(run, chignolin):
    result = run(backend=DEFAULT, steps=210)
    assert result.n_frames == (10, 10, 10)
    assert result.total_frames == 30
    assert result.steps_done == 210
    assert result.events == ()
    assert [p.name for p in result.trajectories] == ["replica_000.dcd", "replica_001.dcd", "replica_002.dcd"]
    for path, frames in zip(result.trajectories, result.load(), strict=True):
        assert frames.shape == (10, 10, 3)
        assert abs(frames.mean(axis=1)).max() < 1e-5
        assert abs(bond_lengths(frames, chignolin.bond_index) - 3.8).max() < 1.0
        read = mdtraj.load(str(path), top=str(result.topology_file))
        np.testing.assert_allclose(read.xyz * 10, frames, atol=1e-5)
        assert read.topology.n_residues == 10


def test_replicas_differ_and_seeds_and_starts_decide(run):
    first, again, other = run("a"), run("b"), run("c", seed=8)
    frames = first.load()
    assert not np.allclose(frames[0], frames[1])
    assert all(np.array_equal(x, y) for x, y in zip(frames, again.load(), strict=True))
    assert not np.allclose(frames[0], other.load()[0])


@needs_torchforce
def test_backends_give_one_trajectory(run):
    first, second = run("a", backend="torchforce"), run("b", backend="python")
    for x, y in zip(first.load(), second.load(), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


def test_one_frame_or_an_mdtraj_trajectory_starts_the_replicas(run, chignolin):
    start = chain_start(3, 10)
    expected = run("a").load()
    assert np.array_equal(run("b", start=start[0], n_replicas=3).load(), expected)
    trajectory = mdtraj.Trajectory(start / 10, chignolin.to_mdtraj())
    np.testing.assert_allclose(run("c", start=trajectory).load(), expected, atol=0.02)


def test_minimisation_is_off_unless_asked_for(run):
    start = chain_start(1, 10, spacing=4.6)
    cold = {
        "temperature": 1e-3,
        "n": 1,
        "steps": 1,
        "report_interval": 1,
        "start": start,
        "guard": Guard.off(),
    }
    (kept,), (relaxed,) = run("a", **cold).load(), run("b", minimize_steps=200, **cold).load()
    assert abs(np.diff(kept[0, :, 0]).mean() - 4.6) < 0.05
    assert abs(np.diff(relaxed[0, :, 0]) - 3.8).max() < 0.05


def test_the_manifest_says_what_was_run(run, tmp_path):
    result = run()
    manifest = json.loads((result.out_dir / "simulation.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["inputs"]["potential_sha256"] == hash_file(tmp_path / "sim.pt")
    assert manifest["inputs"]["temperature"] == 300.0
    assert manifest["versions"]["openmm"]
    assert manifest["n_frames"] == [10, 10, 10]
    assert manifest["timings"]["seconds"] > 0


def test_threads_are_set_only_for_the_run(run):
    before = torch.get_num_threads()
    during = []
    run(n_threads=before + 1, progress=lambda done, total: during.append(torch.get_num_threads()))
    assert set(during) == {before + 1}
    assert torch.get_num_threads() == before


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 10.5}, r"steps is 10.5; it must be an integer"),
        ({"report_interval": 0}, "report_interval is 0"),
        ({"timestep_fs": -1}, "timestep_fs is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"platform": "Abacus"}, r"'Abacus' is not available; use one of Reference"),
        ({"start": chain_start(3, 9)}, "9 beads; the topology has 10"),
        ({"start": chain_start(2, 10), "n_replicas": 3}, r"2 start frame\(s\) for 3 replica"),
        ({"start": np.full((3, 10, 3), np.nan)}, r"\[0, 1, 2\] are not finite"),
        ({"module": HarmonicChain(2, 10)}, r"cannot be evaluated for 3 replica\(s\) of 10 beads"),
    ],
)
def test_bad_arguments_are_named(run, wrong, message):
    with pytest.raises(DynamicsError, match=message):
        run(**wrong)


def test_another_simulation_in_the_folder_is_refused_with_the_difference(run, tmp_path):
    run()
    with pytest.raises(StateError, match=r"other inputs \(temperature: 300.0 -> 310.0\)"):
        run(temperature=310.0)
    with pytest.raises(StateError, match=r"start_sha256"):
        run(start=chain_start(3, 10, 3.9))
    with pytest.raises(StateError, match=r"already holds 200 steps, more than steps=100"):
        run(steps=100)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "replica_000.dcd").write_bytes(b"precious")
    with pytest.raises(StateError, match=r"replica_000.dcd\) but no simulation.json"):
        run("other")
    assert (tmp_path / "other" / "replica_000.dcd").read_bytes() == b"precious"


def test_a_folder_in_use_is_refused(run, tmp_path):
    with SimulationFolder(tmp_path / "sim", 3).lock(), pytest.raises(StateError, match="in use by pid"):
        run()
    assert run().total_frames == 30


# ---------------------------------------------------------------------- blow-ups

#: nm from the centre; the straight start reaches 1.71
LIMIT = 1.9
#: steps, in which replica 1 crosses the limit CROSSED
LONG = 800


def stretched():
    """Return a start with replica 1 beyond LIMIT and bonds within the guard."""
    start = chain_start(3, 10)
    start[1] *= 1.3
    return start


COLD = {"temperature": 30.0, "backend": DEFAULT}


@pytest.mark.parametrize(
    ("fault", "guard", "kind"), [(1, Guard.off(), "non-finite"), (3, Guard(), "bond"), (4, Guard(), "bond")]
)
@pytest.mark.parametrize("backend", [TORCHFORCE, "python"])
def test_one_exploding_replica_leaves_the_others_alone(run, chignolin, fault, guard, kind, backend):
    guard = Guard(max_temperature_ratio=None) if fault != 1 else guard
    start = stretched()
    result = run(
        start=start,
        module=HarmonicChain(3, 10, fault=fault, limit=LIMIT),
        guard=guard,
        **COLD | {"backend": backend},
    )
    (event,) = result.events
    assert (event.replica, event.kind, event.frame_index) == (1, kind, 0)
    # NaN forces are detected before the first step
    assert event.step == 0 if fault == 1 else 0 < event.step <= 20
    assert result.steps_done == 200
    assert result.n_frames == (10, 0, 10)
    for replica in (0, 2):
        assert abs(bond_lengths(result.load()[replica], chignolin.bond_index) - 3.8).max() < 0.5


def test_frames_before_the_event_are_kept_and_equal_those_of_a_healthy_run(run):
    start = coil_start(3, 10)
    healthy = run(
        "healthy", start=start, steps=LONG, module=HarmonicChain(3, 10, well=WELL), guard=Guard.off()
    ).load()
    module = HarmonicChain(3, 10, fault=1, limit=CROSSED, well=WELL)
    result = run("ill", start=start, steps=LONG, module=module, guard=Guard(max_temperature_ratio=None))
    (event,) = result.events
    assert (event.replica, event.kind) == (1, "non-finite")
    kept = event.frame_index
    # the replica may have crossed the limit and returned between two frames
    assert 5 <= kept <= int(np.argmax(largest_extent(healthy[1]) > CROSSED))
    assert result.n_frames[1] == kept
    for replica, frames in enumerate(result.load()):
        assert np.array_equal(frames[:kept], healthy[replica][:kept])
        if replica != 1:
            assert len(frames) == LONG // 20
            assert np.isfinite(frames).all()
            # the noise has a new seed and does not repeat from the start
            assert not np.allclose(frames[kept + 1], healthy[replica][kept + 1])


def test_a_blown_replica_can_be_started_again(run):
    module = HarmonicChain(3, 10, fault=3, limit=LIMIT)
    guard = Guard(restart_blown=True, max_restarts=2, max_temperature_ratio=None)
    result = run(start=stretched(), module=module, guard=guard, **COLD)
    # it starts beyond the limit each time, so it blows up once more often than it is restarted
    assert [e.replica for e in result.events] == [1, 1, 1]
    assert [e.step for e in result.events] == [20, 40, 60]
    assert result.n_frames == (10, 0, 10)


def test_a_replica_restarted_in_good_health_goes_on(run):
    start = coil_start(3, 10)
    module = HarmonicChain(3, 10, fault=1, limit=CROSSED, well=WELL)
    guard = Guard(max_temperature_ratio=None, restart_blown=True)
    result = run(start=start, steps=LONG, module=module, guard=guard)
    assert {event.replica for event in result.events} == {1}
    assert result.steps_done == LONG
    # no frame is stored at the step of a restart
    assert result.n_frames == (LONG // 20, LONG // 20 - len(result.events), LONG // 20)
    for event in [e for e in result.events if e.step < LONG]:
        # it continues from the start, with new velocities
        after = result.load()[event.replica][event.frame_index]
        first = result.load()[event.replica][0]
        assert largest_extent(after[None]) < 1.5 * largest_extent(start[:1])
        assert not np.allclose(after, first)


def test_when_every_replica_is_lost_the_run_ends_with_what_there_is(run):
    module = HarmonicChain(3, 10, fault=3, limit=1.5)
    result = run(module=module, guard=Guard(max_temperature_ratio=None), **COLD)
    assert sorted(e.replica for e in result.events) == [0, 1, 2]
    assert result.steps_done == 20
    assert result.n_frames == (0, 0, 0)
    assert [len(f) for f in result.load()] == [0, 0, 0]
    calls = []
    again = run(progress=lambda *a: calls.append(a), guard=Guard(max_temperature_ratio=None), **COLD)
    assert (again.events, calls) == (result.events, [])


def test_a_start_outside_the_limits_is_an_event_unless_all_are(run):
    start = chain_start(3, 10)
    start[2, 5:, 0] += 20
    result = run(start=start)
    (event,) = result.events
    assert (event.replica, event.step, event.kind, event.frame_index) == (2, 0, "bond", 0)
    assert result.n_frames == (10, 10, 0)
    with pytest.raises(DynamicsError, match=r"every replica is outside the limits of the guard at the start"):
        run("all", start=start, guard=Guard(bond_reference=(1.0,) * 9))


@pytest.mark.parametrize("backend", [TORCHFORCE, "python"])
def test_a_potential_that_fails_for_no_replicas_fault_is_an_error_and_frames_are_kept(run, backend, tmp_path):
    start = coil_start(3, 10)
    run("healthy", start=start, steps=LONG, module=HarmonicChain(3, 10, well=WELL), guard=Guard.off())
    module = HarmonicChain(3, 10, fault=2, limit=CROSSED, well=WELL)
    with pytest.raises(DynamicsError, match=r"failed at step \d+ with every replica within .* too far out"):
        run(
            "ill",
            start=start,
            module=module,
            backend=backend,
            checkpoint_interval=100,
            steps=LONG,
            guard=Guard(max_temperature_ratio=None),
        )
    manifest = json.loads((tmp_path / "ill" / "simulation.json").read_text())
    assert manifest["status"] == "running"
    kept = read_dcd(tmp_path / "ill" / "replica_000.dcd")
    healthy = read_dcd(tmp_path / "healthy" / "replica_000.dcd")
    assert len(kept) >= 5
    np.testing.assert_allclose(kept, healthy[: len(kept)], atol=1e-4)

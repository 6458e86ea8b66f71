"""Parallel tempering: files, restarts, bad input, parked walkers, remedies that work."""

from __future__ import annotations

import json
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from typer.testing import CliRunner

from cgal_plugin.cli.main import app
from cgal_plugin.data.temperature import recorded_temperature
from cgal_plugin.data.trajectories import save_trajectories
from cgal_plugin.dynamics import Guard, load_simulation, simulate
from cgal_plugin.dynamics.exchange_file import EXCHANGES
from cgal_plugin.dynamics.simulate_file import parse_temperatures
from cgal_plugin.dynamics.tempering import ExchangeState, Ladder, exchange
from cgal_plugin.dynamics.tempering_report import tempering_report
from cgal_plugin.errors import CGALWarning, ConfigError, DataError, DynamicsError, StateError
from cgal_plugin.export import FastPotential, export_torchscript
from cgal_plugin.export.potential import export_potential
from cgal_plugin.units import kT
from tests.dynamics.potentials import HarmonicChain, chain_start, save_potential
from tests.dynamics.test_restart import Interrupted, stop_at
from tests.dynamics.wells import Wells
from tests.torchforce import needs_torchforce

EXAMPLE = Path(__file__).parents[2] / "examples" / "chignolin"
#: trained on chignolin at 400 K, exported for one replica
REAL = EXAMPLE / "benchmark_1" / "models" / "rmsd_release_refined" / "seed_1" / "potential.pt"
#: files of before embeddings were recorded say so
EMBEDDING = "ignore:.*does not record the embedding:cgal_plugin.errors.CGALWarning"
T = (300.0, 380.0, 480.0, 600.0)
N = 8
STEPS = 600
#: nm; some walkers pass it. Harmonic beads are not chaotic: they are the same ones on every machine
PARKING = {"limit": 0.33}
COMMON = {
    "timestep_fs": 5.0,
    "temperature": 380.0,
    "temperatures": T,
    "friction": 1.0,
    "seed": 5,
    "report_interval": 20,
    "n_replicas": N,
    "guard": Guard.off(),
}


@pytest.fixture
def run(pair, tmp_path):
    """Simulate two beads in a well; keywords override the defaults."""

    def call(out="sim", n=N, module=None, **changes):
        path = tmp_path / f"well_{n}.pt"
        if not path.exists():
            save_potential(module or Wells(n, 2), path)
        arguments = {**COMMON, "steps": STEPS, "n_replicas": n, "out_dir": tmp_path / out} | changes
        return simulate(path, pair, np.array([[-1.9, 0, 0], [1.9, 0, 0]]), **arguments)

    return call


# ---------------------------------------------------------------------- files and views


def test_frames_by_walker_and_by_temperature_are_the_same_frames(run, pair):
    result = run(exchange_interval=30)
    assert [p.name for p in result.trajectories] == [f"walker_{w:03d}.dcd" for w in range(N)]
    assert (result.temperatures, result.temperature) == (T, 380.0)
    walkers = result.load()
    at = [result.load_temperature(t) for t in T]
    assert [[len(x) for x in frames] for frames in at] == [[30, 30]] * 4
    # every frame of every walker is at one temperature, once
    everything = np.concatenate([np.concatenate(frames) for frames in at])
    assert len(np.unique(everything.reshape(240, -1), axis=0)) == 240
    np.testing.assert_array_equal(
        np.sort(everything.reshape(240, -1), axis=0),
        np.sort(np.concatenate(walkers).reshape(240, -1), axis=0),
    )
    for ladder in range(2):
        bath = np.array([result.walker_temperatures(w) for w in range(4 * ladder, 4 * ladder + 4)])
        assert (np.sort(bath, axis=0) == np.array(T)[:, None]).all()
        assert len(np.unique(bath[0])) > 1
        for i in range(30):
            for w in range(4):
                frame = at[T.index(bath[w, i])][ladder][i]
                assert np.array_equal(frame, walkers[4 * ladder + w][i])
    np.testing.assert_array_equal(np.concatenate(result.load_temperature()), np.concatenate(at[1]))
    loaded = load_simulation(result.out_dir)
    assert loaded.tempering == result.tempering
    assert np.array_equal(loaded.load_temperature(600.0), at[3])


def test_files_of_each_temperature_are_for_other_programs(run, pair):
    result = run(center_frames=False)
    files = result.save_temperatures()
    assert [[p.relative_to(result.out_dir).as_posix() for p in each] for each in files][1] == [
        "temperatures/380K/ladder_000.dcd",
        "temperatures/380K/ladder_001.dcd",
    ]
    for t, each in zip(T, files, strict=True):
        for path, frames in zip(each, result.load_temperature(t), strict=True):
            read = mdtraj.load(str(path), top=str(result.topology_file))
            np.testing.assert_allclose(read.xyz * 10, frames, atol=1e-5)
            assert recorded_temperature(path) == t
    with pytest.raises(DataError, match=r"walker_003.dcd has walkers of parallel tempering.*temperatures'?"):
        recorded_temperature(result.trajectories[3])
    # the energies that MBAR gets are those of the stored frames
    with np.load(result.energies_file) as saved:
        assert saved["N_k"].tolist() == [60] * 4
        assert saved["temperatures"].tolist() == list(T)
        frames = np.concatenate([np.concatenate(result.load_temperature(t)) for t in T]).astype(float)
        energies = 0.5 * 300.0 * (frames**2).sum((1, 2)) / 100 / 4.184
        np.testing.assert_allclose(saved["energies"], energies, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(saved["u_kn"], energies / np.array([[kT(t)] for t in T]), rtol=1e-4)
        walkers = result.load()
        for w, i, row in zip(saved["walker"][::7], saved["frame"][::7], frames[::7], strict=True):
            assert np.array_equal(walkers[w][i].astype(float), row)
        assert saved["step"].reshape(8, 30).tolist() == [list(range(20, 620, 20))] * 8


def test_no_exchange_changes_nothing_but_names(run):
    """With energies that forbid exchanges, each walker is a plain simulation at its temperature."""
    result = run(exchange_interval=STEPS)
    manifest = json.loads((result.out_dir / "simulation.json").read_text())
    assert manifest["inputs"]["temperatures"] == list(T)
    assert manifest["inputs"]["exchange_interval"] == STEPS
    assert manifest["tempering"] == result.tempering
    assert [p["attempts"] for p in result.tempering["pairs"]] == [0, 2, 0]
    for w in range(N):
        assert set(result.walker_temperatures(w)) == {T[w % 4]}


@pytest.fixture(scope="module")
def exported(chignolin, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "p.pt"
    export_torchscript(REAL.with_name("model.ckpt"), chignolin, path, n_replicas=4, filters="exact")
    export_potential(REAL.with_name("model.ckpt"), chignolin, path.with_suffix(".npz"), filters="exact")
    return path


@pytest.mark.filterwarnings(EMBEDDING)
@pytest.mark.integration
@pytest.mark.parametrize(
    ("backend", "form"),
    [
        ("fast", "pt"),
        pytest.param("torchforce", "pt", marks=needs_torchforce),
        ("python", "pt"),
        ("python", "npz"),
        ("fast", "npz"),
        ("cpu", "npz"),
    ],
)
def test_a_real_potential_gives_each_backend_the_energies_of_its_frames(
    chignolin, exported, tmp_path, backend, form
):
    potential = exported.with_suffix(f".{form}")
    start = reference_frames()[:4]
    result = simulate(
        potential,
        chignolin,
        start,
        steps=60,
        timestep_fs=4.0,
        temperature=400.0,
        temperatures=(400.0, 450.0),
        exchange_interval=10,
        friction=1.0,
        report_interval=30,
        out_dir=tmp_path / "sim",
        backend=backend,
    )
    assert result.events == ()
    with np.load(result.energies_file) as saved:
        frames = np.concatenate([np.concatenate(result.load_temperature(t)) for t in (400.0, 450.0)])
        one = FastPotential.from_file(REAL, n_replicas=len(frames))
        expected = one.replica_energies(frames.reshape(-1, 3).astype(float) / 10) / 4.184
        np.testing.assert_allclose(saved["energies"], expected, atol=2e-3)


def reference_frames():
    with np.load(EXAMPLE / "reference.npz") as data:
        return data[data.files[0]].astype(float)


# ---------------------------------------------------------------------- restarts


PARKED = "ignore:walker . is parked:cgal_plugin.errors.CGALWarning"


@pytest.fixture(params=["healthy", "parked", "restarted"])
def scenario(request, run):
    """Arguments and the uninterrupted simulation: without and with blow-ups."""
    changes = {"exchange_interval": 30}
    if request.param != "healthy":
        changes |= {
            "module": Wells(N, 2, **PARKING),
            "guard": Guard(None, None, None, restart_blown=request.param == "restarted"),
        }
    full = run("full", **changes)
    assert bool(full.events) == (request.param != "healthy")
    return changes, full


@pytest.mark.filterwarnings(PARKED)
def test_interruptions_leave_no_trace(run, scenario):
    changes, full = scenario
    for at, every in ((100, 60), (340, 40), (460, 20)):
        with pytest.raises(Interrupted):
            run(progress=stop_at(at), checkpoint_interval=every, **changes)
    folder = full.out_dir.parent / "sim"
    # a process killed after writing records and before the checkpoint leaves extra ones
    with (folder / EXCHANGES).open("ab") as handle:
        handle.write(bytes(1000))
    result = run(**changes)
    for name in (EXCHANGES, *(p.name for p in full.trajectories)):
        assert (folder / name).read_bytes() == (full.out_dir / name).read_bytes(), name
    assert result.tempering == full.tempering
    assert (result.events, result.n_frames) == (full.events, full.n_frames)
    with np.load(result.energies_file) as a, np.load(full.energies_file) as b:
        assert a.files == b.files
        assert all(np.array_equal(a[k], b[k]) for k in a.files)


def test_a_longer_simulation_continues_and_a_complete_one_is_not_rerun(run):
    full = run("full")
    run(steps=310)
    result = run()
    assert result.tempering == full.tempering
    assert np.array_equal(result.load_temperature(300.0), full.load_temperature(300.0))
    result.energies_file.unlink()
    seen = []
    again = run(progress=lambda *a: seen.append(a))
    assert seen == []
    assert again.tempering == full.tempering
    assert again.energies_file.is_file()


def test_a_damaged_exchange_file_is_seen(run):
    result = run()
    path = result.out_dir / EXCHANGES
    content = path.read_bytes()
    for changed in (content[:100] + bytes([content[100] ^ 1]) + content[101:], content[:-1], None):
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)
        with pytest.raises(StateError, match=r"exchange file .* is (damaged|missing); delete"):
            load_simulation(result.out_dir)
        with pytest.raises(StateError, match=r"exchange file .* is (damaged|missing); delete"):
            run(steps=STEPS + 20)


# ---------------------------------------------------------------------- blow-ups


def test_a_parked_walker_takes_part_in_no_exchange_and_the_ladder_goes_on(run):
    with pytest.warns(CGALWarning, match=r"walker \d is parked since it blew up at \d+ K"):
        result = run(module=Wells(N, 2, **PARKING), guard=Guard(None, None, None), exchange_interval=20)
    assert all(", at " in e.detail for e in result.events)
    (first, *_) = result.events
    lost = {p["walker"]: p["temperature"] for p in result.tempering["parked"]}
    assert set(lost) == {e.replica for e in result.events}
    assert f"at {lost[first.replica]:g} K" in first.detail
    assert result.n_frames[first.replica] == first.step // 20 - 1
    for t in T:
        frames = result.load_temperature(t)
        assert all(np.isfinite(f).all() for f in frames)


def test_parked_walkers_and_energies_that_are_not_finite_are_left_out():
    ladder = Ladder((300.0, 400.0, 500.0, 600.0), 4, 10, 0)
    state = ExchangeState.start(ladder)
    energies = np.array([5.0, 1.0, 0.0, -3.0])  # every exchange would be accepted
    exchange(ladder, state, energies, [False, True, False, False], 10)  # active: rungs 0, 2, 3; odd: 2-3
    assert state.rungs == [0, 1, 3, 2]
    exchange(ladder, state, energies, [False, True, False, False], 20)
    assert state.rungs == [2, 1, 3, 0]
    assert state.attempts[0][2] == state.accepted[0][2] == 1
    before = list(state.rungs)
    exchange(ladder, state, np.full(4, np.nan), [False] * 4, 30)
    exchange(ladder, state, np.array([np.inf, -np.inf, 0.0, np.nan]), [False] * 4, 40)
    assert state.rungs == before


def test_the_guard_has_the_limit_of_each_temperature(run):
    """At 3000 K, kinetic temperatures exceed the limit of 100 K, 1200 K for two beads."""
    hot = {"temperatures": (100.0, 3000.0), "temperature": 100.0, "friction": 10.0, "n": 4, "steps": 400}
    assert run(guard=Guard(None, None, max_temperature_ratio=10.0), **hot).events == ()


# ---------------------------------------------------------------------- reports and remedies


def test_round_trips_are_counted():
    ladder = Ladder((300.0, 400.0, 500.0), 3, 1, 0)
    state = ExchangeState.start(ladder)
    down = np.array([9.0, 9.0, 9.0])
    path = []
    for step in range(1, 13):
        # equal energies: every exchange is accepted, so that walkers go around
        exchange(ladder, state, down, [False] * 3, step)
        path.append(list(state.rungs))
    for w in range(3):
        ends = [0 if w == 0 else None] + [r[w] for r in path]
        trips, phase = 0, 0
        for r in ends:
            if r == 0:
                trips += phase == 2
                phase = 1
            elif r == 2 and phase == 1:
                phase = 2
        assert state.round_trips[w] == trips
    assert sum(state.round_trips) >= 3


def test_a_ladder_that_does_not_exchange_is_said_and_the_suggested_one_does(chignolin, tmp_path):
    """30 harmonic degrees of freedom: from 300 to 1500 K directly, 1e-6 of the exchanges are accepted."""

    def tempered(temperatures, out, steps):
        n = 8 * len(temperatures)
        return simulate(
            save_potential(Wells(n, 10), tmp_path / f"{out}.pt"),
            chignolin,
            chain_start(1, 10)[0],
            n_replicas=n,
            steps=steps,
            timestep_fs=10.0,
            temperature=300.0,
            temperatures=temperatures,
            friction=5.0,
            exchange_interval=20,
            report_interval=100,
            guard=Guard.off(),
            out_dir=tmp_path / out,
        )

    with pytest.warns(CGALWarning, match=r"hardly any exchange between 300 and 1500 K .*All frames are kept"):
        poor = tempered((300.0, 1500.0), "poor", 2000)
    (text,) = poor.tempering["warnings"]
    assert poor.total_frames == 320
    better = [float(x) for x in text.rpartition(": ")[2].split(", ")]
    assert (better[0], better[-1]) == (300.0, 1500.0)
    good = tempered(better, "good", 1000)
    shares = [p["acceptance"] for p in good.tempering["pairs"]]
    assert min(shares) > 0.15
    assert max(shares) < 0.45
    assert good.tempering["warnings"] == []


def test_few_attempts_are_no_reason_for_a_warning():
    ladder = Ladder((300.0, 1500.0), 2, 10, 0)
    state = ExchangeState.start(ladder)
    state.attempts[0][1] = 49
    assert tempering_report(ladder, state, [False] * 2, np.array([1.0, 50.0]))["warnings"] == []
    state.attempts[0][1] = 50
    (text,) = tempering_report(ladder, state, [False] * 2, np.array([1.0, np.nan]))["warnings"]
    assert "use more temperatures" in text  # without energies there is nothing to compute them from


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperatures": (300.0, 480.0, 380.0, 600.0)}, "must ascend: 300, 380, 480, 600"),
        ({"temperatures": (380.0, 380.0)}, "must ascend, and each be given once: 380"),
        ({"temperatures": (380.0,)}, "one value, 380 K; an exchange needs two or more"),
        ({"temperatures": (-5.0, 380.0)}, "-5 is not a temperature above 0 K"),
        ({"temperatures": (0.0, 380.0)}, "0 is not a temperature above 0 K"),
        ({"temperatures": (380.0, float("nan"))}, "nan is not a temperature"),
        ({"temperatures": (380.0, float("inf"))}, "inf is not a temperature"),
        ({"temperature": 390.0}, "390 K is none of the temperatures 300, 380, 480, 600 K"),
        ({"temperatures": (300.0, 380.0, 480.0)}, r"8 replicas cannot be divided .* use 6 or 9"),
        ({"exchange_interval": 0}, "exchange_interval is 0; it must be an integer"),
        ({"exchange_interval": 2.5}, "exchange_interval is 2.5"),
        ({"exchange_interval": STEPS + 1}, "exceeds steps 600: no exchange would be attempted"),
        ({"temperatures": (), "exchange_interval": 5}, "for parallel tempering: give temperatures too"),
    ],
)
def test_a_wrong_ladder_is_refused_before_anything_is_written(run, tmp_path, wrong, message):
    with pytest.raises(DynamicsError, match=message):
        run(**wrong)
    assert not (tmp_path / "sim").exists()


def test_another_ladder_cannot_resume(run):
    run()
    for change, message in (
        ({"temperatures": (300.0, 380.0, 480.0, 650.0)}, "temperatures: "),
        (
            {"temperatures": (), "exchange_interval": None},
            r"exchange_interval: 20 -> null; temperatures: .* -> null",
        ),
        ({"exchange_interval": 40}, "exchange_interval: 20 -> 40"),
    ):
        with pytest.raises(StateError, match=message):
            run(steps=STEPS + 100, **change)
    plain = run("plain", temperatures=())
    with pytest.raises(StateError, match=r"temperatures: null ->"):
        run("plain")
    with pytest.raises(DynamicsError, match=r"has one temperature, 380\.0 K"):
        plain.save_temperatures()
    assert len(plain.load_temperature()) == N


def test_a_potential_without_energies_of_replicas_is_refused(run):
    with pytest.raises(DynamicsError, match=r"gives no energy of a replica.*cgal export"):
        run(module=HarmonicChain(N, 2))


# ---------------------------------------------------------------------- command line


@pytest.fixture
def command(tmp_path):
    save_trajectories(tmp_path / "start.npz", [reference_frames()[:20]])

    def call(*options, out="sim"):
        fixed = ["simulate", "-p", REAL, "-t", "YYDPETGTWY", "--start", tmp_path / "start.npz"]
        words = [*fixed, "--steps", 200, "--backend", "fast", "-o", tmp_path / out, *options]
        return CliRunner().invoke(app, [str(w) for w in words])

    return call


@pytest.mark.filterwarnings(EMBEDDING)
def test_the_command_writes_all_views_and_says_what_happened(command, tmp_path):
    done = command("--temperatures", "400,440 K,490", "--exchange-interval", 10, "--report-interval", 20)
    assert done.exit_code == 0, done.output
    assert "30 frames of 3 replicas" in done.output
    assert "exchanges accepted: 400-440 K" in done.output
    assert "round trips: " in done.output
    for t in (400, 440, 490):
        assert (tmp_path / "sim" / "temperatures" / f"{t}K" / "ladder_000.dcd").is_file()
    assert recorded_temperature(tmp_path / "sim" / "temperatures" / "440K" / "ladder_000.dcd") == 440.0
    again = command("--temperatures", "400,440,490", "--exchange-interval", 10, "--report-interval", 20)
    assert again.exit_code == 0, again.output


@pytest.mark.filterwarnings(EMBEDDING)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperatures", "400,abc"], "'400,abc': expected a number in K"),
        (["--temperatures", "400,"], "give temperatures in K, as 400,460,530"),
        (["--temperatures", "400,500 C"], "unit 'C' does not fit"),
        (["--temperatures", "400;500"], "'400;500'"),
        (["--temperatures", "300,350"], "temperature 400 K is none of the temperatures 300, 350 K"),
        (["--temperatures", "500,400"], "must ascend: 400, 500"),
        (["--temperatures", "400,500", "--replicas", "3"], "3 replicas cannot be divided"),
        (["--exchange-interval", "10"], "give temperatures too"),
    ],
)
def test_wrong_options_are_one_clear_error(command, tmp_path, options, message):
    from cgal_plugin.errors import CGALError

    done = command(*options)
    assert isinstance(done.exception, CGALError)
    assert message in str(done.exception)
    assert not (tmp_path / "sim").exists()


@pytest.mark.integration
@pytest.mark.filterwarnings(EMBEDDING)
def test_walkers_are_not_evaluated_as_frames_of_one_temperature(command, tmp_path):
    command("--temperatures", "400,440", "--report-interval", 20)
    words = ["evaluate", "-m", tmp_path / "sim" / "walker_000.dcd", "-r", EXAMPLE / "reference.npz"]
    words += ["-t", "YYDPETGTWY", "--top", tmp_path / "sim" / "topology.pdb"]
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert isinstance(done.exception, DataError)
    assert "at several temperatures: use the files of one temperature" in str(done.exception)


@pytest.mark.parametrize("text", ["400", "500,400", "400,400", "0,400"])
def test_a_wrong_ladder_of_the_command_is_wrong_usage(text):
    """Exit code 2, before anything is read."""
    with pytest.raises(ConfigError, match="--temperatures"):
        parse_temperatures(text)

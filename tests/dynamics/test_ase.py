"""The ASE calculator: energies in eV and forces in eV/Å, dynamics of ASE, the protocol of i-PI, errors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.fd import calculate_numerical_forces
from ase.calculators.socketio import SocketClient, SocketIOCalculator
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

import cgal_plugin
from cgal_plugin.ase import CGCalculator
from cgal_plugin.errors import DynamicsError, ExportError
from cgal_plugin.export import FastPotential, export_torchscript, load_metadata
from cgal_plugin.export.script_file import load_script, save_script
from cgal_plugin.mapping import CGTopology
from cgal_plugin.models import build_model
from cgal_plugin.priors import fit_priors
from tests.damage import flip, flip_weight
from tests.priors.chains import chains

TOPOLOGY = CGTopology.from_sequence("YYDPE")
FRAME = chains(1, 5, seed=3)[0]
KJ_PER_MOL = 0.010364269656262174  # eV, CODATA 2018


class Files(NamedTuple):
    """One model in every form: checkpoint, TorchScript for one and for three replicas, fast engine."""

    checkpoint: Path
    potential: Path
    three: Path
    fast: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("ase")
    made = Files(*(folder / name for name in ("model.ckpt", "potential.pt", "three.pt", "fast.npz")))
    cgal_plugin.register()
    priors = fit_priors(TOPOLOGY, chains(80, 5), 400.0, terms=("bonds", "repulsion"))
    sizes: dict[str, Any] = {"embedding_dimension": 16, "num_layers": 1, "num_rbf": 8, "max_z": 50}
    hparams = {"model": "cgschnet", **sizes, "prior_model": priors.to_prior_model(), "prior_args": None}
    torch.manual_seed(0)
    state = {f"model.{name}": value for name, value in build_model(hparams).state_dict().items()}
    own = {"embedding": "cgal", "temperature": 400.0}
    torch.save({"state_dict": state, "hyper_parameters": hparams, "cgal_plugin": own}, made.checkpoint)
    options = {"temperature": 400.0, "dtype": "float64"}
    export_torchscript(made.checkpoint, TOPOLOGY, made.potential, **options)
    export_torchscript(made.checkpoint, TOPOLOGY, made.three, n_replicas=3, **options)
    FastPotential.from_file(made.potential).save(made.fast)
    return made


@pytest.fixture(scope="module")
def calc(files: Files) -> CGCalculator:
    return CGCalculator(files.potential, backend="python")


@pytest.mark.parametrize(
    ("form", "backend", "expected"),
    [
        ("potential", "auto", "fast"),
        ("potential", "python", "python"),
        ("three", "auto", "fast"),
        ("fast", "auto", "fast"),
        ("checkpoint", "auto", "fast"),
        ("checkpoint", "python", "python"),
    ],
)
def test_every_form_of_a_model_gives_the_exported_potential(files, form, backend, expected):
    energy, forces = load_script(files.potential)[0](torch.from_numpy(FRAME / 10.0))
    topology = TOPOLOGY if form == "checkpoint" else None
    calc = CGCalculator(getattr(files, form), topology, backend=backend)
    assert calc.backend == expected
    atoms = calc.make_atoms(FRAME)
    exact = (form, backend) == ("potential", "python")  # the others are in float32
    largest = float(forces.abs().max()) * KJ_PER_MOL / 10.0
    assert atoms.get_potential_energy() == pytest.approx(
        float(energy) * KJ_PER_MOL, rel=1e-7 if exact else 1e-5
    )
    np.testing.assert_allclose(
        atoms.get_forces(),
        forces.numpy() * KJ_PER_MOL / 10.0,
        rtol=0,
        atol=largest * (1e-7 if exact else 1e-5),
    )
    assert atoms.calc.results["free_energy"] == atoms.get_potential_energy()
    assert atoms.get_masses() == pytest.approx(TOPOLOGY.masses)


def test_forces_are_the_gradient_of_the_energy(calc):
    atoms = calc.make_atoms(FRAME + np.random.default_rng(0).normal(scale=0.1, size=FRAME.shape))
    found = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), found, rtol=0, atol=1e-6 * np.abs(found).max())


def moving(calc: CGCalculator, temperature: float) -> Atoms:
    atoms = calc.make_atoms(FRAME)
    rng = np.random.default_rng(1)
    spread = np.sqrt(atoms.get_masses()[:, None] * units.kB * temperature)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * spread)
    return atoms


def test_velocity_verlet_conserves_energy_to_second_order(calc):
    """The largest deviation falls with the square of the step, which wrong units or forces would spoil."""
    deviations = []
    for step in (2.0, 1.0):
        atoms = moving(calc, 300.0)
        start, found = atoms.get_total_energy(), []
        dynamics = VelocityVerlet(atoms, step * units.fs)
        for _ in range(round(100 / step)):
            dynamics.run(2)
            found.append(atoms.get_total_energy() - start)
        deviations.append(np.abs(found).max())
    assert deviations[1] < 0.05 * 5 * units.kB * 300.0
    assert 3.0 < deviations[0] / deviations[1] < 5.5


def test_langevin_of_ase_keeps_the_temperature(files):
    calc = CGCalculator(files.potential)
    atoms = moving(calc, calc.temperature)
    dynamics = Langevin(
        atoms, 2 * units.fs, temperature_K=calc.temperature, friction=0.05 / units.fs, fixcm=False,
        rng=np.random.default_rng(2),
    )  # fmt: skip
    found = []
    for _ in range(400):
        dynamics.run(5)
        found.append(atoms.get_temperature())
    # 15 degrees of freedom, correlated over about 20 fs: 2,000 fs give a relative error of 4 %
    assert np.mean(found) == pytest.approx(400.0, rel=0.25)


def test_i_pi_client(files, tmp_path):
    """A server of i-PI's protocol (ASE's own) gets energies and forces from the calculator over a socket."""
    calc = CGCalculator(files.potential, backend="python")
    client_atoms = calc.make_atoms(FRAME)
    frames = [FRAME, FRAME + 0.1 * np.random.default_rng(0).normal(size=FRAME.shape)]
    expected = [(a.get_potential_energy(), a.get_forces()) for a in map(calc.make_atoms, frames)]
    name = f"cgal-test-{tmp_path.name}-{threading.get_ident()}"

    def client() -> None:
        SocketClient(unixsocket=name, timeout=30).run(client_atoms, use_stress=False)

    with SocketIOCalculator(unixsocket=name, timeout=30) as server:
        thread = threading.Thread(target=client)
        atoms = Atoms("X5", positions=FRAME, cell=[500.0] * 3)
        atoms.calc = server
        thread.start()
        for frame, (energy, forces) in zip(frames, expected, strict=True):
            atoms.positions = frame
            assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-9)
            np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-9)
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_atoms_survive_a_trajectory_file(calc, tmp_path):
    atoms = calc.make_atoms(FRAME)
    energy = atoms.get_potential_energy()
    write(tmp_path / "a.traj", atoms)
    back = read(tmp_path / "a.traj")
    assert back.get_potential_energy() == energy
    assert back.get_masses() == pytest.approx(TOPOLOGY.masses)
    back.calc = calc
    assert back.get_potential_energy() == pytest.approx(energy, rel=1e-12)


def bare(n: int = 5, **options: Any) -> Atoms:
    return Atoms("X" * n, positions=np.arange(3.0 * n).reshape(n, 3) * 2.0, **options)


def named(residues: list[str]) -> Atoms:
    atoms = bare()
    atoms.arrays["residuenames"] = np.array(residues)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "match"),
    [
        (bare(4), r"the Atoms have 4 atoms; the potential is for 5 beads"),
        (bare(pbc=True, cell=[50.0] * 3), r"no periodic images: set atoms\.pbc = False"),
        (bare(pbc=[False, False, True], cell=[50.0] * 3), "no periodic images"),
        (named(["GLU", "PRO", "ASP", "TYR", "TYR"]), "bead 0 is of residue GLU in the Atoms, and of TYR"),
        (Atoms("X5", positions=np.full((5, 3), np.nan)), r"energy is nan.*not finite"),
    ],
    ids=["number", "periodic", "periodic in z", "order", "not finite"],
)
def test_atoms_of_something_else_are_refused(calc, atoms, match):
    atoms.calc = calc
    with pytest.raises(DynamicsError, match=match):
        atoms.get_potential_energy()


def test_names_of_protonation_states_and_unknown_names_are_accepted(calc):
    atoms = named(["TYR", "TYR", "ASH", "PRO", "UNK"])
    atoms.calc = calc
    assert np.isfinite(atoms.get_potential_energy())


def test_fast_engine_refuses_positions_that_are_not_finite(files):
    atoms = Atoms("X5", positions=np.full((5, 3), np.inf), calculator=CGCalculator(files.fast))
    with pytest.raises(DynamicsError, match="not finite"):
        atoms.get_forces()


def test_wrong_potentials_are_refused(files, tmp_path):
    other, mlcg = CGTopology.from_sequence("YYDPF"), TOPOLOGY.with_embedding("mlcg-tk")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"potential": tmp_path / "no.pt"}, r"no\.pt' does not exist; make it with `cgal export`"),
        ({"potential": files.potential, "topology": other}, "was exported for"),
        ({"potential": files.potential, "topology": mlcg}, r"'cgal'.*'mlcg-tk'"),
        ({"potential": files.potential, "topology": "chignolin.pdb"}, r"give a CGTopology"),
        ({"potential": files.potential, "temperature": 300.0}, "for 300 K, potential .* is for 400 K"),
        ({"potential": files.potential, "backend": "cuda"}, "use 'auto' or one of fast, python"),
        ({"potential": files.checkpoint}, "give its topology"),
        ({"potential": files.three, "backend": "python"}, "exported for n_replicas 3, not 1"),
        ({"potential": files.fast, "backend": "python"}, "use backend 'fast'"),
        ({"potential": Path(__file__)}, "is not a TorchScript file"),
    ]
    for arguments, match in cases:
        with pytest.raises(DynamicsError, match=match):
            CGCalculator(**arguments)
    with pytest.raises(ExportError, match="does not exist"):
        CGCalculator(tmp_path / "no.ckpt", TOPOLOGY)


@pytest.mark.parametrize("backend", ["auto", "python"])
def test_a_damaged_file_is_refused(files, tmp_path, backend):
    for source in files:
        path = tmp_path / source.name
        path.write_bytes(source.read_bytes())
        (flip if source == files.fast else flip_weight)(path)
        with pytest.raises((DynamicsError, ExportError), match="is damaged"):
            CGCalculator(path, TOPOLOGY, backend=backend)


def test_a_file_without_topology_or_in_other_units_is_refused(files, tmp_path):
    module, metadata = load_script(files.potential)
    assert metadata == load_metadata(files.potential)
    without = {k: v for k, v in metadata.items() if k != "topology"}
    save_script(module, tmp_path / "without.pt", without)
    with pytest.raises(DynamicsError, match="records no topology"):
        CGCalculator(tmp_path / "without.pt")
    assert CGCalculator(tmp_path / "without.pt", TOPOLOGY, backend="python").temperature == 400.0
    save_script(module, tmp_path / "units.pt", metadata | {"units": {"positions": "angstrom"}})
    with pytest.raises(DynamicsError, match="is in units"):
        CGCalculator(tmp_path / "units.pt")


def test_make_atoms_needs_the_beads_in_angstrom(calc):
    with pytest.raises(DynamicsError, match=r"shape \(4, 3\).*needs \(5, 3\)"):
        calc.make_atoms(FRAME[:4])
    with pytest.raises(DynamicsError, match="not finite"):
        calc.make_atoms(FRAME * np.nan)

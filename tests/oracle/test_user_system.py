"""Systems that the user brings: energies as ParmEd reads them, forces, constraints, time step."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from openmm import app, unit

from cgal_plugin.mapping import resolve_spec
from cgal_plugin.mapping.forces import basic_force_map
from cgal_plugin.oracle import AllAtomModel, OpenMMOracle
from cgal_plugin.oracle.user_system import PreparedSystem, load_user_system
from tests.oracle.user_inputs import KINDS, Inputs, with_radii

pytestmark = [  # of OpenMM's readers: open files, radii of another GB model
    pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Non-optimal GB parameters:UserWarning"),
]
_KJ = unit.kilojoule_per_mole
#: force class → group of energy terms; NBFIX is a CustomNonbondedForce with its 1-4 pairs as bonds
_GROUPS = {
    "HarmonicBondForce": "bonds",
    "HarmonicAngleForce": "angles",
    "PeriodicTorsionForce": "torsions",
    "RBTorsionForce": "torsions",
    "CustomTorsionForce": "torsions",
    "CMAPTorsionForce": "cmap",
    "NonbondedForce": "nonbonded",
    "CustomNonbondedForce": "nonbonded",
    "CustomBondForce": "nonbonded",
}
_HMR = {"constraints": app.HBonds, "hydrogenMass": 3.0 * unit.dalton, "flexibleConstraints": False}
_PME = {"nonbondedMethod": app.PME, "nonbondedCutoff": 9.0 * unit.angstrom}


def load(inputs: Inputs, kind: str, **options: Any) -> PreparedSystem:
    return load_user_system(kind, inputs.files(kind), None, inputs.structure(kind), **options)


def context_of(system: openmm.System, positions: np.ndarray, box: Any = None) -> openmm.Context:
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    if box is not None:
        context.setPeriodicBoxVectors(*box)
    context.setPositions(positions / 10)
    return context


def energies(system: openmm.System, positions: np.ndarray, box: Any = None) -> dict[str, float]:
    """Energy of each group of terms, kJ/mol."""
    found: dict[str, float] = {}
    forces = system.getForces()
    for i, force in enumerate(forces):
        force.setForceGroup(i)
    context = context_of(system, positions, box)
    for i, force in enumerate(forces):
        group = _GROUPS.get(type(force).__name__)
        if group is not None:
            value = context.getState(getEnergy=True, groups={i}).getPotentialEnergy().value_in_unit(_KJ)
            found[group] = found.get(group, 0.0) + value
    return found


def by_parmed(inputs: Inputs, kind: str, **options: Any) -> openmm.System:
    """Return the System of ParmEd's readers of the same files."""
    parmed = pytest.importorskip("parmed")

    files = inputs.files(kind)
    if kind == "amber":
        return parmed.load_file(files[0], inputs.structure(kind)).createSystem(**_HMR, **options)
    if kind == "gromacs":
        return parmed.load_file(files[0], xyz=inputs.structure(kind)).createSystem(**_HMR, **options)
    if kind == "charmm":
        psf = parmed.load_file(files[0])
        parameters = parmed.charmm.CharmmParameterSet(*files[1:])
        return psf.createSystem(parameters, **_HMR, **options)
    topology = app.PDBFile(inputs.structure(kind)).topology
    field = app.ForceField(*inputs.files("openmm_xml"))  # of which the serialised System was made
    system = field.createSystem(topology, nonbondedMethod=app.NoCutoff, rigidWater=False)
    return parmed.openmm.load_topology(topology, system).createSystem(**_HMR, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_energies_are_those_of_parmed(dry_inputs: Inputs, kind: str) -> None:
    prepared = load(dry_inputs, kind)
    shaken = prepared.positions + np.random.default_rng(0).normal(0.0, 0.05, prepared.positions.shape)
    model = AllAtomModel.from_system(prepared)
    own = energies(model.make_system(), shaken)
    reference = energies(by_parmed(dry_inputs, kind), shaken)
    assert own["cmap"] != 0
    assert own.keys() == reference.keys()
    assert own == pytest.approx(reference, rel=1e-4)


@pytest.mark.parametrize("kind", ["amber", "gromacs"])
def test_energies_with_solvent_are_those_of_parmed(wet_inputs: Inputs, kind: str) -> None:
    prepared = load(wet_inputs, kind, cutoff=9.0)
    box = prepared.topology.getPeriodicBoxVectors()
    context = context_of(prepared.given.system, prepared.positions, box)
    context.applyConstraints(1e-8)  # ParmEd gives rigid water an angle energy, which is then zero
    state = context.getState(getPositions=True)
    xyz = np.asarray(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
    own = energies(prepared.given.system, xyz, box)
    reference = energies(by_parmed(wet_inputs, kind, **_PME), xyz, box)
    assert own == pytest.approx(reference, rel=1e-4)


def test_nbfix_of_charmm_is_kept_also_by_the_solute_alone(dry_inputs: Inputs, tmp_path: Path) -> None:
    """ParmEd 4.3 reads NBFIX but does not apply it; the energy of the pair is computed here."""
    from cgal_plugin.oracle.solute import solute_system

    psf, rtf, prm = dry_inputs.files("charmm")
    own = tmp_path / "nbfix.prm"
    own.write_text(f"{Path(prm).read_text()}\nNBFIX\nT5    T50    -0.500000    3.900000\n\nEND\n")
    plain = load(dry_inputs, "charmm")
    fixed = load_user_system("charmm", [psf, rtf, str(own)], None, dry_inputs.structure("charmm"))
    ratio = (3.9 / np.linalg.norm(plain.positions[5] - plain.positions[50])) ** 6
    lines = Path(prm).read_text().splitlines()
    rows = {line.split()[0]: line.split() for line in lines if len(line.split()) == 7}
    eps = np.sqrt(float(rows["T5"][2]) * float(rows["T50"][2]))
    usual = (sum(float(rows[t][3]) for t in ("T5", "T50")) / 3.9) ** 6 * ratio
    change = 4.184 * (0.5 * (ratio**2 - 2 * ratio) - eps * (usual**2 - 2 * usual))
    before, after = (energies(p.given.system, plain.positions) for p in (plain, fixed))
    assert after["nonbonded"] - before["nonbonded"] == pytest.approx(change, rel=1e-3)
    alone = solute_system(fixed.given.system, fixed.topology, "charmm")
    assert energies(alone, plain.positions) == pytest.approx(after, rel=1e-6)


@pytest.mark.parametrize("kind", ["amber", "openmm_xml"])
def test_the_solute_alone_has_the_terms_of_the_whole(
    wet_inputs: Inputs, dry_inputs: Inputs, kind: str
) -> None:
    """Backmapping uses the solute of a box alone; its terms are those of the peptide in vacuum."""
    wet, dry = load(wet_inputs, kind), load(dry_inputs, kind)
    n = wet.given.n_solute
    from cgal_plugin.oracle.solute import first_atoms

    alone = wet.given.solute(first_atoms(wet.topology, n))
    for part, whole in ((alone.system, dry.given.system), (alone.flexible, dry.given.flexible)):
        expected = energies(whole, wet.positions[:n])
        assert energies(part, wet.positions[:n]) == pytest.approx(expected, rel=1e-5)
        assert part.getNumConstraints() == whole.getNumConstraints()
    assert any(isinstance(f, openmm.GBSAOBCForce) for f in alone.system.getForces())


@pytest.mark.parametrize(
    ("kind", "solvated"), [*((k, False) for k in KINDS), ("amber", True), ("system", True)]
)
def test_bead_forces_are_mapped_differences(
    dry_inputs: Inputs, wet_inputs: Inputs, kind: str, solvated: bool
) -> None:
    """A move of the atoms along a row of the force map changes the energy by the bead force."""
    prepared = load(wet_inputs if solvated else dry_inputs, kind)
    n, box = prepared.given.n_solute, prepared.topology.getPeriodicBoxVectors()
    model = AllAtomModel(
        prepared.topology, prepared.positions, prepared.mapping, "files", given=prepared.given
    )
    force_map = basic_force_map(model.mapping, model.constraints)
    context = context_of(model.make_system(), model.positions, box)
    forces = context.getState(getForces=True).getForces(asNumpy=True).value_in_unit(_KJ / unit.angstrom)
    mapped = force_map.map_forces(np.asarray(forces)[None, :n])[0]
    step = 1e-5  # Å; with larger steps, pairs cross the cutoff, where Lennard-Jones energies jump
    for bead, axis in ((0, 0), (1, 1), (2, 2)):
        values = []
        for sign in (1, -1):
            moved = np.array(model.positions)
            moved[:n, axis] += sign * step * force_map.matrix[bead]
            context.setPositions(moved / 10)
            values.append(context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(_KJ))
        expected = (values[1] - values[0]) / (2 * step)
        assert mapped[bead, axis] == pytest.approx(expected, rel=2e-3, abs=2e-2)


@pytest.mark.parametrize(
    "kind", [KINDS[0], *(pytest.param(k, marks=pytest.mark.integration) for k in KINDS[1:])]
)
def test_labels_of_every_mode(dry_inputs: Inputs, kind: str) -> None:
    model = pickle.loads(pickle.dumps(AllAtomModel.from_system(load(dry_inputs, kind))))
    frame = model.mapping.map_positions(model.positions)[None].astype(np.float32)
    for options in ({"mode": "free"}, {"mode": "steered", "restraint": 2.0}, {"mode": "mean_force"}):
        oracle = OpenMMOracle(
            model,
            temperature=300.0,
            production_ps=0.08,
            relax_ps=0.08,
            methods=["library"],
            seed=1,
            **options,
        )
        labels = oracle.label(frame)
        assert not labels.quarantined
        assert np.isfinite(labels.forces).all()
        assert labels.metadata["solvent"] == "files"
        assert labels.metadata["force_field"].startswith(kind)


# ---------------------------------------------------------------------- a System with its own choices


def own_system(inputs: Inputs, folder: Path, change: Any = None, **options: Any) -> list[str]:
    """Write a System of the peptide with other options; ``change`` is called with it."""
    topology = app.PDBFile(inputs.structure("system")).topology
    field = app.ForceField(*inputs.files("openmm_xml"))
    system = field.createSystem(topology, **options)
    if change is not None:
        change(system)
    path = folder / "own.xml"
    path.write_text(openmm.XmlSerializer.serialize(system))
    return [str(path)]


@pytest.mark.parametrize(
    ("options", "timestep", "frozen_step"),
    [
        ({"constraints": app.HBonds, "hydrogenMass": 3.0}, 4.0, 2.0),
        ({"constraints": app.HBonds}, 2.0, 1.0),
        ({}, 1.0, 1.0),
        ({"hydrogenMass": 3.0}, 1.0, 1.0),
    ],
)
def test_the_time_step_follows_masses_and_constraints(
    dry_inputs: Inputs, tmp_path: Path, options: dict[str, Any], timestep: float, frozen_step: float
) -> None:
    files = own_system(dry_inputs, tmp_path, **options)
    model = AllAtomModel.from_system(load_user_system("system", files, None, dry_inputs.structure("system")))
    assert model.timestep_fs == timestep
    given = openmm.XmlSerializer.deserialize(Path(files[0]).read_text())
    system = model.make_system()
    assert system.getNumConstraints() == given.getNumConstraints() == len(model.constraints)
    masses = [system.getParticleMass(i)._value for i in range(system.getNumParticles())]
    assert masses == [given.getParticleMass(i)._value for i in range(given.getNumParticles())]
    assert OpenMMOracle(model, temperature=300.0).settings.timestep_fs == timestep
    frozen = OpenMMOracle(model, temperature=300.0, mode="mean_force", production_ps=0.2)
    assert frozen.settings.timestep_fs == frozen_step
    assert f"time step {timestep:g} fs" in "; ".join(model.record.lines())  # type: ignore[union-attr]


def test_bonds_that_are_constraints_only_become_harmonic(dry_inputs: Inputs, tmp_path: Path) -> None:
    """Frozen beads and flexible systems need the bond terms that the System does not have."""
    files = own_system(dry_inputs, tmp_path, constraints=app.HBonds)
    prepared = load_user_system("system", files, None, dry_inputs.structure("system"))
    model = AllAtomModel.from_system(prepared)
    flexible = model.make_system(constraints=False)
    assert flexible.getNumConstraints() == 0
    bonds = {
        frozenset(force.getBondParameters(k)[:2])
        for force in flexible.getForces()
        if isinstance(force, openmm.HarmonicBondForce)
        for k in range(force.getNumBonds())
    }
    assert bonds == {frozenset((a.index, b.index)) for a, b in model.topology.bonds()}
    beads = [group[0] for group in model.mapping.atom_groups]
    frozen = model.make_system(frozen=beads)
    assert not set(beads) & {
        i for k in range(frozen.getNumConstraints()) for i in frozen.getConstraintParameters(k)[:2]
    }
    assert frozen.getNumConstraints() == len(model.constraints) - len(beads)


def test_thermostat_barostat_and_force_groups_of_a_system(wet_inputs: Inputs, tmp_path: Path) -> None:
    """Our integrator is the thermostat, the pressure is kept, and no force hides in a restraint's group."""

    def change(system: openmm.System) -> None:
        system.addForce(openmm.AndersenThermostat(300.0, 1.0))
        system.addForce(openmm.MonteCarloBarostat(50.0, 300.0, 13))
        for force in system.getForces():
            force.setForceGroup(31)

    files = own_system(wet_inputs, tmp_path, change, constraints=app.HBonds, **_PME)
    prepared = load_user_system("system", files, None, wet_inputs.structure("system"))
    model = AllAtomModel(
        prepared.topology, prepared.positions, prepared.mapping, "files", given=prepared.given
    )
    names = [type(f).__name__ for f in model.make_system().getForces()]
    assert "AndersenThermostat" not in names
    assert "MonteCarloBarostat" not in names
    system = model.make_system(barostat=350.0)
    barostat = next(f for f in system.getForces() if isinstance(f, openmm.MonteCarloBarostat))
    assert barostat.getDefaultPressure().value_in_unit(unit.bar) == pytest.approx(50.0)
    assert barostat.getDefaultTemperature().value_in_unit(unit.kelvin) == 350.0
    assert {f.getForceGroup() for f in system.getForces()} == {0}


def test_what_was_read_names_files_solvent_box_and_masses(wet_inputs: Inputs) -> None:
    record = load(wet_inputs, "amber").record
    rows = dict(record.rows())
    assert rows["force field"] == "amber: x.prmtop"
    assert rows["files"].count("SHA-256") == 2
    assert "HOH" in rows["solvent"]
    assert "26.0 x 26.0 x 26.0 Å" in rows["box"]
    assert "hydrogens of 3 amu" in rows["constraints"]
    assert "minimised" in rows["notes"]


def test_an_implicit_solvent_is_used_if_it_is_named(dry_inputs: Inputs, tmp_path: Path) -> None:
    path = with_radii(dry_inputs.files("amber")[0], tmp_path)
    prepared = load_user_system("amber", [path], None, dry_inputs.structure("amber"), implicit_solvent="obc2")
    assert np.isfinite(AllAtomModel.from_system(prepared).positions).all()
    assert any("GB" in type(f).__name__ for f in prepared.given.system.getForces())
    assert dict(prepared.record.rows())["solvent"] == "implicit, obc2"
    assert "vacuum" in dict(load(dry_inputs, "amber").record.rows())["solvent"]


@pytest.mark.parametrize("name", ["small", pytest.param("charmm36.xml", marks=pytest.mark.integration)])
def test_urey_bradley_terms_are_not_polarisable(dry_inputs: Inputs, tmp_path: Path, name: str) -> None:
    """CHARMM36 has the generator of AMOEBA's terms, which makes harmonic bonds."""
    structure, names = dry_inputs.structure("openmm_xml"), [name]
    if name == "small":
        path = tmp_path / "urey_bradley.xml"
        path.write_text(
            "<ForceField><AmoebaUreyBradleyForce><UreyBradley class1='' class2='' class3='' d='0.2' k='9'/>"
            "</AmoebaUreyBradleyForce></ForceField>"
        )
        names = [*dry_inputs.files("openmm_xml"), str(path)]
    prepared = load_user_system("openmm_xml", names, None, structure)
    own = app.ForceField(*names).createSystem(app.PDBFile(structure).topology)

    def energy(system: openmm.System) -> float:
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
        )
        context.setPositions(prepared.positions / 10)
        return float(context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(_KJ))

    assert energy(prepared.given.flexible) == pytest.approx(energy(own), rel=1e-6)


def test_names_of_charmm_and_gromacs_become_those_of_the_pdb() -> None:
    """Libraries, cgback and the stretched chain find atoms by name."""
    from cgal_plugin.oracle.solute import standard_topology

    topology = app.Topology()
    chain = topology.addChain()
    first, last = (topology.addResidue(name, chain) for name in ("ILE", "HSD"))
    named = [(first, n) for n in ("N", "HN", "CA", "CD", "C", "O")]
    named += [(last, n) for n in ("N", "CA", "C", "OT1", "OT2")]
    atoms = [topology.addAtom(n, app.element.get_by_symbol(n[0]), r) for r, n in named]
    topology.addBond(atoms[4], atoms[6])
    found = [a.name for a in standard_topology(topology, len(atoms)).atoms()]
    assert found == ["N", "H", "CA", "CD1", "C", "O", "N", "CA", "C", "O", "OXT"]


def test_chains_begin_where_residues_are_not_bonded() -> None:
    from cgal_plugin.oracle.solute import solute_size, standard_topology

    topology = app.Topology()
    chain = topology.addChain()
    atoms = []
    for name in ("ALA", "GLY", "ALA", "HOH", "HOH"):
        residue = topology.addResidue(name, chain)
        names = ("O", "H1", "H2") if name == "HOH" else ("N", "CA", "C")
        atoms.append([topology.addAtom(n, app.element.get_by_symbol(n[0]), residue) for n in names])
    for i, j in ((0, 1), (1, 2)):
        for own in atoms[:3]:
            topology.addBond(own[i], own[j])
    topology.addBond(atoms[0][2], atoms[1][0])
    n = solute_size(topology, resolve_spec("CA"), (), "files")
    assert n == 9
    chains = [[r.name for r in c.residues()] for c in standard_topology(topology, n).chains()]
    assert chains == [["ALA", "GLY"], ["ALA"], ["HOH", "HOH"]]

"""Priors of the 5bead map: stiff dihedrals, exclusions, chirality, and the time step that they allow."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from cgal_plugin.errors import CGALWarning, ConfigError, PriorFitError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.geometry import dihedral_angles
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.priors import PriorSet, estimate, fit_priors
from cgal_plugin.priors.evaluate import prior_forces
from cgal_plugin.priors.modules import PRIORS
from cgal_plugin.priors.tables import known_names
from cgal_plugin.priors.timestep import largest_timestep, warn_of_timestep
from cgal_plugin.units import kT

T = 400.0


@pytest.fixture(scope="module")
def start() -> np.ndarray:
    model = AllAtomModel.from_sequence("AGPT", "5bead")
    return np.asarray(model.mapping.map_positions(model.positions))


@pytest.fixture(scope="module")
def frames(start: np.ndarray) -> np.ndarray:
    """Independent frames around a real structure, with vibrations of 0.04 Å."""
    return start + np.random.default_rng(0).normal(scale=0.04, size=(1500, *start.shape))


@pytest.fixture(scope="module")
def priors(frames: np.ndarray) -> PriorSet:
    return fit_priors(CGTopology.from_sequence("AGPT", "5bead"), frames, T)


def total_energy(priors: PriorSet, frame: np.ndarray) -> float:
    topology = priors.molecule
    energy = torch.zeros(1, 1, dtype=torch.float64)
    types, batch = torch.from_numpy(np.array(topology.types)), torch.zeros(topology.n_beads, dtype=torch.long)
    for term in priors.terms:
        prior = PRIORS[term](**priors.arguments(term)).double()
        energy = prior.post_reduce(energy, types, torch.from_numpy(frame), batch)
    return float(energy)


@pytest.mark.parametrize(("k", "well"), [(40.0, 180.0), (300.0, 32.0), (300.0, -179.0)])
def test_stiff_dihedrals_recover_known_constants(k: float, well: float) -> None:
    beta = 1.0 / kT(T)
    phi = np.random.default_rng(1).vonmises(np.radians(well), beta * k, 40_000)
    fit = estimate.fit_cosines(phi, beta, 1, 500.0, 0.0, narrow=True)
    # k (1 + cos(φ − phase)) has its well at phase + 180°
    assert fit.parameters["k"][0] == pytest.approx(k, rel=0.03)
    away = np.angle(np.exp(1j * (fit.parameters["phase"][0] - np.radians(well) - np.pi)))
    assert abs(away) < 0.002
    assert not fit.bounded
    padded = estimate.with_multiplicities(fit, 3)
    assert padded.parameters["k"] == [fit.parameters["k"][0], 0.0, 0.0]


def mirrored_cb(topology: CGTopology, frames: np.ndarray, residue: int) -> np.ndarray:
    """Return frames in which one residue is a D-amino acid: CB mirrored at the plane N, CA, C."""
    here = {topology.bead_names[i]: i for i in np.flatnonzero(topology.residue_index == residue)}
    n, ca, c, cb = (frames[:, here[name]] for name in ("N", "CA", "C", "CB"))
    normal = np.cross(n - ca, c - ca)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    changed = frames.copy()
    changed[:, here["CB"]] = cb - 2.0 * np.sum((cb - ca) * normal, axis=1, keepdims=True) * normal
    return changed


def test_a_d_residue_does_not_flatten_the_dihedrals_of_the_others(
    frames: np.ndarray, priors: PriorSet
) -> None:
    """The wildcard pooled both wells: k 3 in place of 300 kcal/mol, for every residue that uses it."""
    topology = CGTopology.from_sequence("AGPT", "5bead")
    changed = mirrored_cb(topology, frames, 3)

    def gamma(fitted: PriorSet) -> dict[str, float]:
        rows = (r for r in fitted.rows if r["term"] == "dihedrals" and r["types"][0].startswith("CA_"))
        return {r["types"][0]: r["parameters"]["k"][0] for r in rows if "CB" in r["types"][2]}

    right, found = gamma(priors), gamma(fit_priors(topology, changed, T))
    assert found.keys() == right.keys()
    assert all(found[name] == pytest.approx(right[name], rel=0.2) for name in right)
    # with too few samples of its own, it would get the wildcard of the L-residues
    with pytest.raises(PriorFitError, match=r"gamma_1 of residue 3 \(THR.*D-amino acid.*min_effective"):
        fit_priors(topology, changed, T, min_effective=1e4)
    # two residues of one type in different wells
    pair = AllAtomModel.from_sequence("AAG", "5bead")
    start = np.asarray(pair.mapping.map_positions(pair.positions))
    same = start + np.random.default_rng(0).normal(scale=0.04, size=(500, *start.shape))
    topology = CGTopology.from_sequence("AAG", "5bead")
    with pytest.raises(PriorFitError, match="gamma_1 of residue"):
        fit_priors(topology, mirrored_cb(topology, same, 1), T)
    # all residues of D-configuration are in one well
    flipped = fit_priors(topology, same * [1.0, 1.0, -1.0], T)
    assert min(gamma(flipped).values()) > 100.0


def test_each_dihedral_has_the_multiplicities_of_its_kind(priors: PriorSet) -> None:
    rows = {tuple(r["types"]): r for r in priors.rows if r["term"] == "dihedrals"}
    gamma = rows["CA_ALA", "C_ALL", "CB_ALA", "N_ALL"]["parameters"]
    assert gamma["k"][0] > 20
    assert gamma["k"][1:] == [0.0, 0.0]
    before_proline = rows["CA_GLY", "C_ALL", "N_ALL", "CA_PRO"]["parameters"]
    assert before_proline["k"][1] != 0
    assert before_proline["k"][2] == 0
    soft = rows["N_ALL", "CA_GLY", "C_ALL", "N_ALL"]["parameters"]
    assert max(soft["k"]) <= 3.0
    assert soft["k"][2] != 0
    proline = rows["C_ALL", "CA_PRO", "N_ALL", "C_ALL"]["parameters"]
    assert proline["k"][1:] == [0.0, 0.0]
    assert priors.exclude_bonds == 4


def test_the_mirror_image_costs_far_more_than_kT(priors: PriorSet, start: np.ndarray) -> None:
    dihedrals = priors.with_terms(["dihedrals"])
    topology = priors.molecule
    one = start.copy()
    # reflect CB of the first residue in the plane N, CA, C
    n, ca, cb, c = one[0], one[1], one[2], one[3]
    normal = np.cross(n - ca, c - ca)
    normal /= np.linalg.norm(normal)
    one[2] = cb - 2 * normal * ((cb - ca) @ normal)
    kinds = [spec.name for _, spec in topology.named_dihedrals]
    k = kinds.index("gamma_1")
    angle = dihedral_angles(np.stack([start, one])[:, topology.dihedral_index[k]])
    assert angle[0] * angle[1] < 0
    assert total_energy(dihedrals, one) - total_energy(dihedrals, start) > 15 * kT(T)


def test_forces_are_minus_the_gradient(priors: PriorSet, start: np.ndarray) -> None:
    frame = start + np.random.default_rng(3).normal(scale=0.05, size=start.shape)
    forces = prior_forces(priors, frame[None])[0]
    h, rng = 1e-5, np.random.default_rng(4)
    for bead, axis in zip(rng.integers(len(frame), size=12), rng.integers(3, size=12), strict=True):
        step = np.zeros_like(frame)
        step[bead, axis] = h
        slope = (total_energy(priors, frame + step) - total_energy(priors, frame - step)) / (2 * h)
        assert forces[bead, axis] == pytest.approx(-slope, abs=1e-4 * np.abs(forces).max())


def test_priors_without_a_molecule_know_the_types_of_the_map(priors: PriorSet) -> None:
    table = priors.arguments("dihedrals")["table"]
    prior = PRIORS["dihedrals"](table=table)
    top = priors.molecule
    given = {"dihedral_index": torch.from_numpy(top.dihedral_index.T.copy())}
    types, batch = torch.from_numpy(np.array(top.types)), torch.zeros(top.n_beads, dtype=torch.long)
    index, row = prior.terms(types, batch, 1, given)
    own = PRIORS["dihedrals"](**priors.arguments("dihedrals"))
    assert (row == own.terms(types, batch, 1, None)[1]).all()
    assert (index == given["dihedral_index"]).all()
    assert [known_names()[number] for number in (41, 42, 43)] == ["C_ALL", "N_ALL", "O_ALL"]


def test_force_matching_is_refused(frames: np.ndarray) -> None:
    topology = CGTopology.from_sequence("AGPT", "5bead")
    with pytest.raises(ConfigError, match=r"5bead.*stiff dihedrals.*likelihood"):
        fit_priors(topology, frames, T, method="force_matching", forces=np.zeros_like(frames))


def test_the_largest_time_step_is_that_of_the_fastest_vibration() -> None:
    """One bond: ω² = k/μ. A step above 2/ω makes leapfrog explode, one below does not."""
    topology = CGTopology.from_sequence("AA")
    k = 500.0
    rows = (
        {"term": "bonds", "types": ["*", "*"], "n": 0, "parameters": {"k": k, "r0": 3.8}, "fallback": None},
    )
    priors = PriorSet(topology, T, ("bonds",), "theta", 6, 1, rows, (), 0)
    frame = np.array([[0.0, 0.0, 0.0], [3.8, 0.0, 0.0]])
    omega = np.sqrt(2 * k * 418.4e-6 / topology.masses[0])
    limit = largest_timestep(priors, frame)
    assert limit == pytest.approx(2 / omega, rel=1e-4)
    for dt, stable in ((0.95 * limit, True), (1.05 * limit, False)):
        x, v = frame + np.array([[0.0, 0, 0], [0.01, 0, 0]]), np.zeros((2, 3))
        for _ in range(400):
            r = x[1] - x[0]
            length = np.linalg.norm(r)
            f = -k * (length - 3.8) * r / length * 418.4e-6 / topology.masses[0]
            v += dt * np.stack([-f, f])
            x = x + dt * v
        assert (abs(np.linalg.norm(x[1] - x[0]) - 3.8) < 1.0) == stable


def test_time_steps_near_the_limit_are_said(priors: PriorSet, start: np.ndarray) -> None:
    limit = largest_timestep(priors, start)
    five, ca = priors.molecule, CGTopology.from_sequence("AGPT")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_timestep(0.8 * limit, five, priors, start)
        warn_of_timestep(4.0, five)
        warn_of_timestep(20.0, ca)
    with pytest.warns(CGALWarning, match=r"is above the largest stable one.*simulation.timestep_fs"):
        warn_of_timestep(1.1 * limit, five, priors, start)
    with pytest.warns(
        CGALWarning, match=r"10 fs is above the largest stable one, 5.5 fs, of mapping '5bead'"
    ):
        warn_of_timestep(10.0, five)

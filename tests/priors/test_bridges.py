"""The prior of disulfide bridges: a term of its own, fitted, excluded from repulsion, kept in files."""

from __future__ import annotations

import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.errors import CGALWarning, ConfigError, PriorFitError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import CGBonds, CGBridges, CGRepulsion, PriorSet, fit_priors, make_prior
from cgal_plugin.priors.nonbonded import batch_pairs, molecule_pairs
from cgal_plugin.priors.plot import plot_priors
from cgal_plugin.testing import check_prior
from cgal_plugin.units import kT
from tests.priors.chains import chains

SEQUENCE = "ACCAGACA"
TEMPERATURE = 300.0
K, R0 = 8.0, 5.4


@pytest.fixture(scope="module")
def topology() -> CGTopology:
    """Bridge between residues 1 and 6; residues 1 and 2 are cysteines and bonded along the chain."""
    return CGTopology.from_sequence(SEQUENCE, bridges=[(1, 6)])


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Chains whose bridge has the distribution r² exp(−½ K (r − R0)²/kT), with bonds of 3.8 Å."""
    rng = np.random.default_rng(0)
    found = chains(1500, 8)
    across = np.linalg.norm(found[:, 5] - found[:, 1], axis=1)
    found = np.resize(found[(across > 4.0) & (across < 7.0)], (4000, 8, 3))
    grid = np.linspace(3.0, 7.8, 20_001)
    weight = grid**2 * np.exp(-0.5 * K * (grid - R0) ** 2 / kT(TEMPERATURE))
    r = np.interp(rng.random(len(found)), np.cumsum(weight) / weight.sum(), grid)
    # bead 6 at the distance r from bead 1, and at that of its bond from bead 5
    axis = found[:, 5] - found[:, 1]
    across = np.linalg.norm(axis, axis=1)
    bond = np.linalg.norm(found[:, 6] - found[:, 5], axis=1)
    along = (across**2 + r**2 - bond**2) / (2 * across)
    normal = np.cross(axis, rng.normal(size=axis.shape))
    normal *= (np.sqrt(r**2 - along**2) / np.linalg.norm(normal, axis=1))[:, None]
    moved = found[:, 1] + (along / across)[:, None] * axis + normal - found[:, 6]
    found[:, 6:] += moved[:, None]
    return found


@pytest.fixture(scope="module")
def fitted(topology: CGTopology, frames: np.ndarray) -> PriorSet:
    return fit_priors(topology, frames, TEMPERATURE, per_type=True)


def row_of(priors: PriorSet, term: str, *names: str) -> dict[str, Any]:
    return next(r for r in priors.table() if r["term"] == term and r["types"] == list(names))


def test_bridges_are_fitted_with_the_bonds_and_apart_from_them(fitted: PriorSet) -> None:
    assert fitted.terms == ("bonds", "bridges", "angles", "dihedrals", "repulsion")
    for names in (("*", "*"), ("CA_CYS", "CA_CYS")):
        found = row_of(fitted, "bridges", *names)
        assert found["parameters"]["k"] == pytest.approx(K, rel=0.06)
        assert found["parameters"]["r0"] == pytest.approx(R0, abs=0.02)
        assert found["n"] == 4000
    # neighbouring cysteines keep the bond of the chain
    assert row_of(fitted, "bonds", "CA_CYS", "CA_CYS")["parameters"]["r0"] == pytest.approx(3.8, abs=0.1)
    assert row_of(fitted, "bonds", "CA_CYS", "CA_CYS")["parameters"]["k"] > 20 * K


def test_a_molecule_without_bridges_has_no_such_term(frames: np.ndarray) -> None:
    plain = CGTopology.from_sequence(SEQUENCE)
    assert "bridges" not in fit_priors(plain, frames, TEMPERATURE).terms
    with pytest.raises(PriorFitError, match="has no bridges: remove them from the terms"):
        fit_priors(plain, frames, TEMPERATURE, terms=("bonds", "bridges"))


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (("bonds",), ("bonds", "bridges")),
        (("bridges",), ("bridges",)),
        (("bonds", "bridges", "repulsion"), ("bonds", "bridges", "repulsion")),
        (("angles",), ("angles",)),
    ],
)
def test_terms(
    topology: CGTopology, frames: np.ndarray, terms: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert fit_priors(topology, frames, TEMPERATURE, terms=terms).terms == expected


def test_too_few_samples_follow_the_rules_of_bonds(topology: CGTopology, frames: np.ndarray) -> None:
    with pytest.raises(PriorFitError, match=r"bridges \*-\*: 60 samples, .* needed are 100"):
        fit_priors(topology, frames[:60], TEMPERATURE, terms=("bridges",))
    few = fit_priors(topology, frames[:150], TEMPERATURE, terms=("bridges",))
    assert row_of(few, "bridges", "CA_CYS", "CA_CYS")["fallback"] == ["*", "*"]
    assert CGBridges(**few.arguments("bridges")).molecule_row.tolist() == [0]


def test_contract_and_exact_forces(fitted: PriorSet, topology: CGTopology, frames: np.ndarray) -> None:
    prior = CGBridges(**fitted.arguments("bridges"))
    check_prior(prior, topology, frames[:3])
    pos = torch.tensor(frames[0], requires_grad=True)
    z, batch = torch.tensor(topology.types), torch.zeros(8, dtype=torch.long)
    energy = prior.post_reduce(torch.zeros(1, 1).double(), z, pos, batch)
    (gradient,) = torch.autograd.grad(energy.sum(), pos)
    k, r0 = (row_of(fitted, "bridges", "CA_CYS", "CA_CYS")["parameters"][n] for n in ("k", "r0"))
    d = frames[0, 6] - frames[0, 1]
    r = np.linalg.norm(d)
    assert energy.item() == pytest.approx(0.5 * k * (r - r0) ** 2, rel=1e-12)
    expected = np.zeros((8, 3))
    expected[6] = k * (r - r0) * d / r
    expected[1] = -expected[6]
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-12)


def test_bridges_have_no_repulsion_and_their_neighbours_do(topology: CGTopology) -> None:
    table = [{"types": ["*", "*"], "epsilon": 1.0, "sigma": 4.0}]
    for exclude in (0, 1, 2, 3):
        prior = CGRepulsion(table, dataset=types.SimpleNamespace(topology=topology), exclude_bonds=exclude)
        found = set(map(tuple, prior.molecule_index.T.tolist()))
        plain = set(map(tuple, molecule_pairs(8, topology.bond_index, exclude).T.tolist()))
        assert found == plain - ({(1, 6)} if exclude else set())
        assert {(1, 7), (0, 6)} <= found
        batch = torch.arange(2).repeat_interleave(8)
        bonds, bridges = (torch.tensor(t.T.copy()) for t in (topology.bond_index, topology.bridge_index))
        pairs = batch_pairs(batch, torch.cat([bonds, bonds + 8], 1), exclude, 2, bridges + 8)
        both = set(map(tuple, pairs.T.tolist()))
        assert both == plain | {(i + 8, j + 8) for i, j in found}
    again = CGRepulsion(**prior.get_init_args())
    assert again.get_init_args() == prior.get_init_args()
    with pytest.raises(ConfigError, match=r"each bridge needs 2 beads of 0\.\.7"):
        CGRepulsion(table, molecule={**prior.get_init_args()["molecule"], "bridges": [[1, 9]]})


def test_arguments_of_earlier_releases_are_unchanged() -> None:
    plain = CGTopology.from_sequence("AAAA")
    prior = CGRepulsion(
        [{"types": ["*", "*"], "epsilon": 1.0, "sigma": 4.0}], dataset=types.SimpleNamespace(topology=plain)
    )
    assert set(prior.get_init_args()["molecule"]) == {"types", "type_names", "index"}


def test_force_matching_subtracts_the_bridges(topology: CGTopology, frames: np.ndarray) -> None:
    """Forces of bonds, repulsion and bridges leave nothing to the matched terms."""
    i, j = molecule_pairs(8, topology.bond_index, 2, topology.bridge_index)
    frames = frames[np.linalg.norm(frames[:, i] - frames[:, j], axis=2).min(axis=1) > 3.6]
    options: dict[str, Any] = {"power": 12, "contact_percentile": 0.1, "exclude_bonds": 2}
    known = fit_priors(topology, frames, TEMPERATURE, terms=("bonds", "repulsion"), **options)
    assert known.terms == ("bonds", "bridges", "repulsion")
    pos = torch.tensor(frames[:400].reshape(-1, 3), requires_grad=True)
    z, batch = torch.tensor(np.tile(topology.types, 400)), torch.arange(400).repeat_interleave(8)
    energy = torch.zeros(400, 1).double()
    for cls in (CGBonds, CGBridges, CGRepulsion):
        energy = cls(**known.arguments(cls.term)).post_reduce(energy, z, pos, batch)
    (gradient,) = torch.autograd.grad(energy.sum(), pos)
    forces = -gradient.numpy().reshape(400, 8, 3)
    arguments: dict[str, Any] = {
        "terms": ("bonds", "repulsion", "dihedrals", "pairs"),
        "method": "force_matching",
    }
    own = fit_priors(topology, frames[:400], TEMPERATURE, forces=forces, **arguments, **options)
    assert own.terms == ("bonds", "bridges", "dihedrals", "repulsion", "pairs")
    # fitted to fewer frames, so the subtracted parameters differ a little
    same = fit_priors(topology, frames[:400], TEMPERATURE, terms=("bonds", "repulsion"), **options)
    energy = torch.zeros(400, 1).double()
    for cls in (CGBonds, CGBridges, CGRepulsion):
        energy = cls(**same.arguments(cls.term)).post_reduce(energy, z, pos, batch)
    (gradient,) = torch.autograd.grad(energy.sum(), pos)
    exact = fit_priors(
        topology,
        frames[:400],
        TEMPERATURE,
        forces=-gradient.numpy().reshape(400, 8, 3),
        **arguments,
        **options,
    )
    matched = [r["parameters"] for r in exact.table() if r["term"] in ("dihedrals", "pairs")]
    assert max(abs(v) for p in matched for v in (p["c"] if "c" in p else p["k"])) < 1e-8
    # the pair energy does not act on bridged beads
    assert (1, 6) not in set(map(tuple, pairs_of(exact)))


def pairs_of(priors: PriorSet) -> list[tuple[int, int]]:
    from cgal_plugin.priors import CGPairs

    return [tuple(p) for p in CGPairs(**priors.arguments("pairs")).molecule_index.T.tolist()]


def test_files_and_plots_have_the_bridges(fitted: PriorSet, topology: CGTopology, tmp_path: Path) -> None:
    fitted.save(tmp_path / "priors.yaml")
    again = PriorSet.load(tmp_path / "priors.yaml")
    assert again.hash == fitted.hash
    assert again.topology == topology
    assert again.arguments("bridges") == fitted.arguments("bridges")
    assert CGBridges(file=tmp_path / "priors.yaml").get_init_args() == fitted.arguments("bridges")
    assert [next(iter(p)) for p in again.to_prior_model()][:2] == ["CGBonds", "CGBridges"]
    plot_priors(again, tmp_path / "priors.png")
    assert (tmp_path / "priors.png").stat().st_size > 10_000
    without = CGTopology.from_sequence(SEQUENCE)
    with pytest.raises(ConfigError, match="are for"):
        CGBridges(file=tmp_path / "priors.yaml", dataset=types.SimpleNamespace(topology=without))


def test_a_data_set_gives_the_bridges_to_torchmdnet(
    topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    from torch_geometric.loader import DataLoader

    from cgal_plugin.data import CGDataset
    from cgal_plugin.training.prepare import _check_bridges

    np.save(tmp_path / "x.npy", frames[:200])
    np.save(tmp_path / "f.npy", np.zeros_like(frames[:200]))
    source = {"coords": "x.npy", "forces": "f.npy", "topology": topology, "temperature": TEMPERATURE}
    dataset = CGDataset(str(tmp_path), **source)
    prior = make_prior(CGBridges, dataset)
    stored = prior.post_reduce(
        torch.zeros(3, 1).double(),
        torch.tensor(np.tile(topology.types, 3)),
        torch.tensor(frames[:3].reshape(-1, 3)),
        torch.arange(3).repeat_interleave(8),
    )
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch.bridge_index.tolist() == [[1, 9, 17], [6, 14, 22]]
    (ready,) = CGDataset(str(tmp_path), prebatch=True, **source).__getitems__([0, 1, 2])
    for b in (batch, ready):
        found = prior.post_reduce(
            torch.zeros(3, 1).double(), b.z, b.pos, b.batch, None, {"bridge_index": b.bridge_index}
        )
        torch.testing.assert_close(found, stored)
    plain = CGDataset(
        str(tmp_path), prebatch=True, **{**source, "topology": CGTopology.from_sequence("AA" + "G" * 6)}
    )
    assert plain.__getitems__([0, 1])[0].bridge_index.shape == (2, 0)
    with pytest.warns(
        CGALWarning, match="bridges=.*has disulfide bridges, and prior_model has CGBonds but no CGBridges"
    ):
        _check_bridges([make_prior(CGBonds, dataset)], topology)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _check_bridges([make_prior(CGBonds, dataset), prior], topology)


@pytest.mark.parametrize(
    "mapping", ["CACB", {"name": "x", "residues": {"*": {"CA": ["CA"]}, "CYS": {"CA": ["CA"], "S": ["SG"]}}}]
)
def test_other_maps(mapping: Any) -> None:
    top = CGTopology.from_sequence("ACAC", mapping, bridges=[(1, 3)])
    alpha = np.array([[0.0, 0.0, 0.0], [3.8, 0.0, 0.0], [3.8, 3.8, 0.0], [0.0, 3.8, 0.0]])
    # side beads 1.5 Å from CA; those of the bridge on the line between the CA beads, 2.37 Å apart
    side = {0: (-1.1, -1.1, 0.0), 1: (-1.06, 1.06, 0.0), 2: (1.1, 1.1, 0.0), 3: (1.06, -1.06, 0.0)}
    where = [
        alpha[r] + (0.0 if name == "CA" else np.array(side[r]))
        for r, name in zip(top.residue_index.tolist(), top.bead_names, strict=True)
    ]
    frames = np.array(where) + np.random.default_rng(0).normal(size=(500, top.n_beads, 3), scale=0.05)
    i, j = top.bridge_index[0]
    priors = fit_priors(top, frames, TEMPERATURE, terms=("bonds", "repulsion"))
    kind = f"{top.bead_names[i]}_*"
    assert row_of(priors, "bridges", kind, kind)["parameters"]["r0"] == pytest.approx(2.37, abs=0.05)
    repulsion = CGRepulsion(**priors.arguments("repulsion"))
    assert [int(i), int(j)] not in repulsion.molecule_index.T.tolist()

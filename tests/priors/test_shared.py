"""Priors of several molecules: known constants, complete tables, pooling of rare and unseen tuples."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.errors import ConfigError, PriorFitError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import MoleculeFrames, PriorSet, fit_priors, fit_shared_priors
from cgal_plugin.priors.evaluate import prior_forces
from cgal_plugin.priors.linear import PairSeries
from cgal_plugin.priors.plot import plot_priors
from cgal_plugin.priors.pooling import PooledRows
from tests.priors.chains import chains

TERMS = ("bonds", "angle_series", "dihedrals", "repulsion", "pairs")
FORCES: dict[str, Any] = {"terms": TERMS, "method": "force_matching", "pairs_per_type": True}
SEQUENCES = "GAGAGAGA", "AAGGSA", "SGAG"


def frames_of(sequence: str, seed: int = 0, n: int = 400) -> MoleculeFrames:
    topology = CGTopology.from_sequence(sequence)
    x = chains(n, topology.n_beads) + np.random.default_rng(seed).normal(
        scale=0.05, size=(n, topology.n_beads, 3)
    )
    noise = np.random.default_rng(seed + 1).normal(size=x.shape)
    return MoleculeFrames(topology, x, noise)


@pytest.fixture(scope="module")
def molecules() -> list[MoleculeFrames]:
    return [frames_of(sequence, k) for k, sequence in enumerate(SEQUENCES)]


@pytest.fixture(scope="module")
def shared(molecules: list[MoleculeFrames]) -> PriorSet:
    return fit_shared_priors(molecules, 400.0, **FORCES)


def test_table_is_complete_for_unseen_sequences(shared: PriorSet) -> None:
    assert shared.topology is None
    for sequence in ("SSSS", "ASGASGASGS", "GG" + "SA" * 4):
        own = shared.for_topology(CGTopology.from_sequence(sequence))
        x = chains(3, len(sequence))
        assert np.isfinite(prior_forces(own, x)).all()
    pairs = [r["types"] for r in shared.rows if r["term"] == "pairs"]
    types = ["CA_ALA", "CA_GLY", "CA_SER"]
    assert sorted(pairs) == sorted([["*", "*"], *map(list, combinations_with_replacement(types, 2))])


def test_types_without_data_have_the_wildcards(shared: PriorSet) -> None:
    own = shared.for_topology(CGTopology.from_sequence("WWWWWW"))
    assert {"*"} == {t for row in own.rows for t in row["types"]}
    assert np.isfinite(prior_forces(own, chains(2, 6))).all()


def test_forces_of_a_shared_potential_are_recovered(molecules: list[MoleculeFrames]) -> None:
    """Forces of known priors, on all molecules: with little ridge, the fit reproduces them."""
    known = fit_shared_priors(molecules, 400.0, **FORCES)
    labelled = []
    for m in molecules:
        forces = prior_forces(known.for_topology(m.topology), np.asarray(m.positions, dtype=np.float64))
        labelled.append(MoleculeFrames(m.topology, m.positions, forces))
    weak = {"ridge_pairs": 1e-9, "ridge_dihedrals": 1e-9, "ridge_angles": 1e-9, "ridge_tension": np.inf}
    found = fit_shared_priors(labelled, 400.0, **FORCES, **weak)
    for m in labelled:
        forces = prior_forces(found.for_topology(m.topology), np.asarray(m.positions, dtype=np.float64))
        assert m.forces is not None
        error = np.sqrt(np.mean((forces - m.forces) ** 2) / np.mean(np.square(m.forces)))
        assert error < 1e-3


def test_one_molecule_with_full_tuples_equals_the_fit_of_that_molecule() -> None:
    """Where each row has one term, pooling without data of others only changes the ridge."""
    m = frames_of("GASGA")
    weak = {"ridge_pairs": 1e-9, "ridge_dihedrals": 1e-9, "ridge_angles": 1e-9}
    single = fit_priors(m.topology, m.positions, 400.0, forces=m.forces, **FORCES, **weak)
    pooled = fit_shared_priors([m], 400.0, **FORCES, **weak).for_topology(m.topology)
    x = np.asarray(m.positions[:50], dtype=np.float64)
    np.testing.assert_allclose(prior_forces(pooled, x), prior_forces(single, x), rtol=1e-2, atol=0.05)


def test_the_order_of_molecules_does_not_matter(molecules: list[MoleculeFrames], shared: PriorSet) -> None:
    turned = fit_shared_priors(molecules[::-1], 400.0, **FORCES)
    assert len(turned.rows) == len(shared.rows)
    for a, b in zip(shared.rows, turned.rows, strict=True):
        assert (a["term"], a["types"], a["n"]) == (b["term"], b["types"], b["n"])
    for m in molecules:
        x = np.asarray(m.positions[:20], dtype=np.float64)
        ours, theirs = (prior_forces(p.for_topology(m.topology), x) for p in (shared, turned))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_pooling_equals_explicit_effects(data: st.DataObject) -> None:
    """Eliminated effects give the solution of the problem with a column for each effect."""
    types = ["CA_A", "CA_B", "CA_C", "CA_D"]
    every = list(combinations_with_replacement(types, 2))
    chosen = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=6, unique=True))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    ridge, n = 0.3, 2
    rows = [PairSeries(t, np.zeros((0, 2), dtype=np.int64), n, ridge, 3.0, 1.0) for t in chosen]
    counts = np.array(data.draw(st.lists(st.integers(1, 9), min_size=len(rows), max_size=len(rows))), float)
    pooled = PooledRows(rows, dict.fromkeys(types, "*"), counts.tolist())
    size = len(chosen) * n
    root = rng.normal(size=(size, size))
    normal, right = root @ root.T + 0.1 * np.eye(size), rng.normal(size=size)
    c = np.linalg.solve(normal + pooled.penalty(), right)

    design = np.zeros((len(chosen), 1 + len(types)))
    for i, pair in enumerate(chosen):
        design[i, 0] = 1
        for t in pair:
            design[i, 1 + types.index(t)] += 1
    a, d = np.kron(design, np.eye(n)), np.diag(np.repeat(counts, n))
    full = np.block(
        [
            [normal + ridge * d, -ridge * d @ a],
            [-ridge * a.T @ d, ridge * (a.T @ d @ a + counts.mean() * np.eye(a.shape[1]))],
        ]
    )
    both = np.linalg.solve(full, np.concatenate([right, np.zeros(a.shape[1])]))
    np.testing.assert_allclose(c, both[:size], rtol=1e-7, atol=1e-9)
    effects = both[size:].reshape(-1, n)
    for row in pooled.unseen(c):
        expected = effects[0] * 1.0
        for t in row["types"]:
            expected = expected + (effects[1 + types.index(t)] if t != "*" else 0)
        np.testing.assert_allclose(row["parameters"]["c"], expected, rtol=1e-6, atol=1e-9)


def test_data_of_other_molecules_do_not_bind_a_row_more() -> None:
    """Molecules without a bead type in common are fitted as alone, but for the pooled effects."""
    own, others = (
        frames_of("GASGA"),
        [frames_of("LVLVLVLV", 5), frames_of("KEKEKE", 6), frames_of("FWFWFW", 7)],
    )
    heavy = [
        MoleculeFrames(m.topology, m.positions, m.forces, np.full(len(m.positions), 9.0)) for m in others
    ]
    terms = {**FORCES, "terms": ("bonds", "repulsion", "pairs")}
    alone, together, weighted = (
        fit_shared_priors([own, *rest], 400.0, **terms).for_topology(own.topology)
        for rest in ([], others, heavy)
    )

    def size(priors: PriorSet) -> float:
        rows = [r["parameters"]["c"] for r in priors.rows if r["term"] == "pairs"]
        return float(np.linalg.norm(np.array(rows)))

    assert size(together) == pytest.approx(size(alone), rel=0.25)
    assert size(weighted) == pytest.approx(size(alone), rel=0.25)


def test_saved_priors_are_read_back_and_drawn(shared: PriorSet, tmp_path: Any) -> None:
    shared.save(tmp_path / "priors.yaml")
    assert PriorSet.load(tmp_path / "priors.yaml").hash == shared.hash
    plot_priors(shared, tmp_path / "priors.png")
    plot_priors(shared.for_topology(CGTopology.from_sequence("ASAS")), tmp_path / "one.png")
    assert (tmp_path / "priors.png").stat().st_size > 10_000


def test_likelihood_terms_pool_all_molecules(molecules: list[MoleculeFrames]) -> None:
    found = fit_shared_priors(molecules, 400.0)
    wild = next(r for r in found.rows if r["term"] == "bonds" and r["types"] == ["*", "*"])
    assert wild["n"] == sum(len(m.positions) * len(m.topology.bond_index) for m in molecules)
    lengths = np.concatenate(
        [
            np.linalg.norm(m.positions[:, i] - m.positions[:, j], axis=1)
            for m in molecules
            for i, j in m.topology.bond_index
        ]
    )
    assert wild["parameters"]["r0"] == pytest.approx(lengths.mean(), abs=0.02)


def test_small_molecules_may_lack_terms(molecules: list[MoleculeFrames]) -> None:
    small = frames_of("GA")
    found = fit_shared_priors([*molecules, small], 400.0, **FORCES)
    assert np.isfinite(prior_forces(found.for_topology(small.topology), chains(2, 2))).all()
    with pytest.raises(PriorFitError, match="no molecule has"):
        fit_shared_priors([small], 400.0, **FORCES)


def test_wrong_input_is_refused(molecules: list[MoleculeFrames]) -> None:
    with pytest.raises(PriorFitError, match="no molecules"):
        fit_shared_priors([], 400.0)
    other = MoleculeFrames(CGTopology.from_sequence("GAG", mapping="CACB"), np.zeros((1, 4, 3)))
    with pytest.raises(ConfigError, match="different mappings"):
        fit_shared_priors([*molecules, other], 400.0)
    with pytest.raises(PriorFitError, match="needs the forces"):
        fit_shared_priors([MoleculeFrames(m.topology, m.positions) for m in molecules], 400.0, **FORCES)

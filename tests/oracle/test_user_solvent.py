"""Labels and trajectories reuse the solvent of a user's box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.oracle import AllAtomModel, OpenMMOracle
from cgal_plugin.oracle.coordinates import make_whole, nearest_image
from cgal_plugin.oracle.solute import bond_pairs, first_atoms, molecules
from cgal_plugin.oracle.solvation import NoRoomError, reuse_solvent
from cgal_plugin.oracle.user_system import PreparedSystem, load_user_system
from tests.oracle.user_inputs import EDGE, Inputs

BOX = np.eye(3) * EDGE


def load(inputs: Inputs, kind: str = "system") -> PreparedSystem:
    return load_user_system(kind, inputs.files(kind), None, inputs.structure(kind))


def model_of(prepared: PreparedSystem) -> AllAtomModel:
    """The model, not minimised."""
    return AllAtomModel(
        prepared.topology, prepared.positions, prepared.mapping, "files", given=prepared.given
    )


def moved_solute(prepared: PreparedSystem) -> np.ndarray:
    """The peptide turned by 90° about an axis: it lies where water was."""
    solute = prepared.positions[: prepared.given.n_solute]
    centre = solute.mean(axis=0)
    return (
        (solute - centre) @ np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).T + centre + 40.0
    )


def closest(prepared: PreparedSystem, xyz: np.ndarray) -> float:
    """Shortest distance of a heavy solvent atom from heavy atoms of the solute, with periodic images, Å."""
    n = prepared.given.n_solute
    heavy = np.array([a.element.symbol != "H" for a in prepared.topology.atoms()])
    a, b = xyz[:n][heavy[:n]], xyz[n:][heavy[n:]]
    return float(np.linalg.norm(nearest_image(a[:, None] - b[None], BOX), axis=-1).min())


def test_overlapping_water_moves_to_the_old_place(wet_inputs: Inputs) -> None:
    prepared = load(wet_inputs)
    n, target = prepared.given.n_solute, moved_solute(prepared)
    naive = np.concatenate([target - 40.0, prepared.positions[n:]])
    assert closest(prepared, naive) < 1.6
    xyz = reuse_solvent(prepared.topology, prepared.positions, target)
    assert xyz.shape == prepared.positions.shape
    assert closest(prepared, xyz) > 1.75
    shape = xyz[:n] - xyz[0]
    assert shape == pytest.approx(target - target[0], abs=1e-9)
    assert xyz[:n].mean(axis=0) == pytest.approx(prepared.positions[:n].mean(axis=0), abs=1e-6)
    labels = molecules(prepared.topology)
    for molecule in np.unique(labels[n:])[:20]:  # rigid moves
        atoms = np.flatnonzero(labels == molecule)
        before, after = prepared.positions[atoms], xyz[atoms]
        assert after - after[0] == pytest.approx(before - before[0], abs=1e-6)


def test_the_same_conformation_moves_nothing(wet_inputs: Inputs) -> None:
    prepared = load(wet_inputs)
    n = prepared.given.n_solute
    xyz = reuse_solvent(prepared.topology, prepared.positions, prepared.positions[:n] + 7.0)
    moves = nearest_image(xyz - prepared.positions, BOX)
    assert np.abs(moves).max() < 1e-6


def test_a_conformation_that_does_not_fit_is_refused_by_name(wet_inputs: Inputs) -> None:
    prepared = load(wet_inputs)
    long = prepared.positions[: prepared.given.n_solute] * np.array([3.0, 1.0, 1.0])
    with pytest.raises(NoRoomError, match=r"periodic image.*larger box"):
        reuse_solvent(prepared.topology, prepared.positions, long)


def test_a_label_that_does_not_fit_is_quarantined(wet_inputs: Inputs) -> None:
    model = model_of(load(wet_inputs))
    oracle = OpenMMOracle(
        model, temperature=300.0, mode="steered", restraint=1.0, production_ps=0.1, relax_ps=0.0, seed=1
    )
    oracle.library = None
    squeezed = replace(model, positions=model.positions)
    frame = squeezed.mapping.map_positions(model.positions[: model.n_solute])[None]
    small = model.topology.getPeriodicBoxVectors()
    try:
        model.topology.setPeriodicBoxVectors([v * 0.5 for v in small])
        labels = oracle.label(frame)
    finally:
        model.topology.setPeriodicBoxVectors(small)
    assert len(labels.quarantined) == 1
    assert "periodic image" in labels.quarantined[0].reason


def test_broken_molecules_are_made_whole(wet_inputs: Inputs, tmp_path: Path) -> None:
    """Programs write atoms of one molecule on both sides of the box."""
    from openmm import app, unit

    prepared = load(wet_inputs)
    wrapped = (prepared.positions + 9.0) % EDGE
    pairs = bond_pairs(prepared.topology)
    assert np.linalg.norm(wrapped[pairs[:, 0]] - wrapped[pairs[:, 1]], axis=1).max() > 10.0
    path = tmp_path / "wrapped.pdb"
    with open(path, "w", encoding="utf-8") as handle:
        app.PDBFile.writeFile(prepared.topology, wrapped / 10 * unit.nanometer, handle, keepIds=True)
    again = load_user_system("system", wet_inputs.files("system"), None, path)
    length = np.linalg.norm(again.positions[pairs[:, 0]] - again.positions[pairs[:, 1]], axis=1)
    assert length.max() < 2.0
    assert make_whole(again.positions, pairs, BOX) == pytest.approx(again.positions)


def test_the_solute_alone_is_used_for_backmapping(wet_inputs: Inputs) -> None:
    from cgal_plugin.oracle.backmap import Backmapper

    model = model_of(load(wet_inputs))
    assert model.boxed
    assert not model.implicit.boxed
    assert len(model.implicit.positions) == model.n_solute
    frame = model.mapping.map_positions(model.positions[: model.n_solute])
    result = Backmapper(model, methods=["library"], seed=1).run(frame)[0]
    assert result.ok, result.reason
    assert result.rmsd_to_target < 0.5


def test_chains_of_a_prmtop_are_found_by_their_bonds(wet_inputs: Inputs) -> None:
    prepared = load(wet_inputs, "amber")
    solute = first_atoms(prepared.topology, prepared.given.n_solute)
    assert solute.getNumChains() == 1
    assert prepared.mapping.topology.sequence == "AYK"


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", ["free", "mean_force"])
def test_labels_in_the_box_of_the_user(wet_inputs: Inputs, mode: str) -> None:
    model = AllAtomModel.from_system(load(wet_inputs, "amber"))
    oracle = OpenMMOracle(
        model, temperature=300.0, mode=mode, production_ps=0.08, relax_ps=0.08, n_starts=1, seed=1
    )
    frame = model.mapping.map_positions(model.positions[: model.n_solute])[None]
    labels = oracle.label(frame)
    assert not labels.quarantined
    assert np.isfinite(labels.forces).all()

"""Data of mlcg-tk with five beads a residue: numbers of its embedding, and its order of beads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.errors import DataError
from cgal_plugin.exchange.cg_data import import_data
from cgal_plugin.exchange.cg_export import export_data
from cgal_plugin.mapping import CGTopology
from cgal_plugin.oracle.system import AllAtomModel

T = {"temperature": 350.0}
FIVE = "AGPTW"
#: CGEmbeddingMapFiveBead of mlcg-tk: CB by residue (A 1, P 13, T 17, W 19), N 21, CA 22 (G 6), C 23, O 24
MLCG_FIVE = [
    21, 22, 1, 23, 24, 21, 6, 23, 24, 21, 22, 13, 23, 24, 21, 22, 17, 23, 24, 21, 22, 19, 23, 24
]  # fmt: skip


def five_beads(folder: Path, *, pdb_order: bool = False) -> tuple[np.ndarray, CGTopology]:
    """Write data of mlcg-tk with five beads; return coordinates in the order of the map."""
    model = AllAtomModel.from_sequence(FIVE, "5bead")
    topology = model.cg_topology
    start = np.asarray(model.mapping.map_positions(model.positions))
    rng = np.random.default_rng(0)
    coords = (start + rng.normal(scale=0.03, size=(40, *start.shape))).astype(np.float32)
    embeds, order = np.array(MLCG_FIVE), np.arange(topology.n_beads)
    if pdb_order:
        keys = [
            (r, name == "CB", i)
            for i, (r, name) in enumerate(zip(topology.residue_index, topology.bead_names, strict=True))
        ]
        order = np.array([i for *_, i in sorted(keys)])
    np.save(folder / "x_coords.npy", coords[:, order])
    np.save(folder / "x_forces.npy", rng.normal(scale=10.0, size=coords.shape).astype(np.float32))
    np.save(folder / "x_embeddings.npy", embeds[order])
    return coords, topology


@pytest.mark.parametrize("pdb_order", [False, True])
def test_five_bead_data_of_mlcg_tk(tmp_path: Path, pdb_order: bool) -> None:
    (tmp_path / "in").mkdir()
    coords, topology = five_beads(tmp_path / "in", pdb_order=pdb_order)
    said: list[str] = []
    made = import_data(
        [tmp_path / "in"],
        tmp_path / "store",
        mapping="5bead",
        embedding="mlcg-tk-5bead",
        message=said.append,
        **T,
    )
    store = made[0].store
    # the numbers of the store tell all bead types apart
    assert store.topology == topology
    assert any("renumbered by 'cgal'" in line for line in said)
    np.testing.assert_array_equal(store.positions(), coords)
    export_data([tmp_path / "store"], tmp_path / "out", "npy", embedding="mlcg-tk-5bead")
    assert np.load(tmp_path / "out" / "store_embeddings.npy").tolist() == MLCG_FIVE
    (again,) = import_data([tmp_path / "out"], tmp_path / "again")
    assert again.store.topology == topology
    np.testing.assert_array_equal(again.store.positions(), coords)
    with pytest.raises(DataError, match="mlcg-tk-5bead"):
        import_data([tmp_path / "out"], tmp_path / "other", embedding="cgal")


def test_five_bead_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    five_beads(tmp_path)
    with pytest.raises(
        DataError, match=r"no number for bead types.*'cgal', in files of mlcg 'mlcg-tk-5bead'"
    ):
        import_data([tmp_path], tmp_path / "a", mapping="5bead", embedding="mlcg-tk", topologies=[FIVE], **T)
    with pytest.raises(DataError, match=r"contradict AGPTA.*CB_ALA has 1 in embedding 'mlcg-tk-5bead'"):
        import_data(
            [tmp_path], tmp_path / "b", mapping="5bead", embedding="mlcg-tk-5bead", topologies=["AGPTA"], **T
        )
    np.save(tmp_path / "x_embeddings.npy", [21, 22, 23, 24, *MLCG_FIVE[4:]])
    with pytest.raises(DataError, match=r"bead types \[21, 22, 23, 24, 24\] from bead 1 are of no standard"):
        import_data([tmp_path], tmp_path / "c", mapping="5bead", embedding="mlcg-tk-5bead", **T)
    assert not any((tmp_path / name).exists() for name in "abc")

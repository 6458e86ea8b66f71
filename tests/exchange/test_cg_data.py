"""CG data of other programs: layouts, topology, units, what is refused, and the way back."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cgal_plugin.data import CGDataset, DataStore, LabelledFrames, Quarantined
from cgal_plugin.errors import CGALError, CGALWarning, ConfigError, DataError, MappingError
from cgal_plugin.exchange.cg_data import import_data
from cgal_plugin.exchange.cg_export import export_data
from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.embedding import EMBEDDINGS
from cgal_plugin.provenance import read_sealed
from cgal_plugin.runs.layout import FORCE_MAP

ARTEFACTS = Path("/work/shared/artefacts/torchmd_cg")
T = {"temperature": 350.0}
TK = {**T, "embedding": "mlcg-tk"}


def chain(sequence, n=30, seed=0, mapping="CA", embedding="mlcg-tk"):
    """Frames of a zigzag chain, forces of the usual size, and the numbers of the bead types."""
    rng = np.random.default_rng(seed)
    topology = CGTopology.from_sequence(sequence, mapping)
    at = topology.residue_index
    place = np.stack([3.3 * at, 1.8 * (at % 2), 1.5 * (np.array(topology.bead_names) == "CB")], axis=1)
    coords = (place + rng.normal(size=(n, topology.n_beads, 3)) * 0.2).astype(np.float32)
    forces = (rng.normal(size=coords.shape) * 12).astype(np.float32)
    return coords, forces, np.array(EMBEDDINGS[embedding].numbers(topology.type_names))


def write_npy(folder, name, sequence="YYDPETGTWY", kind="torchmd", **options):
    coords, forces, embeds = chain(sequence, **options)
    folder.mkdir(parents=True, exist_ok=True)
    roles = (
        ("coords", "forces", "embeddings") if kind == "torchmd" else ("cg_coords", "cg_forces", "cg_embeds")
    )
    for role, array in zip(roles, (coords, forces, embeds), strict=True):
        np.save(folder / f"{name}_{role}.npy", array)
    return coords, forces, embeds


def check(store, coords, forces, sequence, embedding="mlcg-tk"):
    frames = store.load_all()
    np.testing.assert_array_equal(frames.positions, coords)
    np.testing.assert_array_equal(frames.forces, forces)
    assert store.topology.sequence == sequence
    assert store.topology.embedding == embedding
    assert store.temperature == 350.0


# ---------------------------------------------------------------------- layouts


def test_files_of_the_2023_data_sets(tmp_path):
    coords, forces, embeds = write_npy(tmp_path / "in", "cln_ca", embedding="torchmd-cg", n=50)
    np.save(tmp_path / "in" / "cln_ca_embeddings.npy", np.array(embeds, dtype="<U3"))  # as the tutorial does
    np.save(tmp_path / "in" / "cln_ca_deltaforces.npy", forces * 0.5)
    lines = []
    (made,) = import_data(
        [tmp_path / "in" / "cln_ca_coords.npy"],
        tmp_path / "s",
        embedding="torchmd-cg",
        message=lines.append,
        **T,
    )
    check(made.store, coords, forces, "YYDPETGTWY", "torchmd-cg")
    assert made.n_frames == 50
    text = "\n".join(lines)
    for said in ("one chain of CA beads", "total forces; the delta forces are not read", "force map", "rms"):
        assert said in text
    frames = made.store.load_all()
    assert len(np.unique(frames.block)) == 20, "twenty blocks for splits"
    assert (np.diff(frames.block) >= 0).all()
    record = read_sealed(tmp_path / "s" / "import.json")
    assert {Path(f).name for f in record["files"]} == {
        f"cln_ca_{role}.npy" for role in ("coords", "forces", "deltaforces", "embeddings")
    }
    assert all(len(sha256) == 64 for sha256 in record["files"].values())
    assert CGDataset(tmp_path / "s").n_frames == 50


def test_the_folders_of_mlcg_tk_with_batches_structures_and_several_molecules(tmp_path):
    folder = tmp_path / "raw"
    one = [write_npy(folder, f"set_1L2Y_batch_{k}", "NLYIQW", "mlcg", seed=k) for k in (0, 10, 2)]
    for k in (0, 10, 2):
        (folder / f"set_1L2Y_batch_{k}_cg_embeds.npy").rename(folder / "set_1L2Y_cg_embeds.npy")
        np.save(folder / f"set_1L2Y_batch_{k}_prior_delta_forces.npy", one[0][1])
    two = write_npy(folder, "set_2JOF", "GAYDW", "mlcg", seed=5)
    top = CGTopology.from_sequence("GAYDW").to_mdtraj()
    import mdtraj

    mdtraj.Trajectory(two[0][:1] / 10, top).save_pdb(folder / "set_2JOF_cg_structure.pdb")
    np.save(folder / "set_2JOF_cg_force_map.npy", np.eye(5, 40))
    np.save(folder / "set_2JOF_cg_coord_map.npy", np.eye(5, 40))
    (folder / "set_2JOF_prior_nls_all.pkl").write_bytes(b"not read")
    made = import_data([folder], tmp_path / "out", **TK)
    assert [m.store.root.name for m in made] == ["set_1L2Y", "set_2JOF"]
    ordered = [one[0], one[2], one[1]]  # batches 0, 2, 10
    coords, forces = (np.concatenate([part[k] for part in ordered]) for k in (0, 1))
    check(made[0].store, coords, forces, "NLYIQW")
    check(made[1].store, two[0], two[1], "GAYDW")
    assert "set_2JOF_cg_structure.pdb" in "\n".join(made[1].lines)
    assert "not read: set_2JOF_cg_coord_map.npy" in made[1].lines
    assert "cg_force_map.npy" in "\n".join(made[1].lines)
    assert len({m.store.force_map_hash for m in made}) == 2
    assert CGDataset([m.store.root for m in made]).n_frames == 120


def test_molecules_in_folders_of_their_own(tmp_path):
    for name, sequence in (("1abc", "GAYDW"), ("2xyz", "YYDPE")):
        coords, forces, embeds = chain(sequence)
        raw = tmp_path / "in" / name / "raw"
        raw.mkdir(parents=True)
        for role, array in (("coordinates", coords), ("forces", forces), ("embeddings", embeds)):
            np.save(raw / f"{role}.npy", array)
    made = import_data([tmp_path / "in"], tmp_path / "out", **TK)
    assert [m.store.root for m in made] == [tmp_path / "out" / "1abc", tmp_path / "out" / "2xyz"]
    assert made[1].store.topology.sequence == "YYDPE"


def test_hdf5_of_mlcg_with_links_to_other_files(tmp_path):
    parts = {"OPEP": "GAYDW", "CATH": "NLYIQW"}
    for metaset, sequence in parts.items():
        coords, forces, embeds = chain(sequence)
        with h5py.File(tmp_path / f"{metaset}.h5", "w") as file:
            group = file.create_group(f"{metaset}/mol_{sequence}")
            group["cg_coords"], group["cg_forces"] = coords, forces
            group["subsampling_weights"] = np.ones(len(coords))
            group.attrs["cg_embeds"], group.attrs["N_frames"] = embeds, len(coords)
    with h5py.File(tmp_path / "combined.h5", "w") as file:
        for metaset in parts:
            file[metaset] = h5py.ExternalLink(f"{metaset}.h5", f"/{metaset}")
    made = import_data([tmp_path / "combined.h5"], tmp_path / "out", **TK)
    assert {m.store.topology.sequence for m in made} == set(parts.values())
    assert all("not read: subsampling_weights" in m.lines for m in made)
    coords, forces, _ = chain("GAYDW")
    check(DataStore(tmp_path / "out" / "mol_GAYDW"), coords, forces, "GAYDW")


@pytest.mark.parametrize(
    "names",
    [("coords", "forces", "embeddings"), ("pos", "neg_dy", "z"), ("cg_coords", "cg_forces", "cg_embeds")],
)
def test_one_npz(tmp_path, names):
    coords, forces, embeds = chain("GAYDW")
    np.savez(tmp_path / "gaydw.npz", **dict(zip(names, (coords, forces, embeds), strict=True)))
    (made,) = import_data([tmp_path / "gaydw.npz"], tmp_path / "out", **TK)
    check(made.store, coords, forces, "GAYDW")


def test_an_npz_with_both_kinds_of_forces_gives_the_total_ones(tmp_path):
    coords, forces, embeds = chain("GAYDW")
    arrays = {"coords": coords, "forces": forces, "delta_forces": forces * 0.5, "embeddings": embeds}
    np.savez(tmp_path / "a.npz", **arrays, weights=np.ones(30))
    (made,) = import_data([tmp_path / "a.npz"], tmp_path / "out", **TK)
    check(made.store, coords, forces, "GAYDW")
    assert "not read: delta_forces, weights" in made.lines


def test_units_are_converted_and_types_renumbered(tmp_path):
    coords, forces, embeds = chain("GAYDW")
    np.savez(tmp_path / "a.npz", coords=coords / 10, forces=forces * 41.84, embeddings=embeds)
    (made,) = import_data(
        [tmp_path / "a.npz"],
        tmp_path / "out",
        length_unit="nm",
        force_unit="kJ/mol/nm",
        to_embedding="cgal",
        **TK,
    )
    frames = made.store.load_all()
    np.testing.assert_allclose(frames.positions, coords, rtol=1e-6)
    np.testing.assert_allclose(frames.forces, forces, rtol=1e-6, atol=1e-5)
    assert made.store.topology == CGTopology.from_sequence("GAYDW")


def test_beads_in_the_order_of_their_structure(tmp_path):
    """A map with two beads in a residue, whose files list the beads in another order."""
    import mdtraj

    coords, forces, _ = chain("AYA", mapping="CACB", embedding="cgal")
    topology = CGTopology.from_sequence("AYA", "CACB")
    order = [1, 0, 3, 2, 5, 4]
    top = mdtraj.Topology()
    c = top.add_chain()
    for name in ("ALA", "TYR", "ALA"):
        r = top.add_residue(name, c)
        for bead in ("CB", "CA"):
            top.add_atom(bead, mdtraj.element.carbon, r)
    mdtraj.Trajectory(coords[:1, order] / 10, top).save_pdb(tmp_path / "m.pdb")
    for role, array in (("coords", coords), ("forces", forces)):
        np.save(tmp_path / f"m_{role}.npy", array[:, order])
    np.save(tmp_path / "m_embeddings.npy", topology.types[order])
    (made,) = import_data([tmp_path], tmp_path / "out", mapping="CACB", embedding="cgal", **T)
    check(made.store, coords, forces, "AYA", "cgal")
    assert any("in the order of" in line for line in made.lines)


def test_large_trajectories_become_shards_of_whole_blocks(tmp_path, monkeypatch):
    from cgal_plugin.exchange import cg_data as module

    monkeypatch.setattr(module, "_SHARD", 24 * 5 * 7)  # seven frames
    coords, forces, embeds = chain("GAYDW", n=53)
    np.savez(tmp_path / "a.npz", coords=coords, forces=forces, embeddings=embeds)
    (made,) = import_data([tmp_path / "a.npz"], tmp_path / "out", **TK)
    frames = made.store.load_all()
    np.testing.assert_array_equal(frames.positions, coords)
    assert np.bincount(frames.shard).max() <= 7
    assert len(np.unique(frames.block)) == 20


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000), most=st.integers(1, 400))
def test_blocks_cover_all_frames_once(n, most):
    from cgal_plugin.exchange import cg_data as module

    before, module._SHARD = module._SHARD, most * 24
    try:
        pieces = list(module._blocks(n, 1))
    finally:
        module._SHARD = before
    rows = [r for piece, _ in pieces for r in range(piece.start, piece.stop)]
    assert rows == list(range(n))
    assert all(piece.stop - piece.start <= most for piece, _ in pieces)
    block = np.concatenate([b for _, b in pieces])
    assert len(block) == n
    assert sorted(set(block.tolist())) == list(range(min(n, max(20, -(-n // most)))))
    for (_, a), (_, b) in itertools.pairwise(pieces):
        assert a[-1] < b[0], "no block is in two shards"


def test_broken_frames_are_left_out_and_said(tmp_path):
    coords, forces, embeds = chain("GAYDW", n=100)
    coords[7, 2:] += 40.0
    np.savez(tmp_path / "a.npz", coords=coords, forces=forces, embeddings=embeds)
    (made,) = import_data([tmp_path / "a.npz"], tmp_path / "out", **TK)
    assert made.n_frames == 99
    assert "left out: 1 frames with impossible bonds" in made.lines
    np.testing.assert_array_equal(made.store.load_all().positions, np.delete(coords, 7, axis=0))


@pytest.mark.skipif(not ARTEFACTS.is_dir(), reason="needs the shared artefacts")
@pytest.mark.parametrize("name", ["cln", "trp", "bba"])
def test_published_proteins_with_their_topology_and_delta_forces(tmp_path, name):
    from cgal_plugin.priors.torchmd_cg import read_torchmd_priors

    with np.load(ARTEFACTS / f"{name}_expected.npz") as known:
        positions = np.asarray(known["positions"])
        prior = np.asarray(known["forces"])
    topology = CGTopology.from_file(ARTEFACTS / f"{name}.psf")
    rng = np.random.default_rng(0)
    delta = rng.normal(size=positions.shape) * 12
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / f"{name}_coords.npy", positions)
    np.save(folder / f"{name}_deltaforces.npy", delta)
    np.save(folder / f"{name}_embeddings.npy", EMBEDDINGS["torchmd-cg"].numbers(topology.type_names))
    (folder / f"{name}.psf").write_bytes((ARTEFACTS / f"{name}.psf").read_bytes())
    with pytest.warns(CGALWarning, match="repulsioncg"):
        read_torchmd_priors(ARTEFACTS / "prior_force_field.yaml").save(tmp_path / "priors.yaml")
    with pytest.warns(CGALWarning, match="do not record their temperature"):
        (made,) = import_data(
            [folder],
            tmp_path / "out",
            embedding="torchmd-cg",
            priors=tmp_path / "priors.yaml",
            any_force=True,
            **T,
        )
    frames = made.store.load_all()
    np.testing.assert_allclose(frames.positions, positions, rtol=1e-6)
    np.testing.assert_allclose(frames.forces, delta + prior, rtol=1e-5, atol=2e-4)


# ---------------------------------------------------------------------- refused


def _npz(tmp_path, **changes):
    coords, forces, embeds = chain("GAYDW")
    arrays = {"coords": coords, "forces": forces, "embeddings": embeds, **changes}
    np.savez(tmp_path / "a.npz", **{k: v for k, v in arrays.items() if v is not None})
    return tmp_path / "a.npz"


NAN = chain("GAYDW")[0].copy()
NAN[5, 1, 2] = np.nan
BROKEN = chain("GAYDW")[0] + np.array([0, 0, 30.0, 30, 30])[None, :, None]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"embedding": None}, "give the embedding that they belong to, --embedding mlcg-tk"),
        ({}, {"temperature": None}, "give --temperature"),
        ({}, {"temperature": -5.0}, "must be above 0"),
        ({}, {"embedding": "martini"}, "neither built in"),
        ({"embeddings": np.array([6, 1, 20, 3, 99])}, {}, "has no bead types 99"),
        ({"embeddings": np.array([6, 1, 20, 3])}, {}, "has 5 beads; .* has 4"),
        ({"embeddings": np.array([0, 1, 20, 3, 4])}, {}, "integers from 1"),
        ({"embeddings": np.array(["GLY", "ALA", "TYR", "ASP", "TRP"])}, {}, "integers from 1"),
        ({"embeddings": np.array([6.5, 1, 20, 3, 4])}, {}, "integers from 1"),
        (
            {},
            {"topologies": ["GAYDF"]},
            "1 of 5 bead types contradict GAYDF; first: bead 5 has number 19, CA_PHE",
        ),
        ({}, {"topologies": ["GAYD"]}, "has 5 bead types; GAYD has 4 beads"),
        ({}, {"embedding": "cgal", "topologies": ["GAYDW"]}, "contradict GAYDW"),
        ({}, {"topologies": ["b=GAYDW"]}, "the data have no 'b'; they have a"),
        ({}, {"topologies": ["nowhere.pdb"]}, "nowhere.pdb"),
        ({"embeddings": None}, {}, "neither bead types nor a structure file"),
        ({"coords": NAN}, {}, "positions of 1 of 30 frames are not finite .first: frame 5"),
        ({"forces": NAN}, {}, "forces of 1 of 30 frames are not finite"),
        ({"coords": chain("GAYDW")[0] / 10}, {}, "bonds have a tenth of their usual length .*--units nm"),
        ({"coords": chain("GAYDW")[0] * 10}, {}, "bonds have ten times"),
        ({"coords": BROKEN}, {}, "30 of 30 frames have impossible bonds .*--topology"),
        ({"coords": chain("GAYDW")[0][..., :2]}, {}, r"expected .*n_frames, n_beads, 3"),
        ({"forces": chain("GAYDW")[1][:20]}, {}, "they must agree"),
        ({"forces": None}, {}, "named as forces"),
        ({"coords": np.zeros((0, 5, 3)), "forces": np.zeros((0, 5, 3))}, {}, "has no frames"),
        (
            {"forces": chain("GAYDW")[1] * 41.84},
            {},
            "probably in kJ/mol/nm or kcal/mol/nm: give --force-unit",
        ),
        ({}, {"force_unit": "kJ/mol/nm"}, "rms of 0.27.*probably in kcal/mol/angstrom"),
        ({}, {"force_unit": "kT/angstrom"}, "force unit 'kT/angstrom' is not known"),
        ({"forces": chain("GAYDW")[1] / 23.06}, {}, "probably in eV/angstrom: give --force-unit"),
        ({"forces": chain("GAYDW")[1] * 1e9}, {}, "Check --force-unit, or --any-force"),
        ({}, {"length_unit": "nm"}, "needs --force-unit too"),
        ({}, {"layout": "gromacs"}, "format 'gromacs' is not known"),
        ({}, {"layout": "hdf5"}, "cannot be read as HDF5"),
        ({}, {"force_map": "a b"}, "--force-map 'a b' is not allowed"),
        ({}, {"priors": "p.yaml"}, "has total forces: leave out --priors"),
        ({"forces": None, "delta_forces": chain("GAYDW")[1]}, {}, "has delta forces only.*--priors"),
        (
            {"forces": None, "delta_forces": chain("GAYDW")[1]},
            {"priors": "p.yaml"},
            "'p.yaml' does not exist",
        ),
    ],
)
def test_wrong_data_are_refused_before_anything_is_written(tmp_path, changes, options, message):
    path = _npz(tmp_path, **changes)
    with pytest.raises(CGALError, match=message):
        import_data([path], tmp_path / "out", **{**TK, **options})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz"]


def test_one_wrong_molecule_among_several_stops_the_import(tmp_path):
    write_npy(tmp_path / "in", "good", "GAYDW")
    coords, _, _ = write_npy(tmp_path / "in", "late", "YYDPE")
    coords[-1, 0, 0] = np.inf
    np.save(tmp_path / "in" / "late_coords.npy", coords)
    with pytest.raises(DataError, match=r"late_coords\.npy: positions of 1 of"):
        import_data([tmp_path / "in"], tmp_path / "out", **TK)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_files_that_do_not_belong_together(tmp_path):
    folder = tmp_path / "in"
    write_npy(folder, "m_batch_0", "GAYDW", "mlcg")
    write_npy(folder, "m_batch_1", "GAYDW", "mlcg")
    (folder / "m_batch_1_cg_forces.npy").unlink()
    with pytest.raises(DataError, match="2 files of coordinates and 1 of forces: numbers 1 have no partner"):
        import_data([folder], tmp_path / "out", **TK)
    np.save(folder / "m_batch_1_cg_forces.npy", np.zeros((30, 5, 3)))
    np.save(folder / "m_batch_1_cg_embeds.npy", [1, 2, 3, 4, 5])
    with pytest.raises(DataError, match="for one molecule and have different numbers"):
        import_data([folder], tmp_path / "out", **TK)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no CG data"):
        import_data([tmp_path / "empty"], tmp_path / "out", **TK)
    lonely = tmp_path / "x_forces.npy"
    np.save(lonely, np.zeros((3, 5, 3)))
    with pytest.raises(DataError, match="no coordinates"):
        import_data([lonely], tmp_path / "out", **TK)
    (tmp_path / "y_coords.npy").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"cannot be read as \.npy"):
        import_data([tmp_path / "y_coords.npy"], tmp_path / "out", **TK)


def test_numbered_files_of_one_molecule_given_in_several_ways(tmp_path):
    folder = tmp_path / "gaydw"
    parts = [chain("GAYDW", seed=k) for k in (1, 2, 10)]
    folder.mkdir()
    for k, (coords, forces, embeds) in zip((1, 2, 10), parts, strict=True):
        np.save(folder / f"coords_{k:03d}.npy", coords)
        np.save(folder / f"forces_{k}.npy", forces)
        np.save(folder / "embeddings.npy", embeds)
    arguments = [folder, folder / "coords_001.npy", folder / ".." / "gaydw" / "forces_2.npy"]
    (made,) = import_data(arguments, tmp_path / "out", topologies=["gaydw=GAYDW"], **TK)
    check(made.store, *(np.concatenate([p[k] for p in parts]) for k in (0, 1)), "GAYDW")
    assert len(np.unique(made.store.load_all().block)) == 60, "no block is in two trajectories"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda group: group.attrs.__delitem__("cg_embeds"), "has no attribute cg_embeds"),
        (lambda group: group.attrs.__setitem__("N_frames", 7), "has 30 frames; its attribute N_frames is 7"),
        (lambda group: group.__delitem__("cg_forces"), "has no forces"),
        (lambda group: group.__delitem__("cg_coords"), "has no CG data"),
        (lambda group: group.move("cg_forces", "cg_delta_forces"), "has delta forces only"),
        (
            lambda group: group.parent.__setitem__("b", h5py.ExternalLink("no.h5", "/b")),
            "cannot be read as HDF5",
        ),
        (lambda group: group.attrs.__setitem__("cg_embeds", [1.5, 2, 3]), "integers from 1"),
        (None, "cannot be read as HDF5"),
    ],
)
def test_wrong_hdf5_files(tmp_path, change, message):
    coords, forces, embeds = chain("GAYDW")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a/mol")
        group["cg_coords"], group["cg_forces"] = coords, forces
        group.attrs["cg_embeds"], group.attrs["N_frames"] = embeds, len(coords)
        if change is not None:
            change(group)
    if change is None:
        path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=message):
        import_data([path], tmp_path / "out", **TK)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_an_hdf5_trajectory_of_mdtraj_is_no_cg_data(tmp_path):
    import mdtraj

    from cgal_plugin.data.raw_layouts import layout_of

    coords, _, _ = chain("GAYDW")
    mdtraj.Trajectory(coords / 10, CGTopology.from_sequence("GAYDW").to_mdtraj()).save_hdf5(tmp_path / "a.h5")
    assert layout_of(tmp_path / "a.h5") == "trajectory"


def test_an_existing_store_is_not_touched(tmp_path):
    path = _npz(tmp_path)
    import_data([path], tmp_path / "out", **TK)
    with pytest.raises(DataError, match="exists and is not empty"):
        import_data([path], tmp_path / "out", **TK)
    with pytest.raises(DataError, match="is a data store already"):
        import_data([tmp_path / "out"], tmp_path / "two", **TK)


def test_force_maps_of_other_programs_are_not_mixed_unless_they_are_named(tmp_path):
    for k in range(2):
        write_npy(tmp_path / f"in{k}", "m", "GAYDW", seed=k)
        import_data([tmp_path / f"in{k}"], tmp_path / f"unknown{k}", **TK)
        import_data([tmp_path / f"in{k}"], tmp_path / f"named{k}", force_map="slice", **TK)
    with pytest.raises(DataError, match="force maps are not mixed"):
        CGDataset([tmp_path / "unknown0", tmp_path / "unknown1"])
    assert CGDataset([tmp_path / "named0", tmp_path / "named1"]).n_frames == 60


# ---------------------------------------------------------------------- and back


def random_store(root, rng, sequence, mapping, shards):
    topology = CGTopology.from_sequence(sequence, mapping)
    store = DataStore.create(
        root, topology, temperature=300.0 + len(sequence), force_map_hash=f"map{sequence}"
    )
    for k, n in enumerate(shards):
        frames = LabelledFrames(
            rng.normal(size=(n, topology.n_beads, 3)).astype(np.float32) * 5,
            rng.normal(size=(n, topology.n_beads, 3)).astype(np.float32) * 900,
            np.sort(rng.integers(0, 4, size=n)),
            rng.integers(0, 3, size=n),
            np.where(rng.random(n) < 0.5, np.nan, rng.random(n)).astype(np.float32),
            quarantined=(Quarantined(k, "ring pierced", "library"),),
            metadata={"temperature": store.temperature, "mode": "free", "force_map_hash": f"map{sequence}"},
        )
        store.append(f"shard_{k}", frames, source=["seed", "round_001"][k % 2], round=k, odd={"a": [1, None]})
    return store


def equal(a: DataStore, b: DataStore) -> None:
    assert a.topology == b.topology
    assert (a.temperature, a.force_map_hash) == (b.temperature, b.force_map_hash)
    assert a.names() == b.names()
    for name in a.names():
        one, two = a.load(name), b.load(name)
        for key in ("positions", "forces", "frame_index", "start_index", "force_error"):
            x, y = getattr(one, key), getattr(two, key)
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        assert one.quarantined == two.quarantined
        assert one.metadata == two.metadata
        for key in ("source", "facts", "n_frames", "sha256"):
            assert a.record(name)[key] == b.record(name)[key], key
    np.testing.assert_array_equal(a.load_all().block, b.load_all().block)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layout=st.sampled_from(["npy", "hdf5"]),
    sequence=st.text("ACDEFGHIKLMNPQRSTVWY", min_size=2, max_size=9),
    mapping=st.sampled_from(["CA", "CACB"]),
    shards=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_stores_come_back_unchanged(tmp_path_factory, layout, sequence, mapping, shards, seed):
    folder = tmp_path_factory.mktemp("round")
    store = random_store(folder / "store", np.random.default_rng(seed), sequence, mapping, shards)
    out = folder / ("data.h5" if layout == "hdf5" else "data")
    export_data([store.root], out, layout)
    (made,) = import_data([out], folder / "back")
    equal(store, made.store)


@pytest.mark.parametrize("layout", ["npy", "hdf5"])
def test_several_stores_with_their_force_map_and_another_embedding(tmp_path, layout):
    rng = np.random.default_rng(0)
    stores = [random_store(tmp_path / s / "data", rng, s, "CA", [5, 3]) for s in ("GAYDW", "YYDPETGTWY")]
    (stores[0].root / FORCE_MAP).write_bytes(b"the force map")
    out = tmp_path / ("data.h5" if layout == "hdf5" else "data")
    export_data([s.root for s in stores], out, layout, embedding="torchmd-cg")
    if layout == "hdf5":
        with h5py.File(out) as file:
            group = file["cgal/GAYDW_data"]
            embeds, forces = group.attrs["cg_embeds"], group["cg_forces"][:]
            assert group.attrs["N_frames"] == 8
    else:
        embeds, forces = (np.load(out / f"GAYDW_data_{r}.npy") for r in ("embeddings", "forces"))
    assert embeds.tolist() == [2, 1, 4, 5, 7]
    np.testing.assert_array_equal(forces, stores[0].load_all().forces)
    made = import_data([out], tmp_path / "back", to_embedding="cgal")
    assert [m.store.root.name for m in made] == ["GAYDW_data", "YYDPETGTWY_data"]
    for store, back in zip(stores, made, strict=True):
        equal(store, back.store)
    assert (made[0].store.root / FORCE_MAP).read_bytes() == b"the force map"
    assert not (made[1].store.root / FORCE_MAP).exists()
    for message, options in {
        "torchmd-cg": {"embedding": "mlcg-tk"},
        "305 K": {"temperature": 300.0},
        "in Å and kcal/mol/Å": {"length_unit": "nm", "force_unit": "kJ/mol/nm"},
        "with its topology": {"topologies": ["GAYDW_data=GAYDW"]},
        "records the force map": {"force_map": "slice"},
    }.items():
        with pytest.raises(CGALError, match=message):
            import_data([out], tmp_path / "no", **options)


def test_torchmdnets_own_data_set_reads_the_files(tmp_path):
    from torchmdnet.datasets import Custom

    rng = np.random.default_rng(0)
    stores = [random_store(tmp_path / s, rng, s, "CA", [5, 3]) for s in ("GAYDW", "YYDPETGTWY")]
    export_data([s.root for s in stores], tmp_path / "data", "npy", embedding="torchmd-cg")
    names = {key: str(tmp_path / "data" / f"*_{key}.npy") for key in ("coords", "embeddings", "forces")}
    items = Custom(names["coords"], names["embeddings"], forceglob=names["forces"])
    assert len(items) == 16
    for k, store in ((3, stores[0]), (11, stores[1])):
        frames = store.load_all()
        np.testing.assert_array_equal(items[k].pos, frames.positions[3])
        np.testing.assert_array_equal(items[k].neg_dy, frames.forces[3])
        np.testing.assert_array_equal(items[k].z, store.topology.with_embedding("torchmd-cg").types)


def test_delta_forces_are_written_and_read(tmp_path):
    from cgal_plugin.priors import fit_priors

    coords, forces, embeds = chain("GAYDW", n=400)
    np.savez(tmp_path / "a.npz", coords=coords, forces=forces, embeddings=embeds)
    (made,) = import_data([tmp_path / "a.npz"], tmp_path / "s", **TK)
    priors = fit_priors(made.store.topology, coords, 350.0, terms=("bonds", "angles", "repulsion"))
    priors.save(tmp_path / "p.yaml")
    export_data([made.store.root], tmp_path / "d.h5", "hdf5", priors=tmp_path / "p.yaml")
    with h5py.File(tmp_path / "d.h5", "r+") as file:
        group = file["cgal/s"]
        assert np.abs(group["cg_delta_forces"][:] - forces).max() > 1
        for key in ("cg_forces", "cgal_record"):
            del group[key]
    (back,) = import_data([tmp_path / "d.h5"], tmp_path / "back", priors=tmp_path / "p.yaml", **TK)
    np.testing.assert_allclose(back.store.load_all().forces, forces, atol=2e-4)
    assert any("added" in line for line in back.lines)


def test_exported_arrays_that_were_changed_are_refused(tmp_path):
    store = random_store(tmp_path / "store", np.random.default_rng(0), "GAYDW", "CA", [5])
    export_data([store.root], tmp_path / "data", "npy")
    with pytest.raises(DataError, match="already exists"):
        export_data([store.root], tmp_path / "data", "npy")
    np.save(tmp_path / "data" / "store_forces.npy", np.zeros((5, 5, 3)))
    with pytest.raises(DataError, match=r"store_forces\.npy in .* are not the files that store_cgal\.json"):
        import_data([tmp_path / "data"], tmp_path / "back")


def test_stores_that_cannot_be_written(tmp_path):
    store = random_store(tmp_path / "store", np.random.default_rng(0), "GAYDW", "CACB", [5])
    with pytest.raises(MappingError, match="no number for bead types CB_ALA"):
        export_data([store.root], tmp_path / "data", "npy", embedding="mlcg-tk")
    with pytest.raises(ConfigError, match="use one of npy, hdf5"):
        export_data([store.root], tmp_path / "data", "npz")
    DataStore.create(tmp_path / "no", store.topology, temperature=300.0, force_map_hash="")
    with pytest.raises(DataError, match="no frames yet"):
        export_data([tmp_path / "no"], tmp_path / "data", "npy")
    assert not (tmp_path / "data").exists()


def cgal(*arguments):
    command = [sys.executable, "-m", "cgal_plugin.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.integration
def test_the_commands(tmp_path):
    write_npy(tmp_path / "in", "cln", "YYDPETGTWY", embedding="torchmd-cg")
    wrong = cgal("import-data", tmp_path / "in", "--out", tmp_path / "s", "--embedding", "torchmd-cg")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: cln: the temperature")
    options = ("--embedding", "torchmd-cg", "--temperature", "350")
    done = cgal("import-data", tmp_path / "in", "--out", tmp_path / "s", *options)
    assert done.returncode == 0, done.stderr
    assert "30 frames of YYDPETGTWY" in done.stdout
    done = cgal("export-data", tmp_path / "s", "--out", tmp_path / "s.h5", "--format", "hdf5")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "s.h5"))
    done = cgal("import-data", tmp_path / "in", "--out", tmp_path / "t", *options, "--stride", "2")
    assert done.returncode == 2
    assert "--stride is for all-atom trajectories" in done.stderr
    assert json.loads((tmp_path / "s" / "store.json").read_text())["topology"]["embedding"] == "torchmd-cg"


# ---------------------------------------------------------------------- variants of real files


def test_one_molecule_in_two_metasets_gives_two_stores(tmp_path):
    coords, forces, embeds = chain("YYDPETGTWY")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for metaset, rows in (("train", slice(0, 20)), ("val", slice(20, 30))):
            group = file.create_group(f"{metaset}/cln")
            group["cg_coords"], group["cg_forces"] = coords[rows], forces[rows]
            group.attrs["cg_embeds"] = embeds
    made = import_data([tmp_path / "d.h5"], tmp_path / "out", **TK)
    assert [(m.store.root.name, m.n_frames) for m in made] == [("train_cln", 20), ("val_cln", 10)]
    assert CGDataset([m.store.root for m in made]).n_frames == 30, "the force maps are one"


def test_delta_forces_of_several_priors_beside_total_ones_are_not_read(tmp_path):
    coords, forces, _ = write_npy(tmp_path, "a", kind="mlcg")
    for tag in ("p1", "p2"):
        np.save(tmp_path / f"a_{tag}_delta_forces.npy", forces * 0.5)
    (made,) = import_data([tmp_path], tmp_path / "s", **TK)
    assert any("not read: a_p1_delta_forces.npy, a_p2_delta_forces.npy" in line for line in made.lines)
    check(made.store, coords, forces, "YYDPETGTWY")
    (tmp_path / "a_cg_forces.npy").unlink()
    with pytest.raises(DataError, match="same role"):
        import_data([tmp_path / "a_cg_coords.npy"], tmp_path / "t", **TK)


def test_an_npz_with_torchmd_cgs_name_of_delta_forces_and_a_temperature(tmp_path):
    coords, forces, embeds = chain("YYDPETGTWY")
    arrays = {"coords": coords, "deltaforces": forces * 0.5, "z": embeds, "temperature": 300.0}
    np.savez(tmp_path / "a.npz", forces=forces, **arrays)
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(DataError, match="300"):
        import_data([tmp_path / "a.npz"], tmp_path / "s", **TK)
    (made,) = import_data([tmp_path / "a.npz"], tmp_path / "s", embedding="mlcg-tk")
    np.testing.assert_array_equal(made.store.load_all().forces, forces)
    assert made.store.temperature == 300.0
    np.savez(tmp_path / "c.npz", forces=forces, **{**arrays, "temperature": [300.0] * 15 + [350.0] * 15})
    with pytest.raises(DataError, match="2 temperatures"):
        import_data([tmp_path / "c.npz"], tmp_path / "t", embedding="mlcg-tk")
    with pytest.raises(DataError, match="delta forces only"):
        import_data([tmp_path / "b.npz"], tmp_path / "t", embedding="mlcg-tk")


def test_messages_name_what_is_there(tmp_path):
    _, forces, embeds = chain("YYDPETGTWY")
    write_npy(tmp_path / "a", "m", kind="mlcg")
    (tmp_path / "a" / "m_cg_forces.npy").rename(tmp_path / "a" / "m_prior_delta_forces_shaped.npy")
    with pytest.raises(DataError, match=r"no forces.*m_prior_delta_forces_shaped\.npy"):
        import_data([tmp_path / "a"], tmp_path / "s", **TK)
    with pytest.raises(DataError, match="is a folder"):
        import_data([tmp_path / "a"], tmp_path / "s", layout="hdf5", **TK)
    with pytest.raises(DataError, match=r"no \.npz file"):
        import_data([tmp_path / "a" / "m_cg_coords.npy"], tmp_path / "s", layout="npz", **TK)
    whole = write_npy(tmp_path / "b", "m")[0].round().astype(int)
    np.save(tmp_path / "b" / "m_coords.npy", whole)
    with pytest.raises(DataError, match="whole Å"):
        import_data([tmp_path / "b"], tmp_path / "s", **TK)
    half = write_npy(tmp_path / "c", "m")[0].astype(np.float16)
    np.save(tmp_path / "c" / "m_coords.npy", half)
    (made,) = import_data([tmp_path / "c"], tmp_path / "s", **TK)
    assert any("float16" in line for line in made.lines)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["g/pos"], file["g/forces"], file["g/types"] = forces, forces, embeds
    with pytest.raises(DataError, match="expected groups /METASET/MOLECULE"):
        import_data([tmp_path / "other.h5"], tmp_path / "t", **TK)

"""Embeddings: named numberings, tables, and what carries them."""

from __future__ import annotations

import json
import pickle

import pytest
import yaml

from cgal_plugin.errors import CGALWarning, MappingError
from cgal_plugin.mapping import CGTopology, resolve_spec
from cgal_plugin.mapping.embedding import check_same_embedding, resolve_embedding

SEQUENCE = "YYDPETGTWY"
#: from the sources of mlcg-tk and torchmd-cg
MLCG = [20, 20, 3, 13, 4, 17, 6, 17, 19, 20]
TORCHMD = [4, 4, 5, 8, 6, 13, 2, 13, 7, 4]


@pytest.mark.parametrize(("name", "types"), [("mlcg-tk", MLCG), ("torchmd-cg", TORCHMD)])
def test_named_embeddings_number_chignolin_as_their_programs_do(name, types):
    topology = CGTopology.from_sequence(SEQUENCE).with_embedding(name)
    assert topology.types.tolist() == types
    assert topology.embedding == name
    assert topology.type_names == CGTopology.from_sequence(SEQUENCE).type_names
    assert CGTopology.from_sequence(SEQUENCE, resolve_spec("CA", name)) == topology
    assert topology.with_embedding("cgal") == CGTopology.from_sequence(SEQUENCE)


@pytest.mark.parametrize("name", ["cgal", "mlcg-tk", "torchmd-cg"])
def test_an_embedding_numbers_all_residues_differently(name):
    ids = resolve_embedding(name).ids
    assert len(set(ids.values())) == len(ids)
    assert len([n for n in ids if n.startswith("CA_") and n != "CA_NLE"]) == 20


def test_the_hash_of_cgal_is_that_of_releases_without_embeddings(tmp_path):
    topology = CGTopology.from_sequence("GYG")
    values = topology.to_dict()
    del values["embedding"]
    assert CGTopology.from_dict(values).hash == topology.hash
    assert topology.hash == "421b41b0a9c792690fbab4c0a1465be50674e541dfaf6a0780e6f39e82b9b1b5"
    assert topology.with_embedding("mlcg-tk").hash != topology.hash


def test_the_file_of_a_topology_keeps_its_embedding(tmp_path):
    topology = CGTopology.from_sequence(SEQUENCE).with_embedding("mlcg-tk")
    topology.save(tmp_path / "t.json")
    assert CGTopology.load(tmp_path / "t.json") == topology
    assert CGTopology.from_file(tmp_path / "t.json").embedding == "mlcg-tk"
    assert pickle.loads(pickle.dumps(topology)) == topology


def test_a_file_without_embedding_is_cgal_with_one_warning(tmp_path):
    values = CGTopology.from_sequence(SEQUENCE).to_dict()
    del values["embedding"]
    (tmp_path / "t.json").write_text(json.dumps(values))
    with pytest.warns(CGALWarning, match="'cgal' is assumed") as said:
        assert CGTopology.load(tmp_path / "t.json").embedding == "cgal"
    assert len(said) == 1


def test_a_table_of_numbers(tmp_path):
    table = {"TYR": 7, "CA_ASP": 1, "PRO": 2, "GLU": 3, "THR": 4, "GLY": 5, "TRP": 6}
    topology = CGTopology.from_sequence(SEQUENCE).with_embedding(table)
    assert topology.types.tolist() == [7, 7, 1, 2, 3, 4, 5, 4, 6, 7]
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(table))
    assert CGTopology.from_sequence(SEQUENCE).with_embedding(tmp_path / "e.yaml") == topology
    other = CGTopology.from_sequence(SEQUENCE).with_embedding({**table, "TRP": 9})
    assert other.embedding != topology.embedding


@pytest.mark.parametrize("name", ["mlcg-tk", "torchmd-cg"])
def test_a_table_that_equals_a_built_in_one_has_its_name(name):
    assert resolve_embedding(dict(resolve_embedding(name).ids)).name == name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mlcg", "neither built in .*mlcg-tk"),
        ({}, "must be a table"),
        ({"ALA": 0}, "numbers are integers from 1"),
        ({"ALA": True}, "numbers are integers"),
        ({"ALA": 1.5}, "numbers are integers"),
        ({"ALA": 1, "CA_ALA": 2}, "CA_ALA twice"),
        ({"ALA": 1, "GLY": 1}, "same number 1"),
    ],
)
def test_wrong_embeddings_are_refused(value, message):
    with pytest.raises(MappingError, match=message):
        resolve_embedding(value)


def test_a_bead_without_number_is_named():
    with pytest.raises(MappingError, match="'mlcg-tk' has no number for bead types CB_TYR"):
        CGTopology.from_sequence("YG", "CACB").with_embedding("mlcg-tk")
    with pytest.raises(MappingError, match="no number for bead types CB_"):
        CGTopology.from_sequence("YG", resolve_spec("CACB", "torchmd-cg"))


def test_a_mismatch_names_both_and_the_remedy():
    check_same_embedding(None, "cgal", "a", "b")
    with pytest.raises(MappingError, match=r"a numbers .*'mlcg-tk', b by 'cgal'.*--embedding"):
        check_same_embedding("mlcg-tk", "cgal", "a", "b")

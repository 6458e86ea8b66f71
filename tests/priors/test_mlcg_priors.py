"""Priors of mlcg: energies, constants, files in both directions, and what cannot be represented."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.models.inert_pickle import read_inert
from cgal_plugin.models.mlcg_files import read_mlcg
from cgal_plugin.priors import (
    PriorSet,
    fit_priors,
    mlcg_statistics,
    priors_from_mlcg,
    read_torchmd_priors,
    write_mlcg_priors,
)
from cgal_plugin.priors.mlcg import energy_offset
from cgal_plugin.priors.modules import PRIORS
from cgal_plugin.priors.resolve import term_index
from tests.artefacts import artefact
from tests.priors.chains import chains
from tests.priors.mlcg_parts import SEQUENCE, energies, parts, topology
from tests.priors.torchmd_files import force_field, write


def evaluate(priors: PriorSet, term: str, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (kcal/mol) and forces of one term of frames ``(n, n_beads, 3)`` Å."""
    n, molecule = len(frames), priors.molecule
    z = torch.from_numpy(np.tile(molecule.types, n))
    batch = torch.arange(n).repeat_interleave(molecule.n_beads)
    pos = torch.from_numpy(np.asarray(frames, dtype=np.float64).reshape(-1, 3)).requires_grad_()
    zero = torch.zeros(n, 1, dtype=torch.float64)
    e = PRIORS[term](**priors.arguments(term)).double().post_reduce(zero, z, pos, batch)
    forces = -torch.autograd.grad(e.sum(), pos)[0]
    return e.detach().numpy()[:, 0], forces.numpy().reshape(frames.shape)


@pytest.mark.parametrize("name", ["sparse_prior_cln_ca.pt", "schnet_cln_ca_specialized_model_and_config.pt"])
def test_each_prior_of_the_trained_chignolin_model_is_mlcgs(name: str) -> None:
    folder = artefact("mlcg")
    expected = np.load(folder / "expected.npz")
    molecule = CGTopology.from_sequence("YYDPETGTWY").with_embedding("mlcg-tk")
    assert molecule.types.tolist() == expected["atom_types"].tolist()
    found = read_mlcg(folder / name).parts
    priors = priors_from_mlcg(found, molecule, "mlcg-tk")
    assert priors.exclude_bonds == 2
    names = {
        "bonds": "bonds",
        "angles": "angles",
        "repulsion": "non_bonded",
        "dihedrals": "pseudo_ca_dihedral",
    }
    assert set(priors.terms) == set(names)
    for term, prior in names.items():
        e, f = evaluate(priors, term, expected["positions"])
        constant = energy_offset(priors.with_terms([term]))
        assert e + constant == pytest.approx(expected[f"energy_{prior}"], rel=1e-12)
        assert (
            np.abs(f - expected[f"forces_{prior}"]).max() < 1e-12 * np.abs(expected[f"forces_{prior}"]).max()
        )
        assert (constant != 0.0) == (term == "dihedrals")


@pytest.mark.parametrize("quartic", [False, True])
def test_energies_are_those_of_mlcgs_formulas(quartic: bool) -> None:
    frames = chains(4, len(SEQUENCE), seed=3)
    for embedding in ("mlcg-tk", "cgal"):  # rows have names, which any numbering of the molecule can use
        made = parts(quartic=quartic)
        priors = priors_from_mlcg(made, topology(embedding), "mlcg-tk")
        assert priors.ordered == ()
        for name, part in made.items():
            term = "angle_series" if part["kind"] == "polynomial_cos" else part["term"]
            e, _ = evaluate(priors, term, frames)
            constant = energy_offset(priors.with_terms([term]))
            expected = [energies({name: part}, frame)[name] for frame in frames]
            assert e + constant == pytest.approx(expected, rel=1e-11)


def test_parameters_that_depend_on_the_order_are_an_ordered_table() -> None:
    made, frames = parts(), chains(3, len(SEQUENCE), seed=1)
    made["bonds"]["k"] = made["bonds"]["k"] + np.arange(len(made["bonds"]["k"]))
    priors = priors_from_mlcg(made, topology(), "mlcg-tk")
    assert priors.ordered == ("bonds",)
    e, _ = evaluate(priors, "bonds", frames)
    assert e == pytest.approx([energies(made, frame)["bonds"] for frame in frames], rel=1e-12)


def test_priors_to_a_file_of_mlcg_and_back(tmp_path: Path) -> None:
    frames = chains(3, len(SEQUENCE), seed=1)
    for change in (0.0, 1.0):
        made = parts()
        made["bonds"]["k"] = made["bonds"]["k"] + change * np.arange(len(made["bonds"]["k"]))
        priors = priors_from_mlcg(made, None, "mlcg-tk", temperature=300.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_mlcg_priors(priors, tmp_path / "p.pt", "mlcg-tk")
        found = read_mlcg(tmp_path / "p.pt")
        assert set(found.parts) == set(made)  # the names of the neighbour lists
        again = priors_from_mlcg(found.parts, topology(), "mlcg-tk", temperature=300.0)
        for term in priors.terms:
            expected = evaluate(priors.for_topology(topology()), term, frames)
            assert evaluate(again, term, frames)[0] == pytest.approx(expected[0], rel=1e-6)
        assert energy_offset(again) == pytest.approx(energy_offset(priors.for_topology(topology())), rel=1e-6)


def test_the_real_priors_come_back_exactly_and_have_the_structure_of_the_real_file(tmp_path: Path) -> None:
    path = artefact("mlcg") / "sparse_prior_cln_ca.pt"
    priors = priors_from_mlcg(read_mlcg(path).parts, None, "mlcg-tk")
    write_mlcg_priors(priors, tmp_path / "p.pt", "mlcg-tk")
    assert priors_from_mlcg(read_mlcg(tmp_path / "p.pt").parts, None, "mlcg-tk").hash == priors.hash

    def shape(content: Any) -> dict[str, Any]:
        """Class, attributes and buffers of each prior."""
        facts = {}
        for name, outer in content.children().items():
            inner = outer.children()["model"]
            own = [outer.get("name"), outer.get("targets"), inner.get("name"), inner.get("order")]
            own += [sorted(inner.get("allowed_interaction_keys"))]
            own += [{k: (tuple(v.shape), v.dtype) for k, v in inner.tensors().items()}]
            facts[name] = (outer.kind, inner.kind, own, {k for k in inner.state if not k.startswith("_")})
        return facts

    made, real = shape(read_inert(tmp_path / "p.pt")), shape(read_inert(path))
    assert set(made) == set(real)
    for name, facts in real.items():
        assert made[name] == facts


def test_statistics_are_those_that_the_constructors_take() -> None:
    made = parts()
    found = mlcg_statistics(priors_from_mlcg(made, None, "mlcg-tk"), "mlcg-tk")
    for name, part in made.items():
        assert set(found[name]) == {tuple(k) for k in part["types"].tolist()}
    key = tuple(made["bonds"]["types"][0].tolist())
    assert found["bonds"][key] == {"k": made["bonds"]["k"][0], "x_0": made["bonds"]["x_0"][0]}
    key = tuple(made["pseudo_ca_dihedral"]["types"][0].tolist())
    series = found["pseudo_ca_dihedral"][key]
    assert list(series["k1s"]) == ["k1_1", "k1_2", "k1_3", "k1_4", "k1_5"]
    assert series["v_0"] == pytest.approx(made["pseudo_ca_dihedral"]["v_0"][0], rel=1e-12)


def test_priors_of_torchmd_and_fits_become_mlcgs(tmp_path: Path) -> None:
    molecule = CGTopology.from_sequence("GAGLPDCAGL").with_embedding("mlcg-tk")
    frames = chains(300, 10)
    with pytest.warns(UserWarning, match="repulsioncg"):
        priors = read_torchmd_priors(
            write(force_field(), tmp_path / "ff.yaml"), terms=["bonds", "dihedrals", "repulsion"]
        )
    with pytest.raises(ConfigError, match=r"no wildcards, which bonds of .*choose a molecule"):
        write_mlcg_priors(priors, tmp_path / "p.pt", "mlcg-tk")
    cosines = fit_priors(molecule, frames, 400.0, angle_form="cos")
    for own in (priors.for_topology(molecule), cosines):
        write_mlcg_priors(own, tmp_path / "p.pt", "mlcg-tk")
        again = priors_from_mlcg(
            read_mlcg(tmp_path / "p.pt").parts, molecule, "mlcg-tk", exclude_bonds=own.exclude_bonds
        )
        for term in own.terms:
            expected, found = evaluate(own, term, frames[:4]), evaluate(again, term, frames[:4])
            assert found[1] == pytest.approx(expected[1], rel=1e-5, abs=2e-4)


def test_the_neighbour_list_of_a_file_decides_and_must_fit() -> None:
    molecule = topology()
    for excluded in (0, 1, 3):
        made = parts()
        bonds = made["non_bonded"]
        keys = {tuple(int(molecule.types[b]) for b in c) for c in term_index(molecule, "repulsion", 0).T}
        keys |= {k[::-1] for k in keys}
        bonds |= {"types": np.array(sorted(keys)), "sigma": np.full(len(keys), 4.0)}
        bonds["index"] = term_index(molecule, "repulsion", excluded)[::-1]
        priors = priors_from_mlcg(made, molecule, "mlcg-tk")
        assert priors.exclude_bonds == excluded
        if excluded != 3:
            with pytest.raises(ConfigError, match=r"does not act on the repulsion of .* up to 3"):
                priors_from_mlcg(made, molecule, "mlcg-tk", exclude_bonds=3)
    made = parts()
    made["angles"]["index"] = term_index(molecule, "angles", 0)[:, 1:]
    with pytest.raises(
        ConfigError, match=r"prior angles of the file does not act on the angles .*\(0, 1, 2\)"
    ):
        priors_from_mlcg(made, molecule, "mlcg-tk")


def test_priors_specialised_for_a_molecule() -> None:
    molecule, general = topology(), parts()
    made = {}
    for name, part in general.items():
        index = term_index(molecule, part["term"], 2)
        rows = {tuple(k): n for n, k in enumerate(part["types"].tolist())}
        order = [rows[tuple(int(molecule.types[b]) for b in c)] for c in index.T]
        values = {k: v[order] for k, v in part.items() if k not in ("term", "kind", "types", "index")}
        # mlcg may list the beads of a term in either order
        made[name] = {**part, **values, "types": None, "index": index[::-1]}
    priors = priors_from_mlcg(made, molecule, "mlcg-tk")
    expected = priors_from_mlcg(general, molecule, "mlcg-tk")
    frames = chains(2, len(SEQUENCE))
    for term in priors.terms:
        assert evaluate(priors, term, frames)[0] == pytest.approx(
            evaluate(expected, term, frames)[0], rel=1e-13
        )
    with pytest.raises(ConfigError, match="specialised for one molecule: give it"):
        priors_from_mlcg(made, None, "mlcg-tk")
    made["bonds"]["k"] = made["bonds"]["k"] + np.arange(9)  # Y-G occurs twice
    with pytest.raises(ConfigError, match="different parameters for the same bead types CA_TYR-CA_GLY"):
        priors_from_mlcg(made, molecule, "mlcg-tk")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["bonds"].update(kind="morse"), "prior bonds of kind 'morse' is not known"),
        (lambda m: m.update(more=m["bonds"]), "priors bonds and more are both bonds"),
        (lambda m: m["bonds"].update(x_0=m["bonds"]["x_0"] / 10), "Is the file in nm"),
        (
            lambda m: m["bonds"].update(types=m["bonds"]["types"] + 20),
            "bead types .* which embedding 'mlcg-tk'",
        ),
        (lambda m: m.clear(), "no priors in this file"),
    ],
)
def test_what_cannot_be_read(change: Any, message: str) -> None:
    made = parts()
    change(made)
    with pytest.raises(ConfigError, match=message):
        priors_from_mlcg(made, None, "mlcg-tk")


def test_what_mlcg_does_not_have(tmp_path: Path) -> None:
    priors = priors_from_mlcg(parts(quartic=True), None, "mlcg-tk")
    with pytest.raises(ConfigError, match="cannot represent the term angle_series"):
        write_mlcg_priors(priors, tmp_path / "p.pt", "mlcg-tk")
    priors = priors_from_mlcg(parts(), None, "mlcg-tk")
    with pytest.raises(ConfigError, match=r"embedding 'table-.*' has no number for bead types CA_"):
        write_mlcg_priors(priors, tmp_path / "p.pt", {"CA_TYR": 1, "CA_ALA": 2})
    names = sorted({name for row in priors.rows for name in row["types"]})
    large = {name: 100 * n for n, name in enumerate(names, start=1)}
    with pytest.raises(ConfigError, match="use an embedding with smaller numbers"):
        write_mlcg_priors(priors, tmp_path / "p.pt", large)
    molecule = CGTopology.from_sequence("GAGLP")
    angles = fit_priors(molecule, chains(300, 5), 400.0, terms=("angles",))
    with pytest.raises(ConfigError, match="harmonic in the cosine"):
        mlcg_statistics(angles, "cgal")
    assert not (tmp_path / "p.pt").exists()
    with pytest.raises(ConfigError, match=r"has no parameters for CA_TRP"):
        priors.for_topology(CGTopology.from_sequence("WWW"))

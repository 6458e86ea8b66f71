"""Force matching recovers known coefficients from their forces and refuses data that do not suffice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.errors import ConfigError, PriorFitError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet, fit_priors
from cgal_plugin.priors.modules import PRIORS, CGPairs
from cgal_plugin.priors.plot import plot_priors
from tests.priors.chains import chains

TEMPERATURE = 400.0
PLAIN: dict[str, Any] = {
    "method": "force_matching",
    "ridge_pairs": 0.0,
    "ridge_dihedrals": 0.0,
    "ridge_angles": 0.0,
}


@pytest.fixture(scope="module")
def topology() -> CGTopology:
    return CGTopology.from_sequence("GAGAGAGA")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Chains with some bond angles within the fade of the dihedrals."""
    found = chains(600, 8)
    found[::7, 3] = 0.5 * (found[::7, 2] + found[::7, 4]) + 0.2
    return found


def molecule(topology: CGTopology, index: np.ndarray) -> dict[str, Any]:
    return {
        "types": topology.types.tolist(),
        "type_names": list(topology.type_names),
        "index": index.tolist(),
    }


@pytest.fixture(scope="module")
def known(topology: CGTopology) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    gag = ["CA_GLY", "CA_ALA", "CA_GLY", "CA_ALA"]
    return {
        "dihedrals": {
            "table": [{"types": gag, "k": [1.2, 0.4, 0.7], "phase": [0.8, -2.9, 3.0]}],
            "molecule": molecule(topology, topology.dihedral_index),
        },
        "angle_series": {
            "table": [
                {"types": ["CA_GLY", "CA_ALA", "CA_GLY"], "c": [2.0, -1.0, 0.5, 0.3]},
                {"types": ["CA_ALA", "CA_GLY", "CA_ALA"], "c": [-1.5, 0.7, 0.2, -0.4]},
            ],
            "molecule": molecule(topology, topology.angle_index),
        },
        "pairs": {
            "table": [{"types": ["*", "*"], "c": rng.normal(size=10).tolist()}],
            "molecule": molecule(topology, topology.bond_index),
            "first": 4.0,
            "last": 15.0,
            "exclude_bonds": 2,
        },
    }


def forces_of(priors: dict[str, Any], topology: CGTopology, frames: np.ndarray) -> np.ndarray:
    """Forces of priors by autograd, ``(n, n_beads, 3)``."""
    n = len(frames)
    pos = torch.from_numpy(frames.reshape(-1, 3).copy()).requires_grad_(True)
    z, batch = torch.from_numpy(np.tile(topology.types, n)), torch.arange(n).repeat_interleave(len(frames[0]))
    y = torch.zeros(n, 1).double()
    for term, arguments in priors.items():
        y = PRIORS[term](**arguments).post_reduce(y, z, pos, batch, None, None)
    return -torch.autograd.grad(y.sum(), pos)[0].numpy().reshape(frames.shape)


def row(priors: PriorSet, term: str) -> dict[str, Any]:
    (found,) = (r for r in priors.table() if r["term"] == term)
    return found


def test_known_coefficients_come_back(
    topology: CGTopology, frames: np.ndarray, known: dict[str, Any]
) -> None:
    forces = forces_of(known, topology, frames)
    terms = ("dihedrals", "angle_series", "pairs")
    grid = {"first": 4.0, "last": 15.0, "n_pairs": 10, "n_angle": 4}
    fit = fit_priors(topology, frames, TEMPERATURE, terms=terms, forces=forces, **grid, **PLAIN)
    assert fit.terms == terms
    expected = known["dihedrals"]["table"][0]
    dihedral, pairs = row(fit, "dihedrals"), row(fit, "pairs")
    np.testing.assert_allclose(dihedral["parameters"]["k"], expected["k"], atol=1e-6)
    np.testing.assert_allclose(dihedral["parameters"]["phase"], expected["phase"], atol=1e-6)
    np.testing.assert_allclose(pairs["parameters"]["c"], known["pairs"]["table"][0]["c"], atol=1e-6)
    found = {tuple(r["types"]): r["parameters"]["c"] for r in fit.table() if r["term"] == "angle_series"}
    for wanted in known["angle_series"]["table"]:
        np.testing.assert_allclose(found[tuple(wanted["types"])], wanted["c"], atol=1e-6)
    assert (dihedral["n"], pairs["n"]) == (600 * 5, 600 * 15)
    assert not dihedral["at_bound"]
    assert dihedral["fallback"] is None


def test_noise_stays_within_the_standard_errors(
    topology: CGTopology, frames: np.ndarray, known: dict[str, Any], chance_seed: int
) -> None:
    noise = np.random.default_rng(5 + chance_seed).normal(scale=3.0, size=frames.shape)
    forces = forces_of(known, topology, frames) + noise
    fit = fit_priors(
        topology, frames, TEMPERATURE, terms=("dihedrals", "angle_series", "pairs"),
        forces=forces, first=4.0, last=15.0, n_pairs=10, n_angle=4, **PLAIN,
    )  # fmt: skip
    expected = known["dihedrals"]["table"][0]
    dihedral, pairs = row(fit, "dihedrals"), row(fit, "pairs")
    z = [
        (np.array(dihedral["parameters"]["k"]) - expected["k"]) / dihedral["standard_error"]["k"],
        np.angle(np.exp(1j * (np.array(dihedral["parameters"]["phase"]) - expected["phase"])))
        / dihedral["standard_error"]["phase"],
        (np.array(pairs["parameters"]["c"]) - known["pairs"]["table"][0]["c"]) / pairs["standard_error"]["c"],
    ]
    z = np.concatenate(z)
    assert np.abs(z).max() < 5.0  # 16 standard normal values: false alarm 1e-5
    assert 0.3 < np.sqrt((z**2).mean()) < 2.0  # standard errors are not too large either


def test_other_terms_are_kept_and_their_forces_subtracted(
    topology: CGTopology, frames: np.ndarray, known: dict[str, Any]
) -> None:
    known = {term: known[term] for term in ("dihedrals", "pairs")}
    terms = ("bonds", "angles", "dihedrals", "repulsion", "pairs")
    options = {"first": 4.0, "last": 15.0, "n_pairs": 10, **PLAIN}
    core = {"power": 12, "contact_percentile": 0.1}
    rest = fit_priors(topology, frames, TEMPERATURE, terms=("bonds", "angles", "repulsion"), **core)
    stiff = {term: rest.arguments(term) for term in rest.terms}
    forces = forces_of({**stiff, **known}, topology, frames)
    fit = fit_priors(topology, frames, TEMPERATURE, terms=terms, forces=forces, **options)
    assert [r for r in fit.rows if r["term"] in rest.terms] == list(rest.rows)
    assert (fit.power, fit.exclude_bonds, fit.terms) == (12, 2, terms)
    np.testing.assert_allclose(
        row(fit, "pairs")["parameters"]["c"], known["pairs"]["table"][0]["c"], atol=1e-6
    )
    # all terms together reproduce the forces
    again = forces_of({term: fit.arguments(term) for term in fit.terms}, topology, frames)
    assert np.abs(again - forces).max() < 1e-6 * np.abs(forces).max()


def test_rows_by_types(topology: CGTopology, frames: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    table = [
        {"types": list(t), "c": rng.normal(size=6).tolist()}
        for t in (("CA_ALA", "CA_ALA"), ("CA_ALA", "CA_GLY"), ("CA_GLY", "CA_GLY"))
    ]
    pairs = {"table": table, "molecule": molecule(topology, topology.bond_index), "first": 4.0, "last": 14.0}
    forces = forces_of({"pairs": pairs}, topology, frames)
    fit = fit_priors(
        topology, frames, TEMPERATURE, terms=("pairs",), forces=forces,
        first=4.0, last=14.0, n_pairs=6, pairs_per_type=True, **PLAIN,
    )  # fmt: skip
    assert [r["types"] for r in fit.rows] == [t["types"] for t in table]
    for found, expected in zip(fit.rows, table, strict=True):
        np.testing.assert_allclose(found["parameters"]["c"], expected["c"], atol=1e-6)
    one = fit_priors(
        topology, frames, TEMPERATURE, terms=("dihedrals",), forces=forces, per_type=False,
        method="force_matching",
    )  # fmt: skip
    assert [r["types"] for r in one.rows] == [["*"] * 4]


def test_ridge_shrinks_coefficients_and_keeps_undetermined_ones_at_zero(
    topology: CGTopology, frames: np.ndarray, known: dict[str, Any]
) -> None:
    forces = forces_of(known, topology, frames)

    def norm(**options: Any) -> float:
        fit = fit_priors(
            topology, frames, TEMPERATURE, terms=("pairs",), forces=forces, method="force_matching", **options
        )
        return float(np.linalg.norm(row(fit, "pairs")["parameters"]["c"]))

    assert norm(ridge_pairs=1.0) < 0.7 * norm() < norm(ridge_pairs=1e-4)
    fit = fit_priors(
        topology, frames, TEMPERATURE, terms=("pairs",), forces=forces, method="force_matching",
        first=100.0, last=120.0,
    )  # fmt: skip
    assert np.abs(row(fit, "pairs")["parameters"]["c"]).max() < 1e-6
    with pytest.raises(PriorFitError, match="do not determine"):
        fit_priors(topology, frames, TEMPERATURE, terms=("pairs",), forces=forces, last=60.0, **PLAIN)


def test_file_hash_table_and_plot(
    topology: CGTopology, frames: np.ndarray, known: dict[str, Any], tmp_path: Path
) -> None:
    terms = ("bonds", "angles", "dihedrals", "repulsion", "pairs")
    forces = forces_of(known, topology, frames)
    fit = fit_priors(topology, frames, TEMPERATURE, terms=terms, forces=forces, method="force_matching")
    fit.save(tmp_path / "priors.yaml")
    plot_priors(fit, tmp_path / "priors.png")
    assert (tmp_path / "priors.png").stat().st_size > 5000
    again = PriorSet.load(tmp_path / "priors.yaml")
    assert again.hash == fit.hash
    assert again.to_prior_model() == fit.to_prior_model()
    assert again.pair_range == (3.0, 17.0)
    assert again.table() == fit.table()
    assert CGPairs(file=tmp_path / "priors.yaml").get_init_args() == fit.arguments("pairs")
    other = fit_priors(
        topology, frames, TEMPERATURE, terms=terms, forces=forces, method="force_matching", last=16.0
    )
    assert other.hash != fit.hash
    alone = fit_priors(
        topology, frames, TEMPERATURE, terms=("dihedrals",), forces=forces, method="force_matching"
    )
    plot_priors(alone, tmp_path / "one.png")
    text = (tmp_path / "priors.yaml").read_text().replace("- 3.0\n", "- 2.0\n").replace("[3.0,", "[2.0,")
    (tmp_path / "priors.yaml").write_text(text)
    with pytest.raises(ConfigError, match="not what was written"):
        PriorSet.load(tmp_path / "priors.yaml")


def test_files_without_pair_range_load(topology: CGTopology, frames: np.ndarray, tmp_path: Path) -> None:
    fit = fit_priors(topology, frames, TEMPERATURE, terms=("bonds",))
    fit.save(tmp_path / "priors.yaml")
    text = (tmp_path / "priors.yaml").read_text()
    assert "pair_range: null\n" in text
    # as earlier releases wrote it: without the seal
    lines = [x for x in text.splitlines() if not x.startswith(("pair_range:", "seal:"))]
    (tmp_path / "priors.yaml").write_text("\n".join(lines) + "\n")
    assert PriorSet.load(tmp_path / "priors.yaml").hash == fit.hash


def test_weights_are_repetitions(topology: CGTopology, frames: np.ndarray, known: dict[str, Any]) -> None:
    terms = ("angle_series", "dihedrals", "pairs")
    rng = np.random.default_rng(5)
    forces = forces_of(known, topology, frames) + rng.normal(scale=3.0, size=frames.shape)
    weights = np.where(np.arange(len(frames)) % 5 == 0, 4.0, 1.0)
    again = np.repeat(np.arange(len(frames)), weights.astype(int))
    options: dict[str, Any] = {"terms": terms, "method": "force_matching"}

    def matched(fit: PriorSet) -> np.ndarray:
        rows = [r["parameters"] | r["standard_error"] for r in fit.rows]
        return np.concatenate([np.concatenate([np.ravel(v) for v in r.values()]) for r in rows])

    weighted = fit_priors(topology, frames, TEMPERATURE, forces=forces, weights=weights, **options)
    repeated = fit_priors(topology, frames[again], TEMPERATURE, forces=forces[again], **options)
    np.testing.assert_allclose(matched(weighted), matched(repeated), rtol=1e-6, atol=1e-9)
    plain = fit_priors(topology, frames, TEMPERATURE, forces=forces, **options)
    assert not np.allclose(matched(weighted), matched(plain), rtol=1e-3)
    # fits to distributions do not use weights
    with_bonds = fit_priors(
        topology,
        frames,
        TEMPERATURE,
        forces=forces,
        weights=weights,
        **options | {"terms": ("bonds", "pairs")},
    )
    bonds = fit_priors(topology, frames, TEMPERATURE, terms=("bonds",))
    assert [r for r in with_bonds.rows if r["term"] == "bonds"] == list(bonds.rows)
    ones = fit_priors(topology, frames, TEMPERATURE, forces=forces, weights=np.ones(len(frames)), **options)
    assert ones.hash == plain.hash
    for bad, message in ((weights[1:], r"weights have shape \(599,\)"), (-weights, "-4.0 of frame 0")):
        with pytest.raises(PriorFitError, match=message):
            fit_priors(topology, frames, TEMPERATURE, forces=forces, weights=bad, **options)


def _fit_pairs(topology: CGTopology, frames: np.ndarray, forces: Any, **options: Any) -> PriorSet:
    options = {"method": "force_matching", "terms": ("pairs",), **options}
    return fit_priors(topology, frames, TEMPERATURE, forces=forces, **options)


@pytest.mark.parametrize(
    ("n_frames", "n_forces", "message"),
    [
        (None, 0, "needs the forces"),
        (None, 599, r"shape \(599, 8, 3\)"),
        (199, 199, "199 frames; force matching needs 200"),
    ],
)
def test_number_of_frames_and_forces(
    n_frames: int | None, n_forces: int, message: str, topology: CGTopology, frames: np.ndarray
) -> None:
    forces = np.zeros((n_forces, 8, 3)) if n_forces else None
    with pytest.raises(PriorFitError, match=message):
        _fit_pairs(topology, frames[:n_frames], forces)


def test_forces_that_are_not_finite_are_named(topology: CGTopology, frames: np.ndarray) -> None:
    bad = np.zeros_like(frames)
    bad[3, 1, 2] = np.nan
    with pytest.raises(PriorFitError, match=r"forces of 1 of 600 frames are not finite \(first: 3"):
        _fit_pairs(topology, frames, bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": ("bonds",)}, "contain none of them"),
        ({"method": "forces"}, "use 'likelihood' or 'force_matching'"),
        ({"method": "likelihood"}, "fitted to forces"),
        ({"ridge_pairs": -1}, "ridge_pairs = -1"),
        ({"first": 20}, "first = 20"),
    ],
)
def test_bad_options_are_named(
    options: dict[str, Any], message: str, topology: CGTopology, frames: np.ndarray
) -> None:
    with pytest.raises(ConfigError, match=message):
        _fit_pairs(topology, frames, np.zeros_like(frames), **options)


def test_terms_that_the_molecule_lacks_are_named(frames: np.ndarray) -> None:
    small = CGTopology.from_sequence("AAA")
    with pytest.raises(PriorFitError, match="no dihedrals, no pairs"):
        _fit_pairs(small, frames[:, :3], np.zeros((600, 3, 3)), terms=("dihedrals", "pairs"))

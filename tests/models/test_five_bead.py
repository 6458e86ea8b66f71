"""Networks and priors of mlcg for its five-bead map: one number for CA of all residues but glycine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.embedding import resolve_embedding
from cgal_plugin.models import import_model
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.priors.mlcg import priors_from_mlcg
from cgal_plugin.priors.modules import PRIORS
from cgal_plugin.training import load_model
from tests.cli.test_main import call

from .mlcg_reference import energy_and_forces, random_state

UPPER = 9.0
MLCG = "mlcg-tk-5bead"
SEQUENCE = "AGPT"


@pytest.fixture(scope="module")
def model() -> AllAtomModel:
    return AllAtomModel.from_sequence(SEQUENCE, "5bead")


@pytest.fixture(scope="module")
def frame(model: AllAtomModel) -> np.ndarray:
    return np.asarray(model.mapping.map_positions(model.positions))


def written(path: Path, types: int = 25) -> dict[str, Any]:
    state = random_state(upper=UPPER, types=types)
    torch.save(state, path)
    return state


def test_a_network_of_mlcg_has_the_same_energies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: AllAtomModel, frame: np.ndarray
) -> None:
    state = written(tmp_path / "mlcg.pt")
    arguments = (
        *("import-model", tmp_path / "mlcg.pt", "-o", tmp_path / "model.ckpt", "--embedding", MLCG),
        *("--mapping", "5bead", "--topology", SEQUENCE, "--cutoff", UPPER, "--activation", "tanh"),
    )
    code, _, errors = call(capsys, *arguments, "--temperature", 350)
    assert code == 0, errors
    top = model.cg_topology
    found: Any = load_model(tmp_path / "model.ckpt")
    assert found.cgal_embedding == "cgal"
    pos = torch.from_numpy(frame)
    numbers = torch.tensor(resolve_embedding(MLCG).numbers(top.type_names))
    expected, forces = energy_and_forces(state, numbers, pos, upper=UPPER)
    energy, own = found(torch.from_numpy(np.array(top.types)), pos)
    assert float(energy.detach()) == pytest.approx(float(expected), rel=1e-9)
    assert (own - forces).abs().max() < 1e-9 * forces.abs().max()


def test_a_network_with_too_few_types_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "mlcg.pt", types=24)
    with pytest.raises(ConfigError, match=r"24 bead types, fewer than the numbers .*mlcg-tk-5bead.*24"):
        import_model(
            tmp_path / "mlcg.pt", embedding=MLCG, hparams={"cutoff_upper": UPPER, "activation": "tanh"}
        )


def tables() -> dict[str, dict[str, Any]]:
    """Tables of mlcg-tk by its numbers: N 21, CA 22 (glycine 6), C 23, O 24, CB by residue."""

    def fourier(types: list[tuple[int, ...]], k: float, degrees: int) -> dict[str, Any]:
        keys = [*types, *(t[::-1] for t in types)]
        series = np.full((len(keys), degrees), k)
        return {
            "term": "dihedrals", "kind": "fourier", "types": np.array(keys), "index": None,
            "k1s": 0.5 * series, "k2s": series, "v_0": np.zeros(len(keys)),
        }  # fmt: skip

    bonds = [(21, 22), (22, 21), (22, 23), (23, 22), (23, 24), (24, 23), (23, 21), (21, 23), (6, 21), (21, 6)]
    bonds += [(6, 23), (23, 6), *((22, k) for k in (1, 13, 17)), *((k, 22) for k in (1, 13, 17))]
    lengths = np.array([1.2 + 0.01 * (a + b) for a, b in bonds])
    ca = [22, 6]
    return {
        "bonds": {
            "term": "bonds", "kind": "harmonic", "types": np.array(bonds), "index": None,
            "k": np.full(len(bonds), 300.0), "x_0": lengths,
        },
        "THR_phi": fourier([(23, 21, 22, 23)], 1.0, 3),
        "GLY_phi": fourier([(23, 21, 6, 23)], 2.0, 3),
        "PRO_phi": fourier([(23, 21, 22, 23)], 3.0, 1),
        "ALA_psi": fourier([(21, 22, 23, 21)], 4.0, 3),
        "GLY_psi": fourier([(21, 6, 23, 21)], 5.0, 3),
        "PRO_psi": fourier([(21, 22, 23, 21)], 6.0, 3),
        "pro_omega": fourier([(a, 23, 21, 22) for a in ca], 7.0, 2),
        "non_pro_omega": fourier([(a, 23, 21, b) for a in ca for b in ca], 8.0, 1),
        "gamma_1": fourier([(21, k, 23, 22) for k in (1, 13, 17)], 9.0, 1),
        "gamma_2": fourier([(a, 24, 21, 23) for a in ca], 10.0, 1),
    }  # fmt: skip


def test_priors_by_residue_and_kind_become_one_table(frame: np.ndarray) -> None:
    top = CGTopology.from_sequence(SEQUENCE, "5bead")
    priors = priors_from_mlcg(tables(), None, MLCG, temperature=350.0)
    assert priors.exclude_bonds == 4
    own = priors.for_topology(top)
    prior = PRIORS["dihedrals"](**own.arguments("dihedrals"))
    types, batch = torch.from_numpy(np.array(top.types)), torch.zeros(top.n_beads, dtype=torch.long)
    index, row = prior.terms(types, batch, 1, None)
    found = {}
    for n, (_, spec) in enumerate(top.named_dihedrals):
        residue = int(top.residue_index[index[1 if spec.name == "psi" else 2, n]])
        found[spec.name, residue] = float(prior.k[row[n], 0]) / np.hypot(1.0, 0.5)
    expected = {
        ("phi", 1): 2.0, ("phi", 2): 3.0, ("phi", 3): 1.0, ("psi", 0): 4.0, ("psi", 1): 5.0, ("psi", 2): 6.0,
        ("omega", 1): 8.0, ("omega", 2): 7.0, ("omega", 3): 8.0,
    }  # fmt: skip
    assert {key: round(found[key], 6) for key in expected} == expected
    assert {round(v, 6) for (name, _), v in found.items() if name == "gamma_1"} == {9.0}
    assert {round(v, 6) for (name, _), v in found.items() if name == "gamma_2"} == {10.0}
    lengths = PRIORS["bonds"](**own.arguments("bonds"))
    pair, which = lengths.terms(types, batch, 1, None)
    for (i, j), n in zip(pair.T.tolist(), which.tolist(), strict=True):
        a, b = resolve_embedding(MLCG).numbers([top.type_names[i], top.type_names[j]])
        assert float(lengths.r0[n]) == pytest.approx(1.2 + 0.01 * (a + b))


def test_priors_that_overlap_are_refused() -> None:
    other = {**tables()["bonds"], "kind": "harmonic_cos"}
    with pytest.raises(ConfigError, match="bonds, bulk_bonds are all bonds, of different kinds"):
        priors_from_mlcg({**tables(), "bulk_bonds": other}, None, MLCG)
    twice = {**tables(), "more_bonds": tables()["bonds"]}
    with pytest.raises(ConfigError, match="priors bonds and more_bonds are both bonds"):
        priors_from_mlcg(twice, None, MLCG)
    ends = {**tables(), "n_term_bonds": {**tables()["bonds"], "k": 2 * tables()["bonds"]["k"]}}
    ends["bulk_bonds"] = ends.pop("bonds")
    with pytest.raises(ConfigError, match="different parameters for the same bead types"):
        priors_from_mlcg(ends, None, MLCG)

"""The TorchMD-Net prior classes: batches, rebuilding, wildcards, data sets, TorchScript."""

from __future__ import annotations

import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from cgal_plugin import register
from cgal_plugin.errors import ConfigError, DataError, PriorFitError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet, fit_priors, make_prior
from cgal_plugin.priors.modules import PRIORS, CGAngles, CGBonds, CGDihedrals, CGPairs, CGPrior, CGRepulsion
from cgal_plugin.testing import check_prior
from tests.priors.chains import chains
from tests.priors.pairs import with_pairs

TEMPERATURE = 400.0


@pytest.fixture(scope="module")
def topology() -> CGTopology:
    return CGTopology.from_sequence("YYDPCTGCWY", bridges=[(4, 7)])


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return chains(150, 10)


@pytest.fixture(scope="module")
def fitted(topology: CGTopology, frames: np.ndarray) -> PriorSet:
    return with_pairs(fit_priors(topology, frames, TEMPERATURE))


def tables(*molecules: CGTopology) -> dict[str, Tensor]:
    """Index tables of a batch, with PyG's offsets."""
    names = ("bond_index", "angle_index", "dihedral_index", "bridge_index")
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    offset = 0
    for molecule in molecules:
        for name, parts in found.items():
            parts.append(getattr(molecule, name).T + offset)
        offset += molecule.n_beads
    return {name: torch.from_numpy(np.concatenate(parts, axis=1)) for name, parts in found.items()}


def energy(prior: Any, positions: list[np.ndarray], molecules: list[CGTopology], extra: Any = None) -> Tensor:
    z = torch.from_numpy(np.concatenate([m.types for m in molecules]))
    pos = torch.from_numpy(np.concatenate(positions))
    batch = torch.repeat_interleave(
        torch.arange(len(molecules)), torch.tensor([m.n_beads for m in molecules])
    )
    return prior.post_reduce(torch.zeros(len(molecules), 1).double(), z, pos, batch, None, extra)


@pytest.mark.parametrize("term", list(PRIORS))
def test_contract(term: str, fitted: PriorSet, topology: CGTopology, frames: np.ndarray) -> None:
    check_prior(PRIORS[term](**fitted.arguments(term)), topology, frames[:3])


@pytest.mark.parametrize("term", list(PRIORS))
def test_copies_tables_and_single_frames_agree(
    term: str, fitted: PriorSet, topology: CGTopology, frames: np.ndarray
) -> None:
    prior = PRIORS[term](**fitted.arguments(term))
    stored = energy(prior, list(frames[:4]), [topology] * 4)
    given = energy(prior, list(frames[:4]), [topology] * 4, tables(*[topology] * 4))
    single = torch.cat([energy(prior, [f], [topology]) for f in frames[:4]])
    assert stored.shape == (4, 1)
    torch.testing.assert_close(stored, given, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stored, single, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("term", list(PRIORS))
def test_batch_of_different_molecules(term: str, fitted: PriorSet, topology: CGTopology) -> None:
    prior = PRIORS[term](**fitted.arguments(term))
    other = CGTopology.from_sequence("GAKWV")  # types the fit has never seen: the wildcard serves
    positions = [chains(1, 10, seed=5)[0], chains(1, 5, seed=6)[0], chains(1, 10, seed=7)[0]]
    molecules = [topology, other, topology]
    together = energy(prior, positions, molecules, tables(*molecules))
    alone = [energy(prior, [p], [m], tables(m)) for p, m in zip(positions, molecules, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)
    with pytest.raises(DataError, match="not copies"):
        energy(prior, positions, molecules)


@pytest.mark.parametrize("term", list(PRIORS))
def test_rebuilds_from_its_arguments_through_yaml(
    term: str, fitted: PriorSet, topology: CGTopology, frames: np.ndarray
) -> None:
    prior = PRIORS[term](**fitted.arguments(term)).float()
    arguments = yaml.safe_load(yaml.safe_dump(prior.get_init_args()))
    assert arguments == fitted.arguments(term)  # not 3.79999995
    again = type(prior)(**arguments)
    assert again.get_init_args() == prior.get_init_args()
    again.reset_parameters()
    original = PRIORS[term](**fitted.arguments(term))
    assert torch.equal(energy(again, [frames[0]], [topology]), energy(original, [frames[0]], [topology]))


def test_most_exact_row_wins(topology: CGTopology) -> None:
    def row(*names: str | int, r0: float) -> dict[str, Any]:
        return {"types": list(names), "k": 100.0, "r0": r0}

    tyr = int(topology.types[0])
    prior = CGBonds(
        table=[
            row("*", "*", r0=1.0),
            row("CA_ASP", "*", r0=2.0),
            row("CA_PRO", "CA_ASP", r0=3.0),
            row(tyr, tyr, r0=4.0),
        ],
        molecule={
            "types": topology.types.tolist(),
            "type_names": list(topology.type_names),
            "index": topology.bond_index.tolist(),
        },
    )
    chosen = prior.r0[prior.molecule_row].tolist()
    assert chosen == [4.0, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.fixture
def dataset(topology: CGTopology, frames: np.ndarray) -> types.SimpleNamespace:
    return types.SimpleNamespace(topology=topology, frames=frames, temperature=TEMPERATURE)


@pytest.mark.parametrize("cls", [CGBonds, CGAngles, CGDihedrals])
def test_factory_fits_to_a_data_set(cls: type[CGPrior], dataset: Any, fitted: PriorSet) -> None:
    prior = make_prior(cls, dataset)
    assert type(prior) is cls
    assert prior.get_init_args() == fitted.arguments(cls.term)


@pytest.mark.parametrize(
    "prior_model",
    [
        ["CGBonds", "CGRepulsion"],
        [{"CGBonds": None}, {"CGRepulsion": {}}],
        {"CGBonds": {}, "CGRepulsion": {}},
    ],
    ids=["names", "list", "mapping"],
)
def test_torchmdnet_fits_priors_without_parameters(
    prior_model: Any, dataset: Any, topology: CGTopology, frames: np.ndarray
) -> None:
    from torchmdnet.models.model import create_prior_models

    register()
    priors = create_prior_models({"prior_model": prior_model}, dataset)
    assert [type(p) for p in priors] == [CGBonds, CGRepulsion]
    for prior in priors:
        alone = fit_priors(topology, frames, TEMPERATURE, terms=(prior.term,))
        assert prior.get_init_args() == alone.arguments(prior.term)
    # as TorchMD-Net rebuilds them from a checkpoint
    args = {"prior_model": prior_model, "prior_args": [p.get_init_args() for p in priors]}
    again = create_prior_models(args)
    assert [p.get_init_args() for p in again] == args["prior_args"]


def test_factory_takes_settings_tables_and_files(dataset: Any, fitted: PriorSet, tmp_path: Path) -> None:
    assert make_prior(CGRepulsion, dataset, power=8).get_init_args()["power"] == 8
    arguments = fitted.arguments("angles")
    assert make_prior(CGAngles, dataset, **arguments).get_init_args() == arguments
    without = make_prior(CGAngles, dataset, table=arguments["table"])
    assert without.get_init_args() == arguments  # the molecule is that of the data set
    fitted.save(tmp_path / "priors.yaml")
    assert make_prior(CGPairs, dataset, file=tmp_path / "priors.yaml").get_init_args() == fitted.arguments(
        "pairs"
    )


def test_factory_names_what_is_missing(dataset: Any) -> None:
    with pytest.raises(PriorFitError, match="fitted to forces together with other terms"):
        make_prior(CGPairs, dataset)
    with pytest.raises(PriorFitError, match="a data set with topology, frames and temperature"):
        make_prior(CGBonds)
    with pytest.raises(ConfigError, match=r"has no setting .*stiffness"):
        make_prior(CGBonds, dataset, stiffness=3)
    dataset.temperature = None
    with pytest.raises(ConfigError, match="temperature"):
        make_prior(CGBonds, dataset)


def test_file_of_a_fit(fitted: PriorSet, topology: CGTopology, frames: np.ndarray, tmp_path: Path) -> None:
    fitted.save(tmp_path / "priors.yaml")
    prior = CGAngles(file=str(tmp_path / "priors.yaml"))
    assert prior.get_init_args() == fitted.arguments("angles")
    other = types.SimpleNamespace(topology=CGTopology.from_sequence("AAA"), frames=None, temperature=1.0)
    with pytest.raises(ConfigError, match="are for"):
        CGAngles(file=str(tmp_path / "priors.yaml"), dataset=other)
    only = fit_priors(topology, frames, TEMPERATURE, terms=("bonds",))
    only.save(tmp_path / "bonds.yaml")
    with pytest.raises(ConfigError, match="no angles"):
        CGAngles(file=str(tmp_path / "bonds.yaml"))


def test_molecules_in_the_table_of_another_map() -> None:
    mapping = {"name": "one", "residues": {"ALA": {"BB": ["N", "CA", "C"]}, "GLY": {"BB": ["CA"]}}}
    custom = CGTopology.from_sequence("AGA", mapping={**mapping, "backbone": "BB"})
    molecule = {
        "types": custom.types.tolist(),
        "type_names": list(custom.type_names),
        "index": custom.bond_index.tolist(),
    }
    prior = CGBonds(table=[{"types": ["BB_*", "BB_GLY"], "k": 10.0, "r0": 3.5}], molecule=molecule)
    positions = np.array([[0.0, 0, 0], [3.5, 0, 0], [3.5, 4.5, 0]])
    assert energy(prior, [positions], [custom]).item() == pytest.approx(5.0)


ANY_PAIR = ["*", "*"]


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (CGBonds, {"table": [{"types": ANY_PAIR, "k": 1.0}]}, "needs keys"),
        (CGBonds, {"table": [{"types": ["CA_XXX", "*"], "k": 1.0, "r0": 1.0}]}, "CA_XXX"),
        (
            CGBonds,
            {
                "table": [
                    {"types": types, "k": 1.0, "r0": 1.0} for types in (["*", "CA_ALA"], ["CA_ALA", "*"])
                ]
            },
            "twice",
        ),
        (CGBonds, {"table": [{"types": ANY_PAIR, "k": float("nan"), "r0": 1.0}]}, "not finite"),
        (CGBonds, {"table": [{"types": ANY_PAIR, "k": "stiff", "r0": 1.0}]}, "not a number"),
        (CGBonds, {"table": [], "stiffness": 3}, "stiffness"),
        (CGBonds, {"table": [], "file": "priors.yaml"}, "exactly one of table and file"),
        (
            CGAngles,
            {"table": [{"types": ["*"] * 3, "k": 1.0, "x0": 1.0}], "angle_form": "degrees"},
            "angle_form",
        ),
        (CGDihedrals, {"table": [{"types": ["*"] * 4, "k": [1.0, 2.0], "phase": [0.0]}]}, "one length"),
        *(
            (CGPairs, {"table": [{"types": ANY_PAIR, "c": c}]}, "lists of one length")
            for c in ([1.0], [], 1.0)
        ),
        *(
            (CGPairs, {"table": [{"types": ANY_PAIR, "c": [1.0, 2.0]}], "first": a, "last": b}, "first is")
            for a, b in ((3.0, 3.0), (-1.0, 3.0), (3.0, float("inf")), ("3", 5.0))
        ),
        (CGPairs, {"table": [{"types": ANY_PAIR, "c": [1.0, 2.0]}], "exclude_bonds": -1}, "exclude_bonds"),
        (CGRepulsion, {"table": [{"types": ANY_PAIR, "epsilon": 1.0, "sigma": 4.0}], "power": 0}, "power"),
    ],
)
def test_bad_arguments_are_named(cls: type[CGPrior], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(**arguments)


def test_missing_parameters_are_named() -> None:
    with pytest.raises(PriorFitError, match="no parameters"):
        CGBonds()
    ala = CGTopology.from_sequence("AA")
    with pytest.raises(ConfigError, match="no parameters for"):
        CGBonds(
            table=[{"types": ["CA_GLY", "CA_GLY"], "k": 1.0, "r0": 1.0}],
            molecule={"types": ala.types.tolist(), "type_names": list(ala.type_names), "index": [[0, 1]]},
        )


class Adapter(torch.nn.Module):
    """Makes ``post_reduce`` reachable for the TorchScript compiler."""

    def __init__(self, prior: torch.nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, y: Tensor, z: Tensor, pos: Tensor, batch: Tensor, extra: dict[str, Tensor]) -> Tensor:
        return self.prior.post_reduce(y, z, pos, batch, None, extra) + self.prior.post_reduce(
            y, z, pos, batch, None, None
        )


@pytest.mark.parametrize("term", list(PRIORS))
def test_can_be_scripted(term: str, fitted: PriorSet, topology: CGTopology, frames: np.ndarray) -> None:
    prior = PRIORS[term](**fitted.arguments(term))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..*")
        script = torch.jit.script(Adapter(prior))
    z = torch.from_numpy(np.tile(topology.types, 2))
    pos = torch.from_numpy(frames[:2].reshape(-1, 3))
    batch = torch.arange(2).repeat_interleave(10)
    y = torch.zeros(2, 1).double()
    expected = 2 * prior.post_reduce(y, z, pos, batch, None, None)
    torch.testing.assert_close(script(y, z, pos, batch, tables(topology, topology)), expected)


@pytest.mark.parametrize("term", list(PRIORS))
def test_float32_is_close_to_float64(
    term: str, fitted: PriorSet, topology: CGTopology, frames: np.ndarray
) -> None:
    prior = PRIORS[term](**fitted.arguments(term))
    exact = energy(prior, [frames[0]], [topology])
    z, batch = torch.from_numpy(topology.types.copy()), torch.zeros(10, dtype=torch.long)
    single = prior.float().post_reduce(
        torch.zeros(1, 1), z, torch.from_numpy(frames[0]).float(), batch, None, None
    )
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(exact.item(), rel=2e-4, abs=1e-4)


class _Leaky(CGBonds):
    """Counts the copies in a batch into the energy."""

    def post_reduce(
        self, y: Tensor, z: Tensor, pos: Tensor, batch: Tensor, box: Any, extra_args: Any
    ) -> Tensor:
        return super().post_reduce(y, z, pos, batch, box, extra_args) + 0.1 * y.shape[0]


class _Rounded(CGBonds):
    """Returns its arguments from float32 buffers."""

    def get_init_args(self) -> dict[str, Any]:
        rows = [dict(row, r0=float(np.float32(row["r0"]))) for row in super().get_init_args()["table"]]
        return {**super().get_init_args(), "table": [*rows[:-1], {**rows[-1], "k": np.float64(1.0)}]}


class _Detached(CGBonds):
    """No force."""

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        return super().energy(pos.detach(), index, row) + 0.0 * pos.sum()


class _Anchored(CGBonds):
    """Depends on where the molecule is."""

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        return super().energy(pos, index, row) + 0.01 * pos[index[0], 0]


@pytest.mark.parametrize(
    ("cls", "complaint"),
    [
        (_Leaky, "batch it is in"),
        (_Rounded, "plain Python"),
        (_Detached, "not the gradient"),
        (_Anchored, "under rotation and translation"),
    ],
)
def test_check_prior_sees_what_is_wrong(
    cls: type[CGBonds], complaint: str, fitted: PriorSet, topology: CGTopology, frames: np.ndarray
) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_prior(cls(**fitted.arguments("bonds")), topology, frames[:3])


def test_a_file_serves_the_same_molecule_in_any_numbering(fitted: PriorSet, tmp_path: Path) -> None:
    """Rows have names, so that the numbers of the data decide; another molecule stays an error."""
    fitted.save(tmp_path / "p.yaml")
    molecule = fitted.molecule.with_embedding("mlcg-tk")
    renumbered = PriorSet.load(tmp_path / "p.yaml").for_topology(molecule, TEMPERATURE)
    assert renumbered.molecule == molecule
    assert renumbered.rows == fitted.rows
    frame = chains(1, 10, seed=8)[0]
    for term in fitted.terms:
        own = PRIORS[term](**fitted.arguments(term))
        other = PRIORS[term](**renumbered.arguments(term))
        assert torch.equal(energy(own, [frame], [fitted.molecule]), energy(other, [frame], [molecule]))
    for sequence in ("YYDPCTGCWW", "YYDP"):
        with pytest.raises(ConfigError, match=r"are for .* the data are for"):
            fitted.for_topology(CGTopology.from_sequence(sequence).with_embedding("mlcg-tk"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", "warm"),
        ("temperature", -3.0),
        ("terms", 3),
        ("ordered", ["pears"]),
        ("rows", [1]),
        ("power", 6.5),
        ("exclude_bonds", -1),
    ],
)
def test_values_of_an_edited_file_are_checked(
    fitted: PriorSet, tmp_path: Path, key: str, value: object
) -> None:
    fitted.save(tmp_path / "p.yaml")
    content = yaml.safe_load((tmp_path / "p.yaml").read_text())
    del content["hash"], content["seal"]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(content | {key: value}))
    with (
        pytest.warns(UserWarning, match="has no hash"),
        pytest.raises(ConfigError, match=f"p.yaml.*{key} is "),
    ):
        PriorSet.load(tmp_path / "p.yaml")


def test_ordered_is_a_choice() -> None:
    rows = [
        {"types": ["CA_ALA", "CA_GLY"], "k": 1.0, "r0": 3.0},
        {"types": ["CA_GLY", "CA_ALA"], "k": 1.0, "r0": 4.0},
    ]
    assert CGBonds(table=rows, ordered=True).get_init_args()["ordered"] is True
    with pytest.raises(ConfigError, match="twice"):
        CGBonds(table=rows)
    with pytest.raises(ConfigError, match="twice"):
        CGBonds(table=[*rows, rows[0]], ordered=True)
    with pytest.raises(ConfigError, match="ordered is 'no'; it must be true or false"):
        CGBonds(table=rows[:1], ordered="no")
    # unordered tables have the arguments, and sets the hash, of earlier releases
    assert "ordered" not in CGBonds(table=rows[:1]).get_init_args()

"""Write files in the layouts of mlcg, with stand-ins for its classes, which no reader can import."""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

CLASSES = {
    "mlcg.nn.gradients": ["SumOut", "GradientsOut"],
    "mlcg.nn.schnet": ["StandardSchNet", "NoiseEmbedSchNet", "InteractionBlock", "CFConv"],
    "mlcg.nn.painn": ["StandardPaiNN"],
    "mlcg.nn.mace": ["StandardMACE"],
    "mlcg.nn.mlp": ["MLP"],
    "mlcg.nn.cutoff": ["CosineCutoff", "IdentityCutoff"],
    "mlcg.nn.radial_basis.exp_normal": ["ExpNormalBasis", "ExtendedExpNormalBasis"],
    "mlcg.nn.radial_basis.gaussian": ["GaussianBasis"],
    "mlcg.nn.radial_basis.exp_spaced": ["ExpSpacedBasis"],
    "mlcg.nn.losses": ["Loss"],
    "mlcg.nn.prior.harmonic": ["GeneralBonds", "GeneralAngles", "HarmonicImpropers"],
    "mlcg.nn.prior.fourier_series": ["Dihedral"],
    "mlcg.nn.prior.repulsion": ["Repulsion"],
    "mlcg.simulation.specialize_prior": ["StaticGeneralBonds", "StaticGeneralAngles", "StaticDihedral"],
}
ACTIVATIONS = {"tanh": torch.nn.Tanh, "silu": torch.nn.SiLU, "gelu": torch.nn.GELU}
#: chignolin in mlcg-tk's numbers
TYPES = [20, 20, 3, 13, 4, 17, 6, 17, 19, 20]


class _Record:
    """AtomicData of mlcg, without torch_geometric."""

    def __init__(self, **values: Any) -> None:
        self._store = _Storage()
        self._store._mapping = values


class _Storage:
    _mapping: dict[str, Any]


@contextmanager
def stand_ins() -> Iterator[dict[str, Any]]:
    """Classes with the names of mlcg's, importable within the block only."""
    found: dict[str, Any] = {}
    before = dict(sys.modules)
    assert "mlcg" not in before
    modules = {name: list(classes) for name, classes in CLASSES.items()}
    for name, classes in modules.items():
        parts = name.split(".")
        for n in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:n]), ModuleType(".".join(parts[:n])))
        for kind in classes:
            found[kind] = type(kind, (torch.nn.Module,), {"__module__": name})
            setattr(sys.modules[name], kind, found[kind])
    for kind, base in (("AtomicData", _Record), ("AtomicStorage", _Storage)):
        module = sys.modules.setdefault("mlcg.data", ModuleType("mlcg.data"))
        found[kind] = type(kind, (base,), {"__module__": "mlcg.data"})
        setattr(module, kind, found[kind])
    try:
        yield found
    finally:
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] == "mlcg":
                del sys.modules[name]


def module(cls: Any, *, buffers: dict[str, Any] | None = None, **values: Any) -> Any:
    """Return a module with submodules, buffers and plain attributes."""
    made = cls()
    for name, value in values.items():
        setattr(made, name, value)
    for name, value in (buffers or {}).items():
        made.register_buffer(name, value)
    return made


def linear(weight: Any, bias: Any) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    layer.weight.data = weight.clone()
    if bias is not None:
        layer.bias.data = bias.clone()
    return layer


def schnet(
    c: dict[str, Any],
    state: dict[str, Any],
    *,
    upper: float,
    act: str = "tanh",
    last_act: str | None = None,
    lower: float = 0.0,
    kind: str = "StandardSchNet",
    basis: str = "ExpNormalBasis",
    self_interaction: bool = False,
) -> Any:
    """Return a SchNet with the weights of :func:`tests.models.mlcg_reference.random_state`."""

    def layers(prefix: str, name: str) -> Any:
        numbers = sorted(
            int(k.removeprefix(prefix).split(".")[0])
            for k in state
            if k.startswith(prefix) and k.endswith("weight")
        )
        found: list[Any] = []
        for n in numbers:
            found += [ACTIVATIONS[name]()] if found else []
            found.append(linear(state[f"{prefix}{n}.weight"], state.get(f"{prefix}{n}.bias")))
        return module(c["MLP"], layers=torch.nn.Sequential(*found))

    def cutoff() -> Any:
        return module(c["CosineCutoff"], cutoff_lower=lower, cutoff_upper=upper)

    embedding = torch.nn.Embedding(*state["embedding_layer.weight"].shape)
    embedding.weight.data = state["embedding_layer.weight"].clone()
    blocks = []
    for n in range(sum(k.endswith("conv.lin1.weight") for k in state)):
        p = f"interaction_blocks.{n}."
        convolution = module(
            c["CFConv"],
            filter_network=layers(p + "conv.filter_network.layers.", act),
            cutoff=cutoff(),
            lin1=linear(state[p + "conv.lin1.weight"], None),
            lin2=linear(state[p + "conv.lin2.weight"], state[p + "conv.lin2.bias"]),
            aggr="add",
        )
        blocks.append(
            module(
                c["InteractionBlock"],
                conv=convolution,
                activation=ACTIVATIONS[act](),
                lin=linear(state[p + "lin.weight"], state[p + "lin.bias"]),
            )
        )
    rbf = {k.removeprefix("rbf_layer."): v for k, v in state.items() if k.startswith("rbf_layer.")}
    return module(
        c[kind],
        embedding_layer=embedding,
        rbf_layer=module(
            c[basis], buffers=rbf, cutoff=cutoff(), alpha=5.0 / (upper - lower), trainable=False
        ),
        interaction_blocks=torch.nn.Sequential(*blocks),
        output_network=layers("output_network.layers.", last_act or act),
        max_num_neighbors=200,
        self_interaction=self_interaction,
    )


def neighbours(n: int, least: int = 3) -> dict[str, np.ndarray]:
    """Neighbour lists of a chain of ``n`` beads; repulsion from ``least`` bonds on."""
    pairs = [(i, j) for i in range(n) for j in range(i + least, n)]
    return {
        **{
            key: np.stack([np.arange(n - width + 1) + k for k in range(width)])
            for key, width in (("bonds", 2), ("angles", 3), ("dihedrals", 4))
        },
        "non_bonded": np.array(pairs).T,
    }


def parameters(types: list[int], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Random parameters of each prior for each term of a chain, equal for equal bead types."""
    rng = np.random.default_rng(seed)
    lists, found = neighbours(len(types)), {}
    for key, columns in (
        ("bonds", {"x0": (3.7, 3.9, 1), "k": (60, 90, 1), "V0": (0, 0, 1)}),
        ("angles", {"x0": (-0.5, 0.2, 1), "k": (5, 20, 1), "V0": (0, 0, 1)}),
        ("dihedrals", {"k1s": (-1, 1, 3), "k2s": (-1, 1, 3), "v_0": (-2, 2, 1)}),
    ):
        drawn: dict[tuple[int, ...], dict[str, Any]] = {}
        rows = []
        for column in lists[key].T:
            kinds = tuple(types[b] for b in column)
            rows.append(
                drawn.setdefault(
                    min(kinds, kinds[::-1]) if key != "dihedrals" else kinds,
                    {name: rng.uniform(lo, hi, n) for name, (lo, hi, n) in columns.items()},
                )
            )
        found[key] = {name: np.array([row[name] for row in rows]).squeeze() for name in columns}
    return found


def specialised(
    c: dict[str, Any],
    network: Any,
    *,
    types: list[int] | None = None,
    frames: np.ndarray,
    lists: dict[str, np.ndarray] | None = None,
    change: dict[str, dict[str, Any]] | None = None,
    mass: float = 12.0 / 418.4,
    **priors: Any,
) -> Any:
    """Return ``(model, configurations)``, as mlcg writes them for a simulation."""
    types = TYPES if types is None else types
    lists = neighbours(len(types)) if lists is None else lists
    copies, given = len(frames), parameters(types)
    for key, values in (change or {}).items():
        given[key] |= values
    sigma = torch.zeros(21, 21, dtype=torch.float64)
    keys = sorted({(types[i], types[j]) for i, j in lists["non_bonded"].T})
    keys = sorted({*keys, *(k[::-1] for k in keys)})
    for a, b in keys:
        sigma[a, b] = 4.0 + 0.05 * (a + b)
    made = {
        "SchNet": network,
        "non_bonded": module(
            c["Repulsion"],
            buffers={"sigma": sigma},
            allowed_interaction_keys=keys,
            order=2,
            name="non_bonded",
        ),
    }
    for key, kind in (
        ("dihedrals", "StaticDihedral"),
        ("angles", "StaticGeneralAngles"),
        ("bonds", "StaticGeneralBonds"),
    ):
        values = {k: torch.from_numpy(np.concatenate([v] * copies)) for k, v in given[key].items()}
        if key == "dihedrals":
            values["v_0"] = values["v_0"][:, None].repeat(1, 3)
        made[key] = module(c[kind], buffers=values, param_names=list(values))
    made |= priors
    outs = {
        key: module(c["GradientsOut"], model=m, targets=["forces"])
        for key, m in made.items()
        if m is not None
    }
    model = module(c["SumOut"], models=torch.nn.ModuleDict(outs), targets=["energy", "forces"])
    tables = {
        key: {"tag": key, "order": len(t), "index_mapping": torch.from_numpy(t), "rcut": None}
        for key, t in lists.items()
    }
    structures = []
    for frame in frames:
        one = c["AtomicData"].__new__(c["AtomicData"])
        one._store = c["AtomicStorage"]()
        one._store._mapping = {
            "pos": torch.from_numpy(frame),
            "atom_types": torch.tensor(types),
            "masses": torch.full((len(types),), mass),
            "neighbor_list": tables,
        }
        structures.append(one)
    return model, structures


def lightning(network: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return a Lightning checkpoint whose module still has the initial weights."""
    return {
        "epoch": 1,
        "pytorch-lightning_version": "2.2.1",
        "state_dict": OrderedDict({f"model.model.{k}": v for k, v in state.items()}),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "loops": {"fit_loop": {}},
        "hyper_parameters": {"model": network},
    }


def write(path: Path, content: Any, *, old: bool = False) -> Path:
    """Write a file of ``torch.save``; ``old``: as torch before 1.6."""
    with warnings.catch_warnings():
        # the legacy format looks for the source of the classes
        warnings.simplefilter("ignore", UserWarning)
        torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path

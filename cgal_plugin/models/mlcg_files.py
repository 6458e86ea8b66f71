"""Model files of the mlcg package: the network, the priors and the configurations that they contain.

Read without mlcg, and without running code of the file (see :mod:`cgal_plugin.models.inert_pickle`):

- the pair ``(model, configurations)`` of a simulation, with priors specialised for a molecule;
- a saved module: a whole model, a SchNet, or priors alone;
- a Lightning checkpoint of ``mlcg-train_h5`` (the weights of its state dict).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ConfigError
from cgal_plugin.models.inert_pickle import Inert, read_inert, walk
from cgal_plugin.models.mlcg_network import MODELS, network_of
from cgal_plugin.models.mlcg_priors import PRIORS, prior_part

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

#: mass of 1 amu in mlcg's unit, kcal/mol·ps²/Å²
_AMU = 1.0 / 418.4


@dataclass(frozen=True, eq=False)
class Configuration:
    """One structure of a file.

    Attributes
    ----------
    positions, types, masses
        ``(n_beads, 3)`` Å; ``(n_beads,)`` ids of the file's embedding; ``(n_beads,)`` amu, or None.
    neighbours
        Prior name → ``(order, n)`` beads of its terms.
    """

    positions: NDArray[np.float64]
    types: NDArray[np.int64]
    masses: NDArray[np.float64] | None
    neighbours: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class MlcgFile:
    """Content of a model file.

    Attributes
    ----------
    state, hparams
        State dict of the SchNet, and its values that are not in it: ``cutoff_upper``, ``activation``, ...
        None for a file without a network.
    parts
        Prior name → plain arrays. ``term``: ``"bonds"``, ``"angles"``, ``"dihedrals"`` or ``"repulsion"``.
        ``kind``: ``"harmonic"`` (bonds), ``"harmonic_cos"`` (angles): k (x − x_0)², x in Å or cos θ;
        ``"polynomial_cos"``: v_0 + Σ ks[n] (cos θ)ⁿ⁺¹; ``"fourier"``: v_0 + Σ k1s[n] sin (n+1)φ +
        k2s[n] cos (n+1)φ; ``"repulsion"``: (sigma/r)⁶. ``types`` ``(n, order)`` ids of the file's embedding,
        one row per parameter; or, for parameters of one molecule, None: one row per column of ``index``.
        ``index`` ``(order, n)`` beads of the terms of the first configuration, or None without one.
        Parameters: ``(n,)`` or ``(n, degrees)`` float64, kcal/mol and Å.
    configurations
        Structures of the file.
    notes
        What the file contains and is not used.
    """

    name: str
    state: Mapping[str, Tensor] | None
    hparams: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]]
    configurations: Sequence[Configuration] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def is_mlcg(content: Any) -> bool:
    """Return whether content of :func:`read_inert` is that of a file of mlcg."""
    return any(record.kind.startswith("mlcg") for record in walk(content))


def read_mlcg(path: str | os.PathLike[str]) -> MlcgFile:
    """Read a model file of mlcg.

    Raises
    ------
    ConfigError
        The file is missing or damaged, has no model or priors of mlcg, or has parts that this package cannot
        represent.
    """
    return parse_mlcg(read_inert(path, error=ConfigError), os.fspath(path))


def parse_mlcg(content: Any, name: str) -> MlcgFile:
    """Return what content of :func:`read_inert` means; see :func:`read_mlcg`."""
    try:
        return _parse(content, name)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"{name} is not laid out as a file of mlcg ({type(error).__name__}: {error}): it is damaged, or "
            "of a release of mlcg that this package does not know"
        ) from error


def _parse(content: Any, name: str) -> MlcgFile:
    model, structures = content, list[Any]()
    if isinstance(content, tuple | list) and len(content) == 2 and isinstance(content[1], list | tuple):
        model, structures = content[0], list(content[1])
    weights: Mapping[str, Tensor] | None = None
    notes: list[str] = []
    if isinstance(model, Mapping) and isinstance(model.get("state_dict"), Mapping):
        weights = model["state_dict"]
        left = [k for k in ("optimizer_states", "lr_schedulers", "loops", "callbacks") if model.get(k)]
        notes += [f"training state ({', '.join(left)})"] if left else []
        hyper = model.get("hyper_parameters") or {}
        model = next((r for r in walk(hyper) if r.name in MODELS or r.kind.startswith("mlcg.nn")), None)
        if model is None:
            raise ConfigError(
                f"{name} has weights, but no module in its hyper_parameters that says what they are for: "
                "give the checkpoint of mlcg-train_h5, or convert the state dict in Python with "
                "cgal_plugin.models.from_mlcg(state_dict, hparams)"
            )
    configurations = tuple(_configuration(s, name) for s in structures)
    if isinstance(model, Mapping):
        model = _as_record(model)
    if not isinstance(model, Inert):
        raise ConfigError(f"{name} contains {type(model).__name__}, not a module of mlcg")
    networks, priors, others = _modules(model)
    _check_kinds(name, networks, others)
    state, hparams = (None, {}) if not networks else network_of(next(iter(networks.values())), name)
    if state is not None and weights is not None:
        state = _weights(state, weights, name)
        extra = sorted({k.split(".")[0] for k in weights if not _is_of(k, state)})
        notes += [f"weights of {', '.join(extra)}"] if extra else []
    _same_molecule(configurations, name)
    neighbours = configurations[0].neighbours if configurations else None
    parts = {
        key: prior_part(record, key, neighbours, len(configurations), name) for key, record in priors.items()
    }
    return MlcgFile(name, state, hparams, parts, configurations, tuple(notes))


def _as_record(modules: Mapping[str, Any]) -> Inert:
    """Return a dict of modules as a module that has them."""
    record = Inert()
    record.state = {"_modules": dict(modules)}
    return record


def _modules(model: Inert) -> tuple[dict[str, Inert], dict[str, Inert], dict[str, Inert]]:
    """Return the networks, priors and unknown modules of a model by their name in it."""
    networks: dict[str, Inert] = {}
    priors: dict[str, Inert] = {}
    others: dict[str, Inert] = {}
    wrappers = ("GradientsOut", "EnergyOut", "SumOut", "ModuleDict", "PLModel", "Inert", "ModuleList")

    def visit(record: Inert, key: str) -> None:
        kind = record.name
        if kind in wrappers or not record.kind:
            for child_name, child in record.children().items():
                if isinstance(child, Inert):
                    visit(child, key if child_name in ("model", "models") else child_name)
        elif kind in PRIORS:
            priors[key or str(record.get("name") or kind)] = record
        elif kind in MODELS:
            networks[key or kind] = record
        elif not kind.startswith("Loss"):
            others[key or kind] = record

    visit(model, "")
    return networks, priors, others


def _check_kinds(name: str, networks: Mapping[str, Inert], others: Mapping[str, Inert]) -> None:
    if others:
        found = ", ".join(f"{key} ({record.kind})" for key, record in others.items())
        raise ConfigError(
            f"{name} contains {found}; this package reads the networks {', '.join(MODELS)} and the priors "
            f"{', '.join(PRIORS)} of mlcg"
        )
    if len(networks) > 1:
        raise ConfigError(
            f"{name} contains {len(networks)} networks ({', '.join(networks)}), whose energies are added; "
            "this package has one network per model"
        )


def _weights(state: Mapping[str, Tensor], weights: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the weights of a Lightning checkpoint; its module has those of the start of the training."""
    key = "embedding_layer.weight"
    prefixes = [k.removesuffix(key) for k in weights if k.endswith(key)]
    if len(prefixes) != 1:
        raise ConfigError(f"{name}: the state dict has {len(prefixes)} entries {key}; a SchNet has one")
    found = {k: weights.get(prefixes[0] + k) for k in state}
    missing = [k for k, v in found.items() if v is None]
    if missing:
        raise ConfigError(f"{name}: the state dict lacks {', '.join(missing[:3])} of its own module")
    return found


def _is_of(key: str, state: Mapping[str, Any]) -> bool:
    return any(key == k or key.endswith(f".{k}") for k in state)


def _configuration(record: Any, name: str) -> Configuration:
    store = record.part("_store") if isinstance(record, Inert) else None
    values = store.get("_mapping") if isinstance(store, Inert) else record
    if not isinstance(values, Mapping) or "pos" not in values or "atom_types" not in values:
        raise ConfigError(f"{name}: a configuration has no pos and atom_types, as AtomicData of mlcg has")
    neighbours = {
        str(key): _array(table["index_mapping"], np.int64)
        for key, table in (values.get("neighbor_list") or {}).items()
        if isinstance(table, Mapping) and "index_mapping" in table
    }
    if values.get("pbc") is not None and _array(values["pbc"], np.int64).any():
        raise ConfigError(f"{name}: a configuration has periodic boundaries; this package has no box")
    masses = values.get("masses")
    return Configuration(
        _array(values["pos"], np.float64),
        _array(values["atom_types"], np.int64),
        None if masses is None else _array(masses, np.float64) / _AMU,
        neighbours,
    )


def _array(value: Any, dtype: Any) -> NDArray[Any]:
    import torch

    return torch.as_tensor(value).detach().cpu().numpy().astype(dtype)


def _same_molecule(configurations: Sequence[Configuration], name: str) -> None:
    for number, one in enumerate(configurations[1:], start=1):
        first = configurations[0]
        same = np.array_equal(one.types, first.types) and one.neighbours.keys() == first.neighbours.keys()
        if not same or any(
            not np.array_equal(table, first.neighbours[key]) for key, table in one.neighbours.items()
        ):
            raise ConfigError(
                f"{name} was specialised for several molecules: configuration {number} is not of the "
                "molecule of configuration 0; write one file per molecule"
            )

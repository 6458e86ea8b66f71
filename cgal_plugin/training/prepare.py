"""Prepare a training: data set, split, priors, weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import CGALWarning, ConfigError, DataError, TrainingError
from cgal_plugin.provenance import atomic_write, hash_array, hash_object
from cgal_plugin.units import MODEL_UNITS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from cgal_plugin.data.sources import FrameTable
    from cgal_plugin.mapping.topology import CGTopology


@dataclass(frozen=True, eq=False)
class Prepared:
    """Input of a training.

    Attributes
    ----------
    hparams
        Complete hyper-parameters.
    dataset
        The data set; None: TorchMD-Net loads it.
    data_hash
        Hash of data and split.
    sides
        Items for training, validation and test; None: TorchMD-Net splits the data.
    """

    hparams: dict[str, Any]
    dataset: Any
    data_hash: str
    sides: Mapping[str, NDArray[np.int64]] | None = None

    def bead_types(self, init: Path | None) -> list[str] | None:
        """Return the bead types that the model is trained on, those of ``init`` included; None: not known."""
        own = {name for t in getattr(self.dataset, "topologies", ()) for name in t.type_names}
        if not own:
            return None
        if init is not None:
            before = trained_types(read_checkpoint(init))
            if before is None:
                return None
            own |= set(before)
        return sorted(own)

    @property
    def frame_counts(self) -> dict[str, int]:
        """Number of different frames in each set, and of those in none; empty if they are not known."""
        if self.sides is None:
            return {}
        used = {
            key.removeprefix("idx_"): len(np.unique(self.dataset.items[index]))
            for key, index in self.sides.items()
        }
        return {**used, "unused": self.dataset.n_frames - sum(used.values())}


def prepare(
    values: dict[str, Any],
    out_dir: Path,
    init: Path | None,
    replay_weight: float | None,
    newest: Sequence[str] | None,
    seed: int,
    frames: FrameTable | None = None,
) -> Prepared:
    """Load and split the data set; ``frames`` are its frames, if they are in memory. Nothing is written.

    Raises
    ------
    ConfigError
        Mode ``replay`` with a data set that cannot repeat frames, ``dataset_arg`` is not a mapping, sizes or
        ``splits`` do not fit the data, or the model cannot be built for its beads.
    DataError
        The data set cannot be read or split.
    """
    hparams = dict(values)
    if hparams["dataset"] != "CGDataset":
        if replay_weight is not None:
            raise ConfigError(f"mode 'replay' needs dataset CGDataset, not {hparams['dataset']!r}")
        return Prepared(hparams, None, hash_object([hparams["dataset"], hparams["dataset_arg"]]))
    from cgal_plugin.data.dataset import CGDataset
    from cgal_plugin.data.splits import given_sides, sized_sides
    from cgal_plugin.data.temperature import same_temperature
    from cgal_plugin.mapping.embedding import check_given, check_same_embedding
    from cgal_plugin.models.supported import check_bead_types, try_model
    from cgal_plugin.training.settings import dataset_options

    argument = dataset_options(hparams["dataset_arg"])
    if replay_weight is not None:
        argument["repeat"] = _replay(hparams["dataset_root"], argument, replay_weight, newest)
        hparams["dataset_arg"] = argument
    if hparams["temperature"] is not None and argument.get("temperature") is None:
        argument["temperature"] = hparams["temperature"]
    dataset = CGDataset(hparams["dataset_root"], table=frames, **argument)
    known = dataset.temperature
    hparams["temperature"] = same_temperature(known, hparams["temperature"], hparams["dataset_root"])
    where = f"data set {hparams['dataset_root']}"
    hparams["embedding"] = check_given(hparams["embedding"], dataset.embedding, where)
    if init is not None:
        content = read_checkpoint(init)
        trained, name = checkpoint_temperature(content, init), f"checkpoint {init}"
        same_temperature(trained, hparams["temperature"], name, "the data set")
        check_same_embedding(
            checkpoint_embedding(content, init), hparams["embedding"], name, where, DataError
        )
    for topology in dataset.topologies:
        check_bead_types(int(hparams["max_z"]), topology)
    try_model(hparams, dataset.topologies[0])
    if hparams["splits"] is not None:
        sides = given_sides(dataset, hparams["splits"])
    else:
        sizes = {key: hparams[key] for key in ("train_size", "val_size", "test_size")}
        sides = sized_sides(dataset, sizes, seed)
    for name, key in (("idx_train", "train_size"), ("idx_val", "val_size")):
        if len(sides[name]) == 0:
            raise ConfigError(
                f"{key} is {hparams[key]}: {name} is empty for {dataset.n_frames} frames; training needs "
                "frames for training and validation, such as val_size: 0.1"
            )
    hparams["splits"] = str(out_dir / "splits.npz")
    data_hash = hash_object([dataset.fingerprint, hash_array(*sides.values())])
    return Prepared(hparams, dataset, data_hash, sides)


def _replay(
    root: str, argument: Mapping[str, Any], weight: float, newest: Sequence[str] | None
) -> dict[str, float]:
    repeat = argument.get("repeat") or {}
    if repeat == "error":
        from cgal_plugin.data.dataset import CGDataset

        repeat = CGDataset(root, **argument).weights
    if newest is None and (argument.get("stores") is not None or not isinstance(root, str | os.PathLike)):
        raise ConfigError("mode 'replay' with several data stores needs newest: the names of the new sources")
    if newest is None:
        newest = newest_sources(root) if "coords" not in argument else ()
    if not newest and "coords" in argument:
        raise ConfigError("mode 'replay' with plain files needs newest: the names of the new files")
    return dict(repeat) | {name: float(weight) * repeat.get(name, 1.0) for name in newest}


def newest_sources(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the sources of the highest ``round`` in the records of a store; empty if there is one round.

    A shard without a round in its record belongs to round 0.
    """
    from cgal_plugin.data.store import DataStore

    store = DataStore(root)
    records = [store.record(name) for name in store.names()]
    rounds = {r["source"]: int(r.get("facts", {}).get("round") or 0) for r in records}
    if len(set(rounds.values())) < 2:
        return ()
    last = max(rounds.values())
    return tuple(sorted(s for s, n in rounds.items() if n == last))


def make_priors(
    prepared: Prepared, checkpoint: Path | None, *, frozen: bool
) -> tuple[dict[str, Any], list[nn.Module]]:
    """Return the hyper-parameters, completed by ``prior_args``, and the priors.

    The priors of a checkpoint are kept. With ``frozen``, they must also equal those of ``prior_model`` if
    this contains parameters.

    Raises
    ------
    ConfigError
        ``prior_model`` is wrong.
    TrainingError
        The checkpoint has other priors.
    """
    hparams = dict(prepared.hparams)
    if checkpoint is not None:
        theirs = read_hparams(checkpoint)
        if _prior_names(theirs) != _prior_names(hparams):
            raise TrainingError(
                f"{checkpoint} has priors {_prior_names(theirs)}, prior_model has "
                f"{_prior_names(hparams)}; priors are frozen: keep them, or train from scratch"
            )
        if frozen and _has_arguments(hparams):
            known = theirs.get("prior_args") or []
            ours = [p.get_init_args() for p in _create_priors(hparams, prepared.dataset)]
            for own, their in zip(ours, known, strict=False):
                if their.get("molecule", "") is None:  # for any molecule, also for that of the data
                    own["molecule"] = None
            if hash_object(ours) != hash_object(known):
                raise TrainingError(
                    f"{checkpoint} was trained with prior parameters that differ from those of prior_model; "
                    "priors are frozen: keep them, or train from scratch"
                )
        hparams["prior_args"] = theirs.get("prior_args")
    priors = _create_priors(hparams, prepared.dataset)
    for topology in getattr(prepared.dataset, "topologies", ()):
        _check_bridges(priors, topology)
    hparams["prior_args"] = [p.get_init_args() for p in priors]
    return hparams, priors


def _check_bridges(priors: Sequence[nn.Module], topology: CGTopology) -> None:
    """Warn if the molecule has disulfide bridges, and the priors have bonds but no bridges."""
    names = {type(prior).__name__ for prior in priors}
    if len(topology.bridge_index) and "CGBonds" in names and "CGBridges" not in names:
        warnings.warn(
            f"{topology!r} has disulfide bridges, and prior_model has CGBonds "
            "but no CGBridges: nothing but the network holds the bridges; add CGBridges to prior_model",
            CGALWarning,
            stacklevel=2,
        )


def _create_priors(hparams: Mapping[str, Any], dataset: Any) -> list[Any]:
    from torchmdnet.models.model import create_prior_models

    try:
        priors: list[Any] = create_prior_models(dict(hparams), dataset)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"prior_model {_prior_names(hparams)} cannot be built: {error}") from error
    return priors


def _prior_names(hparams: Mapping[str, Any]) -> list[str]:
    priors = hparams.get("prior_model") or []
    priors = priors if isinstance(priors, list) else [priors]
    return [name for p in priors for name in (p if isinstance(p, dict) else [p])]


def _has_arguments(hparams: Mapping[str, Any]) -> bool:
    priors = hparams.get("prior_model") or []
    priors = priors if isinstance(priors, list) else [priors]
    return bool(hparams.get("prior_args")) or any(isinstance(p, dict) and any(p.values()) for p in priors)


def read_checkpoint(path: str | os.PathLike[str], *, trust: bool = False) -> dict[str, Any]:
    """Return the content of a TorchMD-Net checkpoint; see :func:`~cgal_plugin.models.torch_files.read_torch`.

    Raises
    ------
    TrainingError
        The file is missing, is not a checkpoint, or contains objects that could run code.
    """
    from cgal_plugin.models.torch_files import read_torch

    if not Path(path).is_file():
        raise TrainingError(f"checkpoint {str(path)!r} does not exist")
    content: dict[str, Any] = read_torch(path, trust=trust, error=TrainingError)
    parts = (
        (content.get(k) for k in ("state_dict", "hyper_parameters")) if isinstance(content, dict) else (None,)
    )
    if not all(isinstance(part, Mapping) for part in parts):
        raise TrainingError(f"{path} is not a TorchMD-Net checkpoint: no state_dict and hyper_parameters")
    return content


def checkpoint_temperature(content: Mapping[str, Any], path: str | os.PathLike[str]) -> float | None:
    """Return the temperature (K) of the data that a checkpoint was trained on; None if not recorded.

    Raises
    ------
    TrainingError
        The checkpoint is in other units than Å and kcal/mol.
    """
    facts = content.get("cgal_plugin") or {}
    units = facts.get("units", MODEL_UNITS)
    if units != MODEL_UNITS:
        raise TrainingError(f"{os.fspath(path)} is in units {units}; this package reads {MODEL_UNITS}")
    hparams = content["hyper_parameters"]
    argument = hparams.get("dataset_arg")
    places = (facts, hparams, argument if isinstance(argument, Mapping) else {})
    return next((float(p["temperature"]) for p in places if p.get("temperature") is not None), None)


def checkpoint_embedding(content: Mapping[str, Any], path: str | os.PathLike[str]) -> str:
    """Return the name of the embedding of a checkpoint's bead types; if unknown ``cgal``, with a warning."""
    from cgal_plugin.mapping.embedding import recorded_embedding

    found = (content.get("cgal_plugin") or {}).get("embedding") or content["hyper_parameters"].get(
        "embedding"
    )
    return recorded_embedding({"embedding": found}, f"checkpoint {os.fspath(path)}")


def trained_types(content: Mapping[str, Any]) -> list[str] | None:
    """Return the bead types that a checkpoint was trained on; None if it does not record them."""
    found = (content.get("cgal_plugin") or {}).get("bead_types")
    return None if found is None else [str(name) for name in found]


def read_hparams(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the hyper-parameters of a TorchMD-Net checkpoint."""
    return dict(read_checkpoint(path)["hyper_parameters"])


def load_weights(module: Any, path: Path) -> None:
    """Load the weights of a checkpoint into an LNNP.

    Raises
    ------
    TrainingError
        The checkpoint has another architecture.
    """
    state = read_checkpoint(path)["state_dict"]
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise TrainingError(
            f"the weights of {path} do not fit the model described by hparams; "
            f"keep model, sizes and priors, or train from scratch: {error}"
        ) from error


def write_hparams(path: Path, hparams: Mapping[str, Any]) -> None:
    """Write the ``hparams.yaml`` that ``cgal-train --load-model`` reads next to a checkpoint."""
    import yaml

    with atomic_write(path, "w") as handle:
        yaml.safe_dump(dict(hparams), handle)

"""Prepare a training: data set, split, priors, weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import CGALWarning, ConfigError, TrainingError
from cgal_plugin.provenance import atomic_write, hash_array, hash_object

if TYPE_CHECKING:
    from torch import nn

    from cgal_plugin.data.sources import FrameTable
    from cgal_plugin.mapping.topology import CGTopology


@dataclass(frozen=True, eq=False)
class Prepared:
    """Complete hyper-parameters, data set (None: TorchMD-Net loads it), and a hash of data and split."""

    hparams: dict[str, Any]
    dataset: Any
    data_hash: str


def prepare(
    values: dict[str, Any],
    out_dir: Path,
    init: Path | None,
    replay_weight: float | None,
    newest: Sequence[str] | None,
    seed: int,
    frames: FrameTable | None = None,
) -> Prepared:
    """Load and split the data set; ``frames`` are its frames, if they are in memory.

    Raises
    ------
    ConfigError
        Mode ``replay`` with a data set that cannot repeat frames, or ``dataset_arg`` is not a mapping.
    DataError
        The data set cannot be read or split.
    """
    import numpy as np

    hparams = dict(values)
    if hparams["dataset"] != "CGDataset":
        if replay_weight is not None:
            raise ConfigError(f"mode 'replay' needs dataset CGDataset, not {hparams['dataset']!r}")
        return Prepared(hparams, None, hash_object([hparams["dataset"], hparams["dataset_arg"]]))
    from cgal_plugin.data.dataset import CGDataset
    from cgal_plugin.data.splits import block_splits
    from cgal_plugin.training.settings import dataset_options

    argument = dataset_options(hparams["dataset_arg"])
    if replay_weight is not None:
        argument["repeat"] = _replay(hparams["dataset_root"], argument, replay_weight, newest)
        hparams["dataset_arg"] = argument
    dataset = CGDataset(hparams["dataset_root"], table=frames, **argument)
    if hparams["splits"] is None:
        path = out_dir / "splits.npz"
        fractions = {
            f"{side}_fraction": _fraction(hparams[f"{side}_size"], dataset.n_frames, f"{side}_size")
            for side in ("val", "test")
        }
        block_splits(dataset, path, seed=seed, **fractions)
        hparams["splits"] = str(path)
    if not Path(hparams["splits"]).is_file():
        raise ConfigError(f"splits: {hparams['splits']!r} does not exist")
    with np.load(hparams["splits"]) as split:
        sides = {name: split[name] for name in ("idx_train", "idx_val", "idx_test")}
    for name in ("idx_train", "idx_val"):
        if len(sides[name]) == 0:
            raise TrainingError(
                f"{hparams['splits']}: {name} is empty; set val_size to a fraction such as 0.1"
            )
        if sides[name].max() >= len(dataset):
            raise TrainingError(
                f"{hparams['splits']}: the largest index in {name} is {sides[name].max()}, but the data set "
                f"has {len(dataset)} items"
            )
    return Prepared(hparams, dataset, hash_object([dataset.fingerprint, hash_array(*sides.values())]))


def _fraction(size: Any, n: int, key: str) -> float:
    if size is None:
        raise ConfigError(f"{key} is missing; give a fraction such as 0.1 or a number of frames")
    return float(size) if isinstance(size, float) or size == 0 else size / n


def _replay(
    root: str, argument: Mapping[str, Any], weight: float, newest: Sequence[str] | None
) -> dict[str, float]:
    repeat = argument.get("repeat") or {}
    if repeat == "error":
        from cgal_plugin.data.dataset import CGDataset

        repeat = CGDataset(root, **argument).table.weights
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
    TrainingError
        The checkpoint has other priors.
    """
    from torchmdnet.models.model import create_prior_models

    hparams = dict(prepared.hparams)
    if checkpoint is not None:
        theirs = read_hparams(checkpoint)
        if _prior_names(theirs) != _prior_names(hparams):
            raise TrainingError(
                f"{checkpoint} has priors {_prior_names(theirs)}, prior_model has "
                f"{_prior_names(hparams)}; priors are frozen: keep them, or train from scratch"
            )
        if frozen and _has_arguments(hparams):
            ours = [p.get_init_args() for p in create_prior_models(dict(hparams), prepared.dataset)]
            if hash_object(ours) != hash_object(theirs.get("prior_args") or []):
                raise TrainingError(
                    f"{checkpoint} was trained with prior parameters that differ from those of prior_model; "
                    "priors are frozen: keep them, or train from scratch"
                )
        hparams["prior_args"] = theirs.get("prior_args")
    priors = create_prior_models(dict(hparams), prepared.dataset)
    _check_bridges(priors, getattr(prepared.dataset, "topology", None))
    hparams["prior_args"] = [p.get_init_args() for p in priors]
    return hparams, priors


def _check_bridges(priors: Sequence[nn.Module], topology: CGTopology | None) -> None:
    """Warn if the molecule has disulfide bridges, and the priors have bonds but no bridges."""
    names = {type(prior).__name__ for prior in priors}
    if (
        topology is not None
        and len(topology.bridge_index)
        and "CGBonds" in names
        and "CGBridges" not in names
    ):
        warnings.warn(
            f"{topology!r} has disulfide bridges, and prior_model has CGBonds "
            "but no CGBridges: nothing but the network holds the bridges; add CGBridges to prior_model",
            CGALWarning,
            stacklevel=2,
        )


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

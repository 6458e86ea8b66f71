"""Convert weights of TorchMD-Net's graph-network and of mlcg's SchNet to CGSchNet."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import ConfigError
from cgal_plugin.models.build import MODEL_DEFAULTS, build_model
from cgal_plugin.models.state_dicts import (
    State,
    activation_name,
    output_layers,
    require,
    search,
    sizes,
    unpack,
)
from cgal_plugin.units import MODEL_UNITS

if TYPE_CHECKING:
    from torchmdnet.models.model import TorchMD_Net

    from cgal_plugin.mapping.embedding import Embedding

# ---------------------------------------------------------------------- TorchMD-Net


def from_torchmdnet_gn(
    state_dict: State | str | os.PathLike[str],
    hparams: Mapping[str, Any] | None = None,
    *,
    trust: bool = False,
) -> TorchMD_Net:
    """Return a CGSchNet with the weights of a TorchMD-Net ``graph-network`` and the same energies and forces.

    Parameters
    ----------
    state_dict
        State dict of the ``TorchMD_Net`` or of Lightning's LNNP (names start with ``model.``), or a whole
        checkpoint or its file, which also contains hyper-parameters.
    hparams
        TorchMD-Net's hyper-parameters; they take precedence over those of the checkpoint. Sizes and
        ``rbf_type`` are read from the weights. ``cutoff_upper`` and ``activation`` are required;
        ``cutoff_lower`` is 0 by default. Priors are kept.
    trust
        Unpickle a file without restriction, which can run any code it contains.

    Returns
    -------
    TorchMD_Net
        With the dtype of the weights; ``cgal_hparams`` are its hyper-parameters.

    Raises
    ------
    ConfigError
        The weights are not those of a graph-network, or a required value is missing.
    """
    state, known = unpack(state_dict, hparams, trust)
    state = {re.sub(r"^model\.", "", k): v for k, v in state.items()}
    # TorchMD-Net before 2.0 had the output layers one level up
    old = r"^output_model\.output_network\.(\d+)\.(weight|bias)$"
    state = {re.sub(old, r"output_model.output_network.layers.\1.\2", k): v for k, v in state.items()}
    kind = known.get("model", "graph-network")
    if kind != "graph-network" or "representation_model.interactions.0.conv.lin1.weight" not in state:
        raise ConfigError(f"the weights are not those of a graph-network (model: {kind!r})")
    require(known, "cutoff_upper", "activation")
    body = "representation_model."
    trainable = known.get("trainable_rbf", False)
    args = {
        **MODEL_DEFAULTS,
        **known,
        **sizes(state, body + "embedding.weight", body + "interactions.{}.mlp.0.weight"),
        "rbf_type": "expnorm" if body + "distance_expansion.means" in state else "gauss",
        "trainable_rbf": trainable,
        "neighbor_embedding": body + "neighbor_embedding.embedding.weight" in state,
        "activation": activation_name(known["activation"]),
        "cgschnet": {
            "form": "majewski",
            "num_filters": state[body + "interactions.0.mlp.0.weight"].shape[0],
            **output_layers(state, "output_model.output_network.layers"),
        },
    }
    new = {
        k.replace(".conv.", "."): v
        for k, v in state.items()
        # a second name of the filter
        if ".conv.net." not in k
    }
    new.setdefault(body + "distance.box", state[body + "embedding.weight"].new_zeros(3, 3))
    for name, value in (("mean", 0.0), ("std", 1.0)):
        new.setdefault(name, state[body + "embedding.weight"].new_tensor(value))
    return _load(args, new)


# ---------------------------------------------------------------------- mlcg


def from_mlcg(
    state_dict: State | str | os.PathLike[str],
    hparams: Mapping[str, Any] | None = None,
    *,
    trust: bool = False,
) -> TorchMD_Net:
    """Return a CGSchNet with the weights of an ``mlcg`` StandardSchNet and the same energies and forces.

    Parameters
    ----------
    state_dict
        State dict of the SchNet or of a full model (names start with ``models.SchNet.model.`` or similar),
        or a file or mapping with the key ``state_dict``. Other parts of a full model, such as priors, are
        omitted with a warning.
    hparams
        Values that are not in the weights: ``cutoff_upper`` (Å) and ``activation`` (a name such as
        ``tanh``, ``torch.nn.Tanh``, or a module) are required; ``cutoff_lower`` (default 0) and ``alpha``
        (default 5/(upper − lower)) are optional. Nested mappings are searched, so the ``model`` section of
        an mlcg configuration can be passed directly. ``reduce_op``, ``aggr``, ``trainable_rbf`` and
        ``derivative`` of TorchMD-Net are used if present.
    trust
        Unpickle a file without restriction, which can run any code it contains. Needed for a saved mlcg
        module.

    Returns
    -------
    TorchMD_Net
        With the dtype of the weights; ``cgal_hparams`` are its hyper-parameters.

    Raises
    ------
    ConfigError
        The weights are not those of a SchNet, or a required value is missing.
    """
    state, known = unpack(state_dict, hparams, trust)
    prefix = _mlcg_prefix(state)
    left = sorted(k for k in state if not k.startswith(prefix))
    if left:
        warnings.warn(
            f"only {prefix}* is converted; {len(left)} other entries ({', '.join(left[:3])}, ...) "
            "and their energies are omitted",
            UserWarning,
            stacklevel=2,
        )
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    found = search(known)
    require(found, "cutoff_upper", "activation")
    lower = float(found.get("cutoff_lower", 0.0))
    upper = float(found["cutoff_upper"])
    alpha = found.get("alpha")
    if alpha is not None and abs(float(alpha) * (upper - lower) - 5.0) > 1e-6:
        raise ConfigError(
            f"alpha is {alpha}; CGSchNet uses 5/(cutoff_upper - cutoff_lower) = {5 / (upper - lower)}"
        )
    new = _mlcg_names(state)
    body = "representation_model."
    carried = ("reduce_op", "aggr", "trainable_rbf", "derivative", "max_num_neighbors")
    args = {
        **MODEL_DEFAULTS,
        **{k: found[k] for k in carried if k in found},
        **sizes(new, body + "embedding.weight", body + "interactions.{}.mlp.0.weight"),
        "rbf_type": "expnorm" if body + "distance_expansion.means" in new else "gauss",
        "activation": activation_name(found["activation"]),
        "cutoff_lower": lower,
        "cutoff_upper": upper,
        "cgschnet": {
            "form": "mlcg",
            "num_filters": new[body + "interactions.0.mlp.0.weight"].shape[0],
            **output_layers(new, "output_model.output_network.layers"),
        },
    }
    first = new[body + "embedding.weight"]
    new |= {
        body + "distance.box": first.new_zeros(3, 3),
        "mean": first.new_zeros(()),
        "std": first.new_ones(()),
    }
    return _load(args, new)


_MLCG_NAMES = (
    (r"embedding_layer\.weight", "representation_model.embedding.weight"),
    (r"rbf_layer\.(means|betas|offset|coeff)", r"representation_model.distance_expansion.\1"),
    (
        r"interaction_blocks\.(\d+)\.conv\.filter_network\.layers\.([02])\.(weight|bias)",
        r"representation_model.interactions.\1.mlp.\2.\3",
    ),
    (
        r"interaction_blocks\.(\d+)\.conv\.(lin[12])\.(weight|bias)",
        r"representation_model.interactions.\1.\2.\3",
    ),
    (r"interaction_blocks\.(\d+)\.lin\.(weight|bias)", r"representation_model.interactions.\1.lin.\2"),
    (r"output_network\.layers\.(\d+)\.(weight|bias)", r"output_model.output_network.layers.\1.\2"),
)


def _mlcg_prefix(state: State) -> str:
    ends = [k.removesuffix("embedding_layer.weight") for k in state if k.endswith("embedding_layer.weight")]
    if len(ends) != 1:
        raise ConfigError(f"the weights have {len(ends)} entries embedding_layer.weight; a SchNet has one")
    return ends[0]


def _mlcg_names(state: State) -> dict[str, Any]:
    new, unknown = {}, []
    for key, value in state.items():
        for pattern, replacement in _MLCG_NAMES:
            if re.fullmatch(pattern, key):
                new[re.sub(pattern, replacement, key)] = value
                break
        else:
            if not re.fullmatch(r"(rbf_layer\.)?(cutoff|.*\.cutoff)\..*", key):
                unknown.append(key)
    if unknown:
        raise ConfigError(f"the weights have entries that are not in a StandardSchNet: {sorted(unknown)[:5]}")
    if "representation_model.interactions.0.mlp.0.weight" not in new:
        raise ConfigError(
            "the weights have no interaction_blocks.0.conv.filter_network: not a StandardSchNet"
        )
    return new


# ---------------------------------------------------------------------- shared


def save_checkpoint(
    model: TorchMD_Net,
    path: str | os.PathLike[str],
    *,
    embedding: str | Mapping[str, Any] | Embedding,
    facts: Mapping[str, Any] | None = None,
    **hparams: Any,
) -> None:
    """Write a converted model as a checkpoint for TorchMD-Net's ``load_model`` (after ``register()``).

    Parameters
    ----------
    model
        Model from a function of this module.
    path
        File to write.
    embedding
        How its bead types are numbered: a name such as ``"mlcg-tk"``, or a table (``resolve_embedding``).
    facts
        Provenance to record under the key ``cgal_plugin``.
    **hparams
        Hyper-parameters to add or replace; ``temperature`` (K) is kept for the export.

    Raises
    ------
    ConfigError
        The model is not from a function of this module.
    MappingError
        The embedding is not known.
    """
    import torch

    from cgal_plugin.mapping.embedding import resolve_embedding
    from cgal_plugin.provenance import atomic_write, versions

    known = getattr(model, "cgal_hparams", None)
    if known is None:
        raise ConfigError("only models from from_torchmdnet_gn or from_mlcg can be saved by this function")
    own = {"embedding": resolve_embedding(embedding).name}
    content = {
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
        "hyper_parameters": {**known, **own, **hparams},
        "cgal_plugin": {
            "versions": versions(),
            "mode": "converted",
            "units": dict(MODEL_UNITS),
            **own,
            **(facts or {}),
        },
    }
    with atomic_write(path) as handle:
        torch.save(content, handle)


def _load(args: dict[str, Any], state: dict[str, Any]) -> TorchMD_Net:
    from cgal_plugin import register

    if args.get("prior_model"):
        register()
    model = build_model(args)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ConfigError(
            f"the weights do not fit the model described by them and hparams: {error}"
        ) from error
    # for save_checkpoint
    model.cgal_hparams = args
    return model

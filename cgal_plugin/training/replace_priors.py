"""Replace the priors of a checkpoint; the network stays as trained."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cgal_plugin.errors import TrainingError
from cgal_plugin.provenance import atomic_path, hash_file

if TYPE_CHECKING:
    from cgal_plugin.priors import PriorSet


def replace_priors(
    checkpoint: str | os.PathLike[str], priors: PriorSet, path: str | os.PathLike[str]
) -> None:
    """Write a copy of a TorchMD-Net checkpoint with ``priors`` instead of the original ones.

    The parameters of priors are in the hyper-parameters of a checkpoint, not in its state dict.

    Raises
    ------
    TrainingError
        ``checkpoint`` is damaged, or is not a checkpoint of a model with these prior terms.
    """
    import torch

    from cgal_plugin.models.torch_files import read_torch

    content = read_torch(checkpoint, error=TrainingError)
    before = content.get("hyper_parameters", {}).get("prior_model") or []
    model = priors.to_prior_model()
    names = [[next(iter(p)) if isinstance(p, dict) else str(p) for p in some] for some in (before, model)]
    if sorted(names[0]) != sorted(names[1]):
        raise TrainingError(
            f"{checkpoint} has the priors {', '.join(names[0]) or 'none'}; they cannot be replaced by "
            f"{', '.join(names[1])}"
        )
    arguments = [next(iter(p.values())) for p in model]
    content["hyper_parameters"] |= {"prior_model": model, "prior_args": arguments}
    facts = {"priors_replaced": {"checkpoint": hash_file(checkpoint), "priors": priors.hash}}
    content["cgal_plugin"] = {**(content.get("cgal_plugin") or {}), **facts}
    atomic_path(path, lambda name: torch.save(content, name))

"""TorchMD-Net's LNNP with the gradient of a batch computed in chunks, on one or more processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchmdnet.module import LNNP

from cgal_plugin.data.dataset import CGDataset
from cgal_plugin.execution.resources import Auto, resolve_threads
from cgal_plugin.models.network import CGNet
from cgal_plugin.priors.base import CGPrior
from cgal_plugin.training.chunks import Gradient, Loss, n_chunks, split, total_gradient
from cgal_plugin.training.helpers import Helpers

if TYPE_CHECKING:
    from torch import nn

#: losses that are means over components, so that they are weighted sums over chunks
_MEANS = ("mse_loss", "l1_loss", "huber_loss")
#: frames for which the forces of the priors are computed at a time
_AT_ONCE = 1024
_PLAIN = ("32", "64", "32-true", "64-true")


class ChunkedLNNP(LNNP):  # type: ignore[misc]  # torchmdnet has no types
    """LNNP whose training step divides a batch, on a CPU; losses and gradients are those of LNNP to rounding.

    Attributes
    ----------
    chunks
        Number of chunks of a batch; 1: the step of LNNP.
    helpers
        Processes that compute some of the chunks.
    """

    chunks = 1
    helpers: Helpers
    _gradient: Gradient | None = None

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters, in the order of the gradients."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def chunk_loss(self) -> Loss:
        """Loss of a chunk."""
        alpha = float(self.hparams.ema_alpha_neg_dy)
        scale = float(self.hparams.neg_dy_weight) * (alpha if 0 < alpha < 1 else 1.0)
        return Loss(self.hparams.train_loss, dict(self.hparams.train_loss_arg or {}), scale)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch; :meth:`backward` sets the gradient that was computed with it."""
        self._gradient = None
        if self.chunks == 1 or self.device.type != "cpu":
            loss: Tensor = super().training_step(batch, batch_idx)
            return loss
        parts = split(self.data_transform(batch), self.chunks)
        found = self.helpers.gradients(self.model, self.trained, parts, self.chunk_loss)
        self._gradient = total_gradient(found)
        return self._recorded(self._gradient.loss)

    def _recorded(self, forces: Tensor) -> Tensor:
        """Record the losses as LNNP does, and return the total."""
        name, weights = self.hparams.train_loss, self.hparams
        forces = self._update_loss_with_ema("train", "neg_dy", name, forces)
        energies = torch.zeros_like(forces)  # a CGDataset has no energies
        total: Tensor = forces * weights.neg_dy_weight
        values = {"neg_dy": (forces, weights.neg_dy_weight), "y": (energies, weights.y_weight)}
        for kind, (value, weight) in values.items():
            if weight > 0:
                self.losses["train"][kind][name].append(value)
        self.losses["train"]["total"][name].append(total)
        return total

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Set the gradients."""
        if self._gradient is None:
            super().backward(loss, *args, **kwargs)
            return
        for parameter, gradient in zip(self.trained, self._gradient.parts, strict=True):
            parameter.grad = gradient
        self._gradient = None


@contextlib.contextmanager
def divided(
    module: ChunkedLNNP, hparams: Mapping[str, Any], dataset: Any, cores: int | Auto | None
) -> Iterator[None]:
    """Prepare a module for a training: number of chunks, forces of the priors, helper processes.

    Parameters
    ----------
    cores
        Cores to use. None: one process, with the threads that torch has.
    """
    module.chunks = _chunks(module, hparams, dataset)
    module.helpers = Helpers(0)
    threads = torch.get_num_threads()
    if module.chunks > 1 and _priors_are_ours(module.model):
        dataset.keep_prior_forces(prior_forces(module.model, dataset))
    n = 1 if cores is None else resolve_threads(cores, module.chunks)
    try:
        if cores is not None and not torch.cuda.is_available():
            torch.set_num_threads(1)
            module.helpers = Helpers(min(n, module.chunks) - 1)
            module.helpers.set_up(module.model, module.chunk_loss)
        yield
    except BaseException:
        module.helpers.end()
        raise
    finally:
        module.helpers.close()
        torch.set_num_threads(threads)


def _chunks(module: ChunkedLNNP, hparams: Mapping[str, Any], dataset: Any) -> int:
    """Return the number of chunks, which does not depend on the machine."""
    means = hparams["train_loss"] in _MEANS and "reduction" not in (hparams["train_loss_arg"] or {})
    if (
        not means
        or not isinstance(dataset, CGDataset)
        or not hparams["derivative"]
        or str(hparams["precision"]) not in _PLAIN
        or hparams["remove_ref_energy"]
    ):
        return 1
    sizes = np.array([topology.n_beads for topology in dataset.topologies])
    n_beads = float(sizes[dataset.molecule].mean())
    return n_chunks(int(hparams["batch_size"]), n_beads, int(hparams["embedding_dimension"]))


def _priors_are_ours(model: Any) -> bool:
    """Return whether the priors are constant: without trained parameters, and functions of the positions."""
    if not isinstance(model, CGNet) or not model.can_be_fast():
        return False
    priors = list(model.prior_model or ())
    return all(isinstance(p, CGPrior) and not any(True for _ in p.parameters()) for p in priors)


def prior_forces(model: CGNet, dataset: CGDataset) -> Iterator[Tensor]:
    """Yield the forces of the priors on all beads of a data set in order, ``(n, 3)`` kcal/mol/Å each.

    They do not change in a training, and would take a quarter of its time.
    """
    dtype = model.std.dtype
    for first in range(0, dataset.n_frames, _AT_ONCE):
        batch = dataset.frames_as_batch(torch.arange(first, min(first + _AT_ONCE, dataset.n_frames)))
        tables = {k: v for k, v in batch.to_dict().items() if k.endswith("_index")}
        yield model.prior_forces(batch.z, batch.pos.to(dtype), batch.batch, tables)

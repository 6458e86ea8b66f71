"""Selection of the frames for which a committee of models predicts different forces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import SelectionError
from cgal_plugin.selector.k_centre import k_centre
from cgal_plugin.selector.strategies import BaseSelector

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    ForceFunction = Callable[[NDArray[np.floating]], ArrayLike]

_REDUCTIONS = ("max", "mean")


class CommitteeSelector(BaseSelector):
    """Select the candidates for which the forces of the committee members differ most.

    The score of a frame is the standard deviation over the members of the force on a bead,
    sqrt(mean_m |F_m - mean_m F_m|²), and its maximum or mean over the beads (kcal/mol/Å); the
    model-deviation criterion of Zhang et al., Phys. Rev. Materials 3, 023804 (2019), eq. 1.

    Parameters
    ----------
    n_select
        Maximum number of frames to select.
    models
        At least two models: callables that map frames ``(n, beads, 3)`` Å to forces
        ``(n, beads, 3)`` kcal/mol/Å, or TorchMD-Net models, or one TorchMD-Net ``Ensemble``.
    types
        ``(beads,)`` integer bead types (``CGTopology.types``), needed for TorchMD-Net models.
    reduce
        ``"max"`` or ``"mean"`` over the beads.
    diverse
        Select by greedy k-centre in RMSD among the ``pool * n_select`` frames with the highest scores,
        starting from the highest: neighbours in a trajectory have similar scores.
    pool
        Size of the pool in units of ``n_select``.
    batch_size
        Frames per call of a member.
    min_rmsd, max_rmsd, seed, unit, n_threads
        As in :class:`~cgal_plugin.selector.strategies.RMSDSelector`; a reference is needed
        only for the cuts. The selection is deterministic.

    Raises
    ------
    SelectionError
        A parameter is out of its range, there are fewer than two members, or they are for different
        temperatures.
    """

    def __init__(
        self,
        n_select: int,
        models: Iterable[Any],
        *,
        types: ArrayLike | None = None,
        reduce: str = "max",
        diverse: bool = False,
        pool: int = 5,
        batch_size: int = 256,
        min_rmsd: float = 0.0,
        max_rmsd: float = np.inf,
        seed: int = 0,
        unit: str = "angstrom",
        n_threads: int | None = None,
    ) -> None:
        super().__init__(
            n_select, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed, unit=unit, n_threads=n_threads
        )
        # an Ensemble is a ModuleList, which iterates over its members
        self.models = list(models)
        if len(self.models) < 2:
            raise SelectionError(f"a committee of {len(self.models)} is too small; use two or more models")
        if reduce not in _REDUCTIONS:
            raise SelectionError(f"reduce is {reduce!r}; expected one of {_REDUCTIONS}")
        for name, value in (("batch_size", batch_size), ("pool", pool)):
            if value < 1:
                raise SelectionError(f"{name} is {value!r}; expected a positive integer")
        temperatures = {t for m in self.models if (t := getattr(m, "cgal_temperature", None)) is not None}
        if len(temperatures) > 1:
            found = ", ".join(f"{t:g}" for t in sorted(temperatures))
            raise SelectionError(
                f"the members of the committee are for {found} K: "
                "a potential of mean force belongs to one temperature; train them on the same data"
            )
        self.types = None if types is None else np.asarray(types, dtype=np.int64)
        self.reduce = reduce
        self.diverse = bool(diverse)
        self.pool = int(pool)
        self.batch_size = int(batch_size)
        self._members = [force_function(model, self.types) for model in self.models]

    def __repr__(self) -> str:
        count = len(self.models)
        return f"{type(self).__name__}(n_select={self.n_select}, {count} models, reduce={self.reduce!r})"

    def scores(self, candidates: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the force disagreement (n,), kcal/mol/Å, of frames ``(n, beads, 3)`` Å.

        Raises
        ------
        SelectionError
            A member returns forces of another shape, or forces that are not finite.
        """
        scores = np.empty(len(candidates))
        for lo in range(0, len(candidates), self.batch_size):
            frames = candidates[lo : lo + self.batch_size]
            forces = np.stack([self._forces(k, frames, lo) for k in range(len(self._members))])
            spread = np.sqrt(np.square(forces - forces.mean(axis=0)).sum(axis=-1).mean(axis=0))
            scores[lo : lo + len(frames)] = getattr(spread, self.reduce)(axis=1)
        return scores

    def _forces(self, member: int, frames: NDArray[np.floating], first: int) -> NDArray[np.float64]:
        # a copy: a member may modify its argument
        forces = np.asarray(self._members[member](frames.copy()), dtype=np.float64)
        if forces.shape != frames.shape:
            raise SelectionError(
                f"committee member {member} returned forces of shape {forces.shape}"
                f" for frames of shape {frames.shape}"
            )
        sound = np.isfinite(forces).all(axis=(1, 2))
        if not sound.all():
            raise SelectionError(
                f"committee member {member} returned forces that are not finite for candidate"
                f" {first + int(np.argmin(sound))}; set max_rmsd to drop unphysical frames or omit the member"
            )
        return forces

    def _choose(
        self, candidates: NDArray[np.floating], eligible: NDArray[np.int64], distances: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        scores = np.full(len(candidates), np.nan)
        scores[eligible] = self.scores(candidates[eligible])
        ranked = eligible[np.argsort(-scores[eligible], kind="stable")]
        if not self.diverse:
            return ranked[: self.n_select], scores
        pool = ranked[: self.pool * self.n_select]
        return pool[k_centre(candidates[pool], self.n_select)[0]], scores


def force_function(model: Any, types: NDArray[np.int64] | None) -> ForceFunction:
    """Return a function from frames ``(n, beads, 3)`` Å to the forces of a model, kcal/mol/Å.

    Parameters
    ----------
    model
        A TorchMD-Net model, or a function of frames, which is returned unchanged.
    types
        ``(beads,)`` bead types, which TorchMD-Net models need.

    Raises
    ------
    SelectionError
        The model is neither, or ``types`` is missing.
    """
    # only TorchMD-Net models have an attribute representation_model
    if not hasattr(model, "representation_model"):
        if not callable(model):
            raise SelectionError(
                f"{type(model).__name__} is neither a force function nor a TorchMD-Net model"
            )
        function: ForceFunction = model
        return function
    if types is None:
        raise SelectionError("TorchMD-Net models need the bead types: give types=topology.types")

    def forces(frames: NDArray[np.floating]) -> NDArray[np.floating]:
        import torch

        n, beads, _ = frames.shape
        if beads != len(types):
            raise SelectionError(f"candidates have {beads} beads, types has {len(types)}")
        parameter = next(model.parameters())
        device, dtype = parameter.device, parameter.dtype
        z = torch.as_tensor(np.tile(types, n), device=device)
        batch = torch.arange(n, device=device).repeat_interleave(beads)
        pos = torch.as_tensor(frames.reshape(-1, 3), device=device, dtype=dtype)
        training = model.training
        model.eval()
        try:
            # also inside torch.no_grad() or torch.inference_mode(): forces are a gradient
            with torch.inference_mode(False), torch.enable_grad():
                _, negative_gradient = model(z.clone(), pos.clone(), batch.clone())
        finally:
            model.train(training)
        if negative_gradient is None:
            raise SelectionError("a TorchMD-Net model gave no forces; build it with derivative: true")
        result: NDArray[np.floating] = negative_gradient.detach().cpu().numpy().reshape(n, beads, 3)
        return result

    return forces

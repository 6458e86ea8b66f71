"""Base class of the selectors, selection by nearest RMSD, and random selection.

Estimators in the style of scikit-learn: parameters are attributes of the same name, ``fit`` returns the
selector, ``select`` does not change the candidates.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cgal_plugin.errors import NothingToSelect, SelectionError
from cgal_plugin.provenance import hash_array
from cgal_plugin.selector.frame_sets import as_frames, blocks, sources, unit_of
from cgal_plugin.selector.k_centre import k_centre
from cgal_plugin.selector.rmsd import update_nearest, usable_threads
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cgal_plugin.selector.frame_sets import FrameSet, Reference, Source

#: number of frames checked at a time
_CHECKED = 65536


@dataclass(frozen=True)
class Selection:
    """Result of a selector.

    Attributes
    ----------
    indices
        ``(k,)`` int64 into the candidates, in order of selection.
    distances
        ``(k,)`` Å, nearest RMSD of each selected frame to the reference (NaN without a reference).
    all_distances
        ``(n,)`` Å, the same for each candidate.
    scores
        ``(n,)`` ranking criterion of the strategy, or None if the criterion is the distance.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]
    all_distances: NDArray[np.float64]
    scores: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class _Part:
    """Reference frames that were added together; files are not held in memory."""

    sources: list[Source]
    n_frames: int
    n_beads: int


class BaseSelector:
    """Reference frames, distances to them, and cuts.

    A strategy overrides ``_choose(candidates, eligible, distances) -> (indices, scores or None)``. The
    parameters are those of :class:`RMSDSelector` without ``diverse``.

    Raises
    ------
    SelectionError
        A parameter is out of its range.
    """

    def __init__(
        self,
        n_select: int,
        *,
        min_rmsd: float = 0.0,
        max_rmsd: float = np.inf,
        seed: int = 0,
        unit: str = "angstrom",
        n_threads: int | None = None,
    ) -> None:
        if isinstance(n_select, bool) or not isinstance(n_select, (int, np.integer)) or n_select < 1:
            raise SelectionError(f"n_select is {n_select!r}; expected a positive integer")
        if not 0.0 <= min_rmsd < max_rmsd:
            raise SelectionError(f"min_rmsd={min_rmsd!r}, max_rmsd={max_rmsd!r}; expected 0 <= min < max")
        self.n_select = int(n_select)
        self.min_rmsd = float(min_rmsd)
        self.max_rmsd = float(max_rmsd)
        self.seed = seed
        self.unit = unit
        self.n_threads = n_threads
        self._reference: list[_Part] = []
        self._cache: tuple[str, int, NDArray[np.float64]] | None = None

    def __repr__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if not k.startswith("_") and not k.endswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    @property
    def n_reference(self) -> int:
        """Number of reference frames."""
        return sum(part.n_frames for part in self._reference)

    def fit(self, reference: Reference) -> Self:
        """Set the reference: frames ``(m, beads, 3)`` that are already labelled.

        Parameters
        ----------
        reference
            As in :func:`~cgal_plugin.selector.rmsd.nearest_rmsd`: an array, a trajectory, files, a data
            store, or several of these. Memory maps and files are read twice: here, to check them, and to
            select. The items of an iterator are kept.

        Raises
        ------
        SelectionError
            The frames are malformed, empty or not finite.
        DataError
            A file is missing, damaged or cannot be read.
        """
        self._reference, self._cache = [self._checked(reference, "reference")], None
        return self

    def partial_fit(self, new_frames: Reference) -> Self:
        """Add reference frames. Distances of the last candidates are updated, not recomputed.

        Parameters
        ----------
        new_frames
            As in :meth:`fit`.

        Raises
        ------
        SelectionError
            The frames are malformed or have another number of beads than the reference.
        DataError
            A file is missing, damaged or cannot be read.
        """
        added = self._checked(new_frames, "new reference frames")
        if self._reference and self._reference[0].n_beads != added.n_beads:
            raise SelectionError(
                f"new reference frames have {added.n_beads} beads,"
                f" the reference has {self._reference[0].n_beads}"
            )
        self._reference.append(added)
        return self

    def distances(self, candidates: FrameSet) -> NDArray[np.float64]:
        """Return the nearest RMSD (n,) of the candidates to the reference, Å; NaN without a reference.

        Raises
        ------
        SelectionError, DataError, UnitError
            See :func:`~cgal_plugin.selector.rmsd.nearest_rmsd`; or the number of frames in a file has changed
            since it was added.
        """
        array = as_frames(candidates, "candidates")
        if not self._reference:
            return np.full(len(array), np.nan)
        unit = unit_of(candidates, self.unit)
        key = hash_array(array)
        done, best = 0, np.full(len(array), np.inf)
        if self._cache is not None and self._cache[0] == key + unit:
            done, best = self._cache[1], self._cache[2].copy()
        parts = self._reference[done:]
        if parts:
            threads, nearest = usable_threads(self.n_threads), np.zeros(len(array), dtype=np.int64)
            # in one call, so that small parts share a block of the search
            new = itertools.chain.from_iterable(part.sources for part in parts)
            count = update_nearest((array, unit), new, best, nearest, threads)
            expected = sum(part.n_frames for part in parts)
            if count != expected:
                raise SelectionError(
                    f"the reference on disk has {count} frames, {expected} when it was added; fit again"
                )
        self._cache = (key + unit, len(self._reference), best)
        return best.copy()

    def select(self, candidates: FrameSet) -> Selection:
        """Select up to ``n_select`` of the candidates ``(n, beads, 3)``.

        The result has fewer frames if fewer candidates are between the cuts.

        Raises
        ------
        NothingToSelect
            No candidate is between the cuts, and some are nearer to the reference than ``min_rmsd``.
        SelectionError
            All are beyond ``max_rmsd``; a cut or the strategy needs a reference; or candidates are malformed.
        """
        array = self._check_candidates(candidates)
        if not self._reference and self._uses_distances:
            raise SelectionError(f"{type(self).__name__} needs reference frames: call fit(reference) first")
        return self._select(array, unit_of(candidates, self.unit), self.distances(candidates))

    def select_with(self, candidates: FrameSet, distances: ArrayLike) -> Selection:
        """Select as :meth:`select` does, with known nearest RMSDs; :meth:`fit` is not needed.

        Parameters
        ----------
        candidates
            As in :meth:`select`.
        distances
            ``(n,)`` Å, the nearest RMSD of each candidate to the reference. All NaN: there is no reference.

        Raises
        ------
        SelectionError
            See :meth:`select`; or ``distances`` has another shape, or a value that is NaN or negative.
        """
        array = self._check_candidates(candidates)
        nearest = np.array(distances, dtype=np.float64)
        if nearest.shape != (len(array),):
            raise SelectionError(f"distances have shape {nearest.shape}; expected ({len(array)},)")
        unknown = bool(np.isnan(nearest).all()) and not self._uses_distances
        if not unknown and not (nearest >= 0.0).all():
            raise SelectionError("distances have values that are NaN or negative")
        return self._select(array, unit_of(candidates, self.unit), nearest)

    @property
    def _uses_distances(self) -> bool:
        return self._needs_reference or self.min_rmsd > 0.0 or bool(np.isfinite(self.max_rmsd))

    def _check_candidates(self, candidates: FrameSet) -> NDArray[Any]:
        array = as_frames(candidates, "candidates")
        for _ in blocks([(array, unit_of(candidates, self.unit))], _CHECKED, "candidates"):
            pass
        if self._reference and self._reference[0].n_beads != array.shape[1]:
            raise SelectionError(
                f"candidates have {array.shape[1]} beads and the reference has {self._reference[0].n_beads};"
                " they must be the same molecule in the same mapping"
            )
        return array

    def _select(self, array: NDArray[Any], unit: str, distances: NDArray[np.float64]) -> Selection:
        eligible = np.arange(len(array))
        if self._uses_distances:
            eligible = np.flatnonzero((distances >= self.min_rmsd) & (distances <= self.max_rmsd))
        if len(eligible) == 0:
            below, above = (int(n.sum()) for n in (distances < self.min_rmsd, distances > self.max_rmsd))
            text = (
                f"no frame selected: the nearest RMSDs of {len(array)} candidates to the reference are"
                f" {distances.min():.4g} to {distances.max():.4g} Å, the cuts are"
                f" min_rmsd={self.min_rmsd:g} and max_rmsd={self.max_rmsd:g} Å"
                f" ({below} frames are below, {above} above)"
            )
            if below == 0:
                raise SelectionError(f"{text}; widen the cuts or simulate longer")
            raise NothingToSelect(f"{text}: {'all' if above == 0 else 'those within max_rmsd'} are covered")
        indices, scores = self._choose(as_angstrom(array, unit), eligible, distances)
        return Selection(indices, distances[indices], distances, scores)

    _needs_reference = False

    def _choose(
        self, candidates: NDArray[np.floating], eligible: NDArray[np.int64], distances: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        raise NotImplementedError

    def _checked(self, frames: Reference, what: str) -> _Part:
        parts = list(sources(frames, self.unit, what))
        for first, block in blocks(parts, _CHECKED, what):
            n_frames, n_beads = first + len(block), block.shape[1]
        return _Part(parts, n_frames, n_beads)


class RMSDSelector(BaseSelector):
    """Select the candidates farthest in RMSD from all labelled frames.

    Parameters
    ----------
    n_select
        Maximum number of frames to select.
    min_rmsd
        Lower cut, Å: candidates nearer to the reference are covered. 0: no cut.
    max_rmsd
        Upper cut, Å: candidates farther away are assumed to be unphysical. Infinity: no cut.
    diverse
        Use greedy k-centre selection: each frame is the farthest from the reference and from the
        frames selected before. Otherwise the frames farthest from the reference are selected, which
        in a correlated trajectory are neighbours in time. The cuts always apply to the distance to
        the reference.
    seed
        Not used: the selection is deterministic, ties go to the lower index.
    unit
        Unit of arrays passed to ``fit`` and ``select``: ``"angstrom"`` or ``"nm"``.
    n_threads
        As in :func:`~cgal_plugin.selector.rmsd.nearest_rmsd`.

    Raises
    ------
    SelectionError
        A parameter is out of its range.
    """

    _needs_reference = True

    def __init__(
        self,
        n_select: int,
        *,
        min_rmsd: float = 0.0,
        max_rmsd: float = np.inf,
        diverse: bool = True,
        seed: int = 0,
        unit: str = "angstrom",
        n_threads: int | None = None,
    ) -> None:
        super().__init__(
            n_select, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed, unit=unit, n_threads=n_threads
        )
        self.diverse = bool(diverse)

    def _choose(
        self, candidates: NDArray[np.floating], eligible: NDArray[np.int64], distances: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], None]:
        if self.diverse:
            chosen = k_centre(candidates[eligible], self.n_select, distances=distances[eligible])[0]
        else:
            chosen = np.argsort(-distances[eligible], kind="stable")[: self.n_select]
        return eligible[chosen], None


class RandomSelector(BaseSelector):
    """Draw candidates at random without replacement, after the same cuts, as a baseline.

    Parameters
    ----------
    n_select, min_rmsd, max_rmsd, unit, n_threads
        As in :class:`RMSDSelector`; a reference is needed only for a cut.
    seed
        The same seed and the same eligible candidates give the same selection.

    Raises
    ------
    SelectionError
        A parameter is out of its range.
    """

    def _choose(
        self, candidates: NDArray[np.floating], eligible: NDArray[np.int64], distances: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], Any]:
        del candidates, distances
        size = min(self.n_select, len(eligible))
        return np.random.default_rng(self.seed).choice(eligible, size=size, replace=False), None

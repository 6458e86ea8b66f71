"""Which candidates to label next: the least covered ones, spread out; or random ones.

Estimators in the manner of scikit-learn: parameters are attributes of the same names, ``fit``
returns the selector, ``select`` does not change the candidates. ``committee.py`` has the third.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cgal_plugin.errors import SelectionError
from cgal_plugin.provenance import hash_array
from cgal_plugin.selector.frame_sets import as_frames, blocks, sources, unit_of
from cgal_plugin.selector.k_centre import k_centre
from cgal_plugin.selector.rmsd import update_nearest, usable_threads
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.selector.frame_sets import FrameSet, Reference, Source

#: frames that are checked at a time
_CHECKED = 65536


@dataclass(frozen=True)
class Selection:
    """What a selector chose.

    Attributes
    ----------
    indices
        ``(k,)`` int64 into the candidates, in the order of the choice.
    distances
        ``(k,)`` Å, nearest RMSD of each chosen frame to the reference (NaN without a reference).
    all_distances
        ``(n,)`` Å, the same for every candidate.
    scores
        ``(n,)`` what the strategy ranked by, where that is not the distance; else None.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]
    all_distances: NDArray[np.float64]
    scores: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class _Part:
    """Reference frames that were added together; what is on disk stays there."""

    sources: list[Source]
    n_frames: int
    n_beads: int


class BaseSelector:
    """Reference frames, distances to them and cuts: what every strategy shares.

    A strategy overrides ``_choose(candidates, eligible, distances) -> (indices, scores or None)``.
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
        """Number of reference frames so far."""
        return sum(part.n_frames for part in self._reference)

    def fit(self, reference: Reference) -> Self:
        """Set the reference: frames ``(m, beads, 3)`` that are labelled already.

        Parameters
        ----------
        reference
            As in :func:`~cgal_plugin.selector.rmsd.nearest_rmsd`: an array, a trajectory, files, a data
            store, or several of these. Memory maps and files stay on disk: they are read here, to be
            checked, and again to select. Of an iterator the items are kept.

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
        """Add reference frames. Distances of candidates seen last are updated, not computed anew.

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
        """Nearest RMSD (n,) of the candidates to the reference, Å; NaN when there is no reference.

        Raises
        ------
        SelectionError, DataError, UnitError
            As :func:`~cgal_plugin.selector.rmsd.nearest_rmsd`; a file has another number of frames
            than when it was added.
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
            # in one go: small parts share a block of the search
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
        """Choose up to ``n_select`` of the candidates ``(n, beads, 3)``.

        Fewer are returned where the cuts leave fewer.

        Raises
        ------
        SelectionError
            No candidate lies between the cuts, a cut or the strategy needs a reference that was not
            set, or the candidates are malformed.
        """
        array = as_frames(candidates, "candidates")
        for _ in blocks([(array, unit_of(candidates, self.unit))], _CHECKED, "candidates"):
            pass
        cut = self.min_rmsd > 0.0 or np.isfinite(self.max_rmsd)
        if not self._reference and (cut or self._needs_reference):
            raise SelectionError(f"{type(self).__name__} needs reference frames: call fit(reference) first")
        distances = self.distances(candidates)
        if self._reference:
            eligible = np.flatnonzero((distances >= self.min_rmsd) & (distances <= self.max_rmsd))
        else:
            eligible = np.arange(len(array))
        if len(eligible) == 0:
            raise SelectionError(
                f"no frame selected: nearest RMSDs of {len(array)} candidates to {self.n_reference}"
                f" reference frames run from {distances.min():.4g} to {distances.max():.4g} Å, the cuts are"
                f" min_rmsd={self.min_rmsd:g} and max_rmsd={self.max_rmsd:g} Å"
                f" ({np.count_nonzero(distances < self.min_rmsd)} frames are below,"
                f" {np.count_nonzero(distances > self.max_rmsd)} above); widen the cuts or simulate further"
            )
        frames = as_angstrom(array, unit_of(candidates, self.unit))
        indices, scores = self._choose(frames, eligible, distances)
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
    """The candidates farthest in RMSD from everything that is labelled already.

    Parameters
    ----------
    n_select
        Frames to choose at most.
    min_rmsd
        Lower cut, Å: candidates nearer to the reference are covered already. 0 switches it off.
    max_rmsd
        Upper cut, Å: candidates farther away are taken for exploded. Infinity switches it off.
    diverse
        Choose by greedy k-centre: each choice is the frame farthest from the reference and from
        the choices before it. Without it the least covered frames are taken as they come, which
        in a correlated trajectory are neighbours in time. The cuts are always those of the
        distance to the reference.
    seed
        Accepted so that strategies are interchangeable; the choice has no randomness. Ties go to
        the lower index.
    unit
        Unit of arrays given to ``fit`` and ``select``: ``"angstrom"`` or ``"nm"``.
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
    """Baseline: candidates drawn without replacement, after the same cuts.

    Parameters
    ----------
    n_select, min_rmsd, max_rmsd, unit, n_threads
        As in :class:`RMSDSelector`; a reference is needed only where there is a cut.
    seed
        The same seed and the same eligible candidates give the same choice.

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

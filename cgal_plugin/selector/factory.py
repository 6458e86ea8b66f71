"""Selectors by name, for the command line and for the configuration of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import SelectionError
from cgal_plugin.selector.committee import CommitteeSelector
from cgal_plugin.selector.max_coverage import CoverageSelector
from cgal_plugin.selector.strategies import BaseSelector, RandomSelector, RMSDSelector

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

KINDS = ("rmsd", "coverage", "random", "committee")


def make_selector(
    kind: str,
    n_select: int,
    *,
    min_rmsd: float = 0.0,
    max_rmsd: float = np.inf,
    seed: int = 0,
    diverse: bool = True,
    members: Iterable[Any] | None = None,
    types: ArrayLike | None = None,
) -> BaseSelector:
    """Return the selector of a kind.

    Parameters
    ----------
    kind
        One of :data:`KINDS`.
    n_select, min_rmsd, max_rmsd, seed
        As in :class:`~cgal_plugin.selector.strategies.RMSDSelector`.
    diverse
        For ``rmsd`` and ``committee``: spread the selected frames.
    members, types
        For ``committee``: the models, and the bead types ``(beads,)``
        (:class:`~cgal_plugin.selector.committee.CommitteeSelector`).

    Raises
    ------
    SelectionError
        The kind is unknown, a parameter is out of its range, or ``committee`` has no members.
    """
    if kind == "rmsd":
        return RMSDSelector(n_select, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed, diverse=diverse)
    if kind == "coverage":
        return CoverageSelector(n_select, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed)
    if kind == "random":
        return RandomSelector(n_select, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed)
    if kind == "committee":
        if members is None:
            raise SelectionError("selector 'committee' needs members: two or more models")
        return CommitteeSelector(
            n_select, members, types=types, diverse=diverse, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed
        )
    raise SelectionError(f"selector {kind!r} is not known; use one of {', '.join(KINDS)}")

"""Make one of the built-in selectors by name, for the loop and for ``cgal select``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cgal_plugin.selector import BaseSelector


def make_selector(
    kind: str,
    n_select: int,
    *,
    min_rmsd: float,
    max_rmsd: float,
    seed: int,
    diverse: bool = True,
    models: Sequence[Any] = (),
    types: ArrayLike | None = None,
) -> BaseSelector:
    """Return the selector ``rmsd``, ``coverage``, ``random`` or ``committee``.

    Parameters
    ----------
    n_select
        Number of frames to choose.
    min_rmsd, max_rmsd
        Å; limits of the nearest RMSD of a chosen frame to the reference.
    seed
        For what is random.
    diverse
        Spread the frames (``rmsd`` and ``committee``).
    models, types
        Members of the committee, and the bead types that they take.

    Raises
    ------
    ConfigError
        The name is unknown.
    SelectionError
        A number is out of its range.
    """
    from cgal_plugin.selector import CommitteeSelector, CoverageSelector, RandomSelector, RMSDSelector

    if kind == "rmsd":
        return RMSDSelector(n_select, diverse=diverse, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed)
    if kind == "coverage":
        return CoverageSelector(n_select, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed)
    if kind == "random":
        return RandomSelector(n_select, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed)
    if kind == "committee":
        return CommitteeSelector(
            n_select, models, types=types, diverse=diverse, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed
        )
    raise ConfigError(f"selector {kind!r} is unknown; use rmsd, coverage, random or committee")

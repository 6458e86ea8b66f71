"""Protocol of an oracle: one method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cgal_plugin.data.frames import LabelledFrames, Quarantined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LabelledFrames", "Oracle", "Quarantined"]


@runtime_checkable
class Oracle(Protocol):
    """Interface of the oracles that label frames for ``cgal run``.

    :func:`cgal_plugin.testing.check_oracle` verifies an implementation.
    """

    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        """Return forces for CG frames.

        Parameters
        ----------
        frames
            ``(n, n_beads, 3)`` Å.

        Returns
        -------
        LabelledFrames
            Any number of rows per frame; ``frame_index`` is the index of a row's frame in ``frames``. A
            frame that cannot be labelled is listed in ``quarantined`` with the reason, and raises
            nothing. ``metadata`` has at least ``temperature`` (K), ``mode`` and ``force_map_hash``.
        """
        ...

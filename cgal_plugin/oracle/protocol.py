"""What the driver asks of an oracle: one method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cgal_plugin.data.frames import LabelledFrames, Quarantined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LabelledFrames", "Oracle", "Quarantined"]


@runtime_checkable
class Oracle(Protocol):
    """Anything with this method labels frames for ``cgal run``.

    :func:`cgal_plugin.testing.check_oracle` verifies the contract.
    """

    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        """Forces for CG frames.

        Parameters
        ----------
        frames
            ``(n, n_beads, 3)`` Å.

        Returns
        -------
        LabelledFrames
            Any number of rows a frame; ``frame_index`` says which of ``frames`` a row is for. A frame
            that cannot be labelled goes to ``quarantined`` with the reason, and raises nothing.
            ``metadata`` has at least ``temperature`` (K), ``mode`` and ``force_map_hash``.
        """
        ...

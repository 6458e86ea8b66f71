"""Forces of packed replicas on one device, in as few groups as its memory allows."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Protocol

from cgal_plugin._warp import out_of_memory
from cgal_plugin.errors import DynamicsError

if TYPE_CHECKING:
    from typing import Self


class DeviceForce(Protocol):
    """A potential whose positions and forces stay on a Warp device, such as ``GPUPotential``."""

    n_beads: int
    n_replicas: int
    device: str

    @property
    def memory_bytes(self) -> int:
        """Memory of the device that the potential holds for its replicas."""
        ...

    @property
    def overflowed(self) -> bool:
        """Whether a list had too little room since the last :meth:`grow`; forces since then are wrong."""
        ...

    def with_replicas(self, n_replicas: int) -> Self:
        """Return the same potential for another number of replicas."""
        ...

    def compute(self, positions: Any, forces: Any, energies: Any) -> None:
        """Launch the kernels that overwrite forces ``(R·N,)`` and energies ``(R,)``, kcal/mol and Å.

        No allocation, copy to the host or other synchronisation, so that a CUDA graph can hold the call.
        """
        ...

    def grow(self) -> None:
        """Give the lists more room; captured graphs become invalid."""
        ...

    def reset(self) -> None:
        """Forget the lists, so that the next call depends on no earlier one."""
        ...


class PackedForce:
    """The forces of R replicas, evaluated in one group, or in 2, 4, ... if the device has too little memory.

    Groups follow each other and share one workspace. The result of a replica depends on the groups by
    rounding only: sums have another order.

    Parameters
    ----------
    single
        The potential for one replica.
    n_replicas
        R.
    memory_limit
        Bytes of the device that the workspace may take, for a GPU that is shared; default: what is free.

    Attributes
    ----------
    groups
        Number of groups.

    Raises
    ------
    DynamicsError
        One replica does not fit.
    """

    def __init__(self, single: Any, n_replicas: int, memory_limit: int | None = None) -> None:
        self.single: DeviceForce = single
        self.n_replicas = n_replicas
        self.n_beads = single.n_beads
        self.device = str(single.device)
        self.memory_limit = memory_limit
        self.groups = 1
        self._potential: DeviceForce | None = None
        self._starts: list[int] = []
        self._build()

    def _build(self) -> None:
        """Build the potential of one group, with more groups while memory is short."""
        began = self.groups
        while True:
            size = -(-self.n_replicas // self.groups)
            try:
                self._potential = self.single.with_replicas(size)
                self._check_limit()
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._more_groups(error)
        # the last groups overlap, so that all have one size and share one potential
        self._starts = [min(lo, self.n_replicas - size) for lo in range(0, self.n_replicas, size)]
        if self.groups > began:
            self._say()

    def _more_groups(self, error: BaseException) -> None:
        self._potential = None  # frees the memory of this attempt
        if self.groups >= self.n_replicas:
            raise DynamicsError(
                f"device {self.device} has too little memory for one replica of {self.n_beads} beads "
                f"({error}); close other programs on it, or use backend 'fast'"
            ) from error
        self.groups = min(2 * self.groups, self.n_replicas)

    def _say(self) -> None:
        warnings.warn(
            f"device {self.device} has too little memory for {self.n_replicas} replicas of {self.n_beads} "
            f"beads in one call; they are evaluated in {self.groups} groups",
            stacklevel=4,
        )

    def _check_limit(self) -> None:
        if self.memory_limit is not None and self.memory_bytes > self.memory_limit:
            raise MemoryError(f"it needs {self.memory_bytes} bytes, the limit is {self.memory_limit}")

    @property
    def memory_bytes(self) -> int:
        """Memory of the device that the potential holds."""
        return 0 if self._potential is None else self._potential.memory_bytes

    def compute(self, positions: Any, forces: Any, energies: Any) -> None:
        """Launch the kernels; see :meth:`DeviceForce.compute`."""
        assert self._potential is not None
        n, size = self.n_beads, self._potential.n_replicas
        for first in self._starts:
            beads = slice(first * n, (first + size) * n)
            part = slice(first, first + size)
            self._potential.compute(positions[beads], forces[beads], energies[part])

    @property
    def overflowed(self) -> bool:
        """Whether a list had too little room since the last :meth:`grow`; forces since then are wrong."""
        assert self._potential is not None
        return self._potential.overflowed

    def reset(self) -> None:
        """Forget the lists, so that the next call depends on no earlier one."""
        assert self._potential is not None
        self._potential.reset()

    def grow(self) -> None:
        """Give the lists more room, with more groups if memory is short.

        Raises
        ------
        DynamicsError
            One replica does not fit.
        """
        assert self._potential is not None
        try:
            self._potential.grow()
            self._check_limit()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self.halve(error)

    def halve(self, error: BaseException) -> None:
        """Use twice as many groups after a launch that failed with ``error`` because memory is short.

        Raises
        ------
        DynamicsError
            One replica does not fit.
        """
        self._more_groups(error)
        self._say()
        self._build()

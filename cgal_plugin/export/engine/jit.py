"""numba's decorators with types: compiled functions and intrinsics keep their signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numba import njit
from numba.extending import intrinsic as numba_intrinsic
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., object])

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
#: x, y, z
Vector3 = tuple[float, float, float]

_OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    # neither nnan nor ninf: non-finite positions must be detected
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}
_entry: Any = njit(**_OPTIONS)
#: without wrappers for calls from Python, which halves the compile time
_kernel: Any = njit(**(_OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}))


class Lanes(Protocol):
    """A vector of float32 values as kernels see it; see :mod:`cgal_plugin.export.engine.simd`."""

    def __add__(self, other: Lanes) -> Lanes: ...

    def __sub__(self, other: Lanes) -> Lanes: ...

    def __mul__(self, other: Lanes) -> Lanes: ...

    def __truediv__(self, other: Lanes) -> Lanes: ...


def entry(function: F) -> F:
    """Compile a function that Python calls."""
    compiled: F = _entry(function)
    return compiled


def kernel(function: F) -> F:
    """Compile a function that only compiled functions call."""
    compiled: F = _kernel(function)
    return compiled


def intrinsic(function: Callable[..., Any]) -> Any:
    """Return numba's intrinsic of a code generator; annotate the result with the signature for kernels."""
    return numba_intrinsic(function)

"""numba's decorators with types: compiled functions and intrinsics keep their signatures."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numba import njit
from numba.extending import intrinsic as numba_intrinsic
from numpy.typing import NDArray

from cgal_plugin.errors import CGALWarning

F = TypeVar("F", bound=Callable[..., object])

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int32s = NDArray[np.int32]
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
#: without wrappers for calls from Python, which halves the compile time
_KERNEL: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


class Lanes(Protocol):
    """A vector of float32 values as kernels see it; see :mod:`cgal_plugin.export.engine.simd`."""

    def __add__(self, other: Lanes) -> Lanes: ...

    def __sub__(self, other: Lanes) -> Lanes: ...

    def __mul__(self, other: Lanes) -> Lanes: ...

    def __truediv__(self, other: Lanes) -> Lanes: ...


def entry(function: F) -> F:
    """Compile a function that Python calls."""
    return _compiled(function, {"no_cfunc_wrapper": True})


def exact_entry(function: F) -> F:
    """Compile an :func:`entry` whose sums are added in the order of the source."""
    return _compiled(function, {"no_cfunc_wrapper": True, "fastmath": False})


def kernel(function: F) -> F:
    """Compile a function that only compiled functions call."""
    return _compiled(function, _KERNEL)


def inlined(function: F) -> F:
    """Compile a function as part of its caller: large functions are optimised once, not at each level."""
    return _compiled(function, {**_KERNEL, "inline": "always"})


def exact_kernel(function: F) -> F:
    """Compile a :func:`kernel` whose sums are added in the order of the source."""
    return _compiled(function, {**_KERNEL, "fastmath": False})


def _compiled(function: F, options: dict[str, Any]) -> F:
    """Return numba's dispatcher; without a folder for compiled code, each process compiles it again."""
    compiled: F
    try:
        compiled = njit(**(_OPTIONS | options))(function)
    except RuntimeError as error:
        # numba's error when neither the package nor the user's cache folder can be written
        if not _OPTIONS["cache"] or "cannot cache function" not in str(error):
            raise
        warnings.warn(
            "compiled code of the fast backend cannot be stored: neither the folder of cgal_plugin nor the "
            "user's cache folder can be written. Each process compiles it again (about a minute); set "
            "NUMBA_CACHE_DIR to a folder that can be written",
            CGALWarning,
            stacklevel=3,
        )
        _OPTIONS["cache"] = False
        compiled = njit(**(_OPTIONS | options))(function)
    _tie_to_sources(compiled)
    return compiled


@functools.cache
def _sources() -> str:
    """Return a hash of the source files of the engine."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def _tie_to_sources(compiled: Any) -> None:
    """Compile again after a change of any file of the engine.

    Compiled code contains that of the functions that it calls and the constants that it imports, but numba
    checks only the file of the function itself: code from before an update would be used after it.
    """
    stored = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if stored is not None:
        stored._source_stamp = (stored._source_stamp, _sources())


def intrinsic(function: Callable[..., Any]) -> Any:
    """Return numba's intrinsic of a code generator; annotate the result with the signature for kernels."""
    return numba_intrinsic(function)

"""Find the device of the GPU engine."""

from __future__ import annotations

from typing import Any

from cgal_plugin._warp import has_gpu, load_warp
from cgal_plugin.errors import ExportError

_REMEDY = "use the fast engine (backend 'fast'), or the portable potential, on this machine"


def find_device(name: str | None = None) -> Any:
    """Return Warp's device: that of ``name``, by default the current CUDA device.

    ``"cpu"`` is Warp's CPU device: the same kernels on one thread, for tests.

    Raises
    ------
    ExportError
        Warp is missing, there is no NVIDIA driver or GPU, or no device of this name.
    """
    try:
        wp = load_warp()
    except ImportError as error:
        raise ExportError(f"the GPU engine needs Warp ({error}): pip install warp-lang") from error
    if name == "cpu":
        return wp.get_device("cpu")
    known = [str(device.alias) for device in wp.get_devices()]
    if not has_gpu():
        asked = "" if name is None else f" {name!r}"
        raise ExportError(
            f"the GPU engine found no device{asked}: no NVIDIA driver or no GPU is available (Warp knows "
            f"{', '.join(known)}); {_REMEDY}"
        )
    if name is None or name == "cuda":
        return wp.get_device("cuda")
    if name not in known:
        raise ExportError(f"unknown device {name!r}; use one of {', '.join(known)}")
    return wp.get_device(name)

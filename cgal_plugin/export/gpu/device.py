"""Find the device of the GPU engine."""

from __future__ import annotations

import importlib.util
from typing import Any

from cgal_plugin._native import silent
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
    if importlib.util.find_spec("warp") is None:
        raise ExportError("the GPU engine needs Warp: pip install warp-lang")
    import warp

    from cgal_plugin.export.gpu.native import quiet

    wp: Any = warp
    # without a GPU, the native library warns that it finds no driver
    with quiet():
        with silent(1, 2):
            wp.init()
        known = [str(device.alias) for device in wp.get_devices()]
        if name == "cpu":
            return wp.get_device("cpu")
        if not wp.is_cuda_available():
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

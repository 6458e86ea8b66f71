"""The device of backend ``gpu``."""

from __future__ import annotations

from typing import Any

from cgal_plugin._warp import device_name, has_gpu, load_warp
from cgal_plugin.errors import DynamicsError


def find_device(platform: str) -> str:
    """Return the Warp device for an OpenMM platform's name: ``"cpu"`` for ``"CPU"``, else ``"cuda:0"``.

    Raises
    ------
    DynamicsError
        There is no GPU, its driver is missing or too old, or Warp is not installed.
    """
    try:
        load_warp()
    except ImportError as error:
        raise DynamicsError(f"backend 'gpu' needs Warp ({error}): pip install warp-lang") from error
    if platform == "CPU":
        return "cpu"
    if platform not in ("Reference", "CUDA"):
        raise DynamicsError(f"backend 'gpu' runs on CUDA, not on platform {platform!r}: leave platform out")
    if not has_gpu():
        raise DynamicsError(
            "backend 'gpu' finds no NVIDIA GPU with a working driver (`nvidia-smi` must list it; the device "
            "must not be hidden by CUDA_VISIBLE_DEVICES); use backend 'auto' or 'fast' on this machine, with "
            "another out_dir if this simulation was begun with backend 'gpu', or "
            "platform 'CPU' to test the GPU's kernels on the CPU, slowly"
        )
    return "cuda:0"


def device_platform(device: str) -> str:
    """Return the platform that :func:`find_device` maps to ``device``: ``"CPU"`` or ``"CUDA"``."""
    return "CPU" if device == "cpu" else "CUDA"


def describe_device(device: str) -> dict[str, Any]:
    """Return what a record says about a device."""
    return {"id": device, "name": device_name(device), "warp": str(load_warp().__version__)}

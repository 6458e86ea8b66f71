"""NVIDIA Warp, imported when it is needed and without its messages.

TorchMD-Net depends on Warp. Its kernels run on NVIDIA GPUs and, one thread, on the CPU (device ``"cpu"``).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from cgal_plugin._native import silent
from cgal_plugin.errors import CGALWarning


@functools.cache
def load_warp() -> Any:
    """Return the module ``warp``, initialised without its startup message.

    Warp stores compiled kernels in the user's cache folder; if that cannot be written, in a temporary folder.

    Raises
    ------
    ImportError
        Warp is not installed.
    """
    import warp as module

    warp: Any = module

    def start() -> None:
        # without a GPU, the native library warns that it finds no driver; has_gpu() tells
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            silent(1, 2),
        ):
            warp.init()
        with tempfile.TemporaryFile(dir=warp.config.kernel_cache_dir):
            pass

    try:
        start()
    except OSError:
        warnings.warn(
            f"Warp cannot write its cache folder ({warp.config.kernel_cache_dir}); a temporary folder "
            "is used, and each process compiles kernels again: set WARP_CACHE_PATH to a folder that can "
            "be written",
            CGALWarning,
            stacklevel=4,
        )
        warp.config.kernel_cache_dir = tempfile.mkdtemp(prefix="cgal-warp-")
        atexit.register(shutil.rmtree, warp.config.kernel_cache_dir, ignore_errors=True)
        start()
    return warp


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress Warp's messages about compiled modules; the settings of the caller are restored."""
    config: Any = load_warp().config
    name, value = ("log_level", 30) if hasattr(config, "log_level") else ("quiet", True)
    before = getattr(config, name)
    # never less quiet than the caller wants
    setattr(config, name, max(before, value))
    try:
        yield
    finally:
        setattr(config, name, before)


def load_kernels(module: ModuleType, device: Any) -> None:
    """Compile the kernels of a Python module for a device, or load them from the cache."""
    with quiet():
        load_warp().load_module(module, device=device)


def has_gpu() -> bool:
    """Return whether Warp can use an NVIDIA GPU: a device with a driver that is new enough."""
    if (
        sys.platform == "linux"
        and not any(Path("/dev").glob("nvidia[0-9]*"))
        and not Path("/dev/dxg").exists()
    ):
        return False  # without the import of Warp, which takes a second
    return bool(load_warp().is_cuda_available())


def device_name(device: str) -> str:
    """Return the name of a Warp device, such as ``"NVIDIA H100 80GB HBM3"``; ``"CPU"`` for ``"cpu"``."""
    return str(load_warp().get_device(device).name)


def out_of_memory(error: BaseException) -> bool:
    """Return whether Warp raised ``error`` because a device has too little memory."""
    text = str(error)
    return isinstance(error, MemoryError) or "Failed to allocate" in text or "out of memory" in text

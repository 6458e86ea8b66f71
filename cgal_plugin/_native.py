"""Silence libraries that print from C to standard output, or warn of what is not the user's."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent(*descriptors: int) -> Iterator[None]:
    """Discard output to these file descriptors (1: output, 2: errors), also from C.

    Use this around a single library call that reports errors as exceptions.
    """
    flush = ctypes.CDLL(None).fflush
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    flush(None)
    saved = [(d, os.dup(d)) for d in descriptors]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in descriptors:
            os.dup2(nowhere, descriptor)
        yield
    finally:
        flush(None)
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


@contextmanager
def no_torchscript_warnings() -> Iterator[None]:
    """Ignore that torch deprecates TorchScript.

    TorchForce of openmm-torch accepts no other format, and TorchMD-Net scripts functions on import.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is deprecated.*")
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is not supported in Python 3\.14.*")
        yield

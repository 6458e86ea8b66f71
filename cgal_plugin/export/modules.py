"""Typing helpers for TorchScript modules.

TorchScript cannot read annotations that are strings, so buffers are annotated under ``TYPE_CHECKING``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

from torch import nn

M = TypeVar("M", bound=nn.Module)


def module_list(modules: Iterable[M]) -> Sequence[M]:
    """Return an ``nn.ModuleList`` that the type checker sees as a sequence of its modules."""
    return cast("Sequence[M]", nn.ModuleList(modules))

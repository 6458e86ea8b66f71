"""Whether TorchForce works here: its wheel needs torch below 2.13."""

from __future__ import annotations

import pytest

from cgal_plugin.dynamics import resolve_backend
from cgal_plugin.errors import DynamicsError

try:
    resolve_backend("torchforce")
    REASON = ""
except DynamicsError as error:
    REASON = str(error)

needs_torchforce = pytest.mark.skipif(bool(REASON), reason=REASON)
TORCHFORCE = pytest.param("torchforce", marks=needs_torchforce)
#: TorchForce, or where it is missing the backend that gives the same results
DEFAULT = "python" if REASON else "torchforce"

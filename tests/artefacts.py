"""Real files of the ecosystem, beside the checkout; tests of them are skipped without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: folder of the files; CGAL_ARTEFACTS names another
ROOT = Path(os.environ.get("CGAL_ARTEFACTS", "/work/shared/artefacts"))


def artefact(folder: str) -> Path:
    """Return a folder of the real files, or skip the test."""
    if not (ROOT / folder).is_dir():
        pytest.skip(f"{ROOT / folder} is not there")
    return ROOT / folder

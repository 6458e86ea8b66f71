"""Write TRR files with any sections and precision, as GROMACS does and mdtraj cannot."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_SECTIONS = ("box", "virial", "pressure", "x", "v", "f")


def trr_frame(time: float, n_atoms: int, *, double: bool = False, **sections: Any) -> bytes:
    """Return one frame; ``sections`` are arrays named box, virial, pressure, x, v, f (nm, ps, kJ/mol/nm)."""
    real = ">f8" if double else ">f4"
    content = {
        k: np.asarray(sections[k], dtype=real).tobytes() for k in _SECTIONS if sections.get(k) is not None
    }
    sizes = [len(content.get(name, b"")) for name in _SECTIONS]
    box, virial, pressure, x, v, f = sizes
    header = struct.pack(">3i", 1993, 13, 12) + b"GMX_trn_file"
    header += struct.pack(">13i", 0, 0, box, virial, pressure, 0, 0, x, v, f, n_atoms, 0, 0)
    header += np.array([time, 0.0], dtype=real).tobytes()
    return header + b"".join(content.get(name, b"") for name in _SECTIONS)


def write_trr(
    path: Path,
    x: Any,
    *,
    f: Any = None,
    v: Any = None,
    box: Any = None,
    times: Sequence[float] | None = None,
    double: bool = False,
    without: Mapping[int, str] | None = None,
) -> Path:
    """Write frames ``(n, n_atoms, 3)`` nm; ``without``: sections that frames lack, ``{1: "f"}``."""
    x = np.asarray(x)
    frames = []
    for k in range(len(x)):
        sections = {
            "x": x[k],
            "f": None if f is None else f[k],
            "v": None if v is None else v[k],
            "box": None if box is None else box[k],
        }
        for name in (without or {}).get(k, ""):
            sections[name] = None
        time = float(k) if times is None else float(times[k])
        frames.append(trr_frame(time, x.shape[1], double=double, **sections))
    path.write_bytes(b"".join(frames))
    return path

"""PDB files with a checksum, which programs take for a remark."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import DamageError
from cgal_plugin.provenance import atomic_path, atomic_write
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray

_REMARK = "REMARK 999 SHA-256 OF THE LINES BELOW "


def save_pdb(path: Path, positions: NDArray[Any], topology: mdtraj.Topology) -> None:
    """Write one structure, ``(n_atoms, 3)`` Å, atomically."""
    import mdtraj

    plain = path.with_name(f".{path.stem}.plain.tmp{path.suffix}")
    try:
        atomic_path(plain, mdtraj.Trajectory(positions[None] / ANGSTROM_PER_NM, topology).save_pdb)
        text = plain.read_text()
    finally:
        plain.unlink(missing_ok=True)
    with atomic_write(path, "w") as handle:
        handle.write(f"{_REMARK}{_digest(text)}\n{text}")


def check_pdb(path: Path) -> None:
    """Check a file of :func:`save_pdb`; a file of an earlier version, without a checksum, counts as damaged.

    Raises
    ------
    DamageError
        The file cannot be read, or is not what was written.
    """
    try:
        first, _, rest = path.read_text().partition("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DamageError(f"{path} is damaged ({error})") from error
    if first != f"{_REMARK}{_digest(rest)}":
        raise DamageError(f"{path} is damaged: its content is not what was written (checksum)")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""Arrays of ``.npy`` and ``.npz`` files: the names of an npz file decide what is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import DataError
from cgal_plugin.provenance import BAD_ARCHIVE

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMPY = (".npy", ".npz")
#: names of arrays in lower case, without a number at the end
POSITIONS = (
    *("positions", "position", "pos", "coords", "coord", "coordinates", "coordinate", "crd"),
    *("xyz", "xyzs", "r"),
)
FORCES = ("forces", "force", "frc", "f", "neg_dy")
#: minus the forces
GRADIENTS = ("gradients", "gradient", "grad", "grads", "dy")
_OTHER = (
    *GRADIENTS,
    *("velocities", "velocity", "vel", "v", "momenta", "momentum"),
)
_NAMES = {"positions": POSITIONS, "forces": FORCES}
#: names that never have the role
_NOT = {"positions": (*FORCES, *_OTHER), "forces": (*POSITIONS, *_OTHER)}


def is_numpy(path: Path) -> bool:
    """Return whether a file is an npy or npz file by its name."""
    return path.suffix.lower() in NUMPY


def is_frames(array: NDArray[Any]) -> bool:
    """Return whether an array has the shape ``(n_frames, n_beads, 3)`` and real numbers."""
    return array.ndim == 3 and array.shape[2] == 3 and array.dtype.kind in "fiu"


def natural_key(name: str) -> tuple[Any, ...]:
    """Return a key that sorts ``x_2`` before ``x_10``."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def load_numpy(
    path: Path, *, mapped: bool = False, role: str = "positions"
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of an npy or npz file that have a role, each with its name for messages.

    In an npz file, arrays named as positions (``coords``, ``positions``, ``xyz``, ``coordinates``, also
    numbered) are positions; arrays named as forces never are. If none has such a name, it may be a word of
    the name (``cg_coords``, ``coords_a``). Only if no array has such a name, every array is a trajectory;
    they are sorted by name and number.

    Parameters
    ----------
    mapped
        Memory-map an npy file.
    role
        ``"positions"`` or ``"forces"``.

    Raises
    ------
    DataError
        The file cannot be read, or the names do not decide what is read.
    """
    try:
        if mapped and path.suffix.lower() == ".npy":
            yield str(path), np.load(path, mmap_mode="r", allow_pickle=False)
            return
        with open(path, "rb") as handle:  # np.load does not close a damaged archive
            content = np.load(handle, allow_pickle=False)
            if isinstance(content, np.ndarray):
                yield str(path), content
                return
            names = choose_arrays(path, content, role)
            for name in names:
                yield (str(path) if len(names) == 1 else f"{path}, array {name!r}"), content[name]
    except BAD_ARCHIVE as error:
        raise DataError(f"{path} cannot be read as {path.suffix.lower()}: {error}") from error


def choose_arrays(path: Path, content: Any, role: str = "positions") -> list[str]:
    """Return the names of the arrays of an open npz file that have a role, in natural order.

    Raises
    ------
    DataError
        There are none, or the names do not decide.
    """
    names = sorted(content.files, key=natural_key)
    kind = {name: _base(name) for name in names}
    exact = any(base in _NAMES[role] for base in kind.values())
    for name, base in kind.items():
        # beside coords, cg_forces is no trajectory; ref_coords is doubtful
        word = _last_word(base)
        if base not in _NAMES[role] and (not exact or word in _NOT[role]):
            kind[name] = word
    chosen = [name for name in names if kind[name] in _NAMES[role]]
    bases = sorted({kind[name] for name in chosen})
    if len(bases) > 1:
        raise DataError(
            f"{path} has several arrays named as {role}: {', '.join(chosen)}; keep one of {', '.join(bases)}"
        )
    other = [n for n in names if kind[n] in _NOT[role]]
    shapes = {n: _shape(content, n) for n in names if n not in chosen and n not in other}
    frames = {n: shape for n, shape in shapes.items() if len(shape) == 3 and shape[-1] == 3}
    if chosen:
        size = _shape(content, chosen[0])[1:]
        # beside forces, delta_forces are known not to be those
        known = "delta" if role == "forces" else None
        doubtful = [
            n
            for n, shape in frames.items()
            if shape[1:] == size and (known is None or known not in n.lower())
        ]
        if doubtful:
            raise DataError(
                f"{path} has {', '.join(chosen)} and also {', '.join(doubtful)} of the same shape, whose "
                f"name says neither positions nor forces; remove it, or name the trajectories {bases[0]}_0, "
                f"{bases[0]}_1, ..."
            )
        return chosen
    if other or len(frames) < len(names) or len({shape[1:] for shape in frames.values()}) != 1:
        listed = ", ".join(f"{n} {_shape(content, n)}" for n in names)
        if role == "forces" and any(base in GRADIENTS for base in kind.values()):
            raise DataError(
                f"{path} has the arrays {listed}: gradients are minus the forces; save -gradients as forces"
            )
        names_of = {"positions": "coords (or positions, xyz, coordinates)", "forces": "forces"}
        raise DataError(
            f"{path} has the arrays {listed or '(none)'}; none is named as {role}: name the {role} "
            f"{names_of[role]}, with the shape (n_frames, n_beads, 3)"
        )
    return names


def has_delta_forces(path: Path) -> bool:
    """Return whether what is read as the forces of a file is named as delta forces (minus those of priors).

    Raises
    ------
    DataError
        An npz file has no forces, or the names do not decide.
    """
    if path.suffix.lower() != ".npz":
        return "delta" in path.name.lower()
    with np.load(path, allow_pickle=False) as content:
        if not isinstance(content, np.lib.npyio.NpzFile):
            return False
        return any("delta" in name.lower() for name in choose_arrays(path, content, "forces"))


def _base(name: str) -> str:
    return re.sub(r"[_\-. ]?\d+$", "", name).lower()


def _last_word(base: str) -> str:
    """Return the role of names such as ``cg_coords``, ``protein_forces_a`` and ``a.forces``."""
    # torchmd-cg writes delta forces as one word
    base = re.sub(r"delta(?=forces?)", "delta_", base)
    words = [word for word in re.split(r"[_\-. ]", base) if len(word) > 1]
    known = [w for w in words if any(w in group for group in (POSITIONS, FORCES, _OTHER))]
    return known[-1] if known else base


def _shape(content: Any, name: str) -> tuple[int, ...]:
    """Return the shape of an array of an npz file from its header."""
    with content.zip.open(name if name in content.zip.namelist() else f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape: tuple[int, ...] = read(member)[0]
        return shape

"""The ``.npy`` files of torchmd-cg and mlcg-tk: which of them belong to one molecule.

torchmd-cg and its data sets have ``NAME_coords.npy``, ``NAME_forces.npy``, ``NAME_deltaforces.npy`` and
``NAME_embeddings.npy``, or a folder ``NAME/raw`` with ``coordinates.npy`` and so on. mlcg-tk has
``NAME_cg_coords.npy``, ``NAME_cg_forces.npy``, ``NAME_TAG_delta_forces.npy``, ``NAME_cg_embeds.npy``,
``NAME_cg_structure.pdb`` and ``NAME_cg_force_map.npy``; large molecules are in batches, such as
``NAME_batch_0_cg_coords.npy``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.arrays import natural_key
from cgal_plugin.data.raw_data import LABELS, RawMolecule, RawTrajectory, check_names, read_embeds
from cgal_plugin.errors import CGALWarning, DataError
from cgal_plugin.provenance import BAD_ARCHIVE, hash_file, read_sealed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.raw_data import Rows

_ROLES = {
    "coords": r"coord(?:inate)?s?|positions?",
    "delta": r"delta_?forces?",
    "forces": r"forces?",
    "embeds": r"embed(?:ding)?s?",
}
_FILE = re.compile(
    r"(?P<name>.*?)(?:(?:^|[_\-.])(?:cg_)?)(?:"
    + "|".join(f"(?P<{role}>{pattern})" for role, pattern in _ROLES.items())
    + r")(?:[_\-.]?(?P<number>\d+))?",
    re.IGNORECASE,
)
_BATCH = re.compile(r"(.*)_batch_(\d+)")
#: folders whose name is not that of the molecule
_PLAIN_FOLDERS = ("raw", "processed")
#: ends of the names of structure files, after that of the molecule
_STRUCTURES = ("_cg_structure", "_structure", "_top", "_topology", "_processed", "")
_STRUCTURE_SUFFIXES = (".pdb", ".psf", ".cif", ".gro")


@dataclass
class _Found:
    """Files of one molecule; those of a role by name of the trajectory."""

    folder: Path
    name: str
    roles: dict[str, dict[str, Path]] = field(default_factory=dict)
    twice: list[Path] = field(default_factory=list)


def read_npy_layout(paths: Sequence[Path]) -> list[RawMolecule]:
    """Read the molecules of some files or folders; arrays are mapped into memory.

    Files that belong to a given coordinate file are found beside it. Of a folder, all levels are read.

    Raises
    ------
    DataError
        A file is missing or damaged, or it is not clear which files belong together.
    """
    given = [path for path in paths if not path.is_dir()]
    files = [file for path in paths if path.is_dir() for file in _npy_files(path.rglob("*.npy"))]
    beside = [file for path in given for file in _npy_files(path.parent.glob("*.npy"))]
    found = _group([*files, *given])
    for key, other in _group(beside).items():
        if key in found and "delta" not in found[key].roles:
            found[key].twice = other.twice
        for role in _ROLES if key in found else ():
            found[key].roles.setdefault(role, other.roles.get(role, {}))
    molecules = [_molecule(f) for f in found.values() if f.roles.get("coords")]
    lonely = sorted(
        str(p)
        for f in found.values()
        if not f.roles.get("coords")
        for r in f.roles.values()
        for p in r.values()
    )
    if lonely:
        text = f"{', '.join(lonely)}: there are no coordinates (NAME_coords.npy) of this name"
        if given:
            raise DataError(text)
        warnings.warn(f"{text}; they are left out", CGALWarning, stacklevel=2)
    check_names(molecules, ", ".join(map(str, paths)))
    return sorted(molecules, key=lambda m: natural_key(m.name))


def has_npy_layout(path: Path) -> bool:
    """Return whether a file or folder has coordinates of this layout."""
    files = path.rglob("*.npy") if path.is_dir() else [path]
    return any(_role(file)[0] == "coords" for file in _npy_files(files))


def _npy_files(files: Iterable[Path]) -> list[Path]:
    return sorted(
        (f for f in files if f.suffix.lower() == ".npy" and not f.name.startswith(".")),
        key=lambda f: natural_key(str(f)),
    )


def _role(file: Path) -> tuple[str, str, str]:
    """Return role, name and number of a file; role ``""`` if the name has none."""
    match = _FILE.fullmatch(file.stem)
    if match is None:
        return "", file.stem, ""
    role = next(role for role in _ROLES if match[role])
    return role, match["name"], str(int(match["number"])) if match["number"] else ""


def _group(files: Iterable[Path]) -> dict[tuple[Path, str], _Found]:
    """Group files by folder and molecule."""
    # a file may be given by name and by its folder
    once = {file.resolve(): file for file in files}.values()
    parsed = [(file.parent.resolve(), *_role(file), file) for file in once]
    for *_, file in parsed:
        if not file.is_file():
            raise DataError(f"{file} does not exist")
    keys = {(folder, name) for folder, role, name, _, _ in parsed if role == "coords"}
    found: dict[tuple[Path, str], _Found] = {}
    for folder, role, name, number, file in parsed:
        if not role:
            continue
        if role == "delta" and (folder, name) not in keys:
            # mlcg-tk adds a tag to the names of delta forces
            longest = [n for f, n in keys if f == folder and name.startswith(f"{n}_")]
            name = max(longest, key=len, default=name)
        batch = _BATCH.fullmatch(name)
        molecule, part = (batch[1], batch[2]) if batch else (name, number)
        group = found.setdefault((folder, molecule), _Found(folder, molecule))
        others = group.roles.setdefault(role, {})
        if part in others and role == "delta":
            # of several priors; which of them matters only without total forces
            group.twice.append(file)
            continue
        if part in others:
            raise DataError(f"{others[part]} and {file} have the same role; keep one of them in the folder")
        others[part] = file
    return found


def _molecule(found: _Found) -> RawMolecule:
    coords, forces, delta, embeds = (
        found.roles.get(role, {}) for role in ("coords", "forces", "delta", "embeds")
    )
    name = found.name or _folder_name(found.folder)
    parts = sorted(coords, key=natural_key)
    if found.twice and not forces:
        listed = ", ".join(str(path) for path in (*delta.values(), *found.twice))
        raise DataError(f"{listed} have the same role; keep one of them in the folder")
    unread = [*delta.values(), *found.twice] if found.twice else []
    delta = {} if found.twice else delta
    for role, files in (("forces", forces), ("delta forces", delta)):
        if files and set(files) != set(coords):
            odd = sorted(map(str, set(files) ^ set(coords)))
            raise DataError(
                f"{name} in {found.folder} has {len(coords)} files of coordinates and {len(files)} of "
                f"{role}: numbers {', '.join(n or '(none)' for n in odd)} have no partner"
            )
    trajectories = [
        RawTrajectory(
            str(coords[part]),
            load_mapped(coords[part]),
            load_mapped(forces[part]) if forces else None,
            load_mapped(delta[part]) if delta else None,
        )
        for part in parts
    ]
    known = {p.resolve() for files in found.roles.values() for p in files.values()}
    known |= {p.resolve() for p in found.twice}
    record, labels, own = _exported(found, trajectories)
    maps = found.folder / f"{found.name}_cg_force_map.npy"
    others = [
        f for f in _npy_files(found.folder.glob("*.npy")) if f.resolve() not in known | {maps.resolve()}
    ]
    read = [*coords.values(), *forces.values(), *delta.values(), *embeds.values(), *own]
    return RawMolecule(
        name=name,
        trajectories=trajectories,
        embeds=_common_embeds(list(embeds.values())),
        files=[*read, maps] if maps.is_file() else read,
        structure=_structure(found),
        force_map=np.asarray(load_mapped(maps)[:]) if maps.is_file() else None,
        record=record,
        labels=labels,
        force_map_file=own[2].read_bytes() if len(own) > 2 else None,
        left_out=[f.name for f in unread]
        + [f.name for f in others if found.name and f.name.startswith(found.name + "_") and not _role(f)[0]],
    )


def _folder_name(folder: Path) -> str:
    while folder.name in _PLAIN_FOLDERS and folder != folder.parent:
        folder = folder.parent
    return folder.name or "molecule"


def load_mapped(path: Path) -> Rows:
    """Return an ``.npy`` array mapped into memory.

    Raises
    ------
    DataError
        The file cannot be read.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except BAD_ARCHIVE as error:
        raise DataError(f"{path} cannot be read as .npy: {error}") from error
    return array


def _common_embeds(files: Sequence[Path]) -> NDArray[np.int64] | None:
    if not files:
        return None
    numbers = [read_embeds(load_mapped(file)[:], str(file)) for file in files]
    for file, other in zip(files[1:], numbers[1:], strict=True):
        if not np.array_equal(numbers[0], other):
            raise DataError(f"{files[0]} and {file} are for one molecule and have different numbers")
    return numbers[0]


def _structure(found: _Found) -> Path | None:
    """Return the structure file that has the name of the molecule."""
    folders = [found.folder]
    if found.folder.name == "raw":
        folders.append(found.folder.parent / "processed")
    name = found.name or _folder_name(found.folder)
    for end in _STRUCTURES:
        here = [f / f"{name}{end}{suffix}" for f in folders for suffix in _STRUCTURE_SUFFIXES]
        here = [path for path in here if path.is_file()]
        if len(here) > 1:
            listed = ", ".join(str(path) for path in here)
            raise DataError(f"{name} has several structure files, {listed}: choose one with --topology")
        if here:
            return here[0]
    return None


def _exported(
    found: _Found, trajectories: Sequence[RawTrajectory]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]], list[Path]]:
    """Return record and labels that ``cgal export-data`` wrote beside the arrays, and their files."""
    path, labels = (found.folder / f"{found.name}_{end}" for end in ("cgal.json", "labels.npz"))
    if not path.is_file():
        return {}, {}, []
    try:
        record = read_sealed(path)
        hashes = {name: hash_file(found.folder / name) for name in record["files"]}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is damaged: {error}; delete it to import the arrays without it") from error
    changed = [name for name, sha256 in record["files"].items() if hashes[name] != sha256]
    if changed:
        raise DataError(
            f"{', '.join(changed)} in {found.folder} are not the files that {path.name} was written with: "
            f"delete {path.name} to import them as new data, or export again"
        )
    with np.load(labels, allow_pickle=False) as arrays:
        own = [path, labels, found.folder / f"{found.name}_force_map.npz"]
        return (
            record,
            {name: arrays[name] for name in LABELS},
            [p for p in own if p.name in (path.name, *hashes)],
        )

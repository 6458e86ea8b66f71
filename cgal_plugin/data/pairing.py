"""Pair coordinate files with force files by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cgal_plugin.data.arrays import FORCES, GRADIENTS, POSITIONS
from cgal_plugin.errors import DataError

_ROLES = frozenset(name for name in (*POSITIONS, *FORCES, *GRADIENTS) if len(name) > 1)
_Key = tuple[int | str, ...]


def pair_files(coords: Sequence[Path], forces: Sequence[Path], *, listed: bool) -> list[tuple[Path, Path]]:
    """Return pairs of a coordinate file and its force file, in the order of the coordinate files.

    A pair has the same name apart from words such as ``coords`` and ``forces`` and from leading zeros; or the
    same numbers.

    Parameters
    ----------
    listed
        Whether the user listed single files, not patterns: without numbers and names that decide, their
        order decides.

    Raises
    ------
    DataError
        The numbers of files differ, a file occurs twice, or the names do not decide which files belong
        together.
    """
    for what, files in (("coords", coords), ("forces", forces)):
        seen = [path.resolve() for path in files]
        twice = sorted({str(path) for path in seen if seen.count(path) > 1})
        if twice:
            raise DataError(f"{what}: {', '.join(twice)} is given twice")
    if len(coords) == len(forces) == 1:
        return [(coords[0], forces[0])]
    partners = _partners(coords, forces)
    if partners is not None:
        if listed:
            check_order(coords, forces)
        return list(zip(coords, partners, strict=True))
    if len(coords) != len(forces):
        raise DataError(
            f"{len(coords)} coordinate files and {len(forces)} force files; they belong in pairs"
            + _unpaired(coords, forces)
        )
    pairs = list(zip(coords, forces, strict=True))
    if listed and all(_numbers(c) == _numbers(f) for c, f in pairs):
        return pairs
    raise DataError(
        "the names of coords and forces do not say which files belong together"
        f"{_unpaired(coords, forces)}; give pairs the same name or number (coords_001.npy, forces_001.npy)"
    )


def check_order(coords: Sequence[Path], forces: Sequence[Path]) -> None:
    """Check that the names of files that belong together by their order do not say another order.

    Raises
    ------
    DataError
        They do.
    """
    partners = _partners(coords, forces)
    if partners is not None and partners != list(forces):
        k = next(i for i, (a, b) in enumerate(zip(partners, forces, strict=True)) if a != b)
        raise DataError(
            f"coords and forces are listed in different orders: {coords[k].name} would belong to "
            f"{forces[k].name} by order, and to {partners[k].name} by name; list both in one order"
        )


def _partners(coords: Sequence[Path], forces: Sequence[Path]) -> list[Path] | None:
    """Return the force file of each coordinate file by their names; None if the names do not decide."""
    for key in (_by_name, _by_path, _by_numbers):
        one, two = key(coords), key(forces)
        if len(set(one)) == len(one) and len(set(two)) == len(two) and set(one) == set(two) and () not in one:
            found = dict(zip(two, forces, strict=True))
            return [found[k] for k in one]
    return None


def pair_arrays(coords: tuple[Path, Sequence[str]], forces: tuple[Path, Sequence[str]]) -> list[int]:
    """Return the number of the force array that belongs to each coordinate array of two files.

    Parameters
    ----------
    coords, forces
        A file, and the names of its arrays as in messages.

    Raises
    ------
    DataError
        The names do not decide which arrays belong together.
    """
    if len(coords[1]) == len(forces[1]) == 1:
        return [0]
    one, two = ([_tokens(name.removeprefix(str(path))) for name in names] for path, names in (coords, forces))
    if len(set(one)) != len(one) or sorted(map(str, one)) != sorted(map(str, two)):
        raise DataError(
            f"{', '.join(coords[1])} and {', '.join(forces[1])}: the names do not say which arrays belong "
            "together; give pairs the same name or number (coords_1, forces_1)"
        )
    return [two.index(key) for key in one]


def _unpaired(coords: Sequence[Path], forces: Sequence[Path]) -> str:
    one, two = _by_numbers(coords), _by_numbers(forces)
    lone = [p.name for p, k in zip(coords, one, strict=True) if k not in two]
    lone += [p.name for p, k in zip(forces, two, strict=True) if k not in one]
    return f" (without a partner: {', '.join(lone[:4])}{', ...' if len(lone) > 4 else ''})" if lone else ""


def _tokens(text: str) -> _Key:
    """Return the words and numbers of a name, without those that tell coordinates from forces."""
    parts = re.findall(r"\d+|[^\W\d_]+", text.lower())
    return tuple(int(part) if part.isdigit() else part for part in parts if part not in _ROLES)


def _numbers(path: Path) -> _Key:
    return tuple(int(part) for part in re.findall(r"\d+", path.stem))


def _by_name(files: Sequence[Path]) -> list[_Key]:
    return [_tokens(path.stem) for path in files]


def _by_path(files: Sequence[Path]) -> list[_Key]:
    return [_tokens("/".join(path.with_suffix("").parts)) for path in files]


def _by_numbers(files: Sequence[Path]) -> list[_Key]:
    """Return the numbers in each name that differ between the files."""
    found: list[_Key] = [_numbers(path) for path in files]
    if len({len(key) for key in found}) != 1:
        return found
    varying = [k for k in range(len(found[0])) if len({key[k] for key in found}) > 1]
    return [tuple(key[k] for k in varying) for key in found]

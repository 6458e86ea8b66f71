"""Count the residues of the molecule without building it, for defaults that follow its size."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

#: calcium ions, whose atom has the name of an alpha carbon
_CALCIUM = frozenset({"CA", "CAL", "CA2", "CA2+"})
#: chain, model and residue of an alpha carbon; parts that the format lacks are None
_Found = Iterator[tuple[str | None, str | None, str, Any]]


def count_residues(system: Any, base: Path) -> int | None:
    """Return the number of residues of a section ``system``; None if it cannot be told.

    For a structure, these are the residues with an alpha carbon in the chains and the model that the section
    names. Nothing is checked: what is wrong is an error of those who read the molecule.

    Parameters
    ----------
    system
        Content of the section, or its model.
    base
        Folder that a relative path starts from.
    """
    keys = ("sequence", "structure", "pdb", "chains", "model", "ignore", "force_field")
    if not isinstance(system, Mapping):
        system = {key: getattr(system, key, None) for key in keys}
    sequence = system.get("sequence")
    if isinstance(sequence, str):
        return len(sequence) or None
    structure = system.get("structure") or system.get("pdb")
    if not isinstance(structure, str | Path):
        return None
    try:
        topology = _amber_topology(system.get("force_field"))
        if topology is not None:
            return _in_prmtop(base / Path(topology).expanduser())
        path = base / Path(structure).expanduser()
        return _in_file(path, _names(system.get("chains")), system.get("model"), _names(system.get("ignore")))
    except (OSError, RuntimeError, ValueError, IndexError, EOFError):
        return None


def _amber_topology(force_field: Any) -> str | None:
    """Return the file of an Amber topology, which names the atoms that its coordinates do not."""
    own = force_field if isinstance(force_field, Mapping) else vars(force_field) if force_field else {}
    files = own.get("files") if own.get("kind") == "amber" else None
    first = files[0] if isinstance(files, list | tuple) else files
    return first if isinstance(first, str) else None


def _in_prmtop(path: Path) -> int | None:
    counts = {"ATOM_NAME": 0, "RESIDUE_LABEL": 0}
    flag = ""
    with path.open(encoding="utf-8", errors="replace") as handle:
        for line in handle:
            if line.startswith("%FLAG"):
                flag = line.split()[1]
            elif flag in counts and not line.startswith("%"):
                names = [line[i : i + 4].strip() for i in range(0, len(line.rstrip("\n")), 4)]
                ions = flag == "RESIDUE_LABEL"
                counts[flag] += sum(name in _CALCIUM if ions else name == "CA" for name in names)
    return (counts["ATOM_NAME"] - counts["RESIDUE_LABEL"]) or None


def _names(value: Any) -> set[str]:
    if value is None:
        return set()
    return {str(v) for v in (value if isinstance(value, list | tuple) else [value])}


def _in_file(path: Path, chains: Collection[str], model: Any, ignore: Collection[str]) -> int | None:
    suffixes = [s.lower() for s in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] == ".gz"
    kind = suffixes[-2] if packed and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    read = _READERS.get(kind)
    if read is None:
        return None
    with (gzip.open if packed else open)(path, "rt", encoding="utf-8", errors="replace") as handle:
        wanted: str | None = None if model is None else str(model)
        residues = set()
        for chain, in_model, name, residue in read(handle):
            if wanted is None and in_model is not None:
                wanted = in_model  # the first one
            other_chain = bool(chains) and chain is not None and chain not in chains
            if other_chain or name in ignore or (in_model is not None and in_model != wanted):
                continue
            residues.add((chain, residue))
    return len(residues) or None


def _pdb(lines: Iterable[str]) -> _Found:
    model = "1"
    for line in lines:
        if line.startswith("MODEL"):
            model = line[6:].strip()
        elif line.startswith(("ATOM", "HETATM")) and line[12:16] == " CA ":
            yield line[21].strip(), model, line[17:20].strip(), line[22:27]


def _mmcif(lines: Iterable[str]) -> _Found:
    columns: list[str] = []
    for line in lines:
        if line.startswith("_atom_site."):
            columns.append(line.split()[0].removeprefix("_atom_site."))
        elif columns and line.startswith(("ATOM", "HETATM")):
            row = dict(zip(columns, line.split(), strict=False))
            atom = row.get("auth_atom_id", row.get("label_atom_id", "")).strip("\"'")
            if atom != "CA" or row.get("type_symbol", "C").upper() != "C":
                continue
            chain = row.get("auth_asym_id") or row.get("label_asym_id")
            number = row.get("auth_seq_id") or row.get("label_seq_id")
            name = row.get("auth_comp_id") or row.get("label_comp_id", "")
            yield chain, row.get("pdbx_PDB_model_num", "1"), name, (number, row.get("pdbx_PDB_ins_code"))
        elif columns and line.startswith("#"):
            return


def _gro(lines: Iterable[str]) -> _Found:
    for number, line in enumerate(lines):
        if number > 1 and line[10:15].strip() == "CA" and line[5:10].strip() not in _CALCIUM:
            yield None, None, line[5:10].strip(), (number, line[:5])


def _crd(lines: Iterable[str]) -> _Found:
    for line in lines:
        words = line.split()
        if len(words) > 7 and words[3] == "CA" and words[2] not in _CALCIUM:
            yield None, None, words[2], (words[7], words[1])


_READERS: Mapping[str, Callable[[Iterable[str]], _Found]] = {
    ".pdb": _pdb,
    ".ent": _pdb,
    ".cif": _mmcif,
    ".mmcif": _mmcif,
    ".pdbx": _mmcif,
    ".gro": _gro,
    ".crd": _crd,
    ".cor": _crd,
}

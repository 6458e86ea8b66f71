"""Peptides without hydrogens as text of a PDB file and as mdtraj trajectories."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import mdtraj
import numpy as np
import PeptideBuilder
from Bio.PDB.PDBIO import PDBIO

#: atom lines of a PDB file, without the line end
Lines = list[str]


def peptide(sequence: str, phi: float = -120.0, psi: float = 140.0) -> Lines:
    """Atom lines of an extended peptide, chain A, residues from 1."""
    n = len(sequence)
    structure = PeptideBuilder.make_structure(sequence, [phi] * (n - 1), [psi] * (n - 1))
    text, writer = io.StringIO(), PDBIO()
    writer.set_structure(structure)
    writer.save(text)
    return [line.rstrip() for line in text.getvalue().splitlines() if line.startswith("ATOM")]


def number(line: str) -> int:
    return int(line[22:26])


def name(line: str) -> str:
    return line[12:16].strip()


def change(
    lines: Lines,
    *,
    shift: int = 0,
    chain: str | None = None,
    rename: Mapping[int, str] | None = None,
    move: Iterable[float] | None = None,
) -> Lines:
    """The same atoms with other numbers, chain, residue names (by number), or position (Å)."""
    out = []
    for line in lines:
        own = (rename or {}).get(number(line), line[17:20].strip())
        xyz = np.array([float(line[k : k + 8]) for k in (30, 38, 46)]) + (
            0.0 if move is None else np.array(move)
        )
        letter = line[21] if chain is None else chain
        out.append(
            f"{line[:17]}{own:<4.4s}{letter}{number(line) + shift:>4d}{line[26:30]}"
            + "".join(f"{x:8.3f}" for x in xyz)
            + line[54:]
        )
    return out


def without(lines: Lines, *numbers: int) -> Lines:
    """The atoms of the other residues."""
    return [line for line in lines if number(line) not in numbers]


def near(lines: Lines, moved: tuple[int, str], fixed: tuple[int, str], distance: float = 2.05) -> Lines:
    """The atoms with one of them moved to this distance (Å) from another."""
    target = next(line for line in lines if (number(line), name(line)) == fixed)
    x, y, z = (float(target[k : k + 8]) for k in (30, 38, 46))
    return [
        f"{line[:30]}{x + distance:8.3f}{y:8.3f}{z:8.3f}{line[54:]}"
        if (number(line), name(line)) == moved
        else line
        for line in lines
    ]


def atom(serial: int, atom_name: str, residue: str, at: int, xyz: Iterable[float], chain: str = "A") -> str:
    x, y, z = xyz
    return (
        f"ATOM  {serial:>5d}  {atom_name:<3s} {residue:<3s} {chain}{at:>4d}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {atom_name[0]:>2s}"
    )


def write(path: Path, *parts: Lines, head: Lines | None = None) -> Path:
    """A PDB file of these parts, each followed by TER."""
    body = [line for part in parts for line in [*part, "TER"]]
    path.write_text("\n".join([*(head or []), *body, "END"]) + "\n")
    return path


def trajectory(tmp_path: Path, *parts: Lines) -> mdtraj.Trajectory:
    return mdtraj.load(str(write(tmp_path / "peptide.pdb", *parts)))


def write_cif(path: Path, lines: Lines, cell: str = "") -> Path:
    """The same atoms as mmCIF."""
    columns = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id"
    )
    columns += " label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z auth_seq_id auth_comp_id auth_asym_id"
    columns += " auth_atom_id pdbx_PDB_model_num"
    rows = [
        f"ATOM {k} {name(x)[0]} {name(x)} . {x[17:20]} {x[21]} 1 {number(x)} ? {x[30:38]} {x[38:46]}"
        f" {x[46:54]} {number(x)} {x[17:20]} {x[21]} {name(x)} 1"
        for k, x in enumerate(lines, 1)
    ]
    head = ["data_test", cell, "loop_", *(f"_atom_site.{c}" for c in columns.split())]
    path.write_text("\n".join([*head, *rows, "#"]) + "\n")
    return path

"""What an import of all-atom trajectories reads and assumes: lines for the user, and its record."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import StateError
from cgal_plugin.exchange.trajectory_pieces import ImportPlan
from cgal_plugin.provenance import hash_file, read_json, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.oracle import OpenMMOracle

_Path = str | os.PathLike[str]
#: provenance of an import, in its store
RECORD = "import.json"


def describe(plan: ImportPlan, stride: int) -> list[str]:
    """Return what is imported and how, one line each."""
    lines = []
    for file, computed in zip(plan.files, plan.recomputed, strict=True):
        n = len(file.rows[::stride])
        text = f"{file.path}: {n} of {file.n_frames} frames"
        where = "of the file" if file.force_file == file.path else f"of {file.force_file}"
        lines.append(f"{text}, forces {'computed by the system of the run' if computed else where}")
        lines += file.notes
    if not all(plan.recomputed):
        lines.append(
            "forces of files are taken without constraint forces, as GROMACS, AMBER and OpenMM write them"
        )
    n_other = plan.topology.n_atoms - len(plan.solute)
    if n_other:
        lines.append(
            f"{n_other} of {plan.topology.n_atoms} atoms are solvent, ions or ignored; they have no beads"
        )
    return lines


def constraints_of(
    plan: ImportPlan, oracle: OpenMMOracle | None, measured: NDArray[np.int64]
) -> tuple[NDArray[np.int64], str]:
    """Return the constraints that the force map must respect, ``(n, 2)``, and a line about them.

    These are the constraints of the run's system (without one: bonds to hydrogen), because labels have them,
    and those that the trajectories show. A map for more constraints than there are is valid as well.
    """
    own = plan.hydrogen_bonds if oracle is None else oracle.model.constraints
    pairs = {(min(p), max(p)) for p in own.tolist()}
    shown = {(min(p), max(p)) for p in measured.tolist()}
    source = (
        "bonds to hydrogen are assumed to be constrained"
        if oracle is None
        else "constraints of the run's system"
    )
    text = f"force map for {len(pairs)} constraints ({source})"
    if shown - pairs:
        text += f" and {len(shown - pairs)} more that are constant in the trajectories"
    return np.array(sorted(pairs | shown), dtype=np.int64).reshape(-1, 2), text


def make_record(
    plan: ImportPlan,
    oracle: OpenMMOracle | None,
    top: Path | None,
    digests: Sequence[str],
    force_files: Sequence[Path],
    temperature: float,
    stride: int,
    force_map: str | _Path,
    block_ps: float | None,
) -> dict[str, Any]:
    """Return the provenance of an import, JSON-ready; imports with equal records give equal stores."""
    return {
        "trajectories": [
            {
                "file": str(file.path),
                "sha256": digest,
                "n_frames": file.n_frames,
                "forces": "computed" if computed else str(file.force_file),
                "force_unit": None if computed else file.force_unit,
                "forces_sha256": hash_file(force_files[k]) if force_files and not computed else None,
            }
            for k, (file, digest, computed) in enumerate(
                zip(plan.files, digests, plan.recomputed, strict=True)
            )
        ],
        "topology": None if top is None else {"file": str(top), "sha256": hash_file(top)},
        "temperature": temperature,
        "stride": stride,
        "block_ps": block_ps,
        "force_map": str(force_map) if force_map in ("optimal", "basic") else hash_file(force_map),
        "mapping_hash": plan.mapping.hash,
        "embedding": plan.mapping.topology.embedding,
        "solvent": None if oracle is None else oracle.model.solvent,
        "force_field": None if oracle is None else oracle.model.force_field,
        "system_sha256": None if plan.recompute is None else plan.recompute.system_hash(),
    }


def _content(record: dict[str, Any]) -> dict[str, Any]:
    """Return what decides about the store: the content of files, not where they are."""
    top, rows = record["topology"], record["trajectories"]
    own = [
        {key: value for key, value in row.items() if key not in ("file", "forces")}
        | {"computed": row["forces"] == "computed"}
        for row in rows
    ]
    return record | {"trajectories": own, "topology": None if top is None else top["sha256"]}


def is_finished(root: Path, record: dict[str, Any]) -> bool:
    """Return whether this import is complete; record it otherwise.

    Raises
    ------
    StateError
        The folder holds another import.
    """
    path = root / RECORD
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        return False
    try:
        before = read_json(path)
        old, new = _content(before), _content(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path} is damaged ({error}); remove {root} and import again") from error
    changed = [key for key, value in new.items() if old.get(key) != value]
    if changed:
        raise StateError(
            f"{root} holds an import with another {', '.join(changed)} (see {path}): force maps, "
            "temperatures and systems are not mixed. Use the same files and settings, or another folder"
        )
    return bool(before.get("finished"))

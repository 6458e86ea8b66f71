"""What was read of a system that the user brings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.mapping.residues import THREE_TO_ONE, standard_name
from cgal_plugin.oracle.coordinates import Coordinates
from cgal_plugin.oracle.given import GivenSystem
from cgal_plugin.oracle.readers import ForceFieldSource
from cgal_plugin.oracle.record import StructureRecord
from cgal_plugin.provenance import hash_file

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from openmm import app


def describe(
    source: ForceFieldSource,
    given: GivenSystem,
    topology: app.Topology,
    coordinates: Coordinates,
    structure: Path,
    periodic: bool,
    box: NDArray[np.float64] | None,
    timestep: str,
) -> StructureRecord:
    record = StructureRecord().with_fact("source", f"{coordinates.what} with {source.label}")
    solute, outside = [], Counter[str]()
    for residue in topology.residues():
        if next(iter(residue.atoms())).index < given.n_solute:
            solute.append(residue)
        else:
            outside[residue.name] += 1
    for chain in topology.chains():
        own = [r for r in chain.residues() if next(iter(r.atoms())).index < given.n_solute]
        letters = "".join(THREE_TO_ONE.get(standard_name(r.name) or "", f"[{r.name}]") for r in own)
        if own:
            record = record.with_fact("chains", f"{letters}, {len(own)} residues")
    record = record.with_fact("hydrogens", "all of the files; none added")
    record = record.with_fact("force field", source.label)
    for name, digest in given.hashes:
        record = record.with_fact("files", f"{Path(name).name} (SHA-256 {digest[:16]})")
    record = record.with_fact("files", f"{structure.name} (SHA-256 {hash_file(structure)[:16]})")
    text = ", ".join(f"{n} {name}" for name, n in outside.items())
    if source.implicit_solvent is not None:
        text = f"implicit, {source.implicit_solvent}"
    elif not text:
        gb = any("GB" in type(f).__name__ for f in given.system.getForces())
        text = "implicit, of the files" if gb else "none (vacuum), as in the files"
    record = record.with_fact("solvent", text)
    if given.boxed:
        record = record.with_fact(
            "solvent",
            "labels and seed trajectories reuse it: molecules that overlap with a new conformation move to "
            "the space that it leaves; backmapping is done without it, in OBC2",
        )
    if periodic and box is not None:
        sizes = " x ".join(f"{np.linalg.norm(row):.1f}" for row in box)
        pressure = "the barostat of the System" if given.barostat is not None else "1 bar"
        later = f" at the start, then {pressure}" if given.boxed else ", constant"
        record = record.with_fact("box", f"{sizes} Å{later}; PME")
    elif box is not None:
        record = record.with_fact("box", "of the files, not used: there is no solvent in it")
    n = given.system.getNumConstraints()
    masses = "those of the System" if source.kind == "system" else "hydrogens of 3 amu"
    record = record.with_fact(
        "constraints", f"{n}; masses: {masses}; time step {given.timestep_fs:g} fs ({timestep})"
    )
    record = record.with_fact(
        "notes",
        "start structure: minimised; each trajectory: minimised and equilibrated "
        "(seed_data.equilibration_ps)",
    )
    return record

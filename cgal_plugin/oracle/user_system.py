"""An all-atom system that the user brings: force field, topology, coordinates, solvent and box from files."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.config.force_field import content_hashes
from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.maps import CGMapping
from cgal_plugin.mapping.spec import resolve_spec
from cgal_plugin.oracle.coordinates import (
    Coordinates,
    box_vectors,
    make_whole,
    nearest_image,
    read_coordinates,
)
from cgal_plugin.oracle.given import GivenSystem, take_controllers, timestep, ungroup, without_constraints
from cgal_plugin.oracle.match import check_bond_lengths, check_masses, check_match, system_bonds
from cgal_plugin.oracle.readers import ForceFieldSource, read_files
from cgal_plugin.oracle.record import StructureRecord
from cgal_plugin.oracle.solute import bond_pairs, first_atoms, solute_size, standard_topology
from cgal_plugin.oracle.user_record import describe
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import openmm
    from numpy.typing import NDArray
    from openmm import app


@dataclass(frozen=True, eq=False)
class PreparedSystem:
    """A system read from files, not minimised.

    Attributes
    ----------
    topology
        ``openmm.app.Topology`` of all particles, the solute first.
    positions
        ``(n_particles, 3)`` Å, molecules not split over periodic boundaries.
    mapping
        :class:`CGMapping` of the solute's atoms.
    given
        Its Systems.
    record
        What was read.
    """

    topology: app.Topology
    positions: NDArray[np.float64]
    mapping: CGMapping
    given: GivenSystem
    record: StructureRecord


def load_user_system(
    kind: str,
    files: Sequence[str | os.PathLike[str]],
    include: str | os.PathLike[str] | None,
    structure: str | os.PathLike[str],
    *,
    mapping: Any = "CA",
    ignore: Collection[str] = (),
    cutoff: float | None = None,
    implicit_solvent: str | None = None,
) -> PreparedSystem:
    """Read a system from files of a force field and of coordinates; nothing is added or left out.

    Use it with :meth:`AllAtomModel.from_system`.

    Parameters
    ----------
    kind, files, include, cutoff, implicit_solvent
        See :class:`~cgal_plugin.oracle.readers.ForceFieldSource`.
    structure
        Coordinates and box of all particles; for ``openmm_xml`` and ``system`` also the topology.
    mapping
        CG mapping; residues that have beads in it belong to the solute.
    ignore
        Names of residues without beads that belong to the surroundings, such as ligands.

    Raises
    ------
    OracleError
        Files are missing, damaged or do not belong together; parameters are missing; the system has virtual
        sites, a polarisable force field, water without a box, or a box too small for the cutoff.
    MappingError
        The solute cannot be mapped.
    """
    source = ForceFieldSource(kind, files, include, cutoff, implicit_solvent)
    coordinates = read_coordinates(structure, kind)
    read = read_files(source, coordinates)
    what = f"force field ({source.label})"
    check_match(read.topology, coordinates, what)
    n_solute = solute_size(read.topology, resolve_spec(mapping), ignore, what)
    has_solvent = n_solute < read.topology.getNumAtoms()
    given = read.create(has_solvent, True) if kind == "system" else None
    periodic = has_solvent
    if given is not None:
        check_masses(given, read.topology, what, coordinates.what)
        for i, j in system_bonds(given, read.topology, n_solute):
            read.topology.addBond(i, j)
        periodic = bool(given.usesPeriodicBoundaryConditions())
    box = _box(read.topology, given, coordinates)
    if has_solvent and not (periodic and box is not None):
        raise OracleError(_no_box(read.topology, n_solute, what, coordinates.what, kind))
    system = given or read.create(periodic, True)
    if periodic and box is not None:
        _check_cutoff(system, box, what, kind)
    xyz = coordinates.positions
    if periodic and box is not None:
        xyz = make_whole(xyz, bond_pairs(read.topology), box)
    topology = standard_topology(read.topology, n_solute)
    if periodic and box is not None:
        xyz = _chains_together(topology, xyz, n_solute, box)
    check_bond_lengths(topology, xyz, what, coordinates.what)
    mapping_ = CGMapping.from_topology(
        first_atoms(topology, n_solute), mapping, positions=xyz[:n_solute], ignore=ignore
    )
    topology.setPeriodicBoxVectors(box_vectors(box if periodic else None))
    flexible = without_constraints(system, n_solute) if kind == "system" else read.create(periodic, False)
    barostat = take_controllers(system)
    take_controllers(flexible)
    for one in (system, flexible):
        ungroup(one)
        if box is not None and periodic:
            one.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    step, reason = timestep(system, topology)
    hashes = tuple(content_hashes(kind, source.files, include).items())
    given = GivenSystem(system, flexible, n_solute, step, source.label, hashes, barostat)
    record = describe(source, given, topology, coordinates, Path(structure), periodic, box, reason)
    return PreparedSystem(topology, xyz, mapping_, given, record)


# ---------------------------------------------------------------------- box


def _box(topology: app.Topology, system: Any, coordinates: Coordinates) -> NDArray[np.float64] | None:
    """Return the box vectors, Å, of the coordinates, or else of the other files."""
    from openmm import unit

    if coordinates.box is not None:
        return coordinates.box
    vectors = topology.getPeriodicBoxVectors()
    if system is not None and system.usesPeriodicBoundaryConditions():
        vectors = system.getDefaultPeriodicBoxVectors()
    if vectors is None:
        return None
    return np.array([tuple(v.value_in_unit(unit.nanometer)) for v in vectors]) * ANGSTROM_PER_NM


def _no_box(topology: app.Topology, n_solute: int, what: str, structure: str, kind: str) -> str:
    n = len({a.residue.index for a in topology.atoms() if a.index >= n_solute})
    has = f"{what} has {n} molecules of solvent or ions, but "
    if kind == "system":
        return f"{has}the System has no periodic boundaries. Write it with nonbondedMethod=PME"
    return (
        f"{has}neither it nor {structure} has a periodic box. Give a structure with its box (CRYST1 of a PDB "
        "file, the last line of an inpcrd or gro file)"
    )


def _check_cutoff(system: openmm.System, box: NDArray[np.float64], what: str, kind: str) -> None:
    from openmm import unit

    ranges = [
        f.getCutoffDistance().value_in_unit(unit.nanometer) * ANGSTROM_PER_NM
        for f in system.getForces()
        if hasattr(f, "getCutoffDistance") and f.usesPeriodicBoundaryConditions()
    ]
    narrowest, longest = float(np.diagonal(box).min()), max(ranges, default=0.0)
    if longest > narrowest / 2:
        raise OracleError(
            f"{what}: the box is {narrowest:.1f} Å wide, less than twice the cutoff of {longest:g} Å. Use a "
            "larger box" + ("" if kind == "system" else ", or a shorter system.force_field.cutoff")
        )


def _chains_together(
    topology: app.Topology, xyz: NDArray[np.float64], n_solute: int, box: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Move each solute chain to the periodic image that is nearest to the chains before it."""
    from scipy.spatial.distance import cdist

    placed: list[int] = []
    xyz = xyz.copy()
    for chain in topology.chains():
        atoms = [a.index for a in chain.atoms() if a.index < n_solute]
        if atoms and placed:
            gaps = cdist(xyz[placed], xyz[atoms].mean(axis=0, keepdims=True))[:, 0]
            near = xyz[placed[int(gaps.argmin())]]
            centre = xyz[atoms].mean(axis=0)
            xyz[atoms] += near + nearest_image(centre - near, box) - centre
        placed += atoms
    return xyz

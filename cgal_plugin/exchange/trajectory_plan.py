"""Plan an import of all-atom trajectories: open the files, match atoms, decide where forces come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.atom_files import AtomFile, open_atom_file
from cgal_plugin.data.pairing import check_order
from cgal_plugin.errors import CGALError, DataError
from cgal_plugin.exchange.trajectory_pieces import ImportPlan
from cgal_plugin.mapping import CGMapping
from cgal_plugin.mapping.files import load_structure
from cgal_plugin.mapping.match_atoms import bonds_of, is_hydrogen, solute_residues
from cgal_plugin.oracle.recompute import FrameForces, frame_forces
from cgal_plugin.provenance import hash_file
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray

    from cgal_plugin.oracle import OpenMMOracle


def check_files(trajectories: Sequence[Path], forces: Sequence[Path]) -> list[str]:
    """Check that files exist and are given once; return the SHA-256 of each trajectory.

    Raises
    ------
    DataError
        A file is missing or given twice, also as a copy; or the number of force files differs.
    """
    if not trajectories:
        raise DataError("no trajectory is given")
    for path in (*trajectories, *forces):
        if not path.is_file():
            raise DataError(f"file {str(path)!r} does not exist")
    if forces and len(forces) != len(trajectories):
        raise DataError(
            f"{len(trajectories)} trajectories and {len(forces)} force files: give one force file per "
            "trajectory, in the same order"
        )
    for files in (trajectories, forces):
        seen = [path.resolve() for path in files]
        twice = sorted({str(path) for path in seen if seen.count(path) > 1})
        if twice:
            raise DataError(f"{', '.join(twice)} is given twice")
    check_order(trajectories, forces)
    digests = [hash_file(path) for path in trajectories]
    for k, digest in enumerate(digests):
        if digest in digests[:k]:
            raise DataError(
                f"{trajectories[digests.index(digest)]} and {trajectories[k]} have the same content; give "
                "each simulation once"
            )
    return digests


def make_plan(
    trajectories: Sequence[Path],
    forces: Sequence[Path],
    top: Path | None,
    *,
    force_unit: str | None,
    recompute: bool,
    oracle: OpenMMOracle | None,
    mapping: Any,
    ignore: Sequence[str] = (),
) -> ImportPlan:
    """Open the files and match their atoms with the system of the run.

    Parameters
    ----------
    top
        Topology of all atoms of the trajectories; None: that of the user's own system.
    recompute
        Whether all forces are computed.
    oracle
        Oracle of the run; None: the solute and its mapping are those of the topology.
    mapping
        Mapping, if there is no oracle.
    ignore
        Residues that belong neither to the solute nor to its solvent.

    Raises
    ------
    CGALError
        See :func:`~cgal_plugin.exchange.trajectories.import_trajectories`.
    """
    topology, top_name = _topology(top, oracle)
    force_files: list[Path | None] = [*forces] or [None] * len(trajectories)
    files = [
        open_atom_file(
            path,
            topology,
            top_name=top_name,
            forces=force_file,
            force_unit=force_unit,
            use_forces=not recompute,
        )
        for path, force_file in zip(trajectories, force_files, strict=True)
    ]
    if force_unit is not None and all(f.force_file is None for f in files):
        raise DataError(f"force_unit {force_unit!r} is given, but no file has forces")
    missing = [file for file in files if file.force_file is None]
    if oracle is None and (missing or recompute):
        what = (
            f"{missing[0].path} has no forces"
            if missing and not recompute
            else "recompute: no system is given"
        )
        raise DataError(
            f"{what}: give the configuration of the run (--config), whose system computes them; or the "
            "forces themselves (a TRR file written with nstfout, or --forces)"
        )
    recomputed = tuple(recompute or file.force_file is None for file in files)
    first = files[0].read(files[0].rows[:1], topology, forces=False)
    cell = None if first.cells is None else first.cells[0]
    xyz = first.positions[0]
    if oracle is None:
        solute, map_, bonds, hydrogens = _by_topology(topology, xyz, cell, mapping, ignore, top_name)
        return ImportPlan(tuple(files), topology, solute, bonds, map_, None, recomputed, hydrogens)
    engine = _engine(oracle, topology, xyz, cell, top_name, ignore, any(recomputed), files)
    model = oracle.model
    solute = engine.order[: model.n_solute]
    atoms = list(model.mdtraj_topology.atoms)
    return ImportPlan(
        tuple(files),
        topology,
        solute,
        tuple((a.index, b.index) for a, b in model.mdtraj_topology.bonds),
        oracle.mapping,
        engine if len(engine.order) == len(engine.model.positions) else None,
        recomputed,
        frozenset(a.index for a in atoms if is_hydrogen(a)),
    )


def _topology(top: Path | None, oracle: OpenMMOracle | None) -> tuple[mdtraj.Topology, str]:
    """Return the atoms of the trajectories, and where they are listed."""
    if top is not None:
        structure = load_structure(top)
        return getattr(structure, "topology", structure), str(top)
    import mdtraj

    assert oracle is not None
    return mdtraj.Topology.from_openmm(oracle.model.topology), "of system.force_field"


def _engine(
    oracle: OpenMMOracle,
    topology: mdtraj.Topology,
    xyz: NDArray[np.floating],
    cell: NDArray[np.float64] | None,
    top: str,
    ignore: Sequence[str],
    needed: bool,
    files: Sequence[AtomFile],
) -> FrameForces:
    """Return what computes forces; one that only knows the solute if it is not needed and not possible."""
    from cgal_plugin.mapping.match_atoms import match_atoms

    try:
        return frame_forces(
            oracle.model,
            topology,
            xyz,
            cell,
            what=f"{files[0].path} with {top}",
            ignore=ignore,
            platform=oracle.settings.platform,
        )
    except CGALError:
        if needed or not oracle.model.boxed:
            raise
    # forces of the files, of a solute without its water: they cannot be compared, only used
    order = match_atoms(topology, oracle.model.mdtraj_topology, xyz, what=top, ignore=ignore)
    return FrameForces(oracle.model, order, oracle.settings.platform)


def _by_topology(
    topology: mdtraj.Topology,
    xyz: NDArray[np.floating],
    cell: NDArray[np.float64] | None,
    mapping: Any,
    ignore: Sequence[str],
    top: str,
) -> tuple[NDArray[np.int64], CGMapping, tuple[tuple[int, int], ...], frozenset[int]]:
    """Return solute atoms, mapping, bonds and hydrogens of a topology, without a system."""
    import mdtraj

    residues = solute_residues(topology, ignore)
    solute = np.array([a.index for r in residues for a in r.atoms], dtype=np.int64)
    if not solute.size:
        raise DataError(f"{top} has only water and ions")
    own = topology.subset(solute)
    frame = mdtraj.Trajectory(xyz[solute][None] / ANGSTROM_PER_NM, own)
    if cell is not None:
        frame.unitcell_vectors = cell[None] / ANGSTROM_PER_NM
    try:
        map_ = CGMapping.from_topology(frame, mapping, ignore=ignore)
    except CGALError as error:
        raise DataError(f"{top} cannot be mapped to beads: {error}") from error
    bonds = bonds_of(own, xyz[solute])
    return solute, map_, tuple(bonds), frozenset(a.index for a in own.atoms if is_hydrogen(a))

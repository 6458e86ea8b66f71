"""Forces of given all-atom frames, from the system of an all-atom model."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.periodic import whole_by_bonds
from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.match_atoms import match_atoms, solute_residues
from cgal_plugin.mapping.residues import IONS, WATER
from cgal_plugin.oracle.contexts import set_positions
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL, KJ_PER_MOL_NM_TO_KCAL_PER_MOL_ANGSTROM

if TYPE_CHECKING:
    import mdtraj
    import openmm
    from numpy.typing import NDArray
    from openmm import app

_TEMPERATURE = 300.0  # K, of an integrator that makes no step
_WATER_SITES = 3


@dataclass(frozen=True, eq=False)
class FrameForces:
    """Compute forces on the solute for frames of all atoms of a file. Picklable; see :func:`frame_forces`.

    Attributes
    ----------
    model
        The solute, and the solvent of the file if the model has explicit solvent.
    order
        ``(n_particles,)`` int64: the atom of the file for each particle of the model.
    platform
        OpenMM platform; one thread per process.
    """

    model: AllAtomModel
    order: NDArray[np.int64]
    platform: str = "CPU"

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def _context(self) -> openmm.Context:
        # in Python, forces of the CPU platform depend on nothing but positions and box with one thread
        return self.model.context(_TEMPERATURE, platform=self.platform)

    @cached_property
    def bonds(self) -> list[tuple[int, int]]:
        """Bonds of the model, pairs of its particles."""
        return [(a.index, b.index) for a, b in self.model.topology.bonds()]

    @property
    def explicit(self) -> bool:
        """Whether the system has explicit solvent, in a periodic box."""
        return self.model.boxed

    def system_hash(self) -> str:
        """SHA-256 of the serialised System."""
        from openmm import XmlSerializer

        return hashlib.sha256(XmlSerializer.serialize(self.model.make_system()).encode()).hexdigest()

    def __call__(
        self, positions: NDArray[np.floating], cells: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return forces and energies.

        Parameters
        ----------
        positions
            ``(n, n_file_atoms, 3)`` Å; molecules may be broken across the box.
        cells
            ``(n, 3, 3)`` Å, or None. Required with explicit solvent, ignored without.

        Returns
        -------
        ``(n, n_solute, 3)`` kcal/mol/Å without constraint forces, and ``(n,)`` kcal/mol of the whole system.
        Not finite where OpenMM fails.

        Raises
        ------
        OracleError
            Explicit solvent, and the frames have no box.
        """
        from openmm import OpenMMException, Vec3, unit
        from openmm.app.internal.unitcell import reducePeriodicBoxVectors

        xyz: NDArray[np.floating] = np.asarray(positions, dtype=np.float64)[:, self.order]
        if cells is not None:
            xyz, _ = whole_by_bonds(xyz, cells, self.bonds, gather=not self.explicit)
        elif self.explicit:
            raise OracleError("the frames have no periodic box; forces with explicit solvent need it")
        n, n_solute = len(xyz), self.model.n_solute
        forces, energies = np.full((n, n_solute, 3), np.nan), np.full(n, np.nan)
        kj_nm = unit.kilojoule_per_mole / unit.nanometer
        for k, frame in enumerate(xyz):
            if not np.isfinite(frame).all():
                continue
            if self.explicit and cells is not None:
                rows = [Vec3(*row) for row in cells[k] / ANGSTROM_PER_NM] * unit.nanometer
                self._context.setPeriodicBoxVectors(*reducePeriodicBoxVectors(rows))
            try:
                set_positions(self._context, frame)
                self._context.computeVirtualSites()  # rounded in XTC files
                state = self._context.getState(getForces=True, getEnergy=True)
            except OpenMMException:
                continue
            force = np.asarray(state.getForces(asNumpy=True).value_in_unit(kj_nm))[:n_solute]
            forces[k] = force * KJ_PER_MOL_NM_TO_KCAL_PER_MOL_ANGSTROM
            energies[k] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / KJ_PER_KCAL
        return forces, energies


def frame_forces(
    model: AllAtomModel,
    topology: mdtraj.Topology,
    positions: NDArray[np.floating],
    cell: NDArray[np.float64] | None,
    *,
    what: str,
    ignore: Collection[str] = (),
    platform: str = "CPU",
) -> FrameForces:
    """Match a model with the atoms of a file; with explicit solvent, take water and ions of the file.

    Parameters
    ----------
    model
        The solute and its force field.
    topology
        All atoms of the file.
    positions, cell
        ``(n_file_atoms, 3)`` Å and ``(3, 3)`` Å (or None): one frame of the file.
    what
        Name of the file, for messages.
    ignore
        Residues of the file that do not belong to the system.

    Raises
    ------
    MappingError
        The solute has other residues or atoms than the model.
    OracleError
        The file has water and the model none, or the other way round; the force field does not have the
        solvent; or there is no box.
    """
    solute = match_atoms(topology, model.mdtraj_topology, positions, what=what, ignore=ignore)
    own = {r.index for r in solute_residues(topology, ignore)}
    others = [r for r in topology.residues if r.index not in own and r.name.strip().upper() not in ignore]
    n_water = sum(r.name.strip().upper() in WATER for r in others)
    if not model.boxed:
        if n_water:
            raise OracleError(
                f"{what} has {n_water} waters, but {_named(model)}: the forces of another solvent are not "
                "those of this ensemble. Set oracle.solvent to tip3pfb, use system.force_field with the "
                "files of the simulation, or give frames of a simulation without water"
            )
        return FrameForces(model, solute, platform)
    if not n_water:
        raise OracleError(
            f"{what} has no water, but {_named(model)}: forces of explicit solvent can only be computed with "
            "all its atoms. Give trajectories with water, or their forces (a TRR file, or --forces)"
        )
    if cell is None:
        raise OracleError(f"{what} has no periodic box; forces with explicit solvent need it")
    solvent = np.array([a.index for r in others for a in r.atoms], dtype=np.int64)
    order = np.concatenate([solute, solvent])
    if _same_solvent(model, others):
        full = model
    else:
        full = _with_solvent(model, others, positions[order], cell, what)
    return FrameForces(full, order, platform)


def _named(model: AllAtomModel) -> str:
    """Return what decides about the solvent of a model, for messages."""
    if model.given is None:
        return f"oracle.solvent is {model.solvent}"
    return f"the files of system.force_field have {'water' if model.boxed else 'none'}"


def _same_solvent(model: AllAtomModel, others: list[Any]) -> bool:
    """Return whether the model has just these waters and ions in this order."""
    own = [r for r in model.topology.residues() if next(r.atoms()).index >= model.n_solute]
    return [_elements(r) for r in own] == [_elements(r) for r in others]


def _elements(residue: Any) -> tuple[int, ...]:
    atoms = residue.atoms() if callable(residue.atoms) else residue.atoms
    return tuple(0 if a.element is None else int(a.element.atomic_number) for a in atoms)


def _with_solvent(
    model: AllAtomModel,
    others: list[Any],
    positions: NDArray[np.floating],
    cell: NDArray[np.float64],
    what: str,
) -> AllAtomModel:
    from openmm import Vec3, unit

    if model.given is not None:
        n_own = sum(1 for r in model.topology.residues() if next(r.atoms()).index >= model.n_solute)
        raise OracleError(
            f"{what} has {len(others)} waters and ions, the files of system.force_field have {n_own}, or in "
            "another order: give the files of this simulation"
        )
    wrong = sorted({r.name for r in others if not _is_known(r)})
    if wrong:
        raise OracleError(
            f"{what} has residues that the solvent {model.solvent} does not have: {', '.join(wrong)}. Use "
            "system.force_field with the files of the simulation, leave them out (system.ignore), or give "
            "forces"
        )
    topology = _joined(model, others)
    rows = [Vec3(*row) for row in np.asarray(cell, dtype=np.float64) / ANGSTROM_PER_NM] * unit.nanometer
    topology.setPeriodicBoxVectors(rows)
    return replace(model, topology=topology, positions=np.asarray(positions, dtype=np.float64))


def _is_known(residue: Any) -> bool:
    name = residue.name.strip().upper()
    return (name in WATER and residue.n_atoms == _WATER_SITES) or (name in IONS and residue.n_atoms == 1)


def _joined(model: AllAtomModel, others: list[Any]) -> app.Topology:
    """Return the topology of the solute with the waters and ions of a file behind it."""
    from openmm import app

    topology = app.Topology()
    atoms: dict[Any, Any] = {}
    for chain in model.implicit.topology.chains():
        copied = topology.addChain(chain.id)
        for residue in chain.residues():
            new = topology.addResidue(residue.name, copied, residue.id, residue.insertionCode)
            for atom in residue.atoms():
                atoms[atom] = topology.addAtom(atom.name, atom.element, new, atom.id)
    for a, b in model.implicit.topology.bonds():
        topology.addBond(atoms[a], atoms[b])
    rest = topology.addChain("S")
    for residue in others:
        new = topology.addResidue("HOH" if residue.n_atoms == _WATER_SITES else residue.name, rest)
        own = [
            topology.addAtom(a.name, app.Element.getByAtomicNumber(a.element.atomic_number), new)
            for a in residue.atoms
        ]
        oxygen = next((a for a in own if a.element is app.element.oxygen), None)
        for atom in own:
            if oxygen is not None and atom is not oxygen:
                topology.addBond(oxygen, atom)
    return topology

"""OpenMM-ML's entry point: ``MLPotential("cgschnet", modelPath="potential.pt")``.

``createSystem(topology)`` takes one atom per bead. ``createMixedSystem(topology, system, atoms)`` models the
beads ``atoms``, one molecule of the potential, among other particles of a conventional force field; OpenMM-ML
then needs an element for each bead.

OpenMM-ML is not a dependency (extra ``openmm-ml``). It imports this module; its classes are imported only
when a potential is created.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.dynamics.force import make_force, resolve_for_file
from cgal_plugin.dynamics.potential_metadata import check_units, is_portable, only_fast, read_metadata
from cgal_plugin.dynamics.residue_names import check_residue_names
from cgal_plugin.errors import DynamicsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import openmm
    import openmm.app


class CGSchNetPotentialFactory:
    """Factory for the entry-point group ``openmmml.potentials`` of OpenMM-ML."""

    def createImpl(self, name: str, modelPath: str | None = None, mapping: Any = "CA", **args: Any) -> Any:
        """Return an ``MLPotentialImpl`` of an exported potential.

        Parameters
        ----------
        name
            ``"cgschnet"``.
        modelPath
            File of :func:`cgal_plugin.export.export_potential`.
        mapping
            CG mapping for bead masses, used if the file has no topology.

        Raises
        ------
        DynamicsError
            ``modelPath`` is missing or no exported potential, or there are unknown arguments.
        """
        if modelPath is None:
            raise DynamicsError(
                f"MLPotential({name!r}) needs modelPath='potential.pt', made by `cgal export`"
            )
        if args:
            raise DynamicsError(
                f"MLPotential({name!r}) has no arguments {sorted(args)}; it takes modelPath and mapping"
            )
        path, metadata = modelPath, read_metadata(modelPath)
        check_units(metadata, path)
        from openmmml.mlpotential import MLPotentialImpl

        class CGSchNetPotentialImpl(MLPotentialImpl):  # type: ignore[misc] # openmmml has no types
            """Adds the potential to the Systems that OpenMM-ML creates."""

            def addForces(
                self,
                topology: openmm.app.Topology,
                system: openmm.System,
                atoms: Iterable[int] | None,
                forceGroup: int,
                **kwargs: Any,
            ) -> None:
                add_forces(
                    topology,
                    system,
                    atoms,
                    forceGroup,
                    path=path,
                    metadata=metadata,
                    mapping=mapping,
                    **kwargs,
                )

            def getMLLongRange(self) -> bool:
                return False

        return CGSchNetPotentialImpl()


def add_forces(
    topology: openmm.app.Topology,
    system: openmm.System,
    atoms: Iterable[int] | None,
    force_group: int,
    *,
    path: str | os.PathLike[str],
    metadata: dict[str, Any],
    mapping: Any = "CA",
    backend: str = "auto",
    device: str = "cpu",
) -> None:
    """Add the potential and set bead masses, which OpenMM-ML leaves at 0 for beads without an element.

    Parameters
    ----------
    topology
        One atom per bead, replica after replica.
    atoms
        Beads on which the potential acts; ``None``: all. A subset needs backend ``python`` or ``fast``;
        ``"auto"`` then chooses ``python``.
    backend, device
        As for :func:`cgal_plugin.dynamics.add_potential`; pass them to ``createSystem``. With several
        replicas also pass ``removeCMMotion=False``.

    Raises
    ------
    DynamicsError
        The beads are not those of the potential (their number or the names of their residues), the backend is
        missing, or does not support the file or a subset.
    MappingError
        The file has no topology, and ``mapping`` does not fit the given one.
    """
    from cgal_plugin.mapping import CGTopology

    beads = np.arange(topology.getNumAtoms()) if atoms is None else np.array(list(atoms), dtype=int)
    n_replicas = int(metadata.get("n_replicas", 1))
    if is_portable(metadata):  # for any number of replicas
        n_replicas = max(1, beads.size // metadata["n_beads"])
    expected = metadata.get("n_beads", 0) * n_replicas
    if expected and beads.size != expected:
        raise DynamicsError(
            f"potential {os.fspath(path)!r} is for {n_replicas} replica(s) of {metadata['n_beads']} beads, "
            f"not for {beads.size}"
        )
    saved = metadata.get("topology")
    if saved is not None:
        residues = [atom.residue.name for atom in topology.atoms()]
        own = list(saved["residue_names"]) * n_replicas
        check_residue_names([residues[i] for i in beads], own, "the topology")
    if backend == "auto":
        # TorchForce acts on all particles and reads TorchScript only
        backend = "fast" if only_fast(metadata) else "auto" if atoms is None else "python"
    chosen = resolve_for_file(backend, metadata, path)
    if atoms is None:
        # in a mixed system the conventional force field sets the masses
        if saved is not None:
            masses = np.tile(np.array(saved["masses"]), n_replicas)
        else:
            masses = CGTopology.from_openmm(topology, mapping).masses
        if masses.size != beads.size:
            raise DynamicsError(
                f"the topology has {beads.size} atoms; mapping {mapping!r} gives {masses.size} beads: "
                "use a topology with one atom per bead"
            )
        for bead, mass in enumerate(masses.tolist()):
            system.setParticleMass(bead, mass)
    particles = None if atoms is None else beads
    force = make_force(path, backend=chosen, device=device, particles=particles, n_replicas=n_replicas)
    force.setForceGroup(force_group)
    system.addForce(force)

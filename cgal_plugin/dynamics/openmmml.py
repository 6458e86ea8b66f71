"""OpenMM-ML's entry point: ``MLPotential("cgschnet", modelPath="potential.pt")``.

OpenMM-ML is not a dependency: it imports this module, never the other way round, and its classes are
looked up when a potential is made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.dynamics.force import make_force, read_metadata, resolve_backend
from cgal_plugin.errors import DynamicsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import openmm
    import openmm.app


class CGSchNetPotentialFactory:
    """Factory that OpenMM-ML finds through the entry-point group ``openmmml.potentials``."""

    def createImpl(self, name: str, modelPath: str | None = None, mapping: Any = "CA", **args: Any) -> Any:
        """An ``MLPotentialImpl`` of an exported potential.

        Parameters
        ----------
        name
            ``"cgschnet"``.
        modelPath
            File of :func:`cgal_plugin.export.export_torchscript`.
        mapping
            CG map of the topologies to come, for the masses of a file that does not know its beads.

        Raises
        ------
        DynamicsError
            ``modelPath`` is missing or not a TorchScript file, or further arguments are given.
        """
        if modelPath is None:
            raise DynamicsError(
                f"MLPotential({name!r}) needs modelPath='potential.pt', made by `cgal export`"
            )
        if args:
            raise DynamicsError(
                f"MLPotential({name!r}) does not know {sorted(args)}; it takes modelPath, mapping"
            )
        metadata = read_metadata(modelPath)
        from openmmml.mlpotential import MLPotentialImpl

        class CGSchNetPotentialImpl(MLPotentialImpl):
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
                    path=modelPath,
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
    """Add the potential, and give the beads it acts on their masses (OpenMM-ML leaves 0 without an element).

    Parameters
    ----------
    topology
        One atom a bead, replica after replica.
    atoms
        Beads it acts on, ``None`` for all; a part needs backend ``python``, which ``"auto"`` then takes.
    backend, device
        As for :func:`cgal_plugin.dynamics.add_potential`; given to ``createSystem``. With several
        replicas also give it ``removeCMMotion=False``.

    Raises
    ------
    DynamicsError
        The number of beads is not that of the potential, or the backend is missing.
    MappingError
        The file does not say what its beads are, and the topology is not one of ``mapping``.
    """
    from cgal_plugin.mapping import CGTopology

    beads = np.arange(topology.getNumAtoms()) if atoms is None else np.array(list(atoms), dtype=int)
    expected = metadata.get("n_beads", 0) * metadata.get("n_replicas", 1)
    if expected and beads.size != expected:
        raise DynamicsError(
            f"potential {os.fspath(path)!r} is for {metadata.get('n_replicas', 1)} replica(s) of "
            f"{metadata['n_beads']} beads; it is to act on {beads.size}"
        )
    if atoms is None:
        # in a mixed system the masses are the conventional force field's business
        saved = metadata.get("topology")
        if saved is not None:
            masses = np.tile(np.array(saved["masses"]), metadata["n_replicas"])
        else:
            masses = CGTopology.from_openmm(topology, mapping).masses
        if masses.size != beads.size:
            raise DynamicsError(
                f"the topology has {beads.size} atoms; mapping {mapping!r} makes {masses.size} beads of it: "
                "give a topology with one atom a bead"
            )
        for bead, mass in enumerate(masses.tolist()):
            system.setParticleMass(bead, mass)
    chosen = resolve_backend("python" if atoms is not None and backend == "auto" else backend)
    force = make_force(path, backend=chosen, device=device, particles=None if atoms is None else beads)
    force.setForceGroup(force_group)
    system.addForce(force)

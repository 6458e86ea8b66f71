"""ASE calculator of a CG potential, and through ASE a way into i-PI and PLUMED.

::

    from ase import units
    from ase.md.langevin import Langevin
    from cgal_plugin.ase import CGCalculator

    calc = CGCalculator("potential.pt")
    atoms = calc.make_atoms(start)                      # (n_beads, 3) Å; beads with their masses
    Langevin(atoms, 4 * units.fs, temperature_K=calc.temperature, friction=0.001 / units.fs).run(1000)

i-PI: the calculator is its client. In i-PI's input, ``<ffsocket mode='unix' pbc='False'>`` keeps it from
folding the molecule into the cell. i-PI takes the masses from its own input::

    from ase.calculators.socketio import SocketClient

    SocketClient(unixsocket="cgal").run(atoms, use_stress=False)

PLUMED (``pip install plumed`` and its library); lengths and energies of its input are in nm and kJ/mol::

    from ase.calculators.plumed import Plumed

    lines = ["d: DISTANCE ATOMS=1,10", "METAD ARG=d PACE=500 HEIGHT=1.2 SIGMA=0.05"]
    atoms.calc = Plumed(calc, lines, 4 * units.fs, atoms=atoms, kT=calc.temperature * units.kB)
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import ase
    from ase.calculators.calculator import Calculator, all_changes
except ImportError as error:
    raise ImportError('cgal_plugin.ase needs the package ase: pip install "cgal_plugin[ase]"') from error

from cgal_plugin.data.temperature import same_temperature
from cgal_plugin.dynamics.force import ScriptedPotential
from cgal_plugin.dynamics.potential_metadata import check_metadata, only_fast, read_metadata
from cgal_plugin.dynamics.residue_names import check_residue_names
from cgal_plugin.errors import DynamicsError, ExportError
from cgal_plugin.export.fast import FastPotential, fast_available
from cgal_plugin.export.loading import is_exported
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["CGCalculator"]

_LOG = logging.getLogger(__name__)
#: ``"fast"``: compiled engine, any file; ``"python"``: the module of the file, or the model, by torch
BACKENDS = ("fast", "python")
#: positions (N, 3) nm -> energy kJ/mol and forces (N, 3) kJ/mol/nm
_Evaluate = Callable[["NDArray[np.float64]"], "tuple[float, NDArray[np.float64]]"]


class CGCalculator(Calculator):
    """Energy (eV), free energy (the same) and forces (eV/Å) of the beads of one molecule.

    A CG potential is a potential of mean force of one temperature, :attr:`temperature`. It has no periodic
    images, stress or charges.

    Parameters
    ----------
    potential
        File of ``cgal export``, ``export_potential`` or ``FastPotential.save``; or a checkpoint or model,
        which needs ``topology``. A TorchScript file for several replicas needs backend ``"fast"``.
    topology
        Beads of the molecule; default: those that the file records.
    backend
        ``"fast"``: the compiled engine (extra ``fast``); ``"python"``: torch; ``"auto"``: ``"fast"`` if it
        supports the potential, else ``"python"``.
    temperature
        K; compared with the temperature that the file records.

    Attributes
    ----------
    topology, temperature, backend
        Beads; K, or None if it is not recorded or given; ``"fast"`` or ``"python"``.

    Raises
    ------
    DynamicsError
        The file is missing, damaged, or for another molecule, embedding, temperature or number of replicas;
        there is no topology; or the backend is unknown or does not support the potential.
    ExportError
        The model or checkpoint cannot be used.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (as ASE declares it)

    def __init__(
        self,
        potential: str | os.PathLike[str] | Any,
        topology: CGTopology | None = None,
        *,
        backend: str = "auto",
        temperature: float | None = None,
        **options: Any,
    ) -> None:
        if backend not in ("auto", *BACKENDS):
            raise DynamicsError(f"unknown backend {backend!r}; use 'auto' or one of {', '.join(BACKENDS)}")
        if topology is not None and not isinstance(topology, CGTopology):
            raise DynamicsError(
                f"topology is {topology!r}; give a CGTopology, such as CGTopology.from_file('x.pdb')"
            )
        is_file = isinstance(potential, str | os.PathLike)
        name = f"potential {os.fspath(potential)!r}" if is_file else "the model"
        evaluate: _Evaluate
        if is_file and not _is_checkpoint(Path(potential)):
            metadata = read_metadata(potential)
            self.topology = _topology_of(metadata, topology, name)
            self.backend, evaluate = _from_file(Path(potential), metadata, self.topology, backend)
            recorded = metadata.get("temperature")
        else:
            if topology is None:
                raise DynamicsError(f"{name} is a model: give its topology, or a file of `cgal export`")
            self.topology = topology
            self.backend, evaluate, recorded = _from_model(potential, topology, backend)
        self.temperature = same_temperature(
            recorded, temperature, name, "the argument temperature", DynamicsError
        )
        self._evaluate = evaluate
        super().__init__(**options)  # type: ignore[no-untyped-call] # untyped in ase

    def make_atoms(self, positions: ArrayLike) -> ase.Atoms:
        """Return the molecule as ``ase.Atoms`` with bead masses, residue names and this calculator.

        ``positions``: ``(n_beads, 3)`` Å. The beads have the symbol X.

        Raises
        ------
        DynamicsError
            The number of beads is wrong or a coordinate is not finite.
        """
        xyz = np.asarray(positions, dtype=np.float64)
        n = self.topology.n_beads
        if xyz.shape != (n, 3):
            raise DynamicsError(f"positions have shape {xyz.shape}; {self.topology!r} needs ({n}, 3) in Å")
        if not np.isfinite(xyz).all():
            raise DynamicsError("the positions are not finite")
        atoms = ase.Atoms("X" * n, positions=xyz, masses=self.topology.masses, pbc=False)
        atoms.arrays["residuenames"] = np.array(self.topology.residue_names)
        atoms.calc = self
        return atoms

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = all_changes,
    ) -> None:
        """Compute all properties; called by ASE.

        Raises
        ------
        DynamicsError
            The atoms are not the beads of the potential or are periodic, or positions or forces are not
            finite.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call] # untyped in ase
        beads: Any = self.atoms
        self._check(beads)
        energy, forces = self._evaluate(beads.positions / ANGSTROM_PER_NM)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            bad = int((~np.isfinite(forces).all(axis=1)).sum())
            raise DynamicsError(
                f"the energy is {energy}, and the forces on {bad} beads are not finite: the positions are "
                "not, or the dynamics has blown up (shorten the time step, or start from a relaxed frame)"
            )
        unit = ase.units.kJ / ase.units.mol
        self.results = {
            "energy": energy * unit,
            "free_energy": energy * unit,
            "forces": forces * (unit / ANGSTROM_PER_NM),
        }

    def _check(self, atoms: ase.Atoms) -> None:
        if len(atoms) != self.topology.n_beads:
            raise DynamicsError(
                f"the Atoms have {len(atoms)} atoms; the potential is for {self.topology.n_beads} beads "
                f"({self.topology!r})"
            )
        if atoms.pbc.any():
            raise DynamicsError("the potential has no periodic images: set atoms.pbc = False")
        names = atoms.arrays.get("residuenames")  # set by make_atoms, and by ase.io for PDB files
        if names is not None:
            check_residue_names(names.tolist(), self.topology.residue_names, "the Atoms")


def _is_checkpoint(path: Path) -> bool:
    if path.suffix == ".ckpt":
        return True
    return zipfile.is_zipfile(path) and not is_exported(path)


def _topology_of(metadata: dict[str, Any], given: CGTopology | None, name: str) -> CGTopology:
    if given is not None:
        return given
    if "topology" not in metadata:
        raise DynamicsError(f"{name} records no topology: give the argument topology")
    return CGTopology.from_dict(metadata["topology"], name)


def _from_file(
    path: Path, metadata: dict[str, Any], topology: CGTopology, backend: str
) -> tuple[str, _Evaluate]:
    """Return the backend and the potential of an exported file."""
    replicas = {key: value for key, value in metadata.items() if key != "n_replicas"}
    check_metadata(replicas, path, topology, 1)
    fast_only = only_fast(metadata)
    if fast_only and backend == "python":
        raise DynamicsError(f"potential {str(path)!r} was written by FastPotential.save; use backend 'fast'")
    fast = _try_fast(lambda: FastPotential.from_file(path, n_replicas=1), backend, fast_only, str(path))
    if fast is not None:
        return "fast", fast
    check_metadata(metadata, path, topology, 1)
    script = ScriptedPotential(path)

    def evaluate(positions: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        import torch

        energy, forces = script(None, torch.from_numpy(positions))
        return float(energy), forces.to(torch.float64).numpy()

    return "python", evaluate


def _from_model(model: Any, topology: CGTopology, backend: str) -> tuple[str, _Evaluate, float | None]:
    """Return the backend, the potential, and the temperature that a model or checkpoint records."""
    from cgal_plugin.export.loading import differentiable
    from cgal_plugin.export.potential import load_any, potential_module

    loaded: Any = load_any(model)
    recorded = getattr(loaded, "cgal_temperature", None)
    fast = _try_fast(lambda: FastPotential.from_model(loaded, topology), backend, False, "the model")
    if fast is not None:
        return "fast", fast, recorded
    with differentiable():
        module = potential_module(loaded, topology)

    def evaluate(positions: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        import torch

        with differentiable():
            energy, forces = module(torch.from_numpy(positions))
        return float(energy), forces.detach().to(torch.float64).numpy()

    return "python", evaluate, recorded


def _try_fast(
    build: Callable[[], FastPotential], backend: str, only_fast: bool, name: str
) -> FastPotential | None:
    """Return the fast engine; None if another backend is requested or ``"auto"`` cannot use it."""
    if backend == "python":
        return None
    required = only_fast or backend == "fast"
    if not required and not fast_available():
        _LOG.info('the fast engine needs numba (pip install "cgal_plugin[fast]"); using backend python')
        return None
    try:
        return build()
    except ExportError as error:
        if required:
            raise DynamicsError(f"backend 'fast' cannot use {name}: {error}") from error
        _LOG.warning("backend 'fast' cannot use %s: %s; using backend python", name, error)
        return None

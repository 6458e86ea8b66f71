"""How long the steps of a run take on one core, by atoms, beads, solvent and platform.

Measured with ``tests/benchmarks/bench_rates.py``; see there for the numbers behind the laws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cgal_plugin.mapping.topology import CGTopology

#: atoms of a residue in a chain at pH 7, and of one that is not in this list
_ATOMS = {
    **{"ALA": 10, "ARG": 24, "ASN": 14, "ASP": 12, "CYS": 11, "GLN": 17, "GLU": 15, "GLY": 7, "HIS": 17},
    **{"ILE": 19, "LEU": 19, "LYS": 22, "MET": 17, "PHE": 20, "PRO": 14, "SER": 11, "THR": 14, "TRP": 24},
    **{"TYR": 21, "VAL": 16},
}
_OTHER_ATOMS = 16
#: atoms of the two charged ends of a chain
_END_ATOMS = 3
#: atoms per nm³ of water
_DENSITY = 100.0
#: nm that the box is wider than the solute
_PADDING = 1.0
#: s per ps of MD at 4 fs: per pair of atoms, or per atom in water with PME
_PER_PAIR = {"obc2": 1.05e-5, "gbn2": 7e-5}
_PER_ATOM = 1.1e-3
#: speed relative to one thread of the CPU platform, and the least s per ps: a GPU is waited for at each step.
#: Rough
_PLATFORMS = {"CPU": (1.0, 0.0), "Reference": (0.1, 0.0), "CUDA": (50.0, 0.05), "OpenCL": (30.0, 0.1)}
#: s of backmapping a frame on the CPU platform, per atom: its nonbonded terms have a cutoff
_BACKMAP_PER_ATOM = {"obc2": 3e-3, "gbn2": 1.3e-2}
#: building, protonating and minimising the molecule, in ps of MD in implicit solvent
_BUILD_PS = 5.0
#: a network of 64 features and 2 blocks, for 10 beads
_BEADS, _TRAINED, _FAST, _TORCH = 10, 2000.0, 20000.0, 2300.0
#: replica-steps per second with a network on a GPU, if it is not waited for
_GPU_STEPS = 1000.0


@dataclass(frozen=True)
class Molecule:
    """Size of a molecule.

    Attributes
    ----------
    n_residues, n_atoms, n_beads
        Residues, atoms of the solute, and beads.
    n_particles
        Particles of a given system with its solvent; 0 if the system is not given.
    timestep_fs
        Longest time step of all-atom MD, fs.
    """

    n_residues: int
    n_atoms: int
    n_beads: int
    n_particles: int = 0
    timestep_fs: float = 4.0

    @classmethod
    def of(cls, topology: CGTopology) -> Molecule:
        """Count the atoms of the residues of a CG topology."""
        names = dict(zip(topology.residue_index.tolist(), topology.residue_names, strict=True))
        n_chains = len(set(topology.chain_index.tolist()))
        n_atoms = sum(_ATOMS.get(name, _OTHER_ATOMS) for name in names.values()) + _END_ATOMS * n_chains
        return cls(len(names), n_atoms, topology.n_beads)

    def box_atoms(self, shape: str) -> float:
        """Return the atoms in the water box around the molecule.

        Parameters
        ----------
        shape
            ``"folded"``, ``"coil"`` or ``"extended"``: the box is cubic and contains the molecule in every
            orientation, so that a stretched chain needs far more water.
        """
        n = self.n_residues
        widths = {"folded": 0.94 * n**0.38, "coil": 0.75 * n**0.55, "extended": 0.345 * n + 0.3}
        side: float = widths[shape] + _PADDING
        return max(float(self.n_atoms), _DENSITY * side * side * side)


@dataclass(frozen=True)
class Rates:
    """Seconds of one core for the steps of a run of one molecule.

    Attributes
    ----------
    molecule
        Size of the molecule.
    solvent, platform
        Of the oracle (``"obc2"``, ``"gbn2"``, ``"tip3pfb"``, ``"files"``; OpenMM's name).
    """

    molecule: Molecule
    solvent: str = "obc2"
    platform: str = "CPU"

    def md_seconds(
        self, picoseconds: float, shapes: Iterable[str], *, timestep_fs: float | None = None
    ) -> float:
        """Return the seconds of MD whose starts have these shapes in turn; default: at the longest step."""
        shapes, timestep_fs = list(shapes), timestep_fs or self.molecule.timestep_fs
        mean = sum(self._per_ps(self.solvent, shape) for shape in shapes) / len(shapes)
        return picoseconds * mean * 4.0 / timestep_fs

    def backmap_seconds(self) -> float:
        """Return the seconds of backmapping one frame, and of placing water around it."""
        return _BACKMAP_PER_ATOM[self._implicit] * self.molecule.n_atoms + self._water_seconds()

    def build_seconds(self) -> float:
        """Return the seconds of building the molecule."""
        return 0.5 + _BUILD_PS * self._per_ps(self._implicit, "folded")

    @property
    def _implicit(self) -> str:
        return "gbn2" if self.solvent == "gbn2" else "obc2"

    @property
    def _boxed(self) -> bool:
        return self.solvent == "tip3pfb" or self.molecule.n_particles > self.molecule.n_atoms

    def _water_seconds(self) -> float:
        return 0.8 * self._per_ps(self.solvent, "coil") if self._boxed else 0.0

    def _per_ps(self, solvent: str, shape: str) -> float:
        if solvent == self.solvent and self._boxed:
            one = _PER_ATOM * (self.molecule.n_particles or self.molecule.box_atoms(shape))
        else:
            solvent = "obc2" if solvent == "files" else solvent
            one = _PER_PAIR[solvent] * self.molecule.n_atoms**2
        factor, least = _PLATFORMS[self.platform]
        return max(one / factor, least)

    def training_seconds(self, frames: float, size: float) -> float:
        """Return the seconds of training on ``frames`` frames.

        ``size`` is that of the network relative to 64 features and 2 blocks, here and below.
        """
        relative: float = (self.molecule.n_beads / _BEADS) ** 0.8
        return frames * size * relative / _TRAINED

    def cg_seconds(self, replica_steps: float, size: float, *, fast: bool, gpu: bool) -> float:
        """Return the seconds of CG dynamics of 16 or more replicas, with the fast engine or with torch."""
        relative = self.molecule.n_beads / _BEADS
        if gpu:
            return replica_steps / (_GPU_STEPS * 16)
        rate: float = _FAST / relative**1.5 if fast else _TORCH / relative**1.2
        return replica_steps * size / rate

"""One bead: its atoms and their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import MappingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WEIGHTS = ("center", "mass")
_ELEMENT_MASS = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "S": 32.06, "P": 30.974, "SE": 78.971}


@dataclass(frozen=True)
class BeadSpec:
    """One bead of a residue: its name, the atoms that define it, and their weights.

    ``weights`` is ``"center"`` (equal), ``"mass"`` (centre of mass) or one positive number per atom.
    The weights are normalised to a sum of one.

    Raises
    ------
    MappingError
        There are no atoms, an atom occurs twice, or the weights are invalid.
    """

    name: str
    atoms: tuple[str, ...]
    weights: str | tuple[float, ...] = "center"

    def __post_init__(self) -> None:
        if not self.atoms:
            raise MappingError(f"bead {self.name!r} has no atoms")
        if len(set(self.atoms)) != len(self.atoms):
            raise MappingError(f"bead {self.name!r} names an atom twice: {', '.join(self.atoms)}")
        if isinstance(self.weights, str):
            if self.weights not in _WEIGHTS:
                raise MappingError(
                    f"bead {self.name!r}: weights {self.weights!r} not known; use 'center', 'mass' or a list"
                )
        elif len(self.weights) != len(self.atoms) or not all(w > 0 for w in self.weights):
            raise MappingError(
                f"bead {self.name!r} needs one positive weight per atom: "
                f"{len(self.atoms)} atoms, weights {list(self.weights)}"
            )

    @property
    def normalised_weights(self) -> NDArray[np.float64]:
        """``(n_atoms,)`` weights of the atoms, in the order of :attr:`atoms`, with sum one."""
        if self.weights == "center":
            weights = np.ones(len(self.atoms))
        elif self.weights == "mass":
            weights = self._atom_masses
        else:
            weights = np.array(self.weights, dtype=np.float64)
        normalised: NDArray[np.float64] = weights / weights.sum()
        return normalised

    @property
    def mass(self) -> float:
        """Mass (amu), 1/Σ c²/m of the atoms (Noid et al. 2008, J. Chem. Phys. 128, 244114)."""
        return float(1.0 / np.sum(self.normalised_weights**2 / self._atom_masses))

    @property
    def _atom_masses(self) -> NDArray[np.float64]:
        masses = []
        for atom in self.atoms:
            letters = atom.lstrip("0123456789").upper()
            element = letters[:2] if letters[:2] == "SE" else letters[:1]
            if element not in _ELEMENT_MASS:
                raise MappingError(
                    f"bead {self.name!r}: the element of atom {atom!r} is unknown; "
                    f"use atoms of {', '.join(_ELEMENT_MASS)}"
                )
            masses.append(_ELEMENT_MASS[element])
        return np.array(masses)

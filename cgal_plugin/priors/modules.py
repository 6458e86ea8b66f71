"""The prior terms as TorchMD-Net prior classes: thin modules around the pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Dict, Optional  # noqa: UP035 - TorchScript reads these annotations

import numpy as np
import torch
from torch import Tensor

from cgal_plugin.errors import ConfigError
from cgal_plugin.priors.base import CGPrior
from cgal_plugin.priors.bonded import (
    bond_angle,
    bond_angle_cosine,
    bond_length,
    dihedral_angle,
    dihedral_energy,
    harmonic_energy,
)
from cgal_plugin.priors.nonbonded import batch_pairs, molecule_pairs, repulsion_energy

__all__ = ["PRIORS", "CGAngles", "CGBonds", "CGDihedrals", "CGPrior", "CGRepulsion"]


class CGBonds(CGPrior):
    """Harmonic bonds, ½ k (r − r₀)²; columns ``k`` (kcal/mol/Å²) and ``r0`` (Å). See :class:`CGPrior`."""

    term = "bonds"
    width = 2
    columns = ("k", "r0")

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        """See :meth:`CGPrior.energy`."""
        # in float64: a distance of 3.8 Å in float32 is 1e-7 Å off, which a stiff bond multiplies
        length = bond_length(pos.to(torch.float64), index)
        return harmonic_energy(length, self.k.index_select(0, row), self.r0.index_select(0, row))


class CGAngles(CGPrior):
    """Harmonic angles, ½ k (θ − θ₀)² or ½ k (cos θ − c₀)². See :class:`CGPrior`.

    Columns ``k`` (kcal/mol/rad², or kcal/mol) and ``x0`` (rad, or cos θ); setting ``angle_form``:
    ``"theta"`` (default) or ``"cos"``.
    """

    term = "angles"
    width = 3
    columns = ("k", "x0")
    defaults = {"angle_form": "theta"}  # noqa: RUF012

    def _build(self) -> None:
        form = self._settings["angle_form"]
        if form not in ("theta", "cos"):
            raise ConfigError(f"CGAngles: angle_form {form!r} is not known; use 'theta' or 'cos'")
        self.use_cosine = form == "cos"
        super()._build()

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        """See :meth:`CGPrior.energy`."""
        x = bond_angle_cosine(pos, index) if self.use_cosine else bond_angle(pos, index)
        return harmonic_energy(x, self.k.index_select(0, row), self.x0.index_select(0, row))


class CGDihedrals(CGPrior):
    """Dihedrals, Σₘ kₘ (1 + cos(m φ − φ₀ₘ)), m = 1, 2, ...; see :class:`CGPrior`.

    Columns ``k`` (list, kcal/mol) and ``phase`` (list, rad), as long as each other and in every row.
    """

    term = "dihedrals"
    width = 4
    columns = ("k", "phase")

    def _build(self) -> None:
        lengths = {np.shape(row[c]) for row in self._table for c in self.columns}
        if len(lengths) > 1 or any(len(shape) != 1 or shape[0] == 0 for shape in lengths):
            raise ConfigError("CGDihedrals: k and phase must be lists of one length, the same in all rows")
        super()._build()

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        """See :meth:`CGPrior.energy`."""
        angle, fade = dihedral_angle(pos, index)
        return dihedral_energy(angle, self.k.index_select(0, row), self.phase.index_select(0, row), fade)


class CGRepulsion(CGPrior):
    """Repulsion ε (σ/r)ⁿ of all pairs of a molecule that are far enough along the bonds.

    Columns ``epsilon`` (kcal/mol) and ``sigma`` (Å); settings ``power`` (n, default 6) and
    ``exclude_bonds`` (pairs at most that many bonds apart do not repel; default 1). See
    :class:`CGPrior`; pairs of a batch follow from its ``bond_index``.
    """

    term = "repulsion"
    width = 2
    columns = ("epsilon", "sigma")
    defaults = {"power": 6, "exclude_bonds": 1}  # noqa: RUF012

    def _build(self) -> None:
        for name, least in (("power", 1), ("exclude_bonds", 0)):
            value = self._settings[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"CGRepulsion: {name} is {value!r}; an integer from {least} up is needed")
        self.power = int(self._settings["power"])
        self.exclude_bonds = int(self._settings["exclude_bonds"])
        super()._build()

    def _molecule_terms(self, molecule: Mapping[str, Any]) -> np.ndarray:
        return molecule_pairs(len(molecule["types"]), molecule["index"], self.exclude_bonds)

    def batch_terms(
        self,
        z: Tensor,
        batch: Tensor,
        n_molecules: int,
        extra_args: Optional[Dict[str, Tensor]],  # noqa: UP006,UP045
    ) -> Tensor:
        """See :meth:`CGPrior.batch_terms`."""
        assert extra_args is not None
        return batch_pairs(batch, extra_args[self.index_key], self.exclude_bonds, n_molecules)

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        """See :meth:`CGPrior.energy`."""
        return repulsion_energy(
            bond_length(pos, index),
            self.epsilon.index_select(0, row),
            self.sigma.index_select(0, row),
            self.power,
        )


PRIORS = {cls.term: cls for cls in (CGBonds, CGAngles, CGDihedrals, CGRepulsion)}

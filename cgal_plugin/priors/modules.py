"""The prior terms as TorchMD-Net prior classes: thin modules around the pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Dict, Optional  # noqa: UP035 - TorchScript reads these annotations

import numpy as np
import torch
from torch import Tensor

from cgal_plugin.errors import ConfigError
from cgal_plugin.priors.base import CGPrior
from cgal_plugin.priors.bonded import (
    bond_angle,
    bond_angle_cosine,
    bond_length,
    cosine_series,
    dihedral_angle,
    dihedral_energy,
    harmonic_energy,
)
from cgal_plugin.priors.nonbonded import (
    batch_pairs,
    molecule_pairs,
    pair_energy,
    repulsion_energy,
    spacing,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PRIORS",
    "CGAngleSeries",
    "CGAngles",
    "CGBonds",
    "CGBridges",
    "CGDihedrals",
    "CGPairs",
    "CGPrior",
    "CGRepulsion",
]


class CGBonds(CGPrior):
    """Harmonic bonds, ½ k (r − r₀)²; columns ``k`` (kcal/mol/Å²) and ``r0`` (Å). See :class:`CGPrior`."""

    term = "bonds"
    width = 2
    columns = ("k", "r0")

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        """See :meth:`CGPrior.energy`."""
        # in float64: the float32 error of a distance of 3.8 Å is 1e-7 Å, which a stiff bond amplifies
        length = bond_length(pos.to(torch.float64), index)
        return harmonic_energy(length, self.k.index_select(0, row), self.r0.index_select(0, row))


class CGBridges(CGBonds):
    """Harmonic disulfide bridges, ½ k (r − r₀)²; columns ``k`` (kcal/mol/Å²) and ``r0`` (Å).

    The terms are the ``bridge_index`` of the topology or of the batch. See :class:`CGPrior`.
    """

    term = "bridges"
    index_name = "bridge_index"


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


class CGAngleSeries(CGPrior):
    """Cosine series of angles, Σₘ cₘ cos mθ, m = 1, 2, ...: any smooth shape, including several wells.

    Column ``c`` (list, kcal/mol, of the same length in all rows). Fitted to forces; see :class:`CGPrior`.
    """

    term = "angle_series"
    width = 3
    columns = ("c",)

    def _build(self) -> None:
        lengths = {np.shape(row["c"]) for row in self._table}
        if len(lengths) > 1 or any(len(shape) != 1 or shape[0] == 0 for shape in lengths):
            raise ConfigError("CGAngleSeries: c must be lists of one length, the same in all rows")
        super()._build()

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        """See :meth:`CGPrior.energy`."""
        return cosine_series(bond_angle(pos, index), self.c.index_select(0, row))


class CGDihedrals(CGPrior):
    """Dihedrals, Σₘ kₘ (1 + cos(m φ − φ₀ₘ)), m = 1, 2, ...; see :class:`CGPrior`.

    Columns ``k`` (list, kcal/mol) and ``phase`` (list, rad), of the same length in all rows.
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


class _NonBonded(CGPrior):
    """A term of all pairs of a molecule that are more than ``exclude_bonds`` bonds apart, without bridges."""

    width = 2

    def _build(self) -> None:
        self.exclude_bonds = self._whole("exclude_bonds", 0)
        super()._build()

    def _whole(self, name: str, least: int) -> int:
        value = self._settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(
                f"{type(self).__name__}: {name} is {value!r}; it must be an integer of at least {least}"
            )
        return value

    def _molecule_terms(self, molecule: Mapping[str, Any]) -> NDArray[np.int64]:
        bridges = molecule.get("bridges", ())
        return molecule_pairs(len(molecule["types"]), molecule["index"], self.exclude_bonds, bridges)

    def batch_terms(
        self,
        z: Tensor,
        batch: Tensor,
        n_molecules: int,
        extra_args: Optional[Dict[str, Tensor]],  # noqa: UP006,UP045
    ) -> Tensor:
        """See :meth:`CGPrior.batch_terms`."""
        assert extra_args is not None
        bridges: Optional[Tensor] = None  # noqa: UP045
        if "bridge_index" in extra_args:
            bridges = extra_args["bridge_index"]
        return batch_pairs(batch, extra_args[self.index_key], self.exclude_bonds, n_molecules, bridges)


class CGRepulsion(_NonBonded):
    """Repulsion ε (σ/r)ⁿ of pairs that are more than ``exclude_bonds`` bonds apart.

    Columns ``epsilon`` (kcal/mol) and ``sigma`` (Å); settings ``power`` (n, default 6) and
    ``exclude_bonds`` (default 1). The pairs of a batch follow from its ``bond_index`` and
    ``bridge_index``. See :class:`CGPrior`.
    """

    term = "repulsion"
    columns = ("epsilon", "sigma")
    defaults = {"power": 6, "exclude_bonds": 1}  # noqa: RUF012

    def _build(self) -> None:
        self.power = self._whole("power", 1)
        super()._build()

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        """See :meth:`CGPrior.energy`."""
        return repulsion_energy(
            bond_length(pos, index),
            self.epsilon.index_select(0, row),
            self.sigma.index_select(0, row),
            self.power,
        )


class CGPairs(_NonBonded):
    """Pair energy Σₖ cₖ exp(−(r − rₖ)²/(2 w²)) of pairs more than ``exclude_bonds`` bonds apart.

    Column ``c`` (list of at least two, kcal/mol, of the same length in all rows); settings ``first`` and
    ``last`` (first and last centre, default 3 and 17 Å; the centres are evenly spaced, w is their spacing)
    and ``exclude_bonds`` (default 2). The energy may be attractive or repulsive and is zero far beyond
    ``last``. Use it with a ``CGRepulsion``, which keeps beads apart. The pairs of a batch follow from its
    ``bond_index``. The term is fitted to forces together with other terms: give ``table`` or ``file``. See
    :class:`CGPrior`.
    """

    term = "pairs"
    columns = ("c",)
    defaults = {"first": 3.0, "last": 17.0, "exclude_bonds": 2}  # noqa: RUF012

    def _build(self) -> None:
        lengths = {np.shape(row["c"]) for row in self._table}
        if len(lengths) > 1 or any(len(shape) != 1 or shape[0] < 2 for shape in lengths):
            raise ConfigError("CGPairs: c must be lists of one length, at least 2, the same in all rows")
        first, last = self._settings["first"], self._settings["last"]
        number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (first, last))
        if not number or not 0.0 <= first < last < float("inf"):
            raise ConfigError(f"CGPairs: first is {first!r} and last {last!r} Å; required: 0 <= first < last")
        self.first = float(first)
        self.spacing = spacing(self.first, float(last), next(iter(lengths))[0]) if lengths else 1.0
        super()._build()

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        """See :meth:`CGPrior.energy`."""
        return pair_energy(bond_length(pos, index), self.c.index_select(0, row), self.first, self.spacing)


#: prior classes by term
PRIORS: dict[str, type[CGPrior]] = {
    cls.term: cls for cls in (CGBonds, CGBridges, CGAngles, CGAngleSeries, CGDihedrals, CGRepulsion, CGPairs)
}

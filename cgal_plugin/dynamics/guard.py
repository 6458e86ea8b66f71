"""The blow-up guard: detect replicas that have left the range of physical structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cgal_plugin.errors import DynamicsError
from cgal_plugin.mapping.dihedrals import CHIRALITY
from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

#: amu Å²/ps² in kcal/mol
_KCAL_PER_AMU_A2_PS2 = 0.01 / KJ_PER_KCAL
#: probability that a replica in equilibrium exceeds the kinetic limit at one check, for any number of beads
_FALSE_ALARM = 1e-12


@dataclass(frozen=True)
class Guard:
    """Limits for each replica, checked at every report interval.

    Non-finite positions and velocities are always detected. With beads at N, CA, CB and C (map 5bead), so is
    a CA whose chirality differs from that of the start frames, unless bonds are not checked.

    Attributes
    ----------
    max_bond_ratio, min_bond_ratio
        A bond is broken if its length is above or below this factor times its reference length. ``None``
        disables the check.
    max_temperature_ratio
        A replica has blown up if its kinetic temperature exceeds this factor times the bath temperature. With
        few beads, the limit is raised to the quantile of the chi-squared distribution that a replica in
        equilibrium exceeds with probability 1e-12 per check. ``None`` disables the check.
    bond_reference
        Reference length of each bond of the topology, Å; default: the median over the start frames.
    restart_blown
        ``False``: park a replica that blew up and store no more of its frames. ``True``: restart it from its
        start frame with new velocities.
    max_restarts
        Park a replica after this number of restarts.

    Raises
    ------
    DynamicsError
        A limit is out of range.
    """

    max_bond_ratio: float | None = 1.6
    min_bond_ratio: float | None = 0.4
    max_temperature_ratio: float | None = 10.0
    bond_reference: tuple[float, ...] | None = None
    restart_blown: bool = False
    max_restarts: int = 10

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_bond_ratio", 1.0, np.inf),
            ("min_bond_ratio", 0.0, 1.0),
            ("max_temperature_ratio", 1.0, np.inf),
        ):
            value = getattr(self, name)
            if value is not None and not low < value < high:
                raise DynamicsError(
                    f"guard: {name} is {value}; it must be between {low:g} and {high:g}, or None"
                )
        if self.max_restarts < 0:
            raise DynamicsError(f"guard: max_restarts is {self.max_restarts}; it cannot be negative")

    @classmethod
    def off(cls) -> Guard:
        """Return a guard that detects only non-finite values."""
        return cls(max_bond_ratio=None, min_bond_ratio=None, max_temperature_ratio=None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Limits:
    """A guard and the reference values of a molecule; see :func:`find_blown`."""

    guard: Guard
    bond_index: NDArray[np.int64]
    bond_reference: NDArray[np.float64]
    masses: NDArray[np.float64]
    temperature: float
    #: ``(n, 4)`` beads N, CB, C, CA of each stereocentre, and ``(n,)`` sign of its volume
    centres: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 4), dtype=np.int64))
    chirality: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def build(
        cls,
        guard: Guard,
        bond_index: NDArray[np.int64],
        masses: NDArray[np.float64],
        temperature: float,
        start: NDArray[np.float64],
        centres: Sequence[Sequence[int]] = (),
    ) -> Limits:
        """Build the limits; bond lengths are from the guard, or from ``start`` ``(n_replicas, beads, 3)`` Å.

        ``centres`` has the beads N, CB, C, CA of each stereocentre (:func:`stereocentres`); ``start`` has its
        chirality.

        Raises
        ------
        DynamicsError
            ``guard.bond_reference`` does not have one length per bond.
        """
        if guard.bond_reference is None:
            reference = np.median(bond_lengths(start, bond_index), axis=0)
        else:
            reference = np.array(guard.bond_reference, dtype=np.float64)
        n_bonds = len(bond_index)
        if reference.shape != (n_bonds,):
            raise DynamicsError(
                f"guard: bond_reference has {reference.size} lengths; the topology has {n_bonds} bonds"
            )
        beads = np.array(centres, dtype=np.int64).reshape(-1, 4)
        if guard.max_bond_ratio is None and guard.min_bond_ratio is None:
            beads = beads[:0]
        chirality = np.sign(np.median(_volumes(start, beads), axis=0))
        return cls(guard, bond_index, reference, masses, temperature, beads, chirality)

    @cached_property
    def max_temperature_ratio(self) -> float:
        """Kinetic temperature, in units of the bath temperature, above which a replica has blown up."""
        if self.guard.max_temperature_ratio is None:
            return np.inf
        from scipy.special import chdtri

        freedom = 3 * len(self.masses)
        return max(self.guard.max_temperature_ratio, float(chdtri(freedom, _FALSE_ALARM)) / freedom)

    @property
    def max_temperature(self) -> float:
        """Kinetic temperature (K) above which a replica has blown up, at the temperature of the limits."""
        return self.max_temperature_ratio * self.temperature


def stereocentres(topology: CGTopology) -> list[tuple[int, int, int, int]]:
    """Return the beads N, CB, C, CA of each residue whose chirality they define."""
    return [beads for beads, spec in topology.named_dihedrals if spec.name == CHIRALITY]


def _volumes(positions: NDArray[np.floating], centres: NDArray[np.int64]) -> NDArray[np.floating]:
    """Return six times the signed volumes of tetrahedra, ``(n, centres)`` Å³."""
    a, b, c, d = (positions[:, centres[:, k]] for k in range(4))
    return cast("NDArray[np.floating]", np.einsum("rck,rck->rc", a - d, np.cross(b - d, c - d)))


def bond_lengths(positions: NDArray[np.floating], bond_index: NDArray[np.int64]) -> NDArray[np.floating]:
    """Return bond lengths ``(n, bonds)`` Å for positions ``(n, beads, 3)`` Å."""
    difference = positions[:, bond_index[:, 1]] - positions[:, bond_index[:, 0]]
    return cast("NDArray[np.floating]", np.linalg.norm(difference, axis=-1))


def kinetic_temperature(
    velocities: NDArray[np.floating], masses: NDArray[np.float64]
) -> NDArray[np.floating]:
    """Return 2 E_kin / (3 beads k_B), ``(n,)`` K, for velocities ``(n, beads, 3)`` Å/ps and masses in amu."""
    twice: NDArray[np.floating] = (
        np.einsum("b,rbk,rbk->r", masses, velocities, velocities) * _KCAL_PER_AMU_A2_PS2
    )
    return twice / (3 * len(masses) * BOLTZMANN_KCAL_PER_MOL_K)


def find_blown(
    positions: NDArray[np.float64],
    velocities: NDArray[np.float64],
    limits: Limits,
    temperatures: NDArray[np.float64] | None = None,
) -> dict[int, tuple[str, str]]:
    """Return the replicas outside the limits: replica → (kind, detail).

    Parameters
    ----------
    positions, velocities
        ``(n_replicas, beads, 3)`` Å and Å/ps.
    temperatures
        Bath temperature of each replica, ``(n_replicas,)`` K; default: that of ``limits`` for all.
    """
    found: dict[int, tuple[str, str]] = {}
    finite = np.isfinite(positions).all(axis=(1, 2)) & np.isfinite(velocities).all(axis=(1, 2))
    for replica in np.flatnonzero(~finite):
        found[int(replica)] = ("non-finite", "positions or velocities are not finite")
    guard = limits.guard
    with np.errstate(all="ignore"):  # values of a replica that blew up may overflow
        if len(limits.bond_index) and (guard.max_bond_ratio or guard.min_bond_ratio):
            lengths = bond_lengths(positions, limits.bond_index)
            ratio = lengths / limits.bond_reference
            broken = np.zeros(ratio.shape, dtype=bool)
            if guard.max_bond_ratio is not None:
                broken |= ratio > guard.max_bond_ratio
            if guard.min_bond_ratio is not None:
                broken |= ratio < guard.min_bond_ratio
            for replica in np.flatnonzero(broken.any(axis=1) & finite):
                worst = int(np.argmax(np.where(broken[replica], np.abs(np.log(ratio[replica])), -1.0)))
                i, j = limits.bond_index[worst]
                found[int(replica)] = (
                    "bond",
                    f"bond {i}-{j} is {lengths[replica, worst]:.3g} Å, "
                    f"{ratio[replica, worst]:.3g} of its reference {limits.bond_reference[worst]:.3g} Å",
                )
        volumes = _volumes(positions, limits.centres) * limits.chirality
        for replica in np.flatnonzero((volumes < 0).any(axis=1) & finite):
            centre = limits.centres[int(np.argmin(volumes[replica]))]
            detail = f"the chirality at bead {centre[3]} is inverted"
            found.setdefault(int(replica), ("chirality", detail))
        hot = kinetic_temperature(velocities, limits.masses)
        baths = np.full(len(hot), limits.temperature) if temperatures is None else temperatures
        maximum = limits.max_temperature_ratio * baths
    for replica in np.flatnonzero(finite & ~(hot <= maximum)):
        if int(replica) not in found:
            detail = f"kinetic temperature {hot[replica]:.4g} K is above the limit {maximum[replica]:.4g} K"
            found[int(replica)] = ("energy", detail)
    return dict(sorted(found.items()))

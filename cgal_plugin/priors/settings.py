"""Settings of the prior fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgal_plugin.errors import ConfigError


@dataclass(frozen=True)
class FitSettings:
    """Settings of :func:`~cgal_plugin.priors.fit_priors`.

    Attributes
    ----------
    angle_form
        ``"theta"`` or ``"cos"``: harmonic in the angle or in its cosine.
    n_dihedral
        Highest multiplicity of the dihedral series.
    power
        n of the repulsion (σ/r)ⁿ.
    exclude_bonds
        Pairs at most this many bonds apart have neither repulsion nor pair energy.
    per_type
        Whether each tuple of bead types gets a separate row; False: one wildcard row per kind of beads.
    min_count, min_effective
        Smallest numbers of samples, and of independent samples (corrected for correlation in time). With
        fewer, a tuple uses its wildcard. Short trajectories stay in one basin, so that angles and dihedrals
        appear stiff (turn of chignolin, 2,248 frames of 14 trajectories at 400 K: 30 to 140 independent
        samples by autocorrelation, dihedral barriers of 10 kcal/mol). A frozen prior must not trap the chain
        there.
    min_effective_wildcard
        Smallest number of independent samples for the fit of a wildcard.
    bond_k, angle_k
        Bounds of the force constants: kcal/mol/Å², kcal/mol/rad² (or kcal/mol for ``cos``).
    dihedral_k
        Upper bound of each kₘ, kcal/mol.
    stiff_dihedral_k
        The same for dihedrals that stay in one well: ω and the improper dihedrals of the 5bead map.
    uniform_fraction
        Fraction of a uniform distribution mixed into the dihedral data (0: plain maximum likelihood).
    contact_percentile, contact_kT
        Repulsion: energy, in kT, at this percentile of the distances.
    sigma
        Bounds of σ, Å.
    first, last, n_pairs
        First and last centre of the pair energy, Å, and number of centres.
    pairs_per_type
        Whether each pair of bead types has a separate pair energy; False: one for all pairs.
    n_angle
        Highest multiplicity of the angle series.
    ridge_pairs, ridge_dihedrals, ridge_angles
        Force matching: weight in Å⁻² of the squared coefficients, (kcal/mol)², relative to the mean squared
        error of a force component, (kcal/mol/Å)². 0: plain least squares.
    ridge_tension
        Force matching: the same for the free tension of a bond in a frame (see :mod:`.tension`), without
        unit. Infinite: no free tensions, so that forces along bonds count as all others.

    Raises
    ------
    ConfigError
        A value is out of range.
    """

    angle_form: str = "theta"
    n_dihedral: int = 3
    power: int = 6
    exclude_bonds: int = 1
    per_type: bool = True
    min_count: int = 100
    min_effective: float = 200.0
    min_effective_wildcard: float = 20.0
    bond_k: tuple[float, float] = (1.0, 2000.0)
    angle_k: tuple[float, float] = (0.1, 500.0)
    dihedral_k: float = 3.0
    stiff_dihedral_k: float = 500.0
    uniform_fraction: float = 0.0
    contact_percentile: float = 1.0
    contact_kT: float = 1.0
    sigma: tuple[float, float] = (1.0, 8.0)
    first: float = 3.0
    last: float = 17.0
    n_pairs: int = 14
    pairs_per_type: bool = False
    ridge_pairs: float = 0.001
    ridge_dihedrals: float = 0.0002
    ridge_angles: float = 0.0002
    ridge_tension: float = 0.2
    n_angle: int = 5

    def __post_init__(self) -> None:
        checks = {
            "angle_form": self.angle_form in ("theta", "cos"),
            "n_dihedral": 1 <= self.n_dihedral <= 12,
            "power": self.power >= 1,
            "exclude_bonds": self.exclude_bonds >= 0,
            "min_count": self.min_count >= 2,
            "min_effective": self.min_effective >= 1,
            "min_effective_wildcard": self.min_effective_wildcard >= 1,
            "bond_k": 0 < self.bond_k[0] < self.bond_k[1],
            "angle_k": 0 < self.angle_k[0] < self.angle_k[1],
            "dihedral_k": self.dihedral_k > 0,
            "stiff_dihedral_k": self.stiff_dihedral_k > 0,
            "uniform_fraction": 0 <= self.uniform_fraction < 1,
            "contact_percentile": 0 < self.contact_percentile < 100,
            "contact_kT": self.contact_kT > 0,
            "sigma": 0 < self.sigma[0] < self.sigma[1],
            "first": 0 <= self.first < self.last,
            "last": np.isfinite(self.last),
            "n_pairs": self.n_pairs >= 2,
            "ridge_pairs": 0 <= self.ridge_pairs < np.inf,
            "ridge_dihedrals": 0 <= self.ridge_dihedrals < np.inf,
            "ridge_angles": 0 <= self.ridge_angles < np.inf,
            "ridge_tension": self.ridge_tension > 0,
            "n_angle": 1 <= self.n_angle <= 12,
        }
        for name, good in checks.items():
            if not good:
                raise ConfigError(f"prior setting {name} = {getattr(self, name)!r} is out of range")

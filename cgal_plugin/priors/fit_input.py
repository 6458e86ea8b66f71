"""Check the input of a prior fit: terms, method, settings, frames, forces, weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.config.training import TERMS as TERMS_OF_METHOD
from cgal_plugin.data.bond_lengths import check_unit
from cgal_plugin.errors import CGALWarning, ConfigError, DataError, PriorFitError
from cgal_plugin.mapping.spec import named_of
from cgal_plugin.priors.nonbonded import molecule_pairs
from cgal_plugin.priors.outliers import outlier_text, reject_outliers
from cgal_plugin.priors.prior_set import FORCE_TERMS, LIKELIHOOD_TERMS, TERMS
from cgal_plugin.priors.samples import MoleculeFrames
from cgal_plugin.priors.settings import FitSettings
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cgal_plugin.mapping.topology import CGTopology

#: beads at most this many bonds apart do not repel each other, if the map names its dihedrals (as in mlcg-tk)
NAMED_EXCLUDED = 4
#: fewest frames for force matching
MIN_FRAMES = 200


def complete_settings(
    topology: CGTopology,
    terms: Sequence[str],
    settings: FitSettings | None = None,
    options: Mapping[str, Any] | None = None,
) -> FitSettings:
    """Return the settings of a fit; missing options get the defaults for these terms and the map.

    Raises
    ------
    ConfigError
        A term or an option is not known, or both settings and options are given.
    """
    options = options or {}
    unknown = sorted(set(terms) - set(TERMS))
    if unknown or not terms:
        raise ConfigError(f"prior terms {list(terms)} are not valid; use any of {', '.join(TERMS)}")
    if settings is not None:
        if options:
            raise ConfigError(
                f"give exactly one of settings and single options; options are {sorted(options)}"
            )
        return settings
    unknown = sorted(set(options) - set(FitSettings.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"prior options {unknown} are not known; "
            f"allowed are {', '.join(FitSettings.__dataclass_fields__)}"
        )
    excluded = 2 if {"angles", "angle_series", "pairs"} & set(terms) else 1
    if named_of(topology.mapping_hash) and "dihedrals" in terms:
        excluded = NAMED_EXCLUDED
    defaults: dict[str, Any] = {"exclude_bonds": excluded}
    if "pairs" in terms:
        defaults |= {"power": 12, "contact_percentile": 0.1}
    return FitSettings(**{**defaults, **options})


def add_bridges(topologies: Sequence[CGTopology], terms: Sequence[str]) -> tuple[str, ...]:
    """Return the terms, with bridges if bonds are among them and a molecule has disulfide bridges."""
    bridged = any(len(topology.bridge_index) for topology in topologies)
    missing = "bonds" in terms and "bridges" not in terms and bridged
    return (*terms, "bridges") if missing else tuple(terms)


def check_method(topology: CGTopology, terms: Sequence[str], method: str) -> None:
    """Check that a method can fit these terms of a molecule.

    Raises
    ------
    ConfigError
        The method is not known, or cannot fit the terms.
    """
    if method not in ("likelihood", "force_matching"):
        raise ConfigError(f"prior method {method!r} is not known; use 'likelihood' or 'force_matching'")
    if method == "likelihood" and not set(terms) <= {*LIKELIHOOD_TERMS} and set(terms) <= {*TERMS}:
        raise ConfigError(
            "the prior terms angle_series and pairs are fitted to forces: use method 'force_matching'"
        )
    if method == "force_matching" and named_of(topology.mapping_hash):
        raise ConfigError(
            f"prior method 'force_matching' is for maps of one or two beads per residue: mapping "
            f"{topology.mapping!r} has stiff dihedrals, whose wells forces determine poorly; use method "
            "'likelihood' (training.priors.method, --method)"
        )
    if method == "force_matching" and not set(terms) & {*FORCE_TERMS}:
        raise ConfigError(
            f"prior method 'force_matching' fits {', '.join(FORCE_TERMS)}; "
            f"the terms {', '.join(terms)} contain none of them"
        )


def missing_terms(topology: CGTopology, terms: Sequence[str], exclude_bonds: int) -> list[str]:
    """Return the terms that a molecule has no instance of."""
    instances = {
        "bonds": topology.bond_index,
        "bridges": topology.bridge_index,
        "angles": topology.angle_index,
        "angle_series": topology.angle_index,
        "dihedrals": topology.dihedral_index,
        "repulsion": molecule_pairs(
            topology.n_beads, topology.bond_index, exclude_bonds, topology.bridge_index
        ).T,
    }
    instances["pairs"] = instances["repulsion"]
    return [t for t in terms if len(instances[t]) == 0]


def terms_of(topology: CGTopology, terms: Sequence[str]) -> tuple[str, ...]:
    """Return the terms that a molecule has."""
    found = tuple(terms)
    while found:
        missing = missing_terms(topology, found, complete_settings(topology, found).exclude_bonds)
        if not missing:
            break
        found = tuple(t for t in found if t not in missing)  # which may change what pairs exclude
    return found


def suited_terms(
    topology: CGTopology, terms: Sequence[str], method: str, n_frames: int | None, *, method_given: bool
) -> tuple[tuple[str, ...], str, str]:
    """Return default terms and method that a molecule has and its data can determine, and why.

    ``n_frames`` is None if it is not known; a ``method`` that is given is kept.
    """
    obstacle = None
    if method == "force_matching" and not method_given:
        if named_of(topology.mapping_hash):
            obstacle = f"forces determine the stiff dihedrals of mapping {topology.mapping} poorly"
        elif n_frames is not None and n_frames < MIN_FRAMES:
            obstacle = f"{n_frames} frames of data; force matching needs {MIN_FRAMES}"
    if obstacle is not None:
        terms, method = TERMS_OF_METHOD["likelihood"], "likelihood"
    found = terms_of(topology, terms)
    if not method_given and not set(found) & {*FORCE_TERMS}:
        method = "likelihood"
    return found, method, obstacle or "those that the molecule has"


def check_terms(topology: CGTopology, terms: Sequence[str], exclude_bonds: int | None = None) -> None:
    """Check that a molecule is large enough for these terms. No frames are needed.

    Raises
    ------
    PriorFitError
        The molecule has no instance of one or more terms.
    """
    if exclude_bonds is None:
        exclude_bonds = complete_settings(topology, terms).exclude_bonds
    missing = missing_terms(topology, terms, exclude_bonds)
    if missing:
        which = (
            f" (pairs more than {exclude_bonds} bonds apart)" if {"repulsion", "pairs"} & set(missing) else ""
        )
        raise PriorFitError(
            f"{topology!r} has no {', no '.join(missing)}{which}: remove them from the terms "
            "(training.priors.terms, --terms)"
        )


def check_frames(topology: CGTopology, frames: ArrayLike, unit: str) -> NDArray[np.float64]:
    """Return the frames as float64, Å.

    Raises
    ------
    PriorFitError
        There are no frames, they have another number of beads, are not finite, or are in another unit.
    """
    array = np.asarray(as_angstrom(frames, unit), dtype=np.float64)
    if len(array) == 0:
        raise PriorFitError("there are no frames to fit priors to")
    if array.shape[1] != topology.n_beads:
        raise PriorFitError(f"frames have {array.shape[1]} beads; {topology!r} has {topology.n_beads}")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))
    if bad.size:
        raise PriorFitError(f"{bad.size} of {len(array)} frames are not finite (first: frame {bad[0]})")
    try:
        check_unit(array, topology, "the frames", remedy="give unit='{unit}'")
    except DataError as error:
        raise PriorFitError(str(error)) from None
    return array


def check_forces(
    frames: NDArray[np.float64], forces: ArrayLike | None, least: int = MIN_FRAMES
) -> NDArray[np.float64]:
    """Return the forces ``(n, n_beads, 3)`` as float64.

    Raises
    ------
    PriorFitError
        The forces are missing, have another shape than the frames, are not finite, or are fewer than
        ``least``.
    """
    if forces is None:
        raise PriorFitError(
            "force matching needs the forces of the frames: forces (n, n_beads, 3), kcal/mol/Å"
        )
    array = np.asarray(forces, dtype=np.float64)
    if array.shape != frames.shape:
        raise PriorFitError(f"forces have shape {array.shape}; the frames have {frames.shape}")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))
    if bad.size:
        raise PriorFitError(f"forces of {bad.size} of {len(array)} frames are not finite (first: {bad[0]})")
    if len(array) < least:
        raise PriorFitError(f"{len(array)} frames; force matching needs {least} or more")
    return array


def check_weights(n_frames: int, weights: ArrayLike | None) -> NDArray[np.float64] | None:
    """Return the weights ``(n_frames,)`` as float64; None if there are none.

    Raises
    ------
    PriorFitError
        There is not one weight per frame, or a weight is not a positive number.
    """
    if weights is None:
        return None
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n_frames,):
        raise PriorFitError(f"weights have shape {array.shape}; expected one for each of {n_frames} frames")
    bad = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if bad.size:
        raise PriorFitError(f"weight {array[bad[0]]} of frame {bad[0]} is not a positive number")
    return array


def usable_frames(
    topology: CGTopology,
    frames: ArrayLike,
    forces: ArrayLike | None,
    weights: ArrayLike | None,
    method: str,
    unit: str = "angstrom",
    least: int = MIN_FRAMES,
) -> tuple[MoleculeFrames, list[dict[str, Any]]]:
    """Check the frames of a molecule; return those that can be used, as float64, and records of others.

    Parameters, warnings and errors are those of :func:`fit_priors`; ``least``: fewest frames with forces.
    """
    x = check_frames(topology, frames, unit)
    f = w = None
    if method == "force_matching":
        f, w = check_forces(x, forces, least), check_weights(len(x), weights)
    keep, rejected = reject_outliers(topology, x, f)
    if rejected:
        warnings.warn(outlier_text(rejected), CGALWarning, stacklevel=3)
        x, f, w = x[keep], None if f is None else f[keep], None if w is None else w[keep]
    return MoleculeFrames(topology, x, f, w), rejected

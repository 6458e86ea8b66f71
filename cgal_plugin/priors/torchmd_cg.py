"""Prior force fields of torchmd and torchmd-cg (``prior_force_field.yaml``): read into prior tables.

torchmd's energies: bonds k0 (r − req)², angles k0 (θ − theta0)², dihedrals Σ phi_k (1 + cos(per φ − phase)),
and, with sigma and epsilon of a pair from the Lorentz–Berthelot rules, the term ``repulsioncg``,
4 epsilon (sigma/r)⁶, or ``repulsion``, 4 epsilon (sigma/r)¹². Angles in degrees, Å, kcal/mol. Parameters are
for types in the order of the beads (N→C); those of the reverse order, and then of the wildcard X, are used if
there are none. torchmd rounds all parameters to float32, whatever it computes in: so does the reader.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.config.load import read_mapping
from cgal_plugin.errors import CGALWarning, ConfigError
from cgal_plugin.priors.prior_set import PriorSet
from cgal_plugin.priors.resolve import check_units
from cgal_plugin.priors.tables import FADE_NOTE
from cgal_plugin.priors.torchmd_tables import WIDTHS, Tables, bead_type, entry_of, number
from cgal_plugin.provenance import hash_file

if TYPE_CHECKING:
    from cgal_plugin.mapping.topology import CGTopology

FORMAT = "torchmd-cg"
#: torchmd's term of the repulsion → power
REPULSIONS = {"repulsioncg": 6, "repulsion": 12}
#: section of files that this package writes; torchmd does not look at it
OWN = "cgal_plugin"
_SECTIONS = ("atomtypes", *WIDTHS, "lj", "electrostatics", "masses", OWN)


def read_torchmd_priors(
    path: str | os.PathLike[str],
    topology: CGTopology | None = None,
    *,
    temperature: float | None = None,
    repulsion: str | None = None,
    exclude_bonds: int | None = None,
    terms: Sequence[str] | None = None,
) -> PriorSet:
    """Read a prior force field of torchmd-cg.

    Parameters
    ----------
    path
        YAML file with bonds, angles, dihedrals and lj by atom type.
    topology
        Molecule to restrict the priors to; None: any molecule.
    temperature
        Temperature of the data of the priors, K. This, ``repulsion`` and ``exclude_bonds`` are only in files
        that this package wrote.
    repulsion
        Which term of torchmd ``lj`` is for, ``"repulsioncg"`` (default) or ``"repulsion"``.
    exclude_bonds
        Beads at most this many bonds apart do not repel each other. Default 1, torchmd's
        ``exclusions: [bonds]``.
    terms
        Terms to read (``"bonds"``, ``"angles"``, ``"dihedrals"``, ``"repulsion"``); None: all of the file.

    Raises
    ------
    ConfigError
        The file is missing or damaged, has parts or values that the tables cannot represent, or lacks
        parameters of the molecule.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise ConfigError(f"prior force field {name!r} does not exist")
    content = read_mapping(path)[0]
    if "format_version" in content:
        raise ConfigError(f"{name} is a prior file of this package already: use it as it is")
    _check_sections(content, name)
    own = content.get(OWN) or {}
    temperature = _setting("temperature", temperature, own, None, name)
    repulsion = _setting("repulsion", repulsion, own, "repulsioncg", name)
    exclude_bonds = _setting("exclude_bonds", exclude_bonds, own, 1, name)
    if repulsion not in REPULSIONS:
        raise ConfigError(f"repulsion {repulsion!r} is not a term of torchmd; use {' or '.join(REPULSIONS)}")
    if isinstance(exclude_bonds, bool) or not isinstance(exclude_bonds, int) or exclude_bonds < 0:
        raise ConfigError(f"exclude_bonds is {exclude_bonds!r}; it must be a whole number, 0 or more")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature} K; it must be a positive number")
    found = Tables(content, name, exact=own.get("precision") == "float64").rows()
    if not found:
        raise ConfigError(f"{name} has no parameters: none of bonds, angles, dihedrals and lj")
    wanted = tuple(found) if terms is None else tuple(terms)
    missing = [term for term in wanted if term not in found]
    if missing or not wanted:
        raise ConfigError(f"{name} has no {', '.join(missing) or 'term chosen'}; it has {', '.join(found)}")
    chosen = tuple(term for term in found if term in wanted)
    check_units(found.get("bonds", ()), name)
    notes = _notes(content, chosen, repulsion, exclude_bonds)
    warnings.warn(f"{name}: {'; '.join(notes)}", CGALWarning, stacklevel=2)
    priors = PriorSet(
        topology=None,
        temperature=None if temperature is None else float(temperature),
        terms=chosen,
        angle_form="theta",
        power=REPULSIONS[repulsion],
        exclude_bonds=exclude_bonds,
        rows=tuple(row for term in chosen for row in found[term]),
        histograms=(),
        n_frames=0,
        # one row serves both directions anyway
        ordered=tuple(t for t in chosen if t in WIDTHS and len(found[t]) > 1),
        source={
            "format": FORMAT,
            "file": Path(path).name,
            "sha256": hash_file(path),
            "notes": notes,
            "masses": _masses(content, name),
        },
    )
    return priors if topology is None else priors.for_topology(topology, source=f"the priors in {name}")


def _setting(key: str, given: Any, own: Mapping[str, Any], default: Any, name: str) -> Any:
    """Return a value that was given or that the file records."""
    recorded = own.get(key)
    if given is not None and recorded is not None and given != recorded:
        raise ConfigError(f"{name} records {key} {recorded}, not {given}")
    return next((value for value in (given, recorded) if value is not None), default)


def _masses(content: Mapping[str, Any], name: str) -> dict[str, float]:
    masses = content.get("masses") or {}
    return {
        bead_type(str(key), f"{name}: masses"): number((masses, f"{name}: masses"), key, 0.0)
        for key in masses
    }


def _check_sections(content: Mapping[str, Any], name: str) -> None:
    unknown = [str(key) for key in content if key not in _SECTIONS]
    if unknown:
        raise ConfigError(
            f"{name} has {', '.join(unknown)}, which prior tables cannot represent; known are "
            f"{', '.join(_SECTIONS)}. Remove the section if the simulation does not use it"
        )
    for key in ("lj", "electrostatics", "masses", OWN, *WIDTHS):
        if not isinstance(content.get(key) or {}, Mapping):
            raise ConfigError(f"{name}: {key} is {content[key]!r:.80}; it must have one entry per atom type")
    for kind, entry in (content.get("electrostatics") or {}).items():
        charge = number(entry_of(entry, {"charge"}, set(), f"{name}: electrostatics of {kind}"), "charge")
        if charge != 0.0:
            raise ConfigError(
                f"{name}: atom type {kind} has charge {charge:g}; prior tables have no electrostatics. Set "
                "the charges to 0 if the simulation has no term electrostatics"
            )


def _notes(content: Mapping[str, Any], terms: Sequence[str], repulsion: str, exclude_bonds: int) -> list[str]:
    notes = []
    if "repulsion" in terms:
        notes.append(
            f"lj is read as torchmd's term {repulsion} between beads more than {exclude_bonds} "
            f"bond{'' if exclude_bonds == 1 else 's'} apart"
        )
        notes.append("parameters of 1-4 pairs are not used")
    if "dihedrals" in terms:
        notes.append(FADE_NOTE)
    if content.get("masses"):
        notes.append("masses of the file are kept for an export; dynamics uses those of the topology")
    return notes or ["all parameters are read"]

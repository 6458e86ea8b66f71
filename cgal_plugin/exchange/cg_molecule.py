"""Decide how the CG data of a molecule are imported, from their names, shapes and bead types."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.raw_data import RawMolecule
from cgal_plugin.data.raw_topology import bead_order, check_embeds, read_topology, topology_from_embeds
from cgal_plugin.data.temperature import same_temperature
from cgal_plugin.errors import ConfigError, DataError, MappingError
from cgal_plugin.mapping import CGTopology, resolve_spec
from cgal_plugin.mapping.embedding import check_given, resolve_embedding
from cgal_plugin.provenance import hash_array
from cgal_plugin.units import FORCE_UNITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.priors import PriorSet

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ImportPlan:
    """How the data of a molecule are imported.

    Attributes
    ----------
    molecule, topology
        Data, and the topology of the store.
    temperature
        K.
    order
        Place in the data of each bead; None: in order.
    length_unit, force_factor
        Unit of the coordinates; factor from the unit of the forces to kcal/mol/Å.
    force_map_hash
        Hash for the store; empty: from the hash of the files.
    priors
        Priors to be added to delta forces; None for total forces.
    options
        What was given and decided, for the record.
    lines
        What was read and assumed.
    """

    molecule: RawMolecule
    topology: CGTopology
    temperature: float
    order: NDArray[np.int64] | None
    length_unit: str
    force_factor: float
    force_map_hash: str
    priors: PriorSet | None
    options: dict[str, Any]
    lines: tuple[str, ...]


def plan_import(
    molecule: RawMolecule,
    topology: str | None,
    *,
    mapping: Any,
    embedding: Any,
    to_embedding: Any,
    temperature: float | None,
    length_unit: str | None,
    force_unit: str | None,
    force_map: str | None,
    priors: str | os.PathLike[str] | None,
) -> ImportPlan:
    """Check the data of a molecule as far as no frames are read, and decide how they are imported.

    Parameters
    ----------
    topology
        Structure file, saved topology or sequence; None: from the data.
    mapping, embedding, to_embedding, temperature, length_unit, force_unit, force_map, priors
        See :func:`~cgal_plugin.exchange.cg_data.import_data`.

    Raises
    ------
    DataError
        See :func:`~cgal_plugin.exchange.cg_data.import_data`.
    """
    name = molecule.name
    lines: list[str] = []
    if molecule.record:
        top, order = _recorded(molecule, topology, embedding, length_unit, force_unit), None
        lines.append("data of cgal export-data: topology, temperature, blocks and force map as recorded")
    else:
        top, order = _topology(molecule, topology, mapping, embedding, lines)
    known = molecule.record.get("temperature", molecule.temperature)
    temperature = same_temperature(known, temperature, f"the record of {name}", "--temperature")
    if temperature is None:
        raise DataError(
            f"{name}: the temperature of the data is not recorded: give --temperature; a potential of mean "
            "force belongs to one temperature"
        )
    if not (math.isfinite(temperature) and temperature > 0):
        raise DataError(f"{name}: the temperature is {temperature:g} K; it must be above 0")
    _check_shapes(molecule, top)
    found = _priors(molecule, top, temperature, priors, lines)
    unit, factor = _units(length_unit, force_unit)
    digest = _force_map(molecule, force_map, lines)
    if to_embedding is not None:
        top = top.with_embedding(to_embedding)
        lines.append(f"bead types of the store are numbered by embedding {top.embedding!r}")
    for trajectory in molecule.trajectories:
        if trajectory.coords.dtype == np.float16:
            lines.append(f"{trajectory.name}: float16 rounds coordinates above 64 to 1/16, above 128 to 1/8")
    if molecule.left_out:
        lines.append(f"not read: {', '.join(molecule.left_out)}")
    options = {
        "topology": topology,
        "embedding": top.embedding,
        "temperature": temperature,
        "length_unit": unit,
        "force_unit": next(u for u, f in FORCE_UNITS.items() if f == factor),
        "forces": "total" if found is None else "delta, with the forces of the priors added",
        "priors": None if found is None else found.hash,
    }
    return ImportPlan(molecule, top, temperature, order, unit, factor, digest, found, options, tuple(lines))


def _recorded(
    molecule: RawMolecule,
    topology: str | None,
    embedding: Any,
    length_unit: str | None,
    force_unit: str | None,
) -> CGTopology:
    """Return the topology of data of ``cgal export-data``."""
    name, record = molecule.name, molecule.record
    try:
        top = CGTopology.from_dict(record["topology"])
        n = sum(int(shard["n_frames"]) for shard in record["shards"])
    except (MappingError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"the record of {name} is damaged: {error}") from error
    if topology is not None:
        raise DataError(f"--topology {topology!r}: {name} was written by cgal export-data, with its topology")
    units = (length_unit or "angstrom", force_unit or "kcal/mol/angstrom")
    if units != ("angstrom", "kcal/mol/angstrom"):
        raise DataError(
            f"{name} is data of cgal export-data, in Å and kcal/mol/Å, not in {' and '.join(units)}"
        )
    # of an embedding for files only, the numbers were written, and the topology is in another
    written = record.get("embedding", top.embedding)
    check_given(embedding, written, f"the record of {name}", DataError)
    shapes = [tuple(t.coords.shape) for t in molecule.trajectories]
    if shapes != [(n, top.n_beads, 3)] or any(v.shape != (n,) for v in molecule.labels.values()):
        raise DataError(f"{name} has coordinates of shape {shapes}; its record says {(n, top.n_beads, 3)}")
    if molecule.embeds is not None:
        shared = resolve_embedding(written) if written != top.embedding else None
        check_embeds(molecule.embeds, top, name, "its record", shared)
    return top


def _topology(
    molecule: RawMolecule, given: str | None, mapping: Any, embedding: Any, lines: list[str]
) -> tuple[CGTopology, NDArray[np.int64] | None]:
    """Return the topology of data of other programs, and the order of their beads."""
    name, embeds = molecule.name, molecule.embeds
    if embeds is not None and embedding is None:
        raise DataError(
            f"{name} has numbers of bead types, from {embeds.min()} to {embeds.max()}: give the embedding "
            "that they belong to, --embedding mlcg-tk, mlcg-tk-5bead, torchmd-cg, cgal or a YAML file"
        )
    numbering = resolve_embedding("cgal" if embedding is None else embedding)
    spec = resolve_spec(mapping, "cgal" if numbering.shares else numbering)
    shared = numbering if numbering.shares else None
    if shared is not None:
        lines.append(f"bead types of embedding {shared.name!r} renumbered by 'cgal', one number per type")
    source = given if given is not None else molecule.structure
    if source is None:
        if embeds is None:
            raise DataError(f"{name} has neither bead types nor a structure file: give --topology")
        lines.append(
            f"topology: one chain of {spec.name} beads in the order of the bead types; no structure file"
        )
        ids = spec.embedding.ids if shared is None else shared.ids
        return topology_from_embeds(embeds, spec, ids, numbering.name, name)
    top = read_topology(str(source), spec)
    lines.append(f"topology: {source}")
    order = bead_order(source, top)
    if order is not None:
        lines.append(f"the beads are in the order of {source}; the store has those of the map {spec.name}")
    if embeds is not None:
        if order is not None and len(embeds) == len(order):
            embeds = embeds[order]
        check_embeds(embeds, top, name, str(source), shared)
    else:
        lines.append("no bead types in the data: those of the topology")
    return top, order


def _check_shapes(molecule: RawMolecule, topology: CGTopology) -> None:
    for trajectory in molecule.trajectories:
        shape = tuple(trajectory.coords.shape)
        if len(shape) != 3 or shape[2:] != (3,) or trajectory.coords.dtype.kind not in "fiu":
            raise DataError(
                f"{trajectory.name} has shape {shape} and type {trajectory.coords.dtype}; expected "
                "(n_frames, n_beads, 3)"
            )
        if trajectory.coords.dtype.kind in "iu":
            raise DataError(
                f"{trajectory.name} has type {trajectory.coords.dtype}: coordinates in whole Å are rounded; "
                "save them as floating-point numbers"
            )
        if shape[0] == 0:
            raise DataError(f"{trajectory.name} has no frames")
        if shape[1] != topology.n_beads:
            raise DataError(f"{trajectory.name} has {shape[1]} beads; {topology!r} has {topology.n_beads}")
        for what, array in (("forces", trajectory.forces), ("delta forces", trajectory.delta)):
            if array is not None and (tuple(array.shape) != shape or array.dtype.kind not in "fiu"):
                raise DataError(
                    f"{trajectory.name}: the {what} have shape {tuple(array.shape)} and type {array.dtype}, "
                    f"the coordinates {shape}; they must agree"
                )


def _priors(
    molecule: RawMolecule,
    topology: CGTopology,
    temperature: float,
    path: str | os.PathLike[str] | None,
    lines: list[str],
) -> PriorSet | None:
    """Return the priors to be added to delta forces; None for total forces."""
    name = molecule.name
    total = all(t.forces is not None for t in molecule.trajectories)
    delta = all(t.delta is not None for t in molecule.trajectories)
    if total:
        if path is not None:
            raise DataError(f"{name} has total forces: leave out --priors, which is for delta forces")
        if delta:
            lines.append("total forces; the delta forces are not read")
        return None
    if not delta:
        unread = f"; not read: {', '.join(molecule.left_out)}" if molecule.left_out else ""
        raise DataError(f"{name} has no forces{unread}")
    if path is None:
        raise DataError(
            f"{name} has delta forces only: forces minus those of priors. A store has total forces: give "
            "the file of total forces, or the priors that were subtracted, --priors (cgal import-priors "
            "reads those of torchmd-cg and mlcg)"
        )
    from cgal_plugin.priors import PriorSet

    try:
        priors = PriorSet.load(path).for_topology(topology, temperature, source=f"the priors in {path}")
    except ConfigError as error:
        raise DataError(f"{name}: {error}") from error
    lines.append(f"delta forces, and the forces of the priors {path} ({', '.join(priors.terms)}) added")
    return priors


def _units(length_unit: str | None, force_unit: str | None) -> tuple[str, float]:
    length = length_unit or "angstrom"
    if length not in ("angstrom", "nm"):
        raise DataError(f"length unit {length!r} is not known; use angstrom or nm")
    if length == "nm" and force_unit is None:
        raise DataError(
            f"--units nm needs --force-unit too, one of {', '.join(FORCE_UNITS)}: programs that write nm "
            "usually write kJ/mol/nm"
        )
    unit = force_unit or "kcal/mol/angstrom"
    if unit not in FORCE_UNITS:
        raise DataError(f"force unit {unit!r} is not known; use one of {', '.join(FORCE_UNITS)}")
    return length, FORCE_UNITS[unit]


def _force_map(molecule: RawMolecule, given: str | None, lines: list[str]) -> str:
    """Return the hash of the force map for the store; empty if it is not known."""
    recorded = molecule.record.get("force_map_hash")
    if given is not None and not _NAME.fullmatch(given):
        raise DataError(f"--force-map {given!r} is not allowed; use letters, digits, '_', '-', '.'")
    if recorded is not None:
        if given is not None and recorded != f"external-{given}":
            raise DataError(f"{molecule.name} records the force map {recorded!r}, not --force-map {given!r}")
        return str(recorded)
    if given is not None:
        lines.append(f"force map: {given!r}, of another program")
        return f"external-{given}"
    if molecule.force_map is not None:
        lines.append("force map: from the file cg_force_map.npy")
        return f"external-{hash_array(molecule.force_map)[:32]}"
    lines.append(
        "force map: of another program, not known; these forces are mixed with no others of this molecule "
        "(to mix them, import both with one --force-map NAME)"
    )
    return ""

"""The CG topology of data of other programs, and the order of their beads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import DataError, MappingError
from cgal_plugin.mapping.files import load_topology, structure_suffix
from cgal_plugin.mapping.residues import THREE_TO_ONE
from cgal_plugin.mapping.topology import CGTopology

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.spec import MapSpec


def topology_from_embeds(embeds: NDArray[np.int64], spec: MapSpec, name: str) -> CGTopology:
    """Return the topology of one chain of CA beads from the numbers of its bead types.

    Raises
    ------
    DataError
        The map is not CA, or the embedding does not have a number or has no standard residue for it.
    """
    if spec.name != "CA":
        raise DataError(
            f"{name}: the bead types alone do not give the topology of map {spec.name!r}: give --topology"
        )
    names = type_names(embeds, spec.embedding.ids, spec.embedding.name, name)
    letters = [THREE_TO_ONE.get(bead.removeprefix("CA_"), "") for bead in names]
    unknown = sorted({bead for bead, letter in zip(names, letters, strict=True) if not letter})
    if unknown:
        raise DataError(
            f"{name}: bead types {', '.join(unknown)} have no one-letter code: give --topology, or the "
            "embedding of these data, --embedding"
        )
    return CGTopology.from_sequence("".join(letters), spec)


def type_names(embeds: NDArray[np.int64], ids: Mapping[str, int], embedding: str, name: str) -> list[str]:
    """Return the name of each bead type.

    Raises
    ------
    DataError
        The embedding does not have a number.
    """
    known = {number: bead for bead, number in ids.items()}
    unknown = sorted(set(embeds.tolist()) - set(known))
    if unknown:
        raise DataError(
            f"{name}: embedding {embedding!r} has no bead types {', '.join(map(str, unknown))} (it has "
            f"{min(known)} to {max(known)}): give the embedding of these data, --embedding"
        )
    return [known[number] for number in embeds.tolist()]


def check_embeds(embeds: NDArray[np.int64], topology: CGTopology, name: str, where: str) -> None:
    """Check that the data have the bead types of a topology.

    Raises
    ------
    DataError
        The number of beads or a bead type differs.
    """
    if len(embeds) != topology.n_beads:
        raise DataError(
            f"{name} has {len(embeds)} bead types; {where} has {topology.n_beads} beads ({topology!r})"
        )
    wrong = np.flatnonzero(embeds != topology.types)
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{name}: {wrong.size} of {len(embeds)} bead types contradict {where}; first: bead {first + 1} "
            f"has number {embeds[first]}, {topology.type_names[first]} has {int(topology.types[first])} in "
            f"embedding {topology.embedding!r}. The data are of another molecule, or have another embedding "
            "(--embedding)"
        )


def bead_order(path: str | os.PathLike[str], topology: CGTopology) -> NDArray[np.int64] | None:
    """Return the place in the data of each bead of the topology, if the order of a file of beads differs.

    Returns
    -------
    ``(n_beads,)`` int64; None if the orders are equal, or the file has more than the beads.

    Raises
    ------
    DataError
        The file has as many atoms as there are beads, but other ones.
    """
    if structure_suffix(Path(path)) is None or len(set(topology.bead_names)) == 1:
        return None
    atoms = list(load_topology(path).atoms)
    if len(atoms) != topology.n_beads:
        return None
    place = {(atom.residue.index, atom.name): k for k, atom in enumerate(atoms)}
    residues = {atom.residue.index for atom in atoms}
    number = dict(zip(sorted(set(topology.residue_index.tolist())), sorted(residues), strict=False))
    try:
        order = [
            place[number[int(residue)], bead]
            for residue, bead in zip(topology.residue_index, topology.bead_names, strict=True)
        ]
    except KeyError as error:
        raise DataError(f"{path} has {len(atoms)} atoms, but not the beads of {topology!r}") from error
    return None if order == list(range(len(order))) else np.array(order)


def read_topology(path: str, spec: MapSpec) -> CGTopology:
    """Return the topology that a structure file, a saved topology or a one-letter sequence gives.

    Raises
    ------
    DataError
        It cannot be read, or a saved topology has another embedding.
    """
    try:
        if Path(path).suffix.lower() == ".json":
            return CGTopology.load(path).with_embedding(spec.embedding)
        if Path(path).suffix or Path(path).exists():
            return CGTopology.from_file(path, spec)
        return CGTopology.from_sequence(path, spec)
    except MappingError as error:
        raise DataError(f"topology {path!r}: {error}") from error


def chosen(options: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return the topology of each molecule from options ``FILE`` (of one molecule) or ``NAME=FILE``.

    Raises
    ------
    DataError
        A name is unknown or given twice, or one file is given for several molecules.
    """
    found: dict[str, str] = {}
    for option in options:
        name, equal, path = option.partition("=")
        if not equal or Path(option).exists():
            if len(names) > 1:
                raise DataError(
                    f"the data have {len(names)} molecules ({', '.join(names)}): give --topology NAME=FILE "
                    "for each that needs one"
                )
            name, path = names[0], option
        if name not in names:
            raise DataError(f"--topology {option!r}: the data have no {name!r}; they have {', '.join(names)}")
        if name in found:
            raise DataError(f"--topology is given twice for {name!r}")
        found[name] = path
    return found

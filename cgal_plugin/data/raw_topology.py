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
from cgal_plugin.mapping.spec import built_in
from cgal_plugin.mapping.topology import CGTopology

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.embedding import Embedding
    from cgal_plugin.mapping.spec import MapSpec


def topology_from_embeds(
    embeds: NDArray[np.int64], spec: MapSpec, ids: Mapping[str, int], embedding: str, name: str
) -> tuple[CGTopology, NDArray[np.int64] | None]:
    """Return the topology of one chain from the numbers of its bead types, and the order of its beads.

    Parameters
    ----------
    embeds
        ``(n_beads,)`` numbers of the bead types, residue after residue.
    spec
        A built-in map.
    ids, embedding
        Number of each bead type, and the name of this numbering.
    name
        The data, for messages.

    Returns
    -------
    Topology, and the place in the data of each bead, ``(n_beads,)`` int64, or None if these are in the order
    of the map. In the 5bead map, residues may also be in the order of PDB files: N, CA, C, O, CB.

    Raises
    ------
    DataError
        The map is a user's, or the numbers are not those of a chain of standard residues.
    """
    if built_in(spec.hash) is None:
        raise DataError(
            f"{name}: the bead types alone do not give the topology of map {spec.name!r}: give --topology"
        )
    if len({bead.name for beads in spec.residues.values() for bead in beads}) == 1:
        type_names(embeds, ids, embedding, name)  # it says which numbers the embedding has
    patterns: dict[tuple[int, ...], tuple[str, list[int]]] = {}
    for residue, beads in spec.residues.items():
        types = [ids.get(spec.type_name(bead.name, residue), -1) for bead in beads]
        of_pdb = sorted(range(len(beads)), key=lambda k, beads=beads: (beads[k].name == "CB", k))  # type: ignore[misc]
        for order in ([*range(len(beads))], of_pdb):
            place = [order.index(k) for k in range(len(beads))]
            patterns.setdefault(tuple(types[k] for k in order), (residue, place))
    numbers, letters, order, at = embeds.tolist(), "", [], 0
    longest = max(map(len, patterns))
    while at < len(numbers):
        sizes = (n for n in range(longest, 0, -1) if tuple(numbers[at : at + n]) in patterns)
        size = next(sizes, 0)
        if not size or -1 in numbers[at : at + size]:
            raise DataError(
                f"{name}: the bead types {numbers[at : at + longest]} from bead {at + 1} are of no standard "
                f"residue of map {spec.name!r} in embedding {embedding!r}: give --topology, or the embedding "
                "of these data, --embedding"
            )
        residue, place = patterns[tuple(numbers[at : at + size])]
        letters += THREE_TO_ONE[residue]
        order += [at + k for k in place]
        at += size
    topology = CGTopology.from_sequence(letters, spec)
    return topology, None if order == list(range(len(order))) else np.array(order)


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


def check_embeds(
    embeds: NDArray[np.int64],
    topology: CGTopology,
    name: str,
    where: str,
    numbering: Embedding | None = None,
) -> None:
    """Check that the data have the bead types of a topology.

    ``numbering`` is the embedding of the data, if it is not that of the topology.

    Raises
    ------
    DataError
        The number of beads or a bead type differs.
    """
    if len(embeds) != topology.n_beads:
        raise DataError(
            f"{name} has {len(embeds)} bead types; {where} has {topology.n_beads} beads ({topology!r})"
        )
    types = topology.types if numbering is None else np.array(numbering.numbers(topology.type_names))
    wrong = np.flatnonzero(embeds != types)
    if wrong.size:
        first = int(wrong[0])
        embedding = topology.embedding if numbering is None else numbering.name
        raise DataError(
            f"{name}: {wrong.size} of {len(embeds)} bead types contradict {where}; first: bead {first + 1} "
            f"has number {embeds[first]}, {topology.type_names[first]} has {int(types[first])} in "
            f"embedding {embedding!r}. The data are of another molecule, or have another embedding "
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

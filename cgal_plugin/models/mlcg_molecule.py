"""The molecule of the configurations in a model file of mlcg."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import ConfigError, DataError
from cgal_plugin.mapping.spec import FIVE_BEAD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.embedding import Embedding
    from cgal_plugin.mapping.topology import CGTopology
    from cgal_plugin.models.mlcg_files import MlcgFile

#: lightest bead, amu
_LIGHTEST = 1.0


def molecule_of(file: MlcgFile, embedding: Embedding, topology: CGTopology | None) -> CGTopology | None:
    """Return the molecule of the configurations; check that a given one is the same."""
    if not file.configurations:
        return topology
    types, masses = file.configurations[0].types, file.configurations[0].masses
    if masses is not None and masses.min() < _LIGHTEST:
        raise ConfigError(
            f"{file.name} has bead masses of {masses.min():.3g} amu if its units are Å, kcal/mol and ps: "
            "it is in other units; convert it before the import"
        )
    if topology is not None:
        own = np.array(embedding.numbers(topology.type_names)) if embedding.shares else topology.types
        if not np.array_equal(own, types):
            n = min(len(types), topology.n_beads)
            first = next((i for i in range(n) if own[i] != types[i]), n)
            raise ConfigError(
                f"{file.name} is for a molecule of {len(types)} beads with types {types.tolist()}; "
                f"{topology!r} has {topology.n_beads} beads and differs first at bead {first}: give its "
                "molecule, and the embedding that its types are numbered by"
            )
        return topology
    if embedding.shares:
        return _five_bead_chain(types, embedding, file.name)
    names = {number: bead for bead, number in embedding.ids.items()}
    unknown = sorted(set(types.tolist()) - set(names))
    if unknown:
        raise ConfigError(
            f"{file.name} has bead types {unknown}, which embedding {embedding.name!r} does not have: give "
            "the embedding of the file"
        )
    beads = [names[t] for t in types.tolist()]
    if any(not bead.startswith("CA_") for bead in beads):
        raise ConfigError(f"{file.name} has other beads than CA: give the molecule, --topology")
    return _ca_chain(beads, embedding, file.name)


def _five_bead_chain(types: NDArray[np.int64], embedding: Embedding, name: str) -> CGTopology:
    from cgal_plugin.data.raw_topology import topology_from_embeds

    try:
        topology, order = topology_from_embeds(types, FIVE_BEAD, embedding.ids, embedding.name, name)
    except DataError as error:
        raise ConfigError(str(error)) from None
    if order is not None:
        raise ConfigError(
            f"the configurations in {name} have the beads of a residue in another order than N, CA, CB, C, "
            "O: give the network and its priors without configurations"
        )
    return topology


def _ca_chain(beads: list[str], embedding: Embedding, name: str) -> CGTopology:
    from cgal_plugin.mapping import CGTopology, resolve_spec
    from cgal_plugin.mapping.residues import THREE_TO_ONE

    residues = [bead.removeprefix("CA_") for bead in beads]
    unknown = sorted(set(residues) - set(THREE_TO_ONE))
    if unknown:
        raise ConfigError(f"{name} has residues {', '.join(unknown)}: give the molecule, --topology")
    spec = resolve_spec("CA", embedding)
    return CGTopology.from_sequence("".join(THREE_TO_ONE[r] for r in residues), spec)

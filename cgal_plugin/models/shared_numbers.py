"""Networks whose embedding has one number for several bead types: the five-bead map of mlcg-tk.

This package numbers each bead type by itself, so that priors can tell them apart. The row of a number is
copied to each of its bead types: the network computes the same energies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping.embedding import Embedding
from cgal_plugin.mapping.spec import FIVE_BEAD

_WEIGHT = "embedding_layer.weight"


def renumbered(state: Mapping[str, Any], numbering: Embedding, name: str) -> dict[str, Any]:
    """Return the weights of a SchNet of mlcg with an embedding in the numbers of the 5bead map of ``cgal``.

    Parameters
    ----------
    state
        State dict; entries other than the embedding are not changed.
    numbering
        Embedding of the network.
    name
        File, for messages.

    Raises
    ------
    ConfigError
        The embedding of the network is too small for the numbers.
    """
    ids = FIVE_BEAD.embedding.ids
    new = dict(state)
    for key in [k for k in new if str(k).endswith(_WEIGHT)]:
        weight = new[key]
        if weight.shape[0] <= max(numbering.ids.values()):
            raise ConfigError(
                f"{name} has an embedding of {weight.shape[0]} bead types, fewer than the numbers of "
                f"embedding {numbering.name!r} (up to {max(numbering.ids.values())}): give its own embedding"
            )
        rows = weight.new_zeros(1 + max(ids.values()), weight.shape[1])
        for bead, number in ids.items():
            if bead in numbering.ids:
                rows[number] = weight[numbering.ids[bead]]
        new[key] = rows
    return new

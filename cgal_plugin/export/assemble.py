"""Build an exported potential from the weights and priors of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cgal_plugin.errors import CGALError, ExportError
from cgal_plugin.export.forms import DensePotential, ListPotential, Potential, Terms
from cgal_plugin.export.neighbors import NeighborList
from cgal_plugin.export.network import Network
from cgal_plugin.export.terms import AngleTerm, DihedralTerm, PairTerm, SeriesTerm
from cgal_plugin.priors.modules import (
    PRIORS,
    CGAngles,
    CGAngleSeries,
    CGBonds,
    CGDihedrals,
    CGPairs,
    CGPrior,
    CGRepulsion,
)

if TYPE_CHECKING:
    from cgal_plugin.mapping.topology import CGTopology
    from cgal_plugin.models.weights import CGSchNetWeights


#: larger molecules use a neighbour list
DENSE_BEADS = 30
SKIN = 2.0


def build_potential(
    weights: CGSchNetWeights,
    priors: Sequence[object],
    topology: CGTopology,
    n_replicas: int,
    dtype: torch.dtype,
    *,
    pairs: str = "auto",
    skin: float = SKIN,
) -> Potential:
    """Build a potential.

    Parameters
    ----------
    weights, priors
        Parameters and priors of the model, in ``dtype``.
    topology
        Beads of one replica.
    n_replicas
        Number of replicas.
    dtype
        Dtype of the computation.
    pairs
        ``"dense"``, ``"list"``, or ``"auto"``: a neighbour list for more than :data:`DENSE_BEADS` beads.
    skin
        Skin of the neighbour list, Å.

    Raises
    ------
    ExportError
        The model cannot be exported, or does not fit the topology.
    """
    check_weights(weights, topology)
    terms = Terms()
    angle_vectors: list[tuple[Tensor, Tensor]] = []
    dihedral_vectors: list[tuple[Tensor, Tensor]] = []
    for prior in map(known_prior, priors):
        index, row = prior_terms(prior, topology)
        if index.shape[1] == 0:
            continue
        if isinstance(prior, CGBonds):
            terms.bonds.append((index, _pair_term(prior, index, row, dtype)))
        elif isinstance(prior, CGRepulsion):
            terms.repulsions.append((index, _pair_term(prior, index, row, dtype)))
        elif isinstance(prior, CGPairs):
            _check_once(prior, index, row)
            zero = prior.c.new_zeros(1, prior.c.shape[1])
            coefficients = torch.cat([zero, prior.c]).to(dtype)
            terms.repulsions.append((index, SeriesTerm(coefficients, row + 1, prior.first, prior.spacing)))
        elif isinstance(prior, CGAngles | CGAngleSeries):
            terms.angles.append(_angle_term(prior, row, dtype))
            angle_vectors += [(index[1], index[k]) for k in (0, 2)]
        elif isinstance(prior, CGDihedrals):
            terms.dihedrals.append(DihedralTerm(prior.k[row].to(dtype), prior.phase[row].to(dtype)))
            dihedral_vectors += [(index[k], index[k + 1]) for k in range(3)]
    terms.vectors = angle_vectors + dihedral_vectors
    types = torch.from_numpy(np.array(topology.types, dtype=np.int64))
    network = Network(weights, types)
    if pairs == "dense" or (pairs == "auto" and topology.n_beads <= DENSE_BEADS):
        return DensePotential(network, n_replicas, terms, dtype)
    neighbors = NeighborList(float(weights.cutoff_upper), skin)
    return ListPotential(network, n_replicas, terms, dtype, neighbors)


def check_weights(weights: CGSchNetWeights, topology: CGTopology) -> None:
    """Check that an exported potential can reproduce the model.

    Raises
    ------
    ExportError
        The model has an option or a size that cannot be exported.
    """
    if weights.aggr != "add":
        raise ExportError(f"the model aggregates neighbours by {weights.aggr!r}; only 'add' can be exported")
    if weights.reduce_op not in ("add", "sum", "mean"):
        raise ExportError(f"reduce_op {weights.reduce_op!r} cannot be exported; use 'add' or 'mean'")
    if weights.periodic:
        raise ExportError("the model has a periodic box; exported potentials do not support boxes")
    if topology.n_beads < 2:
        raise ExportError("a potential needs at least two beads")
    largest, limit = int(topology.types.max()), weights.embedding.shape[0]
    if largest >= limit:
        raise ExportError(f"bead type {largest} of {topology!r} is not below max_z = {limit} of the model")


def known_prior(prior: object) -> CGPrior:
    """Return a prior that can be exported.

    Raises
    ------
    ExportError
        The prior is of another class.
    """
    if not (isinstance(prior, CGPrior) and isinstance(prior, tuple(PRIORS.values()))):
        known = ", ".join(cls.__name__ for cls in PRIORS.values())
        raise ExportError(f"prior {type(prior).__name__} cannot be exported; use one of {known}")
    return prior


def prior_terms(prior: CGPrior, topology: CGTopology) -> tuple[Tensor, Tensor]:
    """Return the index table and parameter rows of a prior for one molecule.

    Raises
    ------
    ExportError
        The prior belongs to another molecule.
    """
    name = type(prior).__name__
    types = torch.from_numpy(np.array(topology.types, dtype=np.int64))
    stored = prior.molecule_types.cpu()
    if stored.shape[0] not in (0, types.shape[0]):
        raise ExportError(f"prior {name} is for {stored.shape[0]} beads; {topology!r} has {topology.n_beads}")
    if stored.shape[0] and not torch.equal(stored, types):
        different = [int(i) for i in torch.nonzero(stored != types).flatten()[:5]]
        raise ExportError(f"prior {name} has other bead types than {topology!r}, first at beads {different}")
    given = index_tables(topology)
    try:
        index, row = prior.terms(types, torch.zeros_like(types), 1, given)
        if stored.shape[0]:
            own, own_row = prior.terms(types, torch.zeros_like(types), 1, None)
            if _as_set(own, own_row) != _as_set(index, row):
                raise ExportError(f"prior {name} has other bonded terms than {topology!r}")
    except CGALError as error:
        raise ExportError(f"prior {name} does not fit {topology!r}: {error}") from error
    return index, row


def index_tables(topology: CGTopology) -> dict[str, Tensor]:
    """Return the tables of bonds, bridges, angles and dihedrals that a batch of this molecule has."""
    names = ("bond_index", "bridge_index", "angle_index", "dihedral_index")
    return {name: torch.from_numpy(np.array(getattr(topology, name).T)) for name in names}


def _as_set(index: Tensor, row: Tensor) -> set[tuple[int, ...]]:
    terms = zip(index.T.tolist(), row.tolist(), strict=True)
    return {(*min(tuple(beads), tuple(reversed(beads))), r) for beads, r in terms}


def _check_once(prior: CGPrior, index: Tensor, row: Tensor) -> None:
    if len(_as_set(index, row * 0)) != index.shape[1]:
        raise ExportError(f"prior {type(prior).__name__} has a pair twice")


def _pair_term(prior: CGBonds | CGRepulsion, index: Tensor, row: Tensor, dtype: torch.dtype) -> PairTerm:
    _check_once(prior, index, row)
    if isinstance(prior, CGBonds):
        return PairTerm(prior.k[row].to(dtype), prior.r0[row].to(dtype), 0)
    return PairTerm(prior.epsilon[row].to(dtype), prior.sigma[row].to(dtype), prior.power)


def _angle_term(prior: CGAngles | CGAngleSeries, row: Tensor, dtype: torch.dtype) -> AngleTerm:
    if isinstance(prior, CGAngles):
        return AngleTerm(prior.use_cosine, prior.k[row].to(dtype), prior.x0[row].to(dtype))
    c = prior.c[row].to(dtype)
    return AngleTerm(False, torch.zeros_like(c[:, 0]), torch.zeros_like(c[:, 0]), c)

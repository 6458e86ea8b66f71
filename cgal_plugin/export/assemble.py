"""The exported potential as one TorchScript-able module, and its assembly from a model's parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cgal_plugin.errors import CGALError, ExportError
from cgal_plugin.export.network import Network, pair_tables
from cgal_plugin.export.terms import AngleTerm, DihedralTerm, PairTerm
from cgal_plugin.priors.modules import CGAngles, CGBonds, CGDihedrals, CGPrior, CGRepulsion
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

if TYPE_CHECKING:
    from cgal_plugin.mapping.topology import CGTopology
    from cgal_plugin.models.weights import CGSchNetWeights


class Potential(nn.Module):
    """``forward(positions (R·N, 3) nm) -> energy () kJ/mol, forces (R·N, 3) kJ/mol/nm``.

    R replicas of N beads that do not see each other, no periodic box. Each replica's centre is
    subtracted in float64 before anything is cast to the dtype of the parameters, so that a replica
    that has drifted far keeps its digits. No autograd is involved: positions may require a gradient
    or not, the result never does. A replica with non-finite positions has a non-finite energy (and
    so has the sum); the forces of the others are untouched.
    """

    def __init__(
        self,
        network: Network,
        pair_terms: Sequence[PairTerm],
        angle_terms: Sequence[AngleTerm],
        dihedral_terms: Sequence[DihedralTerm],
        vectors: Tensor,
    ) -> None:
        super().__init__()
        self.n_beads, self.n_replicas = network.n_beads, network.n_replicas
        self.n_atoms = self.n_beads * self.n_replicas
        self.network = network
        self.pair_terms = nn.ModuleList(pair_terms)
        self.angle_terms = nn.ModuleList(angle_terms)
        self.dihedral_terms = nn.ModuleList(dihedral_terms)
        self.bonded = vectors.shape[0] > 0
        # rows of +1 and -1: vectors between beads from positions; transposed, gradients from dE/dvector
        self.register_buffer("vectors", vectors)
        tables = pair_tables(self.n_beads, 1)
        self.register_buffer("pair", tables["pair"])
        self.register_buffer("pair_of", tables["pair_of"])
        self.length, self.energy_unit = ANGSTROM_PER_NM, KJ_PER_KCAL

    def evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of each replica ``(R,)`` kcal/mol and forces ``(R, N, 3)`` kcal/mol/Å."""
        if positions.shape[0] != self.n_atoms:
            raise ValueError("positions must have n_replicas * n_beads rows")
        p = positions.detach().to(torch.float64).view(self.n_replicas, self.n_beads, 3)
        x = (p - p.mean(1, keepdim=True)) * self.length
        d = x.unsqueeze(1) - x.unsqueeze(2)
        square = (d * d).sum(-1).view(self.n_replicas, -1).index_select(1, self.pair)
        exact = square.clamp_min(1e-12).sqrt()
        r = exact.to(self.vectors.dtype)
        energy, slope = self.network(r)
        for term in self.pair_terms:
            e, s = term(exact)
            energy = energy + e
            slope = slope + s
        matrix = (slope / r).index_select(1, self.pair_of)
        matrix = matrix.view(self.n_replicas, self.n_beads, self.n_beads, 1)
        forces = (matrix * d.to(r.dtype)).sum(2)
        if self.bonded:
            e, pull = self.bonded_terms(x)
            energy = energy + e
            forces = forces - pull
        return energy, forces

    def bonded_terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energy ``(R,)`` and gradient ``(R, N, 3)`` of angles and dihedrals, from float64 ``x`` Å."""
        v = torch.matmul(self.vectors.to(x.dtype), x).to(self.vectors.dtype)
        energy = torch.zeros_like(v[:, 0, 0])
        gradients: list[Tensor] = []
        start = 0
        for angle in self.angle_terms:
            n = angle.k.shape[0]
            e, da, db = angle(v[:, start : start + n], v[:, start + n : start + 2 * n])
            energy = energy + e
            gradients += [da, db]
            start += 2 * n
        for dihedral in self.dihedral_terms:
            n = dihedral.k.shape[0]
            a, b = v[:, start : start + n], v[:, start + n : start + 2 * n]
            e, da, db, dc = dihedral(a, b, v[:, start + 2 * n : start + 3 * n])
            energy = energy + e
            gradients += [da, db, dc]
            start += 3 * n
        return energy, torch.matmul(self.vectors.t(), torch.cat(gradients, 1))

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of all replicas together and forces; see the class."""
        energy, forces = self.evaluate(positions)
        forces = forces.view(self.n_atoms, 3).to(positions.dtype) * (self.energy_unit * self.length)
        return energy.to(torch.float64).sum() * self.energy_unit, forces

    @torch.jit.export
    def replica_energies(self, positions: Tensor) -> Tensor:
        """Energy of each replica, ``(R,)`` float64 kJ/mol."""
        return self.evaluate(positions)[0].to(torch.float64) * self.energy_unit


def build_potential(
    weights: CGSchNetWeights, priors: Sequence[Any], topology: CGTopology, n_replicas: int, dtype: torch.dtype
) -> Potential:
    """Put a potential together.

    Parameters
    ----------
    weights, priors
        Of the model, in ``dtype``.
    topology
        Of one replica.
    n_replicas
        R.
    dtype
        To compute in.

    Raises
    ------
    ExportError
        The model has something that cannot be exported, or does not fit the topology.
    """
    check_weights(weights, topology)
    types = torch.from_numpy(np.array(topology.types, dtype=np.int64))
    pair_terms: list[PairTerm] = []
    angle_terms: list[AngleTerm] = []
    dihedral_terms: list[DihedralTerm] = []
    angle_vectors: list[Tensor] = []
    dihedral_vectors: list[Tensor] = []
    for prior in priors:
        index, row = prior_terms(prior, topology)
        if index.shape[1] == 0:
            continue
        if isinstance(prior, CGBonds | CGRepulsion):
            pair_terms.append(_pair_term(prior, index, row, topology.n_beads, dtype))
        elif isinstance(prior, CGAngles):
            angle_terms.append(AngleTerm(prior, prior.k[row].to(dtype), prior.x0[row].to(dtype)))
            angle_vectors += [_difference(index[1], index[k], topology.n_beads) for k in (0, 2)]
        else:
            dihedral_terms.append(DihedralTerm(prior.k[row].to(dtype), prior.phase[row].to(dtype)))
            dihedral_vectors += [_difference(index[k], index[k + 1], topology.n_beads) for k in range(3)]
    empty = torch.zeros(0, topology.n_beads)
    vectors = torch.cat([empty, *angle_vectors, *dihedral_vectors]).to(dtype)
    network = Network(weights, types, n_replicas)
    return Potential(network, pair_terms, angle_terms, dihedral_terms, vectors)


def check_weights(weights: CGSchNetWeights, topology: CGTopology) -> None:
    """Refuse what an exported potential cannot do.

    Raises
    ------
    ExportError
        See above.
    """
    if weights.aggr != "add":
        raise ExportError(f"the model aggregates neighbours by {weights.aggr!r}; only 'add' can be exported")
    if weights.reduce_op not in ("add", "sum", "mean"):
        raise ExportError(f"reduce_op {weights.reduce_op!r} cannot be exported; use 'add' or 'mean'")
    if weights.periodic:
        raise ExportError("the model has a periodic box of its own; exported potentials have no box")
    if topology.n_beads < 2:
        raise ExportError("a potential needs at least two beads")
    largest, room = int(topology.types.max()), weights.embedding.shape[0]
    if largest >= room:
        raise ExportError(f"bead type {largest} of {topology!r} is not below the model's max_z = {room}")


def prior_terms(prior: Any, topology: CGTopology) -> tuple[Tensor, Tensor]:
    """Index table and parameter rows of a prior for one molecule.

    Raises
    ------
    ExportError
        The prior is of another kind, or belongs to another molecule.
    """
    name = type(prior).__name__
    if not isinstance(prior, CGBonds | CGAngles | CGDihedrals | CGRepulsion):
        raise ExportError(
            f"prior {name} cannot be exported; known are CGBonds, CGAngles, CGDihedrals, CGRepulsion"
        )
    types = torch.from_numpy(np.array(topology.types, dtype=np.int64))
    stored = prior.molecule_types.cpu()
    if stored.shape[0] not in (0, types.shape[0]):
        raise ExportError(f"prior {name} is for {stored.shape[0]} beads; {topology!r} has {topology.n_beads}")
    if stored.shape[0] and not torch.equal(stored, types):
        different = [int(i) for i in torch.nonzero(stored != types).flatten()[:5]]
        raise ExportError(f"prior {name} has other bead types than {topology!r}, first at beads {different}")
    tables = {
        "bond_index": topology.bond_index,
        "angle_index": topology.angle_index,
        "dihedral_index": topology.dihedral_index,
    }
    given = {k: torch.from_numpy(np.array(t.T)) for k, t in tables.items()}
    try:
        index, row = prior.terms(types, torch.zeros_like(types), 1, given)
        if stored.shape[0]:
            own, own_row = prior.terms(types, torch.zeros_like(types), 1, None)
            if _as_set(own, own_row) != _as_set(index, row):
                raise ExportError(f"prior {name} has other bonded terms than {topology!r}")
    except CGALError as error:
        raise ExportError(f"prior {name} does not fit {topology!r}: {error}") from error
    return index, row


def _as_set(index: Tensor, row: Tensor) -> set[tuple[int, ...]]:
    terms = zip(index.T.tolist(), row.tolist(), strict=True)
    return {(*min(tuple(beads), tuple(reversed(beads))), r) for beads, r in terms}


def _difference(start: Tensor, end: Tensor, n_beads: int) -> Tensor:
    """``(n, n_beads)`` matrix that turns positions into end − start."""
    matrix = torch.zeros(start.shape[0], n_beads)
    rows = torch.arange(start.shape[0])
    matrix[rows, end] = 1.0
    matrix[rows, start] = -1.0
    return matrix


def _pair_term(prior: CGPrior, index: Tensor, row: Tensor, n_beads: int, dtype: torch.dtype) -> PairTerm:
    matrix = pair_tables(n_beads, 1)["pair_of"].view(n_beads, n_beads)
    pairs = matrix[index[0], index[1]]
    if len(set(pairs.tolist())) != pairs.shape[0]:
        raise ExportError(f"prior {type(prior).__name__} has a pair twice")
    first_name, second_name = ("k", "r0") if isinstance(prior, CGBonds) else ("epsilon", "sigma")
    n_pairs = n_beads * (n_beads - 1) // 2
    first = torch.zeros(n_pairs, dtype=dtype)
    # pairs without the term: constant zero, and a length that cannot divide by zero
    second = torch.ones(n_pairs, dtype=dtype)
    first[pairs] = getattr(prior, first_name)[row].to(dtype)
    second[pairs] = getattr(prior, second_name)[row].to(dtype)
    return PairTerm(first, second, 0 if isinstance(prior, CGBonds) else prior.power)

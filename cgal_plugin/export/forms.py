"""Exported potentials as scriptable modules: all pairs of a small molecule, or a neighbour list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from cgal_plugin.export.modules import module_list
from cgal_plugin.export.neighbors import NeighborList
from cgal_plugin.export.network import Network
from cgal_plugin.export.terms import AngleTerm, DihedralTerm, PairTerm, SeriesTerm
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

#: pairs that are evaluated together on a CPU, so that intermediate results stay in cache
_PAIRS_AT_A_TIME = 1024
#: beads that are evaluated together on a CPU with a neighbour list
_ROWS_AT_A_TIME = 1024
_Method = TypeVar("_Method")
#: marks a method besides ``forward`` for TorchScript; a torch without it writes the portable form only
_scripted: Callable[[_Method], _Method] = getattr(
    getattr(torch, "jit", None), "export", lambda method: method
)


@dataclass
class Terms:
    """The priors of one molecule.

    Pair terms come with the beads ``(2, n)`` of their pairs. ``vectors`` holds the first and last beads of
    the bond vectors that angles, then dihedrals, use.
    """

    bonds: list[tuple[Tensor, PairTerm]] = field(default_factory=list)
    #: repulsion and Gaussian series
    repulsions: list[tuple[Tensor, PairTerm | SeriesTerm]] = field(default_factory=list)
    angles: list[AngleTerm] = field(default_factory=list)
    dihedrals: list[DihedralTerm] = field(default_factory=list)
    vectors: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Potential(nn.Module):
    """``forward(positions (R·N, 3) nm) -> energy () kJ/mol, forces (R·N, 3) kJ/mol/nm``.

    R independent replicas of N beads, no periodic box. The centre of each replica is subtracted in float64
    before positions are cast to the dtype of the parameters, so that precision does not depend on the
    distance from the origin. Autograd is not used: the result never requires a gradient. A replica with
    non-finite positions has a non-finite energy, and so has the sum; the forces of other replicas are
    not affected.
    """

    if TYPE_CHECKING:
        begin: Tensor
        end: Tensor
        unit: Tensor

    def __init__(self, network: Network, n_replicas: int, terms: Terms, dtype: torch.dtype) -> None:
        super().__init__()
        self.n_beads, self.n_replicas = network.n_beads, n_replicas
        self.n_atoms = self.n_beads * self.n_replicas
        self.network = network
        self.angle_terms = module_list(terms.angles)
        self.dihedral_terms = module_list(terms.dihedrals)
        self.bonded = len(terms.vectors) > 0
        none = torch.zeros(0, dtype=torch.long)
        self.register_buffer("begin", torch.cat([none, *(begin for begin, _ in terms.vectors)]))
        self.register_buffer("end", torch.cat([none, *(end for _, end in terms.vectors)]))
        # carries the dtype of the computation, also after a cast of the module
        self.register_buffer("unit", torch.ones((), dtype=dtype))
        self.length, self.energy_unit = ANGSTROM_PER_NM, KJ_PER_KCAL

    def centred(self, positions: Tensor) -> Tensor:
        """Return positions relative to the centre of each replica, ``(R, N, 3)`` float64 Å."""
        if positions.shape[0] != self.n_atoms:
            raise ValueError("positions must have n_replicas * n_beads rows")
        p = positions.detach().to(torch.float64).view(self.n_replicas, self.n_beads, 3)
        return (p - p.mean(1, keepdim=True)) * self.length

    def evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy of each replica ``(R,)`` kcal/mol and forces ``(R, N, 3)`` kcal/mol/Å."""
        raise NotImplementedError

    def bonded_terms(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy ``(R,)`` of angles and dihedrals and its gradient for vectors ``v (R, V, 3)``."""
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
        return energy, torch.cat(gradients, 1)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the total energy and the forces; see the class."""
        energy, forces = self.evaluate(positions)
        forces = forces.view(self.n_atoms, 3).to(positions.dtype) * (self.energy_unit * self.length)
        return energy.to(torch.float64).sum() * self.energy_unit, forces

    @_scripted
    def replica_energies(self, positions: Tensor) -> Tensor:
        """Return the energy of each replica, ``(R,)`` float64 kJ/mol."""
        return self.evaluate(positions)[0].to(torch.float64) * self.energy_unit


class DensePotential(Potential):
    """All pairs of a molecule at any distance."""

    if TYPE_CHECKING:
        ends: Tensor
        pair: Tensor
        pair_of: Tensor
        vectors: Tensor

    def __init__(self, network: Network, n_replicas: int, terms: Terms, dtype: torch.dtype) -> None:
        super().__init__(network, n_replicas, terms, dtype)
        n = self.n_beads
        i, j = torch.triu_indices(n, n, 1)
        self.register_buffer("ends", torch.stack([i, j]))
        #: flat index i·N + j of each pair i < j in an N×N matrix, and the pair of each matrix element
        self.register_buffer("pair", i * n + j)
        matrix = torch.zeros(n, n, dtype=torch.long)
        matrix[i, j] = matrix[j, i] = torch.arange(len(i))
        self.register_buffer("pair_of", matrix.reshape(-1))
        self.pair_terms = module_list(
            _spread(term, matrix[at[0], at[1]], len(i)) for at, term in [*terms.bonds, *terms.repulsions]
        )
        # rows of +1 and -1 map positions to bond vectors; the transpose maps dE/dvector to gradients
        vectors = torch.zeros(len(self.begin), n, dtype=dtype)
        rows = torch.arange(len(vectors))
        vectors[rows, self.end] = 1.0
        vectors[rows, self.begin] = -1.0
        self.register_buffer("vectors", vectors)
        self.at_a_time = max(1, _PAIRS_AT_A_TIME // len(i))

    def evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class; a few replicas at a time on a CPU."""
        x = self.centred(positions)
        size = self.n_replicas if x.is_cuda else self.at_a_time
        if size >= self.n_replicas:
            return self.together(x)
        energies: list[Tensor] = []
        forces: list[Tensor] = []
        for part in torch.split(x, size):
            e, f = self.together(part)
            energies.append(e)
            forces.append(f)
        return torch.cat(energies), torch.cat(forces)

    def together(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies and forces of replicas ``x (k, N, 3)`` Å."""
        copies = x.shape[0]
        d = x.unsqueeze(1) - x.unsqueeze(2)
        square = (d * d).sum(-1).view(copies, -1).index_select(1, self.pair)
        exact = square.clamp_min(1e-12).sqrt()
        r = exact.to(self.unit.dtype)
        ends = self.ends
        if copies > 1:
            first = torch.arange(0, copies * self.n_beads, self.n_beads, device=x.device)
            ends = (ends.unsqueeze(1) + first.unsqueeze(1)).view(2, -1)
        energy, slope = self.network(r.view(-1), ends, copies)
        slope = slope.view(copies, -1)
        for term in self.pair_terms:
            e, s = term(exact)
            energy = energy + e
            slope = slope + s
        matrix = (slope / r).index_select(1, self.pair_of)
        matrix = matrix.view(copies, self.n_beads, self.n_beads, 1)
        forces = (matrix * d.to(r.dtype)).sum(2)
        if self.bonded:
            v = torch.matmul(self.vectors.to(x.dtype), x).to(self.unit.dtype)
            e, gradient = self.bonded_terms(v)
            energy = energy + e
            forces = forces - torch.matmul(self.vectors.t(), gradient)
        return energy, forces


class ListPotential(Potential):
    """Network pairs from a neighbour list; pair priors, which have no cutoff, from all pairs.

    The module stores the list, so it is not thread-safe.
    """

    if TYPE_CHECKING:
        bond_ends: Tensor

    def __init__(
        self, network: Network, n_replicas: int, terms: Terms, dtype: torch.dtype, neighbors: NeighborList
    ) -> None:
        super().__init__(network, n_replicas, terms, dtype)
        n = self.n_beads
        self.neighbors = neighbors
        self.at_a_time = max(1, _ROWS_AT_A_TIME // n)
        self.bond_terms = module_list(term for _, term in terms.bonds)
        empty = torch.zeros(2, 0, dtype=torch.long)
        self.register_buffer("bond_ends", torch.cat([empty, *(at for at, _ in terms.bonds)], 1))
        #: each pair twice, as elements of N×N matrices
        self.repulsions = module_list(
            _spread(term, torch.cat([at[0] * n + at[1], at[1] * n + at[0]]), n * n)
            for at, term in terms.repulsions
        )

    def ends_of(self, ends: Tensor) -> Tensor:
        """Return rows of R·N for beads of one molecule, ``(k,)`` to ``(R·k,)``."""
        first = torch.arange(0, self.n_atoms, self.n_beads, device=ends.device)
        return (first.unsqueeze(1) + ends).view(-1)

    def evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        x = self.centred(positions)
        flat = x.reshape(-1, 3)
        i, j, d = self.neighbors(x)
        r = d.square().sum(1).clamp_min(1e-12).sqrt()
        energy, slope = self.by_network(r.to(self.unit.dtype), torch.stack([i, j]))
        pull = d * (slope.to(r.dtype) / r).unsqueeze(1)
        # a non-finite bead has no pairs in the list; make the result of its whole replica NaN
        lost = (x * 0.0).sum(2).sum(1)
        energy = energy + lost
        forces = torch.zeros_like(flat) + lost.unsqueeze(1).repeat(1, self.n_beads).view(-1, 1)
        forces.index_add_(0, i, pull).index_add_(0, j, pull, alpha=-1.0)
        if len(self.bond_terms) > 0:
            energy = energy + self.bonds(flat, forces)
        if len(self.repulsions) > 0:
            energy = energy + self.repulsion(x, forces)
        if self.bonded:
            begin, end = self.ends_of(self.begin), self.ends_of(self.end)
            v = (flat.index_select(0, end) - flat.index_select(0, begin)).to(self.unit.dtype)
            e, gradient = self.bonded_terms(v.view(self.n_replicas, -1, 3))
            energy = energy + e
            gradient = gradient.to(forces.dtype).reshape(-1, 3)
            forces.index_add_(0, begin, gradient).index_add_(0, end, gradient, alpha=-1.0)
        return energy, forces.view(x.shape)

    def by_network(self, r: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies ``(R,)`` and dE/dr ``(P,)``; a few replicas at a time on a CPU."""
        size = self.n_replicas if r.is_cuda else self.at_a_time
        if size >= self.n_replicas:
            energy, slope = self.network(r, ends, self.n_replicas)
            return energy, slope
        energies: list[Tensor] = []
        slopes: list[Tensor] = []
        begin = 0
        for lo in range(0, self.n_replicas, size):
            copies = min(size, self.n_replicas - lo)
            first = lo * self.n_beads
            # the pairs are sorted by their first bead
            end = int(torch.searchsorted(ends[0], first + copies * self.n_beads))
            e, s = self.network(r[begin:end], ends[:, begin:end] - first, copies)
            energies.append(e)
            slopes.append(s)
            begin = end
        return torch.cat(energies), torch.cat(slopes)

    def bonds(self, flat: Tensor, forces: Tensor) -> Tensor:
        """Return the bond energy, ``(R,)``; add the bond forces to ``forces``."""
        i, j = self.ends_of(self.bond_ends[0]), self.ends_of(self.bond_ends[1])
        d = flat.index_select(0, j) - flat.index_select(0, i)
        r = d.square().sum(1).clamp_min(1e-12).sqrt().view(self.n_replicas, -1)
        energy = torch.zeros_like(r[:, 0])
        slopes: list[Tensor] = []
        start = 0
        for term in self.bond_terms:
            n = term.first.shape[0]
            e, s = term(r[:, start : start + n])
            energy = energy + e
            slopes.append(s)
            start += n
        pull = d * (torch.cat(slopes, 1).to(r.dtype) / r).view(-1, 1)
        forces.index_add_(0, i, pull).index_add_(0, j, pull, alpha=-1.0)
        return energy

    def repulsion(self, x: Tensor, forces: Tensor) -> Tensor:
        """Return the energy of the other pair terms, ``(R,)``; add their forces to ``forces``."""
        n = self.n_beads
        energies: list[Tensor] = []
        for k in range(self.n_replicas):
            one = x[k]
            d = one.unsqueeze(0) - one.unsqueeze(1)
            r = d.square().sum(2).clamp_min(1e-12).sqrt().view(1, -1)
            energy = torch.zeros_like(r[:, 0])
            total = torch.zeros_like(r)
            for term in self.repulsions:
                e, s = term(r)
                energy = energy + e
                total = total + s
            forces[k * n : (k + 1) * n] += ((total / r).view(n, n, 1) * d).sum(1)
            energies.append(0.5 * energy)
        return torch.cat(energies)


def _spread(term: PairTerm | SeriesTerm, at: Tensor, size: int) -> PairTerm | SeriesTerm:
    """Return the term on a list of ``size`` pairs: its own pairs at ``at``, zero constants elsewhere."""
    if isinstance(term, SeriesTerm):
        row = term.row.new_zeros(size)
        row[at] = term.row.repeat(at.shape[0] // term.row.shape[0])
        return SeriesTerm(term.coefficients, row, term.start, term.width)
    copies = at.shape[0] // term.first.shape[0]
    first = term.first.new_zeros(size)
    # non-zero lengths for the other pairs avoid a division by zero
    second = term.second.new_ones(size)
    first[at] = term.first.repeat(copies)
    second[at] = term.second.repeat(copies)
    return PairTerm(first, second, term.power)

"""Pure functions of the non-bonded priors, and lists of the pairs on which they act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: fraction of σ below which the repulsion is linear in r, so that energy and force stay finite
CORE = 0.1


def repulsion_energy(r: Tensor, epsilon: Tensor, sigma: Tensor, power: int) -> Tensor:
    """Return ε (σ/r)ⁿ, continued linearly below r = 0.1 σ.

    Parameters
    ----------
    r
        ``(n,)`` Å, not negative.
    epsilon, sigma
        ``(n,)`` kcal/mol and Å.
    power
        n, at least 1.

    Returns
    -------
    ``(n,)`` kcal/mol, finite for every finite r.
    """
    core = 0.1 * sigma
    outside = torch.maximum(r, core)
    energy = epsilon * (sigma / outside).pow(power)
    slope = power * energy / outside
    return energy + slope * (outside - r)


def pair_energy(r: Tensor, c: Tensor, first: float, width: float) -> Tensor:
    """Return Σₖ cₖ exp(−(r − rₖ)²/(2 w²)) with centres rₖ = first + k w; zero far beyond the last centre.

    Parameters
    ----------
    r
        ``(n,)`` Å.
    c
        ``(n, n_centres)`` kcal/mol.
    first, width
        r₀ and w, Å; w is both width and spacing.

    Returns
    -------
    ``(n,)`` kcal/mol.
    """
    k = torch.arange(c.shape[1], dtype=r.dtype, device=r.device)
    t = (r - first).unsqueeze(1) / width - k
    return (c * torch.exp(-0.5 * t * t)).sum(1)


def spacing(first: float, last: float, n_centres: int) -> float:
    """Return w of :func:`pair_energy` in Å, for centres from ``first`` to ``last``, both included."""
    return (last - first) / (n_centres - 1)


def molecule_pairs(
    n_beads: int,
    bond_index: NDArray[np.int64],
    exclude_bonds: int,
    bridge_index: ArrayLike = (),
) -> NDArray[np.int64]:
    """Return all pairs i < j of one molecule that are more than ``exclude_bonds`` bonds apart.

    Parameters
    ----------
    n_beads
        Number of beads.
    bond_index
        ``(n_bonds, 2)`` int64.
    exclude_bonds
        0 keeps every pair, 1 excludes bonded pairs, 2 also the ends of angles, and so on.
    bridge_index
        ``(n_bridges, 2)`` int64: excluded if ``exclude_bonds`` is 1 or more. Their neighbours are not,
        because no angle runs through a bridge.

    Returns
    -------
    ``(2, n_pairs)`` int64.
    """
    near = np.eye(n_beads, dtype=bool)
    step = np.eye(n_beads, dtype=np.int64)
    bonds = np.asarray(bond_index, dtype=np.int64).reshape(-1, 2)
    step[bonds[:, 0], bonds[:, 1]] = 1
    step[bonds[:, 1], bonds[:, 0]] = 1
    for _ in range(exclude_bonds):
        near = (near.astype(np.int64) @ step) > 0
    if exclude_bonds > 0:
        bridges = np.asarray(bridge_index, dtype=np.int64).reshape(-1, 2)
        near[bridges[:, 0], bridges[:, 1]] = near[bridges[:, 1], bridges[:, 0]] = True
    return np.stack(np.nonzero(np.triu(~near, 1))).astype(np.int64)


def batch_pairs(
    batch: Tensor,
    bond_index: Tensor,
    exclude_bonds: int,
    n_molecules: int,
    bridge_index: Optional[Tensor] = None,  # noqa: UP045 - TorchScript reads these annotations
) -> Tensor:
    """Return the pairs of :func:`molecule_pairs` for a batch of different molecules, in tensor operations.

    Parameters
    ----------
    batch
        ``(n_beads,)`` int64, the molecule of each bead; molecules are contiguous.
    bond_index
        ``(2, n_bonds)`` int64 into the whole batch.
    exclude_bonds
        See :func:`molecule_pairs`.
    n_molecules
        Number of molecules.
    bridge_index
        ``(2, n_bridges)`` int64 into the whole batch, or None.

    Returns
    -------
    ``(2, n_pairs)`` int64 into the whole batch, i < j, each within one molecule.
    """
    counts = torch.zeros(n_molecules, dtype=torch.long, device=batch.device)
    counts = counts.index_add(0, batch, torch.ones_like(batch))
    start = counts.cumsum(0) - counts
    size = int(counts.max().item())
    within = torch.arange(batch.shape[0], device=batch.device) - start.index_select(0, batch)
    bonded = torch.zeros(n_molecules, size, size, dtype=torch.float32, device=batch.device)
    molecule = batch.index_select(0, bond_index[0])
    i = within.index_select(0, bond_index[0])
    j = within.index_select(0, bond_index[1])
    bonded[molecule, i, j] = 1.0
    bonded[molecule, j, i] = 1.0
    eye = torch.eye(size, dtype=torch.float32, device=batch.device).expand(n_molecules, size, size)
    step = bonded + eye
    near = eye
    for _ in range(exclude_bonds):
        near = torch.bmm(near, step).clamp_max(1.0)
    if bridge_index is not None and exclude_bonds > 0:
        molecule = batch.index_select(0, bridge_index[0])
        i = within.index_select(0, bridge_index[0])
        j = within.index_select(0, bridge_index[1])
        near[molecule, i, j] = 1.0
        near[molecule, j, i] = 1.0
    slot = torch.arange(size, device=batch.device)
    exists = slot.unsqueeze(0) < counts.unsqueeze(1)
    allowed = exists.unsqueeze(1) & exists.unsqueeze(2) & (slot.unsqueeze(1) < slot.unsqueeze(0))
    chosen = torch.nonzero(allowed & (near == 0))
    offset = start.index_select(0, chosen[:, 0])
    return torch.stack([offset + chosen[:, 1], offset + chosen[:, 2]])

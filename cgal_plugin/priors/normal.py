"""The normal equations of force matching, of the frames of one molecule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.priors.evaluate import prior_forces
from cgal_plugin.priors.tension import FreeTensions

if TYPE_CHECKING:
    from cgal_plugin.priors.linear import LinearTerm
    from cgal_plugin.priors.prior_set import PriorSet
    from cgal_plugin.priors.samples import MoleculeFrames

#: size of the largest array of a chunk of frames
_CHUNK = 4_000_000


class NormalProblem:
    """Least squares for the coefficients of linear terms, on the forces of one molecule minus other priors.

    Parameters
    ----------
    fitted
        The other terms, whose forces are subtracted.
    molecule
        Frames with forces, float64.
    terms
        Terms of the molecule.

    Attributes
    ----------
    normal, right, square
        After :meth:`accumulate`: normal matrix ``(size, size)``, right side ``(size,)`` and sum of squared
        forces, without what free tensions take.
    freedom
        Degrees of freedom of the tensions.
    """

    def __init__(self, fitted: PriorSet, molecule: MoleculeFrames, terms: Sequence[LinearTerm]) -> None:
        topology = molecule.topology
        self.fitted = fitted.for_topology(topology, say=False)
        self.molecule = molecule
        self.terms = terms
        self.size = sum(t.n_parameters for t in terms)
        self.bonds = np.concatenate([topology.bond_index, topology.bridge_index])
        self.normal, self.right = np.zeros((self.size, self.size)), np.zeros(self.size)
        self.square = self.freedom = 0.0

    @property
    def products(self) -> float:
        """Number of products of free tensions."""
        return float(self.size) ** 2 * len(self.bonds) * len(self.molecule.positions)

    @property
    def n_components(self) -> int:
        """Number of force components; those of a frame of weight 3 count three times."""
        x, weights = self.molecule.positions, self.molecule.weights
        return x.size if weights is None else round(float(weights.sum()) * x[0].size)

    def accumulate(self, ridge: float, shared: int) -> None:
        """Sum over the frames; free tensions of the bonds have this ridge, ``shared`` frames share them."""
        frames = np.asarray(self.molecule.positions, dtype=np.float64)
        forces = np.asarray(self.molecule.forces, dtype=np.float64)
        given = self.molecule.weights
        weights = np.ones(len(frames)) if given is None else np.asarray(given, dtype=np.float64)
        linear = self.terms
        # most terms act on few beads: forces on these only, products of the terms that act on the same bead
        beads = [np.unique(t.index) for t in linear]
        local = [
            replace(t, index=np.searchsorted(own, t.index)) for t, own in zip(linear, beads, strict=True)
        ]
        columns = np.split(np.arange(self.size), np.cumsum([t.n_parameters for t in linear])[:-1])
        free = len(self.bonds) > 0 and np.isfinite(ridge)
        tensions = FreeTensions(self.bonds, ridge, shared) if free else None
        step = max(1, _CHUNK // (3 * sum(t.n_parameters * len(t.index) for t in linear)) // shared) * shared
        for lo in range(0, len(frames), step):
            x = frames[lo : lo + step]
            w = weights[lo : lo + step]
            root = np.sqrt(w)[:, None, None]
            rest = forces[lo : lo + step] - prior_forces(self.fitted, x)
            found = [t.forces(x[:, own]) for t, own in zip(local, beads, strict=True)]
            if tensions is not None:
                matrix, vector, taken = tensions.products(x, w, rest, zip(found, beads, strict=True))
                self.normal -= matrix.T @ matrix
                self.right -= vector @ matrix
                self.square -= float(vector @ vector)
                self.freedom += taken
            rest, found = rest * root, [f * root for f in found]
            for bead in np.unique(np.concatenate(beads)):
                acting = [k for k, own in enumerate(beads) if bead in own]
                at = np.concatenate([columns[k] for k in acting])
                parts = [found[k][:, :, np.searchsorted(beads[k], bead)] for k in acting]
                design = np.concatenate(parts).reshape(len(at), -1)
                self.normal[np.ix_(at, at)] += design @ design.T
                self.right[at] += design @ rest[:, bead].reshape(-1)
            self.square += float((rest * rest).sum())

"""Fit priors to several molecules: shared tables by bead type, complete for any molecule of known types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cgal_plugin.errors import ConfigError, PriorFitError
from cgal_plugin.mapping.embedding import check_same_embedding
from cgal_plugin.priors.fit import fit_molecules
from cgal_plugin.priors.fit_input import (
    MIN_FRAMES,
    add_bridges,
    check_method,
    complete_settings,
    missing_terms,
    usable_frames,
)
from cgal_plugin.priors.prior_set import DEFAULT_TERMS, PriorSet
from cgal_plugin.priors.samples import MoleculeFrames
from cgal_plugin.priors.settings import FitSettings


def fit_shared_priors(
    molecules: Sequence[MoleculeFrames],
    temperature: float,
    *,
    terms: Sequence[str] = DEFAULT_TERMS,
    method: str = "likelihood",
    settings: FitSettings | None = None,
    **options: Any,
) -> PriorSet:
    """Fit prior terms to the frames of several molecules, for any molecule of their bead types.

    Each row is fitted to the terms of all molecules that have its bead types. A tuple that is rare or unseen:
    in terms that are fitted to distributions, and in repulsion, it has the wildcard of its kind of beads; in
    terms that are fitted to forces, it is near the sum of effects of its bead types (:mod:`.pooling`). Angle
    series and dihedrals depend on the types of their inner beads.

    Parameters
    ----------
    molecules
        Frames of each molecule in time order, with forces for force matching. All have the same mapping and
        embedding; two entries may be the same molecule.
    temperature
        Temperature of the frames, K.
    terms, method, settings, **options
        See :func:`~cgal_plugin.priors.fit_priors`. A molecule may lack a term, if another has it.

    Returns
    -------
    :class:`PriorSet` without topology; :meth:`PriorSet.for_topology` restricts it to a molecule.

    Raises
    ------
    PriorFitError
        See :func:`~cgal_plugin.priors.fit_priors`; or no molecule has a term.
    ConfigError
        A term or a setting is not valid, or mappings or embeddings differ.
    """
    if not molecules:
        raise PriorFitError("there are no molecules to fit priors to")
    topologies = [m.topology for m in molecules]
    first = topologies[0]
    for other in topologies[1:]:
        check_same_embedding(first.embedding, other.embedding, repr(first), repr(other), ConfigError)
        if first.mapping_hash != other.mapping_hash:
            raise ConfigError(
                f"{first!r} and {other!r} have different mappings ({first.mapping!r} and {other.mapping!r}): "
                "priors are shared by molecules of one mapping"
            )
    terms = add_bridges(topologies, terms)
    check_method(first, terms, method)
    settings = complete_settings(first, terms, settings, options)
    lacking = [set(missing_terms(t, terms, settings.exclude_bonds)) for t in topologies]
    missing = [t for t in terms if all(t in own for own in lacking)]
    if missing:
        raise PriorFitError(f"no molecule has {', no '.join(missing)}: remove them from the terms")
    n_frames = sum(len(m.positions) for m in molecules)
    if method == "force_matching" and n_frames < MIN_FRAMES:
        raise PriorFitError(
            f"{n_frames} frames of all molecules together; force matching needs {MIN_FRAMES} or more"
        )
    usable, rejected = [], list[dict[str, Any]]()
    for m in molecules:
        kept, records = usable_frames(m.topology, m.positions, m.forces, m.weights, method, least=1)
        # float64 copies of all molecules at once would take much memory
        usable.append(kept if records else m)
        rejected += [{**record, "molecule": m.topology.sequence} for record in records]
    return fit_molecules(usable, None, temperature, terms, method, settings, rejected)

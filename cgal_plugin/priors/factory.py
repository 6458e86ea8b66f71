"""Build a prior from parameters, or fit it to a data set: a TorchMD-Net YAML may leave parameters out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from cgal_plugin.errors import PriorFitError
from cgal_plugin.priors.base import CGPrior
from cgal_plugin.priors.fit import fit_priors
from cgal_plugin.priors.modules import PRIORS
from cgal_plugin.priors.prior_set import LIKELIHOOD_TERMS


def make_prior(cls: type[CGPrior], dataset: Any = None, **arguments: Any) -> CGPrior:
    """Build a prior; without ``table`` and ``file``, fit it to the data set.

    Parameters
    ----------
    cls
        Class of the prior.
    dataset
        Data set with ``topology``, ``frames`` (Å) and ``temperature`` (K), or None.
    **arguments
        Arguments of ``cls``.

    Raises
    ------
    ConfigError
        An argument is not valid.
    PriorFitError
        There are no parameters and no suitable data set, or the fit fails.
    """
    if arguments.get("table") is not None or arguments.get("file") is not None:
        return cls(dataset=dataset, **arguments)
    settings = {
        name: value
        for name, value in arguments.items()
        if name not in ("table", "file", "molecule", "embedding")
    }
    cls.check_settings(settings)
    if cls.term not in LIKELIHOOD_TERMS:
        raise PriorFitError(
            f"{cls.__name__} has no parameters: {cls.term} are fitted to forces together with other terms; "
            "give table, or file (cgal fit-priors --method force_matching)"
        )
    topology = getattr(dataset, "topology", None)
    if len(getattr(dataset, "topologies", ())) > 1:
        molecules = ", ".join(t.sequence for t in dataset.topologies)
        raise PriorFitError(
            f"{cls.__name__} has no parameters, and the data set has several molecules ({molecules}): priors "
            "are fitted to one molecule only. Give table, or file with priors for any molecule (cgal "
            "import-priors)"
        )
    if topology is None:
        raise PriorFitError(
            f"{cls.__name__} has no parameters: give table, file, or a data set with topology, frames and "
            "temperature"
        )
    priors = fit_priors(topology, dataset.frames, dataset.temperature, terms=(cls.term,), **settings)
    return cls(**priors.arguments(cls.term))


def _factory(cls: type[CGPrior]) -> Callable[..., CGPrior]:
    @functools.wraps(cls, updated=())
    def make(dataset: Any = None, **arguments: Any) -> CGPrior:
        return make_prior(cls, dataset, **arguments)

    return make


#: by class name, as TorchMD-Net looks them up
FACTORIES: dict[str, Callable[..., CGPrior]] = {cls.__name__: _factory(cls) for cls in PRIORS.values()}

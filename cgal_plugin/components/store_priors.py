"""Priors of a data store with the defaults of a run, and priors that a run has saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cgal_plugin.config.training import PriorConfig
from cgal_plugin.data import DataStore
from cgal_plugin.data.error_weights import frame_weights
from cgal_plugin.errors import ConfigError, DamageError
from cgal_plugin.priors import PriorSet, fit_priors
from cgal_plugin.priors.fit_input import suited_terms


def fit_store_priors(
    store: DataStore,
    *,
    terms: Sequence[str] | None = None,
    method: str | None = None,
    message: Callable[[str], None] = lambda text: None,
) -> PriorSet:
    """Fit priors to all frames of a store. ``message`` receives the defaults that were chosen.

    Parameters
    ----------
    store
        Frames and forces.
    terms, method
        As in the section ``training.priors``, and with the same defaults.

    Raises
    ------
    PriorFitError, ConfigError
        See :func:`~cgal_plugin.priors.fit_priors`.
    """
    frames = store.load_all()
    given = {k: v for k, v in {"terms": terms, "method": method}.items() if v is not None}
    decided = PriorConfig.decide(given, 0)
    keys: dict[str, Any] = {key: decision.value for key, decision in decided.items()} | given
    if terms is None:
        keys["terms"], keys["method"], why = suited_terms(
            store.topology, keys["terms"], keys["method"], len(frames), method_given=method is not None
        )
        message(f"method {keys['method']}, terms {', '.join(keys['terms'])} ({why})")
    return fit_priors(
        store.topology,
        frames.positions,
        store.temperature,
        terms=keys["terms"],
        method=keys["method"],
        forces=frames.forces,
        weights=frame_weights(frames),
        pairs_per_type=keys["pairs_per_type"] and "pairs" in keys["terms"],
    )


def load_priors(path: Path) -> PriorSet:
    """Load priors that this run saved.

    Raises
    ------
    DamageError
        The file is missing or damaged.
    """
    try:
        return PriorSet.load(path)
    except ConfigError as error:
        raise DamageError(f"{path} is damaged ({error})") from error

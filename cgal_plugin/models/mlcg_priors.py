"""The priors in a model file of mlcg as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ConfigError
from cgal_plugin.models.inert_pickle import Inert

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: class of mlcg → term, kind, parameters by type, and the same in a prior specialised for a molecule
_HARMONIC = ({"x_0": "x_0", "k": "k"}, {"x_0": "x0", "k": "k"})
_FOURIER = ({"k1s": "k1s", "k2s": "k2s", "v_0": "v_0"},) * 2
_KINDS: dict[str, tuple[str, str, tuple[dict[str, str], ...]]] = {
    "HarmonicBonds": ("bonds", "harmonic", _HARMONIC),
    "GeneralBonds": ("bonds", "harmonic", _HARMONIC),
    "HarmonicAngles": ("angles", "harmonic_cos", _HARMONIC),
    "GeneralAngles": ("angles", "harmonic_cos", _HARMONIC),
    "QuarticAngles": ("angles", "polynomial_cos", ({"ks": "ks", "v_0": "v_0"},) * 2),
    "Dihedral": ("dihedrals", "fourier", _FOURIER),
    "Repulsion": ("repulsion", "repulsion", ({"sigma": "sigma"},) * 2),
}
_ORDER = {"bonds": 2, "angles": 3, "dihedrals": 4, "repulsion": 2}
#: parameters with one value per degree
_SERIES = ("k1s", "k2s", "ks")
#: classes that :func:`prior_part` reads
PRIORS = (*_KINDS, *(f"Static{kind}" for kind in _KINDS if kind not in ("Repulsion", "QuarticAngles")))


def prior_part(
    record: Inert,
    key: str,
    neighbours: Mapping[str, NDArray[np.int64]] | None,
    copies: int,
    name: str,
) -> dict[str, Any]:
    """Return one prior as plain arrays, as described at :class:`~cgal_plugin.models.mlcg_files.MlcgFile`.

    ``neighbours`` are the neighbour lists of one of the ``copies`` equal configurations, or None.

    Raises
    ------
    ConfigError
        Parameters are missing, not finite, or do not fit the neighbour lists of the configurations.
    """
    static = record.name.startswith("Static")
    term, kind, columns = _KINDS[record.name.removeprefix("Static")]
    wanted = columns[1 if static else 0]
    tensors = record.tensors()
    missing = [source for source in wanted.values() if source not in tensors]
    if missing:
        raise ConfigError(f"{name}: prior {key} ({record.name}) has no {', '.join(missing)}")
    bad = [c for c, source in wanted.items() if not _finite(tensors[source])]
    if bad:
        raise ConfigError(f"{name}: prior {key} has values of {', '.join(bad)} that are not finite")
    index = None
    if neighbours is not None:
        if key not in neighbours:
            raise ConfigError(f"{name}: the configurations have no neighbour list of prior {key!r}")
        index = neighbours[key]
        if index.shape[0] != _ORDER[term]:
            raise ConfigError(
                f"{name}: the neighbour list of prior {key} has {index.shape[0]} beads per term; {term} have "
                f"{_ORDER[term]}"
            )
    part: dict[str, Any] = {"term": term, "kind": kind, "types": None, "index": index}
    if static:
        if index is None:
            raise ConfigError(f"{name}: prior {key} is specialised for a molecule, which is not in the file")
        own = {
            c: _specialised(tensors[source], c in _SERIES, index.shape[1], copies, key, name)
            for c, source in wanted.items()
        }
        offset = tensors.get("V0")
        if offset is not None:
            own["v_0"] = _specialised(offset, False, index.shape[1], copies, key, name)
    else:
        keys = [tuple(int(t) for t in k) for k in record.get("allowed_interaction_keys") or ()]
        if not keys:
            raise ConfigError(f"{name}: prior {key} ({record.name}) has no allowed_interaction_keys")
        part["types"] = np.array(keys, dtype=np.int64)
        own = {c: _by_type(tensors[source], keys, c in _SERIES) for c, source in wanted.items()}
    return {**part, **own}


def _finite(tensor: Any) -> bool:
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    return bool(values.isfinite().all())


def _specialised(tensor: Any, series: bool, n: int, copies: int, key: str, name: str) -> NDArray[np.float64]:
    """Return the parameters of one molecule from those of all configurations, which must be the same."""
    values: NDArray[np.float64] = tensor.detach().to_dense().double().numpy()
    if values.shape[0] != n * copies or values.ndim > 2:
        raise ConfigError(
            f"{name}: prior {key} has parameters of {values.shape[0]} terms, but {copies} configurations of "
            f"{n} terms"
        )
    stacked = values.reshape(copies, n, -1)
    if not (stacked == stacked[0]).all():
        raise ConfigError(f"{name}: prior {key} has other parameters for each configuration of one molecule")
    # mlcg repeats a constant for each degree
    return stacked[0] if series else stacked[0, :, 0]


def _by_type(tensor: Any, keys: Sequence[tuple[int, ...]], series: bool) -> NDArray[np.float64]:
    """Return the values of a table with one axis per bead (and one for the degree, first) at some types."""
    tensor = tensor.detach()
    if tensor.is_sparse:
        sparse = tensor.coalesce()
        found: Mapping[tuple[int, ...], float] = dict(
            zip(map(tuple, sparse.indices().T.tolist()), sparse.values().double().tolist(), strict=True)
        )
        if not series:
            return np.array([found.get(k, 0.0) for k in keys])
        return np.array([[found.get((m, *k), 0.0) for m in range(tensor.shape[0])] for k in keys])
    values: NDArray[np.float64] = tensor.double().numpy()
    at = tuple(np.array(keys).T)
    return values[(slice(None), *at)].T if series else values[at]

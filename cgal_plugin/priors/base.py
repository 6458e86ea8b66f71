"""What the prior classes share: parameters by bead types, terms of a molecule or of a batch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Dict, Optional  # noqa: UP035 - TorchScript reads these annotations

import numpy as np
import torch
from torch import Tensor
from torchmdnet.priors.base import BasePrior

from cgal_plugin.errors import ConfigError, DataError, PriorFitError
from cgal_plugin.priors.tables import build_lookup, describe_molecule, known_names

_INDEX_KEYS = {2: "bond_index", 3: "angle_index", 4: "dihedral_index"}


class CGPrior(BasePrior):
    """Base of the prior classes: a parameter table by bead types, and the terms of one molecule.

    Parameters
    ----------
    table
        Rows ``{"types": [...], <parameters>}``; types are names, ids, ``"*"`` or ``"CB_*"``, and
        the row with the most exact types wins.
    molecule
        ``{"types": [...], "type_names": [...], "index": [[...], ...]}``: bead types of one molecule
        and its terms (for the repulsion its bonds). Used when the batch has no index tables of its
        own; any number of copies may then be given. None: the batch must have them.
    file
        A file written by :meth:`PriorSet.save`, instead of ``table`` and ``molecule``.
    dataset
        Given by TorchMD-Net. Without ``table`` and ``file`` the prior is fitted to its ``frames``
        (Å) at its ``temperature``; its ``topology`` supplies ``molecule``.
    **settings
        Of the term.

    Raises
    ------
    ConfigError
        The table, the file or a setting is not valid, or does not fit the data set's topology.
    PriorFitError
        There is nothing to take parameters from, or the fit fails.
    """

    term = ""
    width = 2
    columns: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = {}

    def __init__(
        self,
        table: Sequence[Mapping[str, Any]] | None = None,
        molecule: Mapping[str, Any] | None = None,
        file: str | os.PathLike[str] | None = None,
        dataset: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(set(settings) - set(self.defaults))
        if unknown:
            raise ConfigError(
                f"{type(self).__name__} has no setting {unknown}; allowed are table, molecule, file"
                + "".join(f", {name}" for name in self.defaults)
            )
        if table is None:
            found = self._from_elsewhere(file, dataset, settings)
            table, molecule, settings = found["table"], found["molecule"], found
        elif file is not None:
            raise ConfigError(f"{type(self).__name__}: give either table or file, not both")
        elif molecule is None and getattr(dataset, "topology", None) is not None:
            molecule = describe_molecule(dataset.topology, self.term)
        self._settings = {name: settings.get(name, value) for name, value in self.defaults.items()}
        self._table = [self._row(row, i) for i, row in enumerate(table)]
        self._molecule = None if molecule is None else _check_molecule(molecule, self.width)
        self.index_key = _INDEX_KEYS[self.width]
        self._build()

    def _from_elsewhere(self, file: Any, dataset: Any, settings: dict[str, Any]) -> dict[str, Any]:
        from cgal_plugin.priors.fit import PriorSet, fit_priors
        from cgal_plugin.priors.prior_set import LIKELIHOOD_TERMS

        topology = getattr(dataset, "topology", None)
        name = type(self).__name__
        if file is not None:
            priors = PriorSet.load(file)
            if topology is not None and topology != priors.topology:
                raise ConfigError(f"{name}: {file} is for {priors.topology!r}, the data for {topology!r}")
            if settings:
                raise ConfigError(f"{name}: settings {sorted(settings)} come with {file}; leave them out")
            if self.term not in priors.terms:
                raise ConfigError(f"{name}: {file} has no {self.term}; it has {', '.join(priors.terms)}")
            return priors.arguments(self.term)
        if self.term not in LIKELIHOOD_TERMS:
            raise PriorFitError(
                f"{name} has no parameters: {self.term} are fitted to forces together with other terms; give "
                "table, or file (cgal fit-priors --method force_matching)"
            )
        if topology is None:
            raise PriorFitError(
                f"{name} has no parameters: give table, file, or a data set with topology, frames and "
                "temperature to fit it to"
            )
        priors = fit_priors(topology, dataset.frames, dataset.temperature, terms=(self.term,), **settings)
        return priors.arguments(self.term)

    def _row(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        wanted, label = {"types", *self.columns}, f"{type(self).__name__} table row {number}"
        if not isinstance(row, Mapping) or set(row) != wanted:
            found = sorted(row) if isinstance(row, Mapping) else repr(row)
            raise ConfigError(f"{label} needs keys {sorted(wanted)}; found {found}")
        clean: dict[str, Any] = {"types": [t if isinstance(t, str) else int(t) for t in row["types"]]}
        for name in self.columns:
            try:
                value = np.asarray(row[name], dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{label}: {name} = {row[name]!r} is not a number") from error
            if not np.isfinite(value).all():
                raise ConfigError(f"{label}: {name} = {row[name]!r} is not finite")
            clean[name] = value.tolist()
        return clean

    def _build(self) -> None:
        molecule = self._molecule
        names = known_names() if molecule is None else known_names(molecule["type_names"], molecule["types"])
        lookup = build_lookup([row["types"] for row in self._table], self.width, names)
        self.n_classes = lookup.n_classes
        self._constant("type_class", torch.from_numpy(lookup.classes))
        self._constant("class_row", torch.from_numpy(lookup.rows))
        for name, values in self._columns().items():
            self._constant(name, values)
        types = np.zeros(0, dtype=np.int64)
        index = np.zeros((self.width, 0), dtype=np.int64)
        if molecule is not None:
            types = np.array(molecule["types"], dtype=np.int64)
            index = self._molecule_terms(molecule)
        rows = lookup.row(types[index])
        if (rows < 0).any():
            column = index[:, int(np.flatnonzero(rows < 0)[0])]
            raise ConfigError(
                f"{type(self).__name__} has no parameters for bead types "
                f"{[names.get(int(types[i]), int(types[i])) for i in column]}; add a row, or one with '*'"
            )
        self._constant("molecule_types", torch.from_numpy(types))
        self._constant("molecule_index", torch.from_numpy(np.ascontiguousarray(index)))
        self._constant("molecule_row", torch.from_numpy(rows))

    def _constant(self, name: str, value: Tensor) -> None:
        # not in the state dict: the values come from get_init_args, at full precision
        self.register_buffer(name, value, persistent=False)

    def _molecule_terms(self, molecule: Mapping[str, Any]) -> np.ndarray:
        return np.array(molecule["index"], dtype=np.int64).reshape(-1, self.width).T

    def _columns(self) -> dict[str, Tensor]:
        return {
            name: torch.tensor([row[name] for row in self._table], dtype=torch.float64)
            for name in self.columns
        }

    def get_init_args(self) -> dict[str, Any]:
        """Plain Python values that rebuild the prior without data set or file."""
        return {"table": self._table, "molecule": self._molecule, **self._settings}

    def reset_parameters(self) -> None:
        """Nothing to reset: a prior is frozen."""

    def batch_terms(
        self,
        z: Tensor,
        batch: Tensor,
        n_molecules: int,
        extra_args: Optional[Dict[str, Tensor]],  # noqa: UP006,UP045
    ) -> Tensor:
        """``(width, n)`` index table of the terms that a batch brings along."""
        assert extra_args is not None
        return extra_args[self.index_key]

    def terms(
        self,
        z: Tensor,
        batch: Tensor,
        n_molecules: int,
        extra_args: Optional[Dict[str, Tensor]],  # noqa: UP006,UP045
    ) -> tuple[Tensor, Tensor]:
        """Index table ``(width, n)`` and parameter row ``(n,)`` of every term in the batch.

        Raises
        ------
        DataError
            Neither the batch nor the prior says what the terms are, the beads are not copies of the
            prior's molecule, or bead types have no parameters.
        """
        given = False
        if extra_args is not None:
            given = self.index_key in extra_args
        if given:
            index = self.batch_terms(z, batch, n_molecules, extra_args)
            type_class = self.type_class.index_select(0, z.clamp(0, self.type_class.shape[0] - 1))
            code = torch.zeros_like(index[0])
            for k in range(index.shape[0]):
                code = code * self.n_classes + type_class.index_select(0, index[k])
            row = self.class_row.index_select(0, code)
            if bool((row < 0).any()):
                raise DataError("a bonded term has bead types without parameters; add a row with '*'")
            return index, row
        n = self.molecule_types.shape[0]
        if n == 0:
            raise DataError("the prior stores no molecule and the batch has no index tables")
        copies = z.shape[0] // n
        if copies * n != z.shape[0] or not bool((z.view(copies, n) == self.molecule_types).all()):
            raise DataError("the beads are not copies of the prior's molecule; give index tables")
        shift = torch.arange(copies, device=z.device).view(1, copies, 1) * n
        index = (self.molecule_index.unsqueeze(1) + shift).reshape(self.molecule_index.shape[0], -1)
        return index, self.molecule_row.repeat(copies)

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        """Energy of each term, ``(n,)`` kcal/mol, from ``pos (n_beads, 3)`` Å."""
        raise NotImplementedError

    def post_reduce(
        self,
        y: Tensor,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        box: Optional[Tensor] = None,  # noqa: UP045
        extra_args: Optional[Dict[str, Tensor]] = None,  # noqa: UP006,UP045
    ) -> Tensor:
        """Add the term's energy to ``y (n_molecules, 1)`` kcal/mol. ``box`` is not used."""
        index, row = self.terms(z, batch, y.shape[0], extra_args)
        energy = self.energy(pos, index, row)
        total = torch.zeros(y.shape[0], dtype=energy.dtype, device=energy.device)
        total = total.index_add(0, batch.index_select(0, index[0]), energy)
        return y + total.to(y.dtype).view(-1, 1)


def _check_molecule(molecule: Mapping[str, Any], width: int) -> dict[str, Any]:
    if not isinstance(molecule, Mapping) or set(molecule) != {"types", "type_names", "index"}:
        raise ConfigError(f"prior molecule needs keys types, type_names, index; found {molecule!r:.200}")
    n = len(molecule["types"])
    index = [[int(i) for i in term] for term in molecule["index"]]
    if len(molecule["type_names"]) != n:
        raise ConfigError(f"prior molecule has {n} types and {len(molecule['type_names'])} type_names")
    if any(len(term) != width or not all(0 <= i < n for i in term) for term in index):
        raise ConfigError(f"prior molecule: index needs {width} beads of 0..{n - 1} a term")
    return {
        "types": [int(t) for t in molecule["types"]],
        "type_names": [str(t) for t in molecule["type_names"]],
        "index": index,
    }

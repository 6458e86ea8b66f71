"""Base of the prior classes: parameters by bead type, terms of a molecule or of a batch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Dict, Optional  # noqa: UP035 - TorchScript reads these annotations

import numpy as np
import torch
from torch import Tensor
from torchmdnet.priors.base import BasePrior

from cgal_plugin.errors import ConfigError, DataError, PriorFitError
from cgal_plugin.mapping.embedding import CGAL, EMBEDDINGS, check_given
from cgal_plugin.priors.prior_set import PriorSet
from cgal_plugin.priors.tables import build_lookup, describe_molecule, known_names, rows_by_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

_INDEX_KEYS = {2: "bond_index", 3: "angle_index", 4: "dihedral_index"}


class CGPrior(BasePrior):  # type: ignore[misc]  # torchmdnet has no types
    """A table of parameters by bead type, and the terms of one molecule.

    Parameters
    ----------
    table
        Rows ``{"types": [...], <parameters>}``; types are names, ids, ``"*"`` or ``"CB_*"``. The row
        with the most exact types applies.
    molecule
        ``{"types": [...], "type_names": [...], "index": [[...], ...]}``: bead types of one molecule
        and its terms (for repulsion and pairs: its bonds, and ``"bridges"`` if it has any). Used for a batch
        without index tables, which may have any number of copies of the molecule. None: the batch must have
        index tables.
    file
        A file written by :meth:`PriorSet.save`, instead of ``table`` and ``molecule``. Imported priors are
        for any molecule: that of ``dataset``, or without one those of the batches.
    dataset
        Passed by TorchMD-Net. Its ``topology``, if it has one molecule, supplies ``molecule`` and
        ``embedding`` and must be that of ``file``.
    embedding
        Name of the embedding that numbers the bead types (default ``"cgal"``); it resolves the names in the
        table.
    ordered
        Rows depend on the order of the beads in the index tables, see
        :func:`~cgal_plugin.priors.tables.build_lookup`.
    **settings
        Settings of the term, see the class.

    Raises
    ------
    ConfigError
        The table, the file or a setting is not valid, or does not match the topology of the data set.
    PriorFitError
        Neither ``table`` nor ``file`` is given.
    """

    term = ""
    width = 2
    #: index table of a batch, if it is not that of the bonds, angles or dihedrals
    index_name = ""
    columns: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = {}

    def __init__(
        self,
        table: Sequence[Mapping[str, Any]] | None = None,
        molecule: Mapping[str, Any] | None = None,
        file: str | os.PathLike[str] | None = None,
        dataset: Any = None,
        embedding: str | None = None,
        ordered: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.check_settings(settings)
        if table is None:
            settings = self._read(file, dataset, settings)
            table, molecule = settings["table"], settings["molecule"]
            embedding = self._embedding(settings, embedding, dataset, file)
            ordered = settings.get("ordered", False)
        elif file is not None:
            raise ConfigError(f"{type(self).__name__}: give exactly one of table and file")
        elif molecule is None and getattr(dataset, "topology", None) is not None:
            molecule = describe_molecule(dataset.topology, self.term)
        # that of the data set also if it has several molecules, and so no topology
        self.embedding = embedding or getattr(dataset, "embedding", None) or CGAL
        if not isinstance(ordered, bool):
            raise ConfigError(f"{type(self).__name__}: ordered is {ordered!r}; it must be true or false")
        self.ordered = ordered
        self._settings = {name: settings.get(name, value) for name, value in self.defaults.items()}
        self._table = [self._row(row, i) for i, row in enumerate(table)]
        self._molecule = None if molecule is None else _check_molecule(molecule, self.width)
        self.index_key = self.index_name or _INDEX_KEYS[self.width]
        self._build()
        for topology in () if molecule is not None else getattr(dataset, "topologies", ()):
            self._check_parameters(topology)

    def _check_parameters(self, topology: CGTopology) -> None:
        """Check that the table has all terms of a molecule; the batch has their index tables."""
        type(self)(**{**self.get_init_args(), "molecule": describe_molecule(topology, self.term)})

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Check the names of the term's settings.

        Raises
        ------
        ConfigError
            The term has no such setting.
        """
        unknown = sorted(set(settings) - set(cls.defaults))
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no setting {unknown}; allowed are table, molecule, file"
                + "".join(f", {name}" for name in cls.defaults)
            )

    def _read(
        self, file: str | os.PathLike[str] | None, dataset: Any, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        name = type(self).__name__
        if file is None:
            raise PriorFitError(
                f"{name} has no parameters: give table or file, or fit it with cgal_plugin.priors.make_prior"
            )
        priors = PriorSet.load(file)
        if settings:
            raise ConfigError(f"{name}: {file} contains the settings {sorted(settings)}; leave them out")
        if self.term not in priors.terms:
            raise ConfigError(f"{name}: {file} has no {self.term}; it has {', '.join(priors.terms)}")
        topology, temperature = getattr(dataset, "topology", None), getattr(dataset, "temperature", None)
        source = f"{name}: the priors in {file}"
        if topology is not None:
            priors = priors.for_topology(topology, temperature, source=source)
        several = getattr(dataset, "topologies", ()) if topology is None else ()
        for molecule in several:  # each has its parameters, which remain by type
            priors.for_topology(molecule, temperature, source=source)
        arguments = priors.arguments(self.term)
        if several and dataset.embedding not in EMBEDDINGS:
            arguments["table"] = rows_by_number(arguments["table"], several)
        return arguments

    def _embedding(
        self, settings: Mapping[str, Any], given: str | None, dataset: Any, file: Any
    ) -> str | None:
        """Return the embedding of priors in a file: that of their molecule, or else that of the data."""
        own = settings.get("embedding", CGAL) if settings["molecule"] is not None else None
        own = own or getattr(dataset, "embedding", None)
        return given if own is None else check_given(given, own, f"the priors in {file}", ConfigError)

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
        own = {} if molecule is None else {k: molecule[k] for k in ("type_names", "types")}
        names = known_names(**own, embedding=self.embedding)
        lookup = build_lookup([row["types"] for row in self._table], self.width, names, self.ordered)
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
        # not in the state dict, because get_init_args keeps the values at full precision
        self.register_buffer(name, value, persistent=False)

    def _molecule_terms(self, molecule: Mapping[str, Any]) -> NDArray[np.int64]:
        return np.array(molecule["index"], dtype=np.int64).reshape(-1, self.width).T

    def _columns(self) -> dict[str, Tensor]:
        return {
            name: torch.tensor([row[name] for row in self._table], dtype=torch.float64)
            for name in self.columns
        }

    def _apply(self, fn: Any, recurse: bool = True) -> CGPrior:
        """Cast or move as torch does; a prior that was in float32 regains the digits of its table."""
        super()._apply(fn, recurse)
        for name, values in self._columns().items():
            own = getattr(self, name)
            setattr(self, name, values.to(device=own.device, dtype=own.dtype))
        return self

    def get_init_args(self) -> dict[str, Any]:
        """Return plain Python values that rebuild the prior without data set or file."""
        # left out of tables in the numbers of cgal and of unordered ones, as in releases that had no others
        others: dict[str, Any] = {} if self.embedding == CGAL else {"embedding": self.embedding}
        others |= {"ordered": True} if self.ordered else {}
        return {"table": self._table, "molecule": self._molecule, **others, **self._settings}

    def reset_parameters(self) -> None:
        """Do nothing: a prior has no parameters to train."""

    def batch_terms(
        self,
        z: Tensor,
        batch: Tensor,
        n_molecules: int,
        extra_args: Optional[Dict[str, Tensor]],  # noqa: UP006,UP045
    ) -> Tensor:
        """Return the index table of the batch's terms, ``(width, n)``."""
        assert extra_args is not None
        return extra_args[self.index_key]

    def terms(
        self,
        z: Tensor,
        batch: Tensor,
        n_molecules: int,
        extra_args: Optional[Dict[str, Tensor]],  # noqa: UP006,UP045
    ) -> tuple[Tensor, Tensor]:
        """Return index table ``(width, n)`` and parameter row ``(n,)`` of all terms in the batch.

        Raises
        ------
        DataError
            Neither batch nor prior has index tables, the beads are not copies of the prior's molecule,
            or bead types have no parameters.
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
        index = (self.molecule_index.unsqueeze(1) + shift).flatten(1)
        return index, self.molecule_row.repeat(copies)

    def energy(self, pos: Tensor, index: Tensor, row: Tensor) -> Tensor:
        """Return the energy of each term, ``(n,)`` kcal/mol, from ``pos (n_beads, 3)`` Å."""
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
    if not isinstance(molecule, Mapping) or set(molecule) - {"bridges"} != {"types", "type_names", "index"}:
        raise ConfigError(f"prior molecule needs keys types, type_names, index; found {molecule!r:.200}")
    n = len(molecule["types"])
    index = [[int(i) for i in term] for term in molecule["index"]]
    bridges = [[int(i) for i in pair] for pair in molecule.get("bridges", ())]
    if len(molecule["type_names"]) != n:
        raise ConfigError(f"prior molecule has {n} types and {len(molecule['type_names'])} type_names")
    if any(len(term) != width or not all(0 <= i < n for i in term) for term in index):
        raise ConfigError(f"prior molecule: each term in index needs {width} beads of 0..{n - 1}")
    if any(len(pair) != 2 or not all(0 <= i < n for i in pair) for pair in bridges):
        raise ConfigError(f"prior molecule: each bridge needs 2 beads of 0..{n - 1}")
    return {
        "types": [int(t) for t in molecule["types"]],
        "type_names": [str(t) for t in molecule["type_names"]],
        "index": index,
        **({"bridges": bridges} if bridges else {}),
    }

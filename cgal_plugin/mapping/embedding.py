"""Embeddings: the number of each bead type in the embedding table of a network.

The numbering belongs to a network and to its data. Four are built in: that of this package, those of the CA
and five-bead maps of mlcg-tk (``CGEmbeddingMapCA``, ``CGEmbeddingMapFiveBead``), and that of the CA maps of
torchmd-cg (``AA2INT``). Other numberings are tables.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgal_plugin.errors import CGALError, CGALWarning, ConfigError, DataError, MappingError
from cgal_plugin.mapping.residues import ONE_TO_THREE, STANDARD_RESIDUES
from cgal_plugin.provenance import hash_object

CGAL = "cgal"
#: the five-bead map of mlcg-tk: one number for CA of all residues but glycine
MLCG_FIVE_BEAD = "mlcg-tk-5bead"
#: start of the name of a table
TABLE = "table-"
_MLCG_ORDER = "ACDEFGHIKLMNPQRSTVWY"
_TORCHMD_ORDER = (
    "ALA", "GLY", "PHE", "TYR", "ASP", "GLU", "TRP", "PRO", "ASN", "GLN", "HIS", "SER", "THR", "VAL", "MET",
    "CYS", "NLE", "ARG", "LYS", "LEU", "ILE",
)  # fmt: skip
#: largest number that a table may give: the network has a row for each number up to the largest
MAX_TYPE = 10_000


@dataclass(frozen=True)
class Embedding:
    """Bead type name (``"CA_TYR"``) → number, with the name of the numbering.

    Two embeddings are the same if their names are: the name of a table contains a hash of it.
    """

    name: str
    ids: Mapping[str, int]

    def __reduce__(self) -> tuple[Any, ...]:
        return Embedding, (self.name, dict(self.ids))

    def numbers(self, type_names: Iterable[str]) -> list[int]:
        """Return the number of each bead type.

        Raises
        ------
        MappingError
            The embedding has no number for a type.
        """
        type_names = list(type_names)
        missing = sorted(set(type_names) - set(self.ids))
        if missing:
            five = set(type_names) <= set(EMBEDDINGS[MLCG_FIVE_BEAD].ids)
            raise MappingError(
                f"embedding {self.name!r} has no number for bead types {', '.join(missing)}; use embedding "
                f"'cgal', {f'in files of mlcg {MLCG_FIVE_BEAD!r}, ' if five else ''}or a table with a number "
                "for each of them"
            )
        return [self.ids[name] for name in type_names]

    @property
    def shares(self) -> bool:
        """Whether several bead types have one number: such an embedding is for files only."""
        return len(set(self.ids.values())) < len(self.ids)

    def one_to_one(self) -> Embedding:
        """Return this embedding if each bead type has a number of its own.

        Raises
        ------
        MappingError
            Several bead types have one number: priors by bead type could not tell them apart.
        """
        if self.shares:
            raise MappingError(
                f"embedding {self.name!r} has one number for several bead types: it numbers files of mlcg, "
                "for cgal import-data, export-data and import-model; use 'cgal' here"
            )
        return self


def _built_in() -> dict[str, Embedding]:
    n = len(STANDARD_RESIDUES)
    cgal = {f"CA_{res}": i + 1 for i, res in enumerate(STANDARD_RESIDUES)}
    cgal |= {f"CB_{res}": n + i + 1 for i, res in enumerate(STANDARD_RESIDUES)}
    mlcg = {f"CA_{ONE_TO_THREE[letter]}": i + 1 for i, letter in enumerate(_MLCG_ORDER)}
    torchmd = {f"CA_{residue}": i + 1 for i, residue in enumerate(_TORCHMD_ORDER)}
    tables = {CGAL: cgal, "mlcg-tk": mlcg, MLCG_FIVE_BEAD: _mlcg_five_bead(), "torchmd-cg": torchmd}
    return {name: Embedding(name, ids) for name, ids in tables.items()}


def _mlcg_five_bead() -> dict[str, int]:
    """Return the 24 numbers of ``CGEmbeddingMapFiveBead``: CB by residue; CA of glycine as a residue."""
    ids = {"N_ALL": 21, "C_ALL": 23, "O_ALL": 24}
    for i, letter in enumerate(_MLCG_ORDER):
        residue = ONE_TO_THREE[letter]
        ids |= {"CA_GLY": i + 1} if residue == "GLY" else {f"CA_{residue}": 22, f"CB_{residue}": i + 1}
    return ids


#: ``cgal``, ``mlcg-tk``, ``mlcg-tk-5bead`` (files only) and ``torchmd-cg``;
#: ``cgal`` also numbers the further beads of a user-defined map
EMBEDDINGS: Mapping[str, Embedding] = _built_in()


def resolve_embedding(value: str | os.PathLike[str] | Mapping[str, Any] | Embedding) -> Embedding:
    """Return the embedding of a name, a YAML file or its content.

    A table has one number (1 or more) for each bead type: ``{CA_ALA: 1, CA_TYR: 2}``. ``ALA`` stands for
    ``CA_ALA``.

    Raises
    ------
    MappingError
        The name is not known, or the table is not valid.
    """
    if isinstance(value, Embedding):
        return value
    if isinstance(value, Mapping):
        return _table(value, "the embedding given")
    if str(value) in EMBEDDINGS:
        return EMBEDDINGS[str(value)]
    path = Path(value)
    if not path.is_file():
        raise MappingError(
            f"embedding {str(value)!r} is neither built in ({', '.join(EMBEDDINGS)}) nor an existing YAML "
            "file with a table, such as {CA_ALA: 1, CA_TYR: 2}"
        )
    from cgal_plugin.config.yaml_files import read_yaml

    try:
        content = read_yaml(path)[0]
    except ConfigError as error:
        raise MappingError(f"embedding file {str(path)!r}: {error}") from error
    return _table(content, f"embedding file {str(path)!r}")


def _table(content: Any, source: str) -> Embedding:
    if not isinstance(content, Mapping) or not content:
        raise MappingError(f"{source} must be a table such as {{CA_ALA: 1, CA_TYR: 2}}, not {content!r:.100}")
    ids: dict[str, int] = {}
    for key, number in content.items():
        # YAML 1.1 reads NO as false; no residue has that name
        name = str(key).strip()
        name = name if "_" in name else f"CA_{name.upper()}"
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_TYPE:
            raise MappingError(
                f"{source}: {name} has number {number!r}; numbers are integers from 1 to {MAX_TYPE}"
            )
        if name in ids:
            raise MappingError(f"{source} has a number for {name} twice")
        if number in ids.values():
            other = next(n for n, i in ids.items() if i == number)
            raise MappingError(f"{source}: {name} and {other} have the same number {number}")
        ids[name] = number
    same = [known for known in EMBEDDINGS.values() if known.ids == ids]
    return same[0] if same else Embedding(TABLE + hash_object(ids)[:8], ids)


def recorded_embedding(values: Mapping[str, Any], source: str | None) -> str:
    """Return the name of the embedding in the values of a file; ``cgal`` if they have none.

    Releases that did not record it had no other. It is said in a warning if ``source``, the name of the file,
    is given.
    """
    found = values.get("embedding")
    if found is None and source is not None:
        warnings.warn(
            f"{source} does not record the embedding of its bead types: 'cgal' is assumed",
            CGALWarning,
            stacklevel=3,
        )
    return CGAL if found is None else str(found)


def check_given(given: Any, own: str, where: str, error: type[CGALError] = DataError) -> str:
    """Return ``own``, the name of the embedding of ``where``, and check that it is the one given, if any.

    Raises
    ------
    CGALError
        Another one was given; ``error`` is the class.
    """
    if given is not None:
        check_same_embedding(own, resolve_embedding(given).name, where, "the option", error)
    return own


def check_same_embedding(
    known: str | None, given: str, where: str, given_where: str, error: type[CGALError] = MappingError
) -> None:
    """Check that two things have one embedding; None is not known.

    Parameters
    ----------
    known, given
        Names of embeddings.
    where, given_where
        What they belong to, for the message, such as ``"model.ckpt"`` and ``"the topology"``.

    Raises
    ------
    CGALError
        They differ; ``error`` is the class.
    """
    if known is None or known == given:
        return
    table = " (the table that it was made with)" if known.startswith(TABLE) else ""
    raise error(
        f"{where} numbers its bead types by embedding {known!r}, {given_where} by {given!r}: the network "
        f"would take each bead for another residue. Use embedding {known!r}{table} for both: --embedding or "
        "system.embedding, in Python topology.with_embedding(...); data stores are renumbered by "
        "`cgal export-data --embedding` and `cgal import-data`"
    )

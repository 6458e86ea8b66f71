"""The check that beads of another program are those of a potential, by the names of their residues."""

from __future__ import annotations

from collections.abc import Iterable

from cgal_plugin.errors import DynamicsError
from cgal_plugin.mapping.residues import standard_name


def check_residue_names(found: Iterable[str], own: Iterable[str], what: str) -> None:
    """Compare the residue names of beads, one per bead; names that are not amino acids are not compared.

    Parameters
    ----------
    found
        Names of ``what``; protonation states such as HIE are accepted.
    own
        Names of the potential.

    Raises
    ------
    DynamicsError
        A bead belongs to another amino acid; the message names the first.
    """
    for i, (name, expected) in enumerate(zip(found, own, strict=True)):
        known = standard_name(str(name).strip())
        if known is not None and standard_name(expected) not in (None, known):
            raise DynamicsError(
                f"bead {i} is of residue {name} in {what}, and of {expected} in the potential: the beads "
                "must be those of the potential, in its order"
            )

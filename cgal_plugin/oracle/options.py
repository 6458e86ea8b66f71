"""Options for reading a structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.residues import STANDARD_RESIDUES, standard_name


@dataclass(frozen=True)
class ReadOptions:
    """What to do with a structure when it is read.

    Attributes
    ----------
    ph
        pH that decides about hydrogens that the structure does not have.
    ignore
        Names of residues (ligands, ions, caps) that may be left out.
    replace
        Residue name → name of the standard residue that takes its place.
    repair
        Add missing side-chain atoms.
    chains
        Chains to read, by their names in the file; None: all.
    model
        Number of the model to read; None: the first.

    Raises
    ------
    OracleError
        A value is not valid.
    """

    ph: float = 7.0
    ignore: Sequence[str] = ()
    replace: Mapping[str, str] = field(default_factory=dict)
    repair: bool = False
    chains: Sequence[str] | None = None
    model: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.ph <= 14.0:
            raise OracleError(f"ph {self.ph} is out of range; a pH is between 0 and 14 (default 7)")
        for name in ("ignore", "chains"):
            value = getattr(self, name)
            if isinstance(value, str) or (value is not None and not all(isinstance(v, str) for v in value)):
                raise OracleError(f"{name} {value!r} is not a list of names, such as [A, B]")
        object.__setattr__(self, "ignore", tuple(n.strip().upper() for n in self.ignore))
        replace = {str(k).strip().upper(): str(v).strip().upper() for k, v in self.replace.items()}
        object.__setattr__(self, "replace", replace)
        if self.chains is not None:
            object.__setattr__(self, "chains", tuple(self.chains))
            if not self.chains:
                raise OracleError("chains is an empty list; name one chain or more, or leave the key out")
        for old, new in replace.items():
            if standard_name(new) is None:
                raise OracleError(
                    f"replace {old}: {new!r} is not a standard residue; use one of "
                    f"{', '.join(STANDARD_RESIDUES)}, or a protonation state such as HIE"
                )
        protein = [n for n in self.ignore if standard_name(n) is not None]
        if protein:
            raise OracleError(
                f"ignore names amino acids: {', '.join(protein)}. A chain cannot lose residues; "
                "choose chains with the option chains"
            )

"""The sections ``system`` and ``seed_data``: the molecule and its first labelled frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cgal_plugin.config.force_field import ForceField
from cgal_plugin.config.quantities import Count, Kelvin, Number, Picoseconds
from cgal_plugin.config.scale import by_size, length, number, scaled
from cgal_plugin.config.section import Decision, Section

#: fewest frames for force_map optimal
_MIN_FRAMES = 200
#: total length of seed trajectories, ps, up to which a default grows to reach that number
_MOST_PS = 400.0


def _yaml_name(value: Any) -> Any:
    """Refuse names that YAML has read as another type."""
    if isinstance(value, bool):
        raise ValueError(f"YAML reads this name as {str(value).lower()}; put it in quotes")
    return str(value) if isinstance(value, int) else value


def _list(value: Any) -> Any:
    """Accept one name instead of a list."""
    return (value,) if isinstance(value, str) else value


#: name of a residue or chain; YAML reads NO and Y as truth values
Name = Annotated[str, BeforeValidator(_yaml_name)]


class System(Section):
    """The molecule, its CG mapping and its temperature."""

    sequence: Annotated[str, Field(min_length=1)] | None = None
    """One-letter codes, such as YYDPETGTWY. Give this or `structure`."""
    structure: Path | None = None
    """All-atom structure file: PDB or mmCIF, also .gz. Give this or `sequence`. With `force_field`:
    coordinates and box of the whole system (PDB, mmCIF, gro, inpcrd, rst7, CHARMM crd), used as they are."""
    force_field: ForceField | None = None
    """Your own all-atom system. None: ff14SB, with the solvent that `oracle.solvent` names."""
    ph: Annotated[Number, Field(ge=0, le=14)] = 7.0
    """pH that decides about hydrogens that the structure does not have."""
    chains: Annotated[tuple[Name, ...] | None, BeforeValidator(_list)] = None
    """structure: chains to read, such as [A, B]. None: all."""
    model: int | None = None
    """structure: number of the model to read. None: the first."""
    ignore: Annotated[tuple[Name, ...], BeforeValidator(_list)] = ()
    """structure: residues that may be left out, such as [ZN, GOL]. Water, Na, K and Cl always are."""
    replace: dict[Name, Name] = Field(default_factory=dict)
    """structure: residues to replace by standard ones, such as {MSE: MET, NLE: LEU}."""
    repair: bool = False
    """structure: add missing side-chain atoms."""
    mapping: str | dict[str, Any] = "CA"
    """Beads: CA, CACB, 5bead (N, CA, CB, C, O), a YAML file, or the content of such a file."""
    embedding: str | dict[str, int] = "cgal"
    """Numbers of the bead types: cgal, mlcg-tk, torchmd-cg, a YAML file with a table, or its content."""
    temperature: Annotated[Kelvin, Field(ge=1, le=2000)] = 300.0
    """Temperature of labels, CG dynamics and evaluation, K."""

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, data: Any) -> Any:
        """Accept ``pdb``, the former name of ``structure``."""
        if not isinstance(data, dict) or "pdb" not in data:
            return data
        rest = {k: v for k, v in data.items() if k != "pdb"}
        if data["pdb"] is None:
            return rest
        if rest.get("structure") is not None:
            raise ValueError("give 'structure' only; 'pdb' is its former name")
        return {**rest, "structure": data["pdb"]}

    @model_validator(mode="after")
    def _one_source(self) -> System:
        if (self.sequence is None) == (self.structure is None):
            raise ValueError("give exactly one of 'sequence' and 'structure'")
        if self.sequence is not None:
            given = [k for k in ("chains", "ignore", "replace", "repair") if getattr(self, k)]
            given += ["model"] * (self.model is not None)
            given += ["force_field"] * (self.force_field is not None)
            if given:
                raise ValueError(f"{', '.join(given)}: for a structure only; this system has a sequence")
        elif self.force_field is not None:
            given = [k for k in ("chains", "replace", "repair") if getattr(self, k)]
            given += ["model"] * (self.model is not None) + ["ph"] * (self.ph != 7.0)
            if given:
                raise ValueError(
                    f"{', '.join(given)}: not with force_field, whose files are used as they are; prepare "
                    "the structure with the program that made them"
                )
        return self

    @property
    def source(self) -> str | Path:
        """The sequence or the structure file, whichever is given."""
        source = self.structure if self.sequence is None else self.sequence
        assert source is not None
        return source


class SeedData(Section):
    """The first labelled frames: new all-atom trajectories, or an existing data store."""

    n_trajectories: Count = 2
    """Number of independent all-atom trajectories."""
    picoseconds: Annotated[Picoseconds, Field(gt=0), scaled("seed_data.picoseconds")] = length(
        "seed_data.picoseconds"
    )
    """Length of each trajectory after equilibration, ps."""
    equilibration_ps: Annotated[Picoseconds, Field(ge=0)] = 5.0
    """Equilibration at the start of each trajectory, which is discarded, ps."""
    save_ps: Annotated[Picoseconds, Field(gt=0)] = 0.04
    """Time between saved frames, ps."""
    start: Literal["auto", "folded", "extended", "mixed", "diverse"] = "auto"
    """folded: the given structure, or the known fold of CLN025; extended: a stretched chain; auto: folded if
    there is a fold, else extended; mixed: folded and extended in turn; diverse: in turn folded, partly
    unfolded (200 ps at the temperature, then 100 ps at 100 K above it), extended."""
    force_map: Literal["optimal", "basic"] = "optimal"
    """How atomistic forces are mapped to bead forces; optimal has the least noise and needs 200 frames."""
    store: Path | None = None
    """An existing data store to start from, such as that of `cgal import-data`, instead of running MD."""

    @classmethod
    def decide(cls, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
        """Return the length of the trajectories; rare frames make them longer, for the force map."""
        found = by_size("seed_data", given, n_residues)
        save, several = number(given, "save_ps", "ps"), given.get("n_trajectories", 2)
        if "picoseconds" in found and save is not None and isinstance(several, int) and several > 0:
            needed = min(_MIN_FRAMES * save, _MOST_PS) / several
            if given.get("force_map") != "basic" and needed > found["picoseconds"].value:
                rule = f"{_MIN_FRAMES} frames for the force map, in at most {_MOST_PS:g} ps in all"
                found["picoseconds"] = Decision(needed, rule)
        return found

    @model_validator(mode="after")
    def _frames(self) -> SeedData:
        n = self.n_trajectories * round(self.picoseconds / self.save_ps)
        if self.store is None and n == 0:
            raise ValueError(
                f"save_ps {self.save_ps} is longer than picoseconds {self.picoseconds}: no frame"
            )
        if self.store is None and self.force_map == "optimal" and n < _MIN_FRAMES:
            raise ValueError(
                f"force_map optimal needs {_MIN_FRAMES} frames or more; this gives {n}: run longer, save "
                "more often, or use force_map basic"
            )
        return self

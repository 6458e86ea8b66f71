"""The sections ``system`` and ``seed_data``: the molecule and its first labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cgal_plugin.config.quantities import Count, Kelvin, Picoseconds
from cgal_plugin.config.section import Section


class System(Section):
    """The molecule, its CG mapping and its temperature."""

    sequence: str | None = None
    """One-letter codes, such as YYDPETGTWY. Give this or `pdb`."""
    pdb: Path | None = None
    """All-atom structure file (PDB). Give this or `sequence`."""
    mapping: str | dict[str, Any] = "CA"
    """Beads: CA, CACB, a YAML file, or the content of such a file."""
    temperature: Annotated[Kelvin, Field(gt=0, le=2000)] = 300.0
    """Temperature of labels, CG dynamics and evaluation, K."""

    @model_validator(mode="after")
    def _one_source(self) -> System:
        if (self.sequence is None) == (self.pdb is None):
            raise ValueError("give exactly one of 'sequence' and 'pdb'")
        return self

    @property
    def source(self) -> str | Path:
        """The sequence or the PDB file, whichever is given."""
        source = self.pdb if self.sequence is None else self.sequence
        assert source is not None
        return source


class SeedData(Section):
    """The first labelled frames: new all-atom trajectories, or an existing data store."""

    n_trajectories: Count = 4
    """Number of independent all-atom trajectories."""
    picoseconds: Annotated[Picoseconds, Field(gt=0)] = 100.0
    """Length of each trajectory after equilibration, ps."""
    equilibration_ps: Annotated[Picoseconds, Field(ge=0)] = 5.0
    """Equilibration at the start of each trajectory, which is discarded, ps."""
    save_ps: Annotated[Picoseconds, Field(gt=0)] = 0.1
    """Time between saved frames, ps."""
    start: Literal["folded", "extended", "mixed", "diverse"] = "folded"
    """folded: the given or built structure; extended: a stretched chain; mixed: folded and extended in turn;
    diverse: in turn folded, partly unfolded (200 ps at the temperature, then 100 ps at 100 K above it),
    extended."""
    force_map: Literal["optimal", "basic"] = "optimal"
    """How atomistic forces are mapped to bead forces; optimal has the least noise and needs 200 frames."""
    store: Path | None = None
    """An existing data store to start from, instead of running MD."""

    @model_validator(mode="after")
    def _frames(self) -> SeedData:
        n = self.n_trajectories * round(self.picoseconds / self.save_ps)
        if self.store is None and n == 0:
            raise ValueError(
                f"save_ps {self.save_ps} is longer than picoseconds {self.picoseconds}: no frame"
            )
        if self.store is None and self.force_map == "optimal" and n < 200:
            raise ValueError(
                f"force_map optimal needs 200 frames or more; this gives {n}: run longer, save more often, "
                "or use force_map basic"
            )
        return self

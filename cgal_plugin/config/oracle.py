"""The section ``oracle``: where labels come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from cgal_plugin.config.external import INSTALLED, CustomOracle, InstalledOracle
from cgal_plugin.config.quantities import Count, Number, Picoseconds
from cgal_plugin.config.section import Section


class OpenMMOracleConfig(Section):
    """Short all-atom OpenMM MD from each backmapped frame."""

    kind: Literal["openmm"] = "openmm"
    solvent: Literal["obc2", "gbn2", "tip3pfb"] = "obc2"
    """obc2: native OBC2 (fastest); gbn2; tip3pfb: explicit box with PME."""
    mode: Literal["free", "steered", "mean_force"] = "free"
    """free: every saved frame of MD from the backmapped frame is a label; steered: of MD that is pulled from
    the nearest known structure to the frame; mean_force: beads are frozen and forces averaged, and the label
    is weighted in training by its inverse variance."""
    production_ps: Annotated[Picoseconds, Field(gt=0)] = 5.0
    """ps of labelled MD from each start."""
    relax_ps: Annotated[Picoseconds, Field(ge=0)] = 1.0
    """ps of MD before it that are discarded."""
    save_ps: Annotated[Picoseconds, Field(gt=0)] = 0.04
    """ps between saved frames; forces decorrelate within 0.02 to 0.1 ps, so save often."""
    n_starts: Count = 1
    """All-atom starts for each frame."""
    restraint: Annotated[Number, Field(ge=0)] = 0.0
    """kcal/mol/Å²; keeps the beads near the selected frame (free) or pulls them there (steered, where it is
    required). The saved forces do not contain it."""
    release_ps: Annotated[Picoseconds, Field(ge=0)] = 0.0
    """steered: the last ps of production_ps run without the restraint."""
    backmap: tuple[Literal["library", "cgback"], ...] = ("library", "cgback")
    """Backmapping methods, in the order in which they are tried."""
    platform: Literal["CPU", "CUDA", "OpenCL", "Reference"] = "CPU"
    """OpenMM platform of the labels and the seed trajectories."""
    max_failure_rate: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """Share of a round's frames that may fail (10 or more tried) before the run stops with a diagnosis."""

    @model_validator(mode="after")
    def _starts(self) -> OpenMMOracleConfig:
        if self.mode == "mean_force" and self.n_starts < 2:
            raise ValueError("mode mean_force needs n_starts of 2 or more: their spread is the label's error")
        if self.mode == "mean_force" and self.restraint > 0:
            raise ValueError("restraint is for modes free and steered: mean_force freezes the beads")
        if self.mode == "steered" and self.restraint == 0:
            raise ValueError("mode steered needs a restraint, of 0.5 to 5 kcal/mol/Å²")
        if self.mode != "steered" and self.release_ps > 0:
            raise ValueError("release_ps is for mode steered: the other modes pull with no restraint")
        if self.release_ps >= self.production_ps:
            raise ValueError(
                f"release_ps {self.release_ps} must be shorter than production_ps {self.production_ps}"
            )
        if self.save_ps > self.production_ps:
            raise ValueError(f"save_ps {self.save_ps} is longer than production_ps {self.production_ps}")
        return self

    @property
    def free_ps(self) -> float:
        """ps of a label that move without any restraint."""
        return self.production_ps if self.mode == "free" and self.restraint == 0 else self.release_ps


OracleConfig = Annotated[
    Annotated[OpenMMOracleConfig, Tag("openmm")]
    | Annotated[CustomOracle, Tag("custom")]
    | Annotated[InstalledOracle, Tag(INSTALLED)],
    Field(discriminator=InstalledOracle.by_kind()),
]

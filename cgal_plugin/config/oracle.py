"""The section ``oracle``: where labels come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from cgal_plugin.config.external import INSTALLED, CustomOracle, InstalledOracle
from cgal_plugin.config.quantities import Count, Number, Picoseconds
from cgal_plugin.config.scale import RELEASED, by_size, length, number, scaled
from cgal_plugin.config.section import Auto, Decision, Section

#: labelled MD of a start whose forces are averaged, ps
_MEAN_FORCE_PS = 5.0
#: restraint of a steered label, kcal/mol/Å²
_RESTRAINT = 2.0
#: ps, time between saved frames of labels up to _SHORT_PS; a multiple of it for longer ones, because a label
#: should not have more than some 1,700 frames
_SAVE_PS, _SHORT_PS = 0.02, 34.0
_SAVE_RULE = f"{_SAVE_PS:g} ps for each {_SHORT_PS:g} ps of production_ps, at most production_ps"


class OpenMMOracleConfig(Section):
    """Short all-atom OpenMM MD from each backmapped frame."""

    kind: Literal["openmm"] = "openmm"
    solvent: Literal["obc2", "gbn2", "tip3pfb", "files"] = "obc2"
    """Implicit: obc2 (OBC2, the fastest) or gbn2 (GBn2). Explicit: tip3pfb (TIP3P-FB water with PME). With
    system.force_field leave it out: the solvent is that of its files, and the record says files."""
    mode: Annotated[Literal["free", "steered", "mean_force"], Auto("steered; free with restraint 0")] = (
        "steered"
    )
    """free: MD from the backmapped frame; steered: MD that a restraint pulls from the nearest known structure
    to the frame; in both, each saved frame is a label. mean_force: the beads are frozen and the forces are
    averaged; in training, the label has a weight according to its inverse variance."""
    production_ps: Annotated[Picoseconds, Field(gt=0), scaled("oracle.production_ps")] = length(
        "oracle.production_ps"
    )
    """Labelled MD per start, ps."""
    relax_ps: Annotated[Picoseconds, Field(ge=0)] = 1.0
    """MD before production_ps that is discarded, ps."""
    save_ps: Annotated[Picoseconds, Field(gt=0), Auto(_SAVE_RULE)] = _SAVE_PS
    """Time between saved frames, ps. Forces decorrelate within 0.02 ps: a fifth of the frames would have less
    than half of the information."""
    n_starts: Annotated[Count, Auto("1; mean_force: 2")] = 1
    """All-atom starts per frame."""
    restraint: Annotated[Number, Field(ge=0), Auto(f"{_RESTRAINT:g} with mode steered, else 0")] = _RESTRAINT
    """Force constant of the restraint, kcal/mol/Å². It keeps the beads near the selected frame (free) or
    pulls them there (steered; required). The saved forces do not contain the restraint."""
    release_ps: Annotated[
        Picoseconds, Field(ge=0), Auto("11/17 of production_ps with mode steered, else 0")
    ] = round(RELEASED * length("oracle.production_ps"), 6)
    """steered: time without the restraint at the end of production_ps, ps."""
    backmap: tuple[Literal["library", "cgback"], ...] = ("library", "cgback")
    """Backmapping methods, in the order in which they are tried."""
    platform: Literal["auto", "CPU", "CUDA", "OpenCL", "Reference"] = "auto"
    """OpenMM platform of the labels and the seed trajectories; auto: CUDA if there is a GPU and the system is
    large, else CPU. A run keeps the one that it started with."""
    max_failure_rate: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """Largest fraction of the frames of a round that may fail. If more fail (of 10 or more), the run stops
    and lists the reasons."""

    @classmethod
    def decide(cls, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
        """Return what follows the mode, and the lengths."""
        found: dict[str, Decision] = {}
        if "mode" not in given:
            held = number(given, "restraint", "") == 0
            found["mode"] = Decision("free", "restraint is 0") if held else Decision("steered", "default")
        mode = given.get("mode", found["mode"].value if found else None)
        steered, averaged = mode == "steered", mode == "mean_force"
        if "n_starts" not in given:
            found["n_starts"] = Decision(2 if averaged else 1, f"mode {mode}")
        if "restraint" not in given:
            found["restraint"] = Decision(_RESTRAINT if steered else 0.0, f"mode {mode}")
        release = number(given, "release_ps", "ps")
        found |= by_size("oracle", given, n_residues)
        if "production_ps" in found:
            if averaged:
                found["production_ps"] = Decision(_MEAN_FORCE_PS, "mode mean_force")
            elif release is not None and release / RELEASED > found["production_ps"].value:
                found["production_ps"] = Decision(round(release / RELEASED, 6), "17/11 of release_ps")
        known = number(given, "production_ps", "ps")
        production = found["production_ps"].value if "production_ps" in found else known
        if "save_ps" not in given:
            found["save_ps"] = Decision(_save_ps(production), _SAVE_RULE)
        if "release_ps" not in given:
            released, rule = 0.0, f"mode {mode}"
            save = found["save_ps"].value if "save_ps" in found else number(given, "save_ps", "ps")
            if steered and production is not None and save is not None and save > 0:
                frames = RELEASED * production / save
                if math.isfinite(frames):  # whole frames; at least one is left for the pull
                    released, rule = round(save * int(frames + 1e-9), 6), "11/17 of production_ps"
            found["release_ps"] = Decision(released, rule)
        return found

    @model_validator(mode="after")
    def _starts(self) -> OpenMMOracleConfig:
        if self.mode == "mean_force" and self.n_starts < 2:
            raise ValueError(
                "mode mean_force needs n_starts of 2 or more: their spread gives the error of the label"
            )
        if self.mode == "mean_force" and self.restraint > 0:
            raise ValueError("restraint is for modes free and steered: mean_force freezes the beads")
        if self.mode == "steered" and self.restraint == 0:
            raise ValueError("mode steered needs a restraint, of 0.5 to 5 kcal/mol/Å²")
        if self.mode != "steered" and self.release_ps > 0:
            raise ValueError("release_ps is for mode steered only")
        if self.release_ps >= self.production_ps:
            raise ValueError(
                f"release_ps {self.release_ps} must be shorter than production_ps {self.production_ps}"
            )
        if self.save_ps > self.production_ps:
            raise ValueError(f"save_ps {self.save_ps} is longer than production_ps {self.production_ps}")
        return self

    @property
    def free_ps(self) -> float:
        """Time of a label without restraint, ps."""
        return self.production_ps if self.mode == "free" and self.restraint == 0 else self.release_ps


def _save_ps(production_ps: float | None) -> float:
    if production_ps is None or not (math.isfinite(production_ps) and production_ps > 0):
        return _SAVE_PS  # the error of a wrong value comes later
    return min(production_ps, round(_SAVE_PS * math.ceil(production_ps / _SHORT_PS), 6))


OracleConfig = Annotated[
    Annotated[OpenMMOracleConfig, Tag("openmm")]
    | Annotated[CustomOracle, Tag("custom")]
    | Annotated[InstalledOracle, Tag(INSTALLED)],
    Field(discriminator=InstalledOracle.by_kind()),
]

"""The section ``selector``: which frames are labelled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from cgal_plugin.config.external import INSTALLED, CustomComponent, InstalledSelector
from cgal_plugin.config.quantities import Angstrom, Count
from cgal_plugin.config.section import Section


class SelectorSettings(Section):
    """Settings that all built-in selectors share."""

    n_select: Count = 16
    """Number of frames to label per round."""
    min_rmsd: Annotated[Angstrom, Field(ge=0)] = 0.0
    """Frames nearer to the training set are skipped, Å. 0: off."""
    max_rmsd: Annotated[Angstrom, Field(gt=0)] | None = 8.0
    """Frames farther from the training set are skipped as unphysical, Å. null: off."""

    @model_validator(mode="after")
    def _cuts(self) -> SelectorSettings:
        if self.max_rmsd is not None and self.min_rmsd >= self.max_rmsd:
            raise ValueError(f"min_rmsd {self.min_rmsd} is not below max_rmsd {self.max_rmsd}")
        return self


class RMSDSelectorConfig(SelectorSettings):
    """The frames that the training set covers least."""

    kind: Literal["rmsd"] = "rmsd"
    diverse: bool = Field(default=True, strict=True)
    """Spread the selected frames (greedy k-centre in RMSD)."""


class CoverageSelectorConfig(SelectorSettings):
    """The frames that represent most of what the training set does not cover."""

    kind: Literal["coverage"]
    min_rmsd: Annotated[Angstrom, Field(gt=0)] = 1.0
    """A frame covers all frames within this RMSD, Å."""


class RandomSelectorConfig(SelectorSettings):
    """Frames drawn at random, as a baseline."""

    kind: Literal["random"]


class CommitteeSelectorConfig(SelectorSettings):
    """The frames on whose forces an ensemble of models disagrees most."""

    kind: Literal["committee"]
    diverse: bool = Field(default=True, strict=True)
    """Spread the selected frames (greedy k-centre in RMSD) among those of highest disagreement."""


SelectorConfig = Annotated[
    Annotated[RMSDSelectorConfig, Tag("rmsd")]
    | Annotated[CoverageSelectorConfig, Tag("coverage")]
    | Annotated[RandomSelectorConfig, Tag("random")]
    | Annotated[CommitteeSelectorConfig, Tag("committee")]
    | Annotated[CustomComponent, Tag("custom")]
    | Annotated[InstalledSelector, Tag(INSTALLED)],
    Field(discriminator=InstalledSelector.by_kind()),
]

"""The section ``selector``: which frames are labelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from cgal_plugin.config.external import INSTALLED, CustomComponent, InstalledSelector
from cgal_plugin.config.quantities import Angstrom, Count
from cgal_plugin.config.scale import RULES, Rule, by_size, count, length, number, scaled
from cgal_plugin.config.section import MEASURED, Auto, Decision, Section

#: RMSD within which a frame covers others
_COVERAGE = Rule(1.0, 0.5, 0.5, 5, "Å", 0.01)
_RATIO = RULES["selector.max_rmsd"].at_ten / RULES["selector.min_rmsd"].at_ten


class SelectorSettings(Section):
    """Settings that all built-in selectors share."""

    n_select: Annotated[Count, scaled("selector.n_select")] = count("selector.n_select")
    """Number of frames to label per round."""
    min_rmsd: Annotated[Angstrom, Field(ge=0, le=1000), scaled("selector.min_rmsd")] = length(
        "selector.min_rmsd"
    )
    """Frames nearer to the training set are skipped, Å. 0: off."""
    max_rmsd: Annotated[Annotated[Angstrom, Field(gt=0)] | None, scaled("selector.max_rmsd")] = length(
        "selector.max_rmsd"
    )
    """Frames farther from the training set are skipped as unphysical, Å. null: off."""

    @classmethod
    def least(cls, n_residues: int) -> Decision:
        """Return the default of min_rmsd."""
        rule = RULES["selector.min_rmsd"]
        return Decision(rule(n_residues), rule.text)

    @classmethod
    def decide(cls, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
        """Return the number of frames and the two limits; one that is given keeps the other apart from it."""
        found = by_size("selector", given, n_residues)
        low, high = number(given, "min_rmsd", "angstrom"), number(given, "max_rmsd", "angstrom")
        if "min_rmsd" in found:
            found["min_rmsd"] = cls.least(n_residues)
            if high is not None and high > 0 and high / _RATIO < found["min_rmsd"].value:
                found["min_rmsd"] = Decision(round(high / _RATIO, 3), f"max_rmsd / {_RATIO:.3g}")
        if "max_rmsd" in found and low is not None and low * _RATIO > found["max_rmsd"].value:
            found["max_rmsd"] = Decision(round(low * _RATIO, 3), f"{_RATIO:.3g} * min_rmsd")
        return found

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
    min_rmsd: Annotated[Angstrom, Field(gt=0), Auto(_COVERAGE.text)] = _COVERAGE(MEASURED)
    """A frame covers all frames within this RMSD, Å."""

    @classmethod
    def least(cls, n_residues: int) -> Decision:
        """Return the default of min_rmsd."""
        return Decision(_COVERAGE(n_residues), _COVERAGE.text)


class RandomSelectorConfig(SelectorSettings):
    """Frames drawn at random, as a baseline."""

    kind: Literal["random"]
    min_rmsd: Annotated[Angstrom, Field(ge=0), Auto("0: a baseline draws from all frames")] = 0.0
    """Frames nearer to the training set are skipped, Å. 0: off."""

    @classmethod
    def least(cls, n_residues: int) -> Decision:
        """Return the default of min_rmsd."""
        return Decision(0.0, "off for a baseline")


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

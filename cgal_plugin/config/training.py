"""The section ``training``: priors, network and force matching."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, Tag, model_serializer, model_validator

from cgal_plugin.config.external import INSTALLED, CustomComponent, InstalledTrainer
from cgal_plugin.config.quantities import Angstrom, Count, Fraction, Number
from cgal_plugin.config.section import Section


class PriorConfig(Section):
    """Prior terms, fitted once to the seed data and then frozen, unless `refit` is set."""

    terms: tuple[
        Literal["bonds", "bridges", "angles", "angle_series", "dihedrals", "repulsion", "pairs"], ...
    ] = (
        "bonds",
        "angles",
        "dihedrals",
        "repulsion",
    )
    """Terms; an empty list trains without priors. Bridges are added to bonds if the molecule has disulfide
    bridges. angle_series and pairs need method force_matching."""
    method: Literal["likelihood", "force_matching"] = "likelihood"
    """likelihood: from distributions; force_matching: angle_series, dihedrals and pairs from the labelled
    forces, which does not depend on how the frames were chosen."""
    pairs_per_type: bool = Field(default=False, strict=True)
    """Fit one pair energy per pair of bead types, instead of one for all pairs (term pairs)."""
    refit: bool = Field(default=False, strict=True)
    """Fit the priors again in each round, to all data so far; needs mode scratch."""
    file: Path | None = None
    """Use the priors in this file of `cgal fit-priors` or `cgal import-priors`, with all its terms. Imported
    priors are restricted to the molecule; if they record no temperature, that of the run is assumed."""

    @model_validator(mode="after")
    def _fit(self) -> PriorConfig:
        if self.file is not None:
            if self.refit:
                raise ValueError(
                    "refit fits the priors to the data of each round, so a file cannot be used: remove file"
                )
            return self
        by_forces = self.method == "force_matching"
        if {"angle_series", "pairs"} & set(self.terms) and not by_forces:
            raise ValueError("the terms angle_series and pairs need method force_matching (or a file)")
        if by_forces and not {"angle_series", "dihedrals", "pairs"} & set(self.terms):
            raise ValueError("method force_matching fits angle_series, dihedrals and pairs; terms has none")
        if self.pairs_per_type and "pairs" not in self.terms:
            raise ValueError("pairs_per_type is set, but terms has no pairs")
        if self.refit and not self.terms:
            raise ValueError("refit is set, but terms is empty: there is nothing to fit")
        return self


class ModelConfig(Section):
    """The CGSchNet network."""

    form: Literal["majewski", "mlcg"] = "majewski"
    """Functional form: that of TorchMD-Net's graph-network, or that of mlcg."""
    embedding_dimension: Count = 128
    """Number of features per bead."""
    num_layers: Count = 4
    """Number of interaction layers."""
    num_rbf: Annotated[int, Field(strict=True, ge=2)] = 18
    """Number of radial basis functions."""
    cutoff_lower: Annotated[Angstrom, Field(ge=0)] = 3.0
    """Lower cutoff, Å; the network ignores pairs that are closer (form majewski)."""
    cutoff_upper: Annotated[Angstrom, Field(gt=0)] = 12.0
    """Upper cutoff, Å."""
    activation: Literal["silu", "tanh", "ssp", "sigmoid"] = "tanh"
    """Activation function."""
    filter_grid: Annotated[int, Field(strict=True, ge=50)] | None = None
    """Interpolate filters in training from this number of grid points, such as 300: faster. null: exact."""

    @model_validator(mode="after")
    def _cutoffs(self) -> ModelConfig:
        if self.cutoff_lower >= self.cutoff_upper:
            raise ValueError(
                f"cutoff_lower {self.cutoff_lower} is not below cutoff_upper {self.cutoff_upper}"
            )
        return self


class Training(Section):
    """Force matching in TorchMD-Net, once per round."""

    kind: Literal["torchmdnet"] = "torchmdnet"
    mode: Literal["scratch", "finetune", "replay"] = "finetune"
    """scratch: new weights in each round; finetune: start from the model of the last round; replay: finetune
    with a higher weight for new frames."""
    replay_weight: Annotated[Number, Field(ge=1)] = 4.0
    """replay: number of repetitions per epoch of each frame of the newest round; may be fractional."""
    epochs: Count = 30
    """Epochs of the first training (with mode scratch: of each training)."""
    finetune_epochs: Count = 15
    """Epochs of each later round with finetune or replay."""
    batch_size: Count = 128
    """Number of frames per batch."""
    learning_rate: Annotated[Number, Field(gt=0, le=1)] = 1e-3
    """Learning rate at the start of the schedule."""
    finetune_learning_rate: Annotated[Number, Field(gt=0, le=1)] = 5e-4
    """Learning rate at the start of the schedule with finetune or replay."""
    validation_fraction: Fraction = 0.1
    """Fraction of the data for validation, drawn in correlated blocks."""
    init: Path | None = None
    """Start from this model, a checkpoint of `cgal import-model` or of another training. Network and priors
    are those of the file: keys of model must not contradict it, and priors must be unset. The first training
    has `epochs` epochs and finetune_learning_rate; mode scratch starts from it in each round."""
    model: ModelConfig = ModelConfig()
    priors: PriorConfig = PriorConfig()
    committee: Count = 1
    """Models trained in each round with different seeds (selector kind committee needs 2 or more)."""
    torchmdnet: dict[str, Any] = Field(default_factory=dict)
    """Any other TorchMD-Net key, passed on unchanged."""

    @model_validator(mode="after")
    def _refit(self) -> Training:
        if self.priors.refit and self.mode != "scratch":
            raise ValueError(
                f"priors.refit needs mode scratch, not {self.mode}: weights belong to one set of priors"
            )
        return self

    @model_validator(mode="after")
    def _initial(self) -> Training:
        if self.init is not None and "priors" in self.model_fields_set:
            raise ValueError(
                "init has the priors that its network was trained with, so priors cannot be set as well: "
                "remove priors (a network without priors gets them with `cgal import-model --priors`)"
            )
        return self

    @model_serializer(mode="wrap")
    def _given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys of the network and the priors that the file of ``init`` decides."""
        found: dict[str, Any] = serialize(self)
        if self.init is not None:
            del found["priors"]
            found["model"] = {k: v for k, v in found["model"].items() if k in self.model.model_fields_set}
        return found

    @property
    def refinable(self) -> bool:
        """Whether the priors have pair energies, which refinement corrects (assumed for a file)."""
        priors = self.priors
        if self.init is not None:
            return False
        return priors.file is not None or (priors.method == "force_matching" and "pairs" in priors.terms)


TrainerConfig = Annotated[
    Annotated[Training, Tag("torchmdnet")]
    | Annotated[CustomComponent, Tag("custom")]
    | Annotated[InstalledTrainer, Tag(INSTALLED)],
    Field(discriminator=InstalledTrainer.by_kind()),
]

"""The section ``training``: priors, network and force matching."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, Tag, model_serializer, model_validator

from cgal_plugin.config.external import INSTALLED, CustomComponent, InstalledTrainer
from cgal_plugin.config.quantities import Angstrom, Count, Fraction, Number
from cgal_plugin.config.section import Auto, Decision, Section, given_in, without_auto

Term = Literal["bonds", "bridges", "angles", "angle_series", "dihedrals", "repulsion", "pairs"]
#: default terms of each method. Force matching does not depend on how the frames were chosen
TERMS: dict[str, tuple[Term, ...]] = {
    "force_matching": ("bonds", "angle_series", "dihedrals", "repulsion", "pairs"),
    "likelihood": ("bonds", "angles", "dihedrals", "repulsion"),
}
#: terms that only force matching can fit
_ONLY_FORCES = frozenset({"angle_series", "pairs"})
_FILTER_GRID, _WEIGHT_DECAY = 400, 1.0


class PriorConfig(Section):
    """Prior terms, fitted once to the seed data and then frozen, unless `refit` is set."""

    terms: Annotated[
        tuple[Term, ...],
        Auto("those of the method that the molecule has"),
    ] = TERMS["force_matching"]
    """Terms; an empty list trains without priors. Bridges are added to bonds if the molecule has disulfide
    bridges. angle_series and pairs need method force_matching."""
    method: Annotated[
        Literal["likelihood", "force_matching"],
        Auto("force_matching, unless terms are given without angle_series and pairs"),
    ] = "force_matching"
    """likelihood: from distributions; force_matching: angle_series, dihedrals and pairs from the labelled
    forces, which does not depend on how the frames were chosen."""
    pairs_per_type: Annotated[bool, Auto("true with the term pairs")] = Field(default=True, strict=True)
    """Fit one pair energy per pair of bead types, instead of one for all pairs (term pairs)."""
    refit: Annotated[bool, Auto("true with method force_matching and mode scratch")] = Field(
        default=True, strict=True
    )
    """Fit the priors again in each round, to all data so far; needs mode scratch."""
    file: Path | None = None
    """Use the priors in this file of `cgal fit-priors` or `cgal import-priors`, with all its terms. Imported
    priors are restricted to the molecule; if they record no temperature, that of the run is assumed."""

    @classmethod
    def decide(cls, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
        """Return terms, method and what follows them."""
        found: dict[str, Decision] = {}
        terms, method, file = given.get("terms"), given.get("method"), given.get("file") is not None
        if "terms" not in given:
            terms = TERMS.get(method or "force_matching", ()) if isinstance(method, str | None) else ()
            found["terms"] = Decision(terms, f"those of method {method or 'force_matching'}")
        names = [t for t in terms if isinstance(t, str)] if isinstance(terms, list | tuple) else []
        if "method" not in given:
            forces = "terms" not in given or bool(_ONLY_FORCES & set(names))
            method = "force_matching" if forces else "likelihood"
            found["method"] = Decision(method, "what fits the terms")
        if "pairs_per_type" not in given:
            found["pairs_per_type"] = Decision("pairs" in names, "true with the term pairs")
        if "refit" not in given:
            refit = method == "force_matching" and not file
            found["refit"] = Decision(refit, "a file is used as it is" if file else f"method {method}")
        return found

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
    embedding_dimension: Count = 32
    """Number of features per bead."""
    num_layers: Count = 1
    """Number of interaction layers."""
    num_rbf: Annotated[int, Field(strict=True, ge=2)] = 18
    """Number of radial basis functions."""
    cutoff_lower: Annotated[Angstrom, Field(ge=0)] = 3.0
    """Lower cutoff, Å; the network ignores pairs that are closer (form majewski)."""
    cutoff_upper: Annotated[Angstrom, Field(gt=0)] = 12.0
    """Upper cutoff, Å."""
    activation: Literal["silu", "tanh", "ssp", "sigmoid"] = "tanh"
    """Activation function."""
    filter_grid: Annotated[
        Annotated[int, Field(strict=True, ge=50)] | None,
        Auto(f"{_FILTER_GRID}; null for another model of TorchMD-Net"),
    ] = _FILTER_GRID
    """Interpolate filters in training from this number of grid points: faster. null: exact."""

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
    mode: Literal["scratch", "finetune", "replay"] = "scratch"
    """scratch: new weights in each round; finetune: start from the model of the last round; replay: finetune
    with a higher weight for new frames."""
    replay_weight: Annotated[Number, Field(ge=1)] = 4.0
    """replay: number of repetitions per epoch of each frame of the newest round; may be fractional."""
    epochs: Count = 4
    """Epochs of the first training (with mode scratch: of each training)."""
    finetune_epochs: Count = 5
    """Epochs of each later round with finetune or replay."""
    batch_size: Count = 256
    """Number of frames per batch."""
    learning_rate: Annotated[Number, Field(gt=0, le=1)] = 1e-3
    """Learning rate at the start of the schedule."""
    finetune_learning_rate: Annotated[Number, Field(gt=0, le=1)] = 5e-4
    """Learning rate at the start of the schedule with finetune or replay."""
    weight_decay: Annotated[
        Annotated[Number, Field(ge=0)] | None,
        Auto(f"{_WEIGHT_DECAY:g}; 0 with init; null if it is in torchmdnet"),
    ] = _WEIGHT_DECAY
    """Weight decay of the optimiser (AdamW), which keeps the network small beside the priors. null: that of
    torchmdnet, or 0."""
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

    @classmethod
    def decide(cls, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
        """Return the weight decay, and what follows in the sections inside; not those of a file of init."""
        found: dict[str, Decision] = {}
        init, others = given.get("init") is not None, given_in(given.get("torchmdnet"))
        priors, mode = without_auto(PriorConfig, given_in(given.get("priors"))), given.get("mode", "scratch")
        if "weight_decay" not in given:
            if "weight_decay" in others:
                found["weight_decay"] = Decision(None, "torchmdnet.weight_decay")
            elif init:
                found["weight_decay"] = Decision(0.0, "the weights of init are kept")
            elif set(given) >= _OLD_KEYS and "refit" in priors:
                found["weight_decay"] = Decision(0.0, "all other keys are given, as by an older version")
            else:
                found["weight_decay"] = Decision(_WEIGHT_DECAY, "default")
        if init:
            return found
        if "filter_grid" not in given_in(given.get("model")):
            own = others.get("model", "cgschnet") == "cgschnet"
            rule = "default" if own else f"torchmdnet.model {others['model']} has no such option"
            found["model.filter_grid"] = Decision(_FILTER_GRID if own else None, rule)
        for key, decision in PriorConfig.decide(priors, n_residues).items():
            again = key == "refit" and decision.value and mode != "scratch"
            found[f"priors.{key}"] = Decision(False, f"mode {mode}") if again else decision
        return found

    @model_validator(mode="after")
    def _decay(self) -> Training:
        if self.weight_decay is not None and "weight_decay" in self.torchmdnet:
            raise ValueError(
                "weight_decay is given twice, also in torchmdnet: remove torchmdnet.weight_decay, or set "
                "weight_decay to null"
            )
        return self

    @model_validator(mode="after")
    def _refit(self) -> Training:
        if self.init is None and self.priors.refit and self.mode != "scratch":
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


#: keys that every complete section of a version without weight_decay has
_OLD_KEYS = frozenset(Training.model_fields) - {"weight_decay", "init", "model", "priors"}

TrainerConfig = Annotated[
    Annotated[Training, Tag("torchmdnet")]
    | Annotated[CustomComponent, Tag("custom")]
    | Annotated[InstalledTrainer, Tag(INSTALLED)],
    Field(discriminator=InstalledTrainer.by_kind()),
]

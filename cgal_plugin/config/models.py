"""The configuration of a run: strict, frozen pydantic models with units in the descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cgal_plugin.config.executor import ExecutorConfig, LocalExecutor, ParslExecutor
from cgal_plugin.config.quantities import (
    Angstrom,
    Count,
    CountOrZero,
    Femtoseconds,
    Fraction,
    Kelvin,
    Nanoseconds,
    Number,
    PerPicosecond,
    Picoseconds,
)
from cgal_plugin.config.refinement import Refinement
from cgal_plugin.config.section import Section
from cgal_plugin.provenance import hash_object


class System(Section):
    """What is simulated."""

    sequence: str | None = None
    """One-letter codes, such as YYDPETGTWY. Give this or `pdb`."""
    pdb: Path | None = None
    """All-atom structure file (PDB). Give this or `sequence`."""
    mapping: str | dict[str, Any] = "CA"
    """Beads: CA, CACB, a YAML file, or the content of such a file."""
    temperature: Annotated[Kelvin, Field(gt=0, le=2000)] = 300.0
    """K; labels, CG dynamics and evaluation share it."""

    @model_validator(mode="after")
    def _one_source(self) -> System:
        if (self.sequence is None) == (self.pdb is None):
            raise ValueError("give either 'sequence' or 'pdb', not both and not neither")
        return self


class CustomComponent(Section):
    """A class of the user's own, `module:Class`, called with `args`."""

    kind: Literal["custom"]
    target: Annotated[str, Field(alias="class", pattern=r"^[\w.]+:\w+$")]
    """Import path, such as my_package.my_module:MyClass."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class."""


class CustomOracle(CustomComponent):
    """An oracle of the user's own."""

    max_failure_rate: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """Share of a round's frames that may fail (10 or more tried) before the run stops with a diagnosis."""


class OpenMMOracleConfig(Section):
    """Short all-atom OpenMM MD from each backmapped frame."""

    kind: Literal["openmm"] = "openmm"
    solvent: Literal["obc2", "gbn2", "tip3pfb"] = "obc2"
    """obc2: native OBC2 (fastest); gbn2; tip3pfb: explicit box with PME."""
    mode: Literal["free", "steered", "mean_force"] = "free"
    """free: every saved frame of MD from the backmapped frame is a label; steered: of MD that is drawn from
    the nearest known structure to the frame; mean_force: beads frozen, forces averaged, which count in
    training by their inverse variance."""
    production_ps: Annotated[Picoseconds, Field(gt=0)] = 5.0
    """ps of labelled MD from each start."""
    relax_ps: Annotated[Picoseconds, Field(ge=0)] = 1.0
    """ps before it that are thrown away."""
    save_ps: Annotated[Picoseconds, Field(gt=0)] = 0.04
    """ps between saved frames; forces decorrelate within 0.02 to 0.1 ps, so save densely."""
    n_starts: Count = 1
    """All-atom starts for each frame."""
    restraint: Annotated[Number, Field(ge=0)] = 0.0
    """kcal/mol/Å²: holds the beads near the selected frame (free) or draws them there (steered, which needs
    it); forces are kept without it."""
    release_ps: Annotated[Picoseconds, Field(ge=0)] = 0.0
    """The last ps of production_ps in which the springs of a steered label are off."""
    backmap: tuple[Literal["library", "cgback"], ...] = ("library", "cgback")
    """Backmapping methods, in the order they are tried."""
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
            raise ValueError("release_ps is for mode steered: the others have no springs to let go of")
        if self.release_ps >= self.production_ps:
            raise ValueError(
                f"release_ps {self.release_ps} must be shorter than production_ps {self.production_ps}"
            )
        if self.save_ps > self.production_ps:
            raise ValueError(f"save_ps {self.save_ps} is longer than production_ps {self.production_ps}")
        return self


class SeedData(Section):
    """The first labelled frames: all-atom trajectories, or a data store that exists."""

    n_trajectories: Count = 4
    """Independent all-atom trajectories."""
    picoseconds: Annotated[Picoseconds, Field(gt=0)] = 100.0
    """ps each, after equilibration."""
    equilibration_ps: Annotated[Picoseconds, Field(ge=0)] = 5.0
    """ps at the start of each that are thrown away."""
    save_ps: Annotated[Picoseconds, Field(gt=0)] = 0.1
    """ps between saved frames."""
    start: Literal["folded", "extended", "mixed", "diverse"] = "folded"
    """folded: the given or built structure; extended: a stretched chain; mixed: these two in turn; diverse:
    in turn folded, partly unfolded (200 ps at the temperature, then 100 ps at 100 K above it), extended."""
    force_map: Literal["optimal", "basic"] = "optimal"
    """How atomistic forces become bead forces; optimal has the least noise, and needs 200 frames or more."""
    store: Path | None = None
    """An existing data store to start from instead of running MD."""

    @model_validator(mode="after")
    def _frames(self) -> SeedData:
        n = self.n_trajectories * round(self.picoseconds / self.save_ps)
        if self.store is None and n == 0:
            raise ValueError(
                f"save_ps {self.save_ps} is longer than picoseconds {self.picoseconds}: no frame"
            )
        if self.store is None and self.force_map == "optimal" and n < 200:
            raise ValueError(
                f"force_map optimal needs 200 frames or more; this gives {n}: run longer, save more densely, "
                "or use force_map basic"
            )
        return self


class PriorConfig(Section):
    """Prior terms, fitted once from the seed data and then frozen, unless `refit` is set."""

    terms: tuple[Literal["bonds", "angles", "angle_series", "dihedrals", "repulsion", "pairs"], ...] = (
        "bonds",
        "angles",
        "dihedrals",
        "repulsion",
    )
    """Which terms; an empty list trains without priors. angle_series and pairs need method force_matching."""
    method: Literal["likelihood", "force_matching"] = "likelihood"
    """likelihood: from distributions; force_matching: angle_series, dihedrals and pairs from the labelled
    forces, which does not depend on how the frames were chosen."""
    pairs_per_type: bool = Field(default=False, strict=True)
    """The term pairs: one energy for each pair of bead types instead of one for all pairs."""
    refit: bool = Field(default=False, strict=True)
    """Fit anew each round on all data so far, for training from scratch (mode scratch)."""
    file: Path | None = None
    """A table saved by `cgal fit-priors` to use instead of fitting."""

    @model_validator(mode="after")
    def _fit(self) -> PriorConfig:
        if self.file is not None:
            if self.refit:
                raise ValueError("refit fits the priors to the data of each round: leave file out")
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
    """Functional form: of TorchMD-Net's graph-network, or of mlcg."""
    embedding_dimension: Count = 128
    """Features."""
    num_layers: Count = 4
    """Interaction blocks."""
    num_rbf: Annotated[int, Field(strict=True, ge=2)] = 18
    """Radial basis functions."""
    cutoff_lower: Annotated[Angstrom, Field(ge=0)] = 3.0
    """Å; pairs closer than this do not interact through the network (majewski)."""
    cutoff_upper: Annotated[Angstrom, Field(gt=0)] = 12.0
    """Å."""
    activation: Literal["silu", "tanh", "ssp", "sigmoid"] = "tanh"
    """Activation function."""
    filter_grid: Annotated[int, Field(strict=True, ge=50)] | None = None
    """Distances that filters are interpolated from in training steps, such as 300: faster. null: exact."""

    @model_validator(mode="after")
    def _cutoffs(self) -> ModelConfig:
        if self.cutoff_lower >= self.cutoff_upper:
            raise ValueError(
                f"cutoff_lower {self.cutoff_lower} is not below cutoff_upper {self.cutoff_upper}"
            )
        return self


class Training(Section):
    """Force matching in TorchMD-Net, once a round."""

    mode: Literal["scratch", "finetune", "replay"] = "finetune"
    """scratch: new weights each round; finetune: go on from the last; replay: same, new frames weigh more."""
    replay_weight: Annotated[Number, Field(ge=1)] = 4.0
    """replay: how many times each frame of the newest round is seen for one of an older frame."""
    epochs: Count = 30
    """Epochs of the first training (and of each, with mode scratch)."""
    finetune_epochs: Count = 15
    """Epochs of each later round with finetune or replay."""
    batch_size: Count = 128
    """Frames a batch."""
    learning_rate: Annotated[Number, Field(gt=0, le=1)] = 1e-3
    """Start of the schedule."""
    finetune_learning_rate: Annotated[Number, Field(gt=0, le=1)] = 5e-4
    """Start of the schedule when fine-tuning."""
    validation_fraction: Fraction = 0.1
    """Share of the data, by correlated blocks, for validation."""
    model: ModelConfig = ModelConfig()
    priors: PriorConfig = PriorConfig()
    committee: Count = 1
    """Models trained each round with different seeds (2 or more for selector kind committee)."""
    torchmdnet: dict[str, Any] = Field(default_factory=dict)
    """Any other TorchMD-Net key, passed on as it is."""

    @model_validator(mode="after")
    def _refit(self) -> Training:
        if self.priors.refit and self.mode != "scratch":
            raise ValueError(f"priors.refit needs mode scratch, not {self.mode}: weights belong to one prior")
        return self


class Simulation(Section):
    """CG dynamics with the trained potential."""

    kind: Literal["openmm"] = "openmm"
    n_replicas: Count = 16
    """Independent replicas, packed in one System."""
    blocks: Count = 1
    """Systems that the replicas are divided into; with 2 or more they run as tasks of the executor."""
    steps: Count = 10000
    """Steps each."""
    timestep_fs: Annotated[Femtoseconds, Field(gt=0, le=50)] = 4.0
    """fs."""
    friction: Annotated[PerPicosecond, Field(gt=0)] = 1.0
    """1/ps."""
    report_interval: Count = 100
    """Steps between saved frames."""
    backend: Literal["auto", "torchforce", "pythontorch", "python", "fast"] = "auto"
    """How OpenMM calls the potential; auto: fast where numba is installed and it can, else TorchScript."""
    platform: Literal["Reference", "CPU", "CUDA", "OpenCL"] = "Reference"
    """OpenMM platform; Reference is the fastest on a CPU, CUDA wants many beads or replicas."""
    start: Literal["spread", "random"] = "spread"
    """Start frames from the training set: spread by farthest-point RMSD, or drawn at random."""

    @model_validator(mode="after")
    def _divides(self) -> Simulation:
        if self.n_replicas % self.blocks:
            raise ValueError(f"n_replicas {self.n_replicas} cannot be divided into {self.blocks} blocks")
        return self

    @model_validator(mode="after")
    def _engine(self) -> Simulation:
        if self.backend == "fast" and self.platform in ("CUDA", "OpenCL"):
            raise ValueError(
                f"backend fast computes on the CPU, and platform is {self.platform}: leave out one of them"
            )
        return self

    @model_validator(mode="after")
    def _reports(self) -> Simulation:
        if self.report_interval > self.steps:
            raise ValueError(
                f"report_interval {self.report_interval} exceeds steps {self.steps}: no frame saved"
            )
        return self


class _Selector(Section):
    n_select: Count = 16
    """Frames to label each round."""
    min_rmsd: Annotated[Angstrom, Field(ge=0)] = 0.0
    """Å; frames closer to the training set are covered already. 0: off."""
    max_rmsd: Annotated[Angstrom, Field(gt=0)] | None = 8.0
    """Å; frames farther away are taken for exploded. null: off."""

    @model_validator(mode="after")
    def _cuts(self) -> _Selector:
        if self.max_rmsd is not None and self.min_rmsd >= self.max_rmsd:
            raise ValueError(f"min_rmsd {self.min_rmsd} is not below max_rmsd {self.max_rmsd}")
        return self


class RMSDSelectorConfig(_Selector):
    """The frames that the training set covers least."""

    kind: Literal["rmsd"] = "rmsd"
    diverse: bool = Field(default=True, strict=True)
    """Spread the batch (greedy k-centre in RMSD)."""


class CoverageSelectorConfig(_Selector):
    """The frames that stand for most of what the training set does not cover."""

    kind: Literal["coverage"]
    min_rmsd: Annotated[Angstrom, Field(gt=0)] = 1.0
    """Å; a frame covers those within it."""


class RandomSelectorConfig(_Selector):
    """Frames drawn at random: the baseline."""

    kind: Literal["random"]


class CommitteeSelectorConfig(_Selector):
    """The frames on whose forces an ensemble of models disagrees most."""

    kind: Literal["committee"]
    diverse: bool = Field(default=True, strict=True)
    """Spread the batch among the frames of highest disagreement."""


class Evaluation(Section):
    """TICA and Wasserstein-1 against a reference."""

    reference: tuple[Path, ...] = ()
    """Reference trajectories (all-atom or CG; formats that mdtraj reads). Empty: no W1."""
    reference_topology: Path | None = None
    """Topology of the reference trajectories, where their format has none."""
    reference_interval_ps: Annotated[Picoseconds, Field(gt=0)] = 1.0
    """ps between frames of the reference."""
    lag_ps: Annotated[Picoseconds, Field(gt=0)] = 10.0
    """TICA lag time, ps."""
    reweight: bool = Field(default=False, strict=True)
    """Weigh the reference by a Markov state model, where its states are connected (short trajectories
    from many starts); else it stays unweighted, and the results say so."""
    msm_lag_ps: Annotated[Picoseconds, Field(gt=0)] = 50.0
    """Lag time of that model, ps."""


class Stopping(Section):
    """When to stop: whichever comes first."""

    rounds: CountOrZero = 2
    """Rounds of train, simulate, select, label; one more training follows on all the data. 0: one training
    on the seed data."""
    oracle_ns: Annotated[Nanoseconds, Field(gt=0)] | None = None
    """ns of all-atom MD in all, seed data included; the last round labels no more than is left."""
    coverage_plateau: Fraction | None = None
    """Stop when the mean nearest RMSD improved by less than this share in a round."""


OracleConfig = Annotated[OpenMMOracleConfig | CustomOracle, Field(discriminator="kind")]
SelectorConfig = Annotated[
    RMSDSelectorConfig
    | CoverageSelectorConfig
    | RandomSelectorConfig
    | CommitteeSelectorConfig
    | CustomComponent,
    Field(discriminator="kind"),
]
SamplerConfig = Annotated[Simulation | CustomComponent, Field(discriminator="kind")]


class Config(Section):
    """One active-learning run."""

    name: Annotated[str, Field(min_length=1, max_length=100)] = "run"
    """Title of the report."""
    seed: CountOrZero = 0
    """Root of every random stream."""
    system: System
    seed_data: SeedData = SeedData()
    oracle: OracleConfig = OpenMMOracleConfig()
    training: Training = Training()
    simulation: SamplerConfig = Simulation()
    selector: SelectorConfig = RMSDSelectorConfig()
    evaluation: Evaluation = Evaluation()
    refinement: Refinement | None = None
    """None: the final model is that of the last round."""
    stopping: Stopping = Stopping()
    executor: ExecutorConfig = LocalExecutor()

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaults = {"oracle": "openmm", "simulation": "openmm", "selector": "rmsd", "executor": "local"}
        kinds = {k: {"kind": v, **data[k]} for k, v in defaults.items() if isinstance(data.get(k), dict)}
        return {**data, **kinds}

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if isinstance(self.selector, CommitteeSelectorConfig) and self.training.committee < 2:
            raise ValueError("selector.kind committee needs training.committee of 2 or more")
        gpus = isinstance(self.executor, ParslExecutor) and self.executor.template == "slurm_gpu"
        if gpus and isinstance(self.oracle, OpenMMOracleConfig) and self.oracle.platform == "CPU":
            raise ValueError("executor.template slurm_gpu asks for GPUs: set oracle.platform to CUDA")
        return self

    @model_validator(mode="after")
    def _refinable(self) -> Config:
        if self.refinement is None:
            return self
        priors = self.training.priors
        if priors.file is None and (priors.method != "force_matching" or "pairs" not in priors.terms):
            raise ValueError(
                "refinement changes pair energies fitted to forces: set training.priors.method to "
                "force_matching and have pairs among training.priors.terms"
            )
        oracle = self.oracle
        if isinstance(oracle, OpenMMOracleConfig) and self.stopping.rounds > 0:
            free = (
                oracle.production_ps if oracle.mode == "free" and oracle.restraint == 0 else oracle.release_ps
            )
            if free <= self.refinement.lag_ps:
                raise ValueError(
                    f"refinement needs labels that move freely for longer than its lag_ps "
                    f"{self.refinement.lag_ps}, and these do for {free} ps: set oracle.mode free without "
                    "restraint, or steered with release_ps, or a longer production_ps"
                )
        return self

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, ready for YAML or JSON."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved configuration."""
        return hash_object(self.resolved())

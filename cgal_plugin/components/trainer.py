"""The default trainer: TorchMD-Net, with priors that are fitted once, or again in each round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.components.initial_model import InitialModel
from cgal_plugin.components.protocols import Progress, TrainedModel, TrainRequest
from cgal_plugin.components.store_priors import load_priors
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.data.sources import FrameTable, read_store
from cgal_plugin.errors import ConfigError, ExportError, StateError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.models.build import MODEL_NAME
from cgal_plugin.runs.layout import WORK
from cgal_plugin.runs.stage import MANIFEST

if TYPE_CHECKING:
    from cgal_plugin.priors import PriorSet

_PRIORS = "priors.yaml"
#: TorchMD-Net keys that the run sets, and what to use instead
_NOT_IN_A_RUN = {
    "dataset": "it trains on its own data store; remove the key",
    "dataset_root": "it trains on its own data store; use seed_data.store for existing data",
    "dataset_arg": "it trains on the shards of all rounds so far; remove the key",
    "splits": "the data grow in each round; use validation_fraction, or val_size and train_size",
    "prior_model": "use training.priors (with file for fitted priors)",
    "prior_args": "use training.priors (with file for fitted priors)",
    "temperature": "use system.temperature",
    "embedding": "use system.embedding",
}


class TorchMDNetTrainer:
    """Train ``model: cgschnet`` with the settings of the configuration."""

    def __init__(self, config: Config, device: str = "auto") -> None:
        self.config = config
        self.device = device
        self._prior_model: list[dict[str, Any]] | None = None
        self._seed_priors: PriorSet | None = None
        self._initial: InitialModel | None = None
        self._start: Path | None = None

    @property
    def _init(self) -> InitialModel | None:
        """The model of ``training.init``."""
        path = self.config.torchmdnet.init
        if self._initial is None and path is not None:
            self._initial = InitialModel(path)
        return self._initial

    @property
    def what_was_read(self) -> list[str]:
        """The model of ``training.init``, in one line."""
        return [] if self._init is None else [f"training starts from: {self._init.describe()}"]

    # ------------------------------------------------------------------ priors

    def check(self, topology: CGTopology) -> None:
        """Check the prior terms or their file, and the TorchMD-Net keys, before anything is run.

        Raises
        ------
        PriorFitError
            The molecule is too small for a term.
        ConfigError
            The file of priors is for another molecule or temperature, or lacks parameters. A key or value in
            ``training.torchmdnet`` is not allowed, the network cannot be built for the beads of the molecule,
            or it could not be exported.
        """
        from cgal_plugin.priors.fit_input import check_method, check_terms
        from cgal_plugin.priors.timestep import warn_of_timestep

        self._check_network(topology)
        warn_of_timestep(getattr(self.config.simulation, "timestep_fs", None), topology)
        if self._init is not None:
            self._init.check(topology, self.config.system.temperature)
            return
        priors = self.config.torchmdnet.priors
        path = priors.file
        if path is None and priors.terms:
            check_method(topology, priors.terms, priors.method)
            check_terms(topology, priors.terms)
        elif path is not None:
            from cgal_plugin.priors import PriorSet

            found = PriorSet.load(path).for_topology(
                topology, self.config.system.temperature, source=f"the priors in {path}"
            )
            asked = self.config.refinement is not None and "refinement" not in self.config.decided
            if asked and "pairs" not in found.terms:
                raise ConfigError(
                    f"refinement changes pair energies, and the priors in {path} have only "
                    f"{', '.join(found.terms)}: remove refinement, or use priors with pairs"
                )

    def _check_network(self, topology: CGTopology) -> None:
        from cgal_plugin.export.assemble import check_weights
        from cgal_plugin.models import model_parameters
        from cgal_plugin.models.build import parse_options
        from cgal_plugin.models.supported import try_model
        from cgal_plugin.training.settings import resolve

        training = self.config.torchmdnet
        keys = training.torchmdnet
        parse_options(keys.get("cgschnet"), training.model.embedding_dimension)
        for key, remedy in _NOT_IN_A_RUN.items():
            if key in keys:
                raise ConfigError(f"training.torchmdnet.{key} is set by the run: {remedy}")
        try:
            values = resolve(self._network())
            check_weights(model_parameters(try_model(values, topology)), topology)
        except (ConfigError, ExportError) as error:
            raise ConfigError(f"training: {error}") from error

    def prepare(self, store: DataStore, out_dir: Path) -> None:
        """Fit the priors to the seed data, or load the file of the configuration; then they are frozen.

        With ``training.init``, copy this file; its priors are used. With ``training.priors.refit``, these are
        for the first training; :meth:`train` fits the later ones.

        Raises
        ------
        PriorFitError
            There are too few frames.
        ConfigError
            The file is for another molecule or temperature, or lacks parameters of the molecule.
        StateError
            The frozen priors differ from the saved ones.
        """
        priors = self.config.torchmdnet.priors
        if self._init is not None:
            self._start = self._init.keep(out_dir)
            self._prior_model = self._init.prior_model
            return
        if not priors.terms and priors.file is None:
            self._prior_model = None
            return
        from cgal_plugin.priors import PriorSet
        from cgal_plugin.priors.plot import plot_priors
        from cgal_plugin.priors.timestep import warn_of_timestep

        path = out_dir / _PRIORS
        if not path.exists():
            if priors.file is not None:
                fitted = _for(PriorSet.load(priors.file), priors.file, store)
            else:
                seed = [n for n in store.names() if store.record(n)["source"] == "seed"]
                fitted = self._fit(read_store(store.root, seed, None))
            fitted.save(path)
        frozen = _for(load_priors(path), path, store)
        start = next(frames.positions[0] for _, frames in store)
        warn_of_timestep(getattr(self.config.simulation, "timestep_fs", None), store.topology, frozen, start)
        figure = out_dir / "priors.png"
        if not figure.exists() or not (out_dir / MANIFEST).exists():  # it may be damaged
            plot_priors(frozen, figure)
        self._seed_priors = frozen
        self._prior_model = frozen.to_prior_model()

    def _fit(self, frames: FrameTable) -> PriorSet:
        from cgal_plugin import register
        from cgal_plugin.priors import fit_priors

        register()  # before TorchMD-Net is imported: its import of Warp prints a banner
        priors = self.config.torchmdnet.priors
        assert frames.temperature is not None  # a data store has one
        return fit_priors(
            frames.topology,
            frames.positions,
            frames.temperature,
            terms=priors.terms,
            method=priors.method,
            forces=frames.forces,
            weights=frames.frame_weights(),
            pairs_per_type=priors.pairs_per_type,
        )

    def _priors_of(self, request: TrainRequest, frames: FrameTable) -> list[dict[str, Any]] | None:
        """Return the frozen priors; with ``refit``, those fitted to ``frames`` and kept in ``out_dir``."""
        if self._init is not None or not self.config.torchmdnet.priors.refit:
            return self._prior_model

        path = request.out_dir / _PRIORS
        if not path.exists():
            only_seed = set(frames.sources) == {"seed"}
            priors = self._seed_priors if only_seed else None
            (self._fit(frames) if priors is None else priors).save(path)
        return _for(load_priors(path), path, request.store).to_prior_model()

    # ------------------------------------------------------------------ training

    def train(self, request: TrainRequest, progress: Progress | None = None) -> TrainedModel:
        """Train one model, or the members of a committee, which run as tasks of the executor."""
        from cgal_plugin.training.committee import member_arguments, train_members

        settings = self.config.torchmdnet
        fresh = request.previous is None or settings.mode == "scratch"
        frames = self._frames(request)
        members = member_arguments(
            self.hparams(request, fresh, frames),
            request.out_dir,
            settings.committee,
            request.seed,
            self._starts(request) if fresh else self._members(request.previous),
            {
                "mode": self._first_mode if fresh else settings.mode,
                "replay_weight": settings.replay_weight,
                "newest": self._newest(request),
                "config_hash": self.config.hash,
                "device": "cpu" if self.device == "cpu" else "auto",
            },
        )
        first, *others = train_members(
            members,
            None if progress is None else lambda done, total, metrics: progress(done, total),
            executor=self.config.executor,
            folder=request.store.root.parent / WORK,
            names=[f"{request.out_dir.parent.name}_{m['out_dir'].name}" for m in members],
            frames=frames,
        )
        return TrainedModel(first.checkpoint, tuple(r.checkpoint for r in others), first.metrics)

    def _frames(self, request: TrainRequest) -> FrameTable | None:
        """Return the frames of a request in memory; None: the training reads them."""
        return read_store(request.store.root, request.shards, None)

    def _newest(self, request: TrainRequest) -> list[str] | None:
        return sorted({request.store.record(n)["source"] for n in request.new_shards}) or None

    @property
    def _first_mode(self) -> str:
        return "scratch" if self._init is None else "finetune"

    def _starts(self, request: TrainRequest) -> list[Path] | None:
        """Return the initial model of each member of a new training; None: random weights."""
        if self._init is None:
            return None
        start = self._start or self._init.path
        return [start] * self.config.torchmdnet.committee

    def _members(self, previous: TrainedModel | None) -> list[Path]:
        found = [] if previous is None else [previous.checkpoint, *previous.committee]
        wanted = self.config.torchmdnet.committee
        if len(found) < wanted:
            raise StateError(
                f"training.committee is {wanted}, but the last round trained {len(found)} models; a "
                "committee cannot grow during a run with mode finetune or replay: use mode scratch"
            )
        return found[:wanted]

    def hparams(self, request: TrainRequest, fresh: bool, frames: FrameTable | None = None) -> dict[str, Any]:
        """Return TorchMD-Net's keys for this request; fit the priors if they are fitted in each round."""
        frames = read_store(request.store.root, request.shards, None) if frames is None else frames
        repeat = dict(frames.weights)
        return {
            "prior_model": self._priors_of(request, frames),
            "dataset": "CGDataset",
            "dataset_root": str(request.store.root),
            "dataset_arg": {"shards": list(request.shards)} | ({"repeat": repeat} if repeat else {}),
            **self._keys(fresh),
        }

    def _keys(self, fresh: bool) -> dict[str, Any]:
        """Return the keys that do not depend on the data."""
        settings = self.config.torchmdnet
        return {
            "num_epochs": settings.epochs if fresh else settings.finetune_epochs,
            "batch_size": settings.batch_size,
            "lr": settings.learning_rate if fresh and not self._init else settings.finetune_learning_rate,
            "val_size": settings.validation_fraction,
            **({} if settings.weight_decay is None else {"weight_decay": settings.weight_decay}),
            **self._network(),
        }

    def _network(self) -> dict[str, Any]:
        """Return the keys of the network, and those of ``training.torchmdnet``."""
        settings = self.config.torchmdnet
        if self._init is not None:
            return self._init.complete(self._given(), "training: ")
        model, others = settings.model, dict(settings.torchmdnet)
        options = {"form": model.form, "filter_grid": model.filter_grid, **(others.pop("cgschnet", {}) or {})}
        kind = others.get("model", MODEL_NAME)
        if kind != MODEL_NAME:
            set_ = [k for k, v in options.items() if v not in (None, "majewski")]
            if set_:
                raise ConfigError(
                    f"training.torchmdnet.model is {kind}, which has no option {', '.join(set_)}: remove "
                    "this option, or the key model"
                )
            options = {}
        return {
            "model": MODEL_NAME,
            **({"cgschnet": options} if options else {}),
            "embedding_dimension": model.embedding_dimension,
            "num_layers": model.num_layers,
            "num_rbf": model.num_rbf,
            "cutoff_lower": model.cutoff_lower,
            "cutoff_upper": model.cutoff_upper,
            "activation": model.activation,
            **others,
        }

    def _given(self) -> dict[str, Any]:
        """Return the keys of the network that the configuration sets itself."""
        settings = self.config.torchmdnet
        model = {k: getattr(settings.model, k) for k in settings.model.model_fields_set}
        options = {k: model.pop(k) for k in ("form", "filter_grid") if k in model}
        others = dict(settings.torchmdnet)
        options |= others.pop("cgschnet", None) or {}
        return {**model, **others, **({"cgschnet": options} if options else {})}

    # ------------------------------------------------------------------ refinement

    def priors(self, train_folder: Path) -> PriorSet:
        """Return the priors of the model that was trained in a folder."""
        from cgal_plugin.priors import PriorSet

        path = train_folder / _PRIORS
        fitted = PriorSet.load(path) if path.exists() else self._seed_priors
        assert fitted is not None  # a configuration with a refinement has priors
        return fitted

    def with_priors(self, model: TrainedModel, priors: PriorSet, path: Path) -> TrainedModel:
        """Write the model (the first of a committee) with other priors to ``path``."""
        from cgal_plugin.training.replace_priors import replace_priors

        replace_priors(model.checkpoint, priors, path)
        return TrainedModel(path)

    def export(self, model: TrainedModel, topology: CGTopology, path: Path, n_replicas: int) -> None:
        """Write TorchScript for ``n_replicas`` replicas; where torch has none, the portable form."""
        from cgal_plugin.export import export_potential

        export_potential(
            model.checkpoint,
            topology,
            path,
            n_replicas=n_replicas,
            temperature=self.config.system.temperature,
            config_hash=self.config.hash,
        )


def _for(priors: PriorSet, path: Path, store: DataStore) -> PriorSet:
    """Return the priors of the molecule and temperature of the data; ``check`` has said what is assumed."""
    return priors.for_topology(store.topology, store.temperature, source=f"the priors in {path}", say=False)

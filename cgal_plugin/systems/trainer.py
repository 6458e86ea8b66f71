"""Train one potential on the data of several systems."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.components.protocols import Progress, TrainedModel, TrainRequest
from cgal_plugin.components.store_priors import load_priors
from cgal_plugin.components.trainer import TorchMDNetTrainer
from cgal_plugin.data import DataStore
from cgal_plugin.data.several import store_names
from cgal_plugin.data.sources import read_store
from cgal_plugin.errors import CGALError, ConfigError
from cgal_plugin.mapping.embedding import EMBEDDINGS
from cgal_plugin.runs.layout import seed_shards, shard_round
from cgal_plugin.training.prepare import trained_types

if TYPE_CHECKING:
    from cgal_plugin.data.sources import FrameTable
    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.priors import PriorSet

_PRIORS = "priors.yaml"


@dataclass(frozen=True)
class SystemData:
    """The data of one system for a training.

    Attributes
    ----------
    store
        Its frames.
    shards
        Those to train on.
    weight
        How often each frame counts, 1 or more.
    """

    store: DataStore
    shards: tuple[str, ...]
    weight: float = 1.0


class SharedTrainer(TorchMDNetTrainer):
    """Train ``model: cgschnet`` on several systems, with priors that they share."""

    _data: tuple[SystemData, ...] = ()

    def check_all(self, train: Mapping[str, CGTopology], test: Mapping[str, CGTopology]) -> None:
        """Check network, priors and bead types of all systems, before anything is run.

        Raises
        ------
        ConfigError
            A molecule has bead types or bridges that none to train on has; the file of priors or the initial
            model does not suit a molecule; the network cannot be built or exported; no molecule to train on
            has a prior term.
        """
        from cgal_plugin.priors.fit_input import check_method, complete_settings, missing_terms

        first = next(iter(train.values()))
        known = {name for topology in train.values() for name in topology.type_names}
        if self._init is not None:
            known |= set(trained_types(self._init.content) or ())
        bridged = any(len(topology.bridge_index) for topology in train.values())
        for name, topology in test.items():
            unknown = sorted(set(topology.type_names) - known)
            if unknown:
                raise ConfigError(
                    f"system {name!r} has {', '.join(unknown)}, which no system to train on has: the "
                    "potential would mean nothing there. Train on a molecule that has them"
                )
            if len(topology.bridge_index) and not bridged and self._init is None:
                raise ConfigError(
                    f"system {name!r} has disulfide bridges, and no system to train on has one: nothing "
                    "would hold them. Train on a molecule that has a bridge"
                )
        for name, topology in {**train, **test}.items():
            try:
                self._check_network(topology)
                if self._init is not None:
                    self._init.check(topology, self.config.system.temperature)
            except CGALError as error:
                raise ConfigError(f"system {name!r}: {error}") from error
        priors = self.config.torchmdnet.priors
        if self._init is not None or priors.file is not None or not priors.terms:
            return
        check_method(first, priors.terms, priors.method)
        excluded = complete_settings(first, priors.terms).exclude_bonds
        lacking = [set(missing_terms(t, priors.terms, excluded)) for t in train.values()]
        missing = [term for term in priors.terms if all(term in own for own in lacking)]
        if missing:
            raise ConfigError(
                f"no system to train on has {', no '.join(missing)}: remove them from training.priors.terms"
            )

    def prepare_shared(self, data: Sequence[SystemData], out_dir: Path) -> None:
        """Fit the priors to the seed data of all systems, or load the file of the configuration.

        Raises
        ------
        PriorFitError
            There are too few frames.
        ConfigError
            The file is for another temperature, or lacks parameters of a molecule.
        """
        self._data = tuple(data)
        priors = self.config.torchmdnet.priors
        if self._init is not None:
            self._start = self._init.keep(out_dir)
            self._prior_model = self._init.prior_model
            return
        if not priors.terms and priors.file is None:
            return
        from cgal_plugin.priors import PriorSet

        path = out_dir / _PRIORS
        if not path.exists():
            if priors.file is not None:
                fitted = PriorSet.load(priors.file)
            else:
                fitted = self._fit_shared(self._tables([seed_shards(d.store) for d in data]))
            fitted.save(path)
        self._seed_priors = load_priors(path)
        for d in data:
            where = f"the priors in {path}"
            self._seed_priors.for_topology(d.store.topology, d.store.temperature, source=where, say=False)
        self._prior_model = self._model_of(self._seed_priors)

    def _model_of(self, priors: PriorSet) -> list[dict[str, Any]]:
        """Return TorchMD-Net's ``prior_model``; rows have numbers if the embedding is the user's."""
        from cgal_plugin.priors.tables import rows_by_number

        model = priors.to_prior_model()
        topologies = [d.store.topology for d in self._data]
        if topologies[0].embedding not in EMBEDDINGS:
            for term in model:
                (arguments,) = term.values()
                arguments["table"] = rows_by_number(arguments["table"], topologies)
        return model

    def _tables(self, shards: Sequence[Sequence[str]]) -> tuple[FrameTable, ...]:
        """Return the frames of each system; those of several are on disk."""
        from cgal_plugin.data.flat import FlatFrames

        read = (read_store(d.store.root, own, None) for d, own in zip(self._data, shards, strict=True))
        return FlatFrames(read, self._data[0].store.root).tables

    def _fit_shared(self, tables: Sequence[FrameTable]) -> PriorSet:
        from cgal_plugin import register
        from cgal_plugin.priors import MoleculeFrames, fit_shared_priors

        register()  # before TorchMD-Net is imported: its import of Warp prints a banner
        priors = self.config.torchmdnet.priors
        molecules = [
            MoleculeFrames(t.topology, t.positions, t.forces, t.frame_weights() * d.weight)
            for t, d in zip(tables, self._data, strict=True)
        ]
        return fit_shared_priors(
            molecules,
            self._data[0].store.temperature,
            terms=priors.terms,
            method=priors.method,
            pairs_per_type=priors.pairs_per_type,
        )

    def train_shared(
        self,
        data: Sequence[SystemData],
        out_dir: Path,
        previous: TrainedModel | None,
        seed: int,
        progress: Progress | None = None,
    ) -> TrainedModel:
        """Train one model, or the members of a committee; a second call with the same arguments resumes.

        Parameters
        ----------
        data
            Data of each system.
        out_dir
            Folder for checkpoints.
        previous
            The model of the last round, or None.
        seed
            Seed of this training.
        """
        self._data = tuple(data)
        first = data[0]
        return self.train(TrainRequest(first.store, first.shards, (), out_dir, previous, seed), progress)

    def hparams(self, request: TrainRequest, fresh: bool, frames: FrameTable | None = None) -> dict[str, Any]:
        """Return TorchMD-Net's keys for the data of all systems; see the base class."""
        root = Path(os.path.commonpath([d.store.root.parent for d in self._data]))
        tables = self._tables([list(d.shards) for d in self._data])
        repeat = self._repeats(tables)
        return {
            "prior_model": self._shared_priors(tables, request.out_dir),
            "dataset": "CGDataset",
            "dataset_root": str(root),
            "dataset_arg": {
                "stores": [d.store.root.relative_to(root).as_posix() for d in self._data],
                "shards": [list(d.shards) for d in self._data],
                **({"repeat": repeat} if repeat else {}),
            },
            **self._keys(fresh),
        }

    def _frames(self, request: TrainRequest) -> FrameTable | None:
        return None

    def _shared_priors(self, tables: Sequence[FrameTable], out_dir: Path) -> list[dict[str, Any]] | None:
        """Return the frozen priors; with ``refit``, those fitted to the data of this round."""
        if self._init is not None or not self.config.torchmdnet.priors.refit:
            return self._prior_model
        path = out_dir / _PRIORS
        if not path.exists():
            only_seed = all(shard_round(name) < 0 for d in self._data for name in d.shards)
            known = self._seed_priors if only_seed else None
            (self._fit_shared(tables) if known is None else known).save(path)
        return self._model_of(load_priors(path))

    def _prefixes(self) -> list[str]:
        """Return what the names of the sources of each store begin with in a data set of several."""
        names = store_names([d.store.root for d in self._data])
        return [f"{name}/" if len(names) > 1 else "" for name in names]

    def _repeats(self, tables: Sequence[FrameTable]) -> dict[str, float]:
        """Return how often frames of each source count: weight of the system times that of the source."""
        found: dict[str, float] = {}
        for d, table, prefix in zip(self._data, tables, self._prefixes(), strict=True):
            found |= {prefix + s: table.weights.get(s, 1.0) * d.weight for s in table.sources}
        return {source: times for source, times in found.items() if times != 1.0}

    def _newest(self, request: TrainRequest) -> list[str] | None:
        """Return the sources of the newest labels; those of the seed data in the first round."""
        last = max(shard_round(name) for d in self._data for name in d.shards)
        newest = []
        for d, prefix in zip(self._data, self._prefixes(), strict=True):
            own = {str(d.store.record(n)["source"]) for n in d.shards if shard_round(n) == last}
            newest += [prefix + source for source in sorted(own)]
        return newest or None

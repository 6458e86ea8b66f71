"""The model that ``training.init`` names: a run keeps a copy of it and starts its training from there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cgal_plugin.errors import CGALError, ConfigError, DataError, StateError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.embedding import check_same_embedding
from cgal_plugin.provenance import atomic_path, hash_file
from cgal_plugin.training.initial import keys_from, network_keys
from cgal_plugin.training.prepare import checkpoint_embedding, checkpoint_temperature, read_checkpoint

_COPY = "init.ckpt"
_SHOWN = ("model", "embedding_dimension", "num_layers", "num_rbf", "cutoff_upper", "activation")


class InitialModel:
    """A checkpoint to start from.

    Parameters
    ----------
    path
        File that the configuration names.

    Raises
    ------
    ConfigError
        It is not a checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.content = read_checkpoint(path)
        except CGALError as error:
            raise ConfigError(f"training.init: {error}") from error
        self.hparams: dict[str, Any] = dict(self.content["hyper_parameters"])

    @property
    def prior_model(self) -> list[dict[str, Any]] | None:
        """The priors of the file, with all parameters, as the key ``prior_model``."""
        return self.hparams.get("prior_model") or None

    def describe(self) -> str:
        """Return file, network, priors and a temperature that is not recorded, in one line."""
        names = [next(iter(p)) if isinstance(p, dict) else str(p) for p in self.prior_model or []]
        keys = network_keys(self.hparams)
        sizes = ", ".join(f"{k} {keys[k]}" for k in _SHOWN if k in keys)
        known = checkpoint_temperature(self.content, self.path) is not None
        more = "" if known else "; its temperature is not recorded: that of the run is assumed"
        return f"{self.path} ({sizes}; priors {', '.join(names) or 'none'}{more})"

    def complete(self, given: dict[str, Any], section: str = "") -> dict[str, Any]:
        """Return keys of a training, completed by those of the file; see ``keys_from``."""
        return keys_from(given, self.hparams, self.path, section)

    def check(self, topology: CGTopology, temperature: float) -> None:
        """Check that the model is for these beads and this temperature, and can be exported.

        Raises
        ------
        ConfigError
            It is for another temperature, embedding or molecule.
        """
        from cgal_plugin.data.temperature import same_temperature
        from cgal_plugin.export.potential import potential_module
        from cgal_plugin.training import load_model

        name = f"training.init {self.path}"
        try:
            found = checkpoint_temperature(self.content, self.path)
            same_temperature(found, temperature, name, "system.temperature", DataError)
            own = checkpoint_embedding(self.content, self.path)
            check_same_embedding(own, topology.embedding, name, "system.embedding", DataError)
            model = load_model(self.path)
            model.cgal_types = None  # type: ignore[assignment]  # it is about to be trained on others
            potential_module(model, topology, verify=False)
        except CGALError as error:
            text = str(error)
            raise ConfigError(text if text.startswith(name) else f"{name}: {text}") from error

    def keep(self, folder: Path) -> Path:
        """Copy the file into a run, once; return the copy, from which the run trains.

        Raises
        ------
        StateError
            The run was started from another file.
        """
        copy = folder / _COPY
        if not copy.exists():
            folder.mkdir(parents=True, exist_ok=True)
            data = self.path.read_bytes()
            atomic_path(copy, lambda name: Path(name).write_bytes(data))
        elif hash_file(copy) != hash_file(self.path):
            raise StateError(
                f"{os.fspath(self.path)} is not the file that this run started from ({copy}): use another "
                "run directory"
            )
        return copy

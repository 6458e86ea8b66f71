"""Import trained models of other programs, with their priors, as checkpoints of this package."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import CGALError, CGALWarning, ConfigError
from cgal_plugin.mapping.embedding import CGAL, Embedding, resolve_embedding
from cgal_plugin.mapping.spec import FIVE_BEAD
from cgal_plugin.models.build import MODEL_NAME
from cgal_plugin.models.convert import from_mlcg, from_torchmdnet_gn, save_checkpoint
from cgal_plugin.models.inert_pickle import read_inert
from cgal_plugin.models.mlcg_files import MlcgFile, is_mlcg, parse_mlcg
from cgal_plugin.models.mlcg_molecule import molecule_of
from cgal_plugin.models.shared_numbers import renumbered
from cgal_plugin.priors.tables import FADE_NOTE
from cgal_plugin.provenance import hash_file

if TYPE_CHECKING:
    from torchmdnet.models.model import TorchMD_Net

    from cgal_plugin.mapping.topology import CGTopology
    from cgal_plugin.priors import PriorSet

#: below this the lengths of a file are in nm, Å
_LEAST_CUTOFF = 2.0


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A model of another program.

    Attributes
    ----------
    network
        Network, without priors.
    priors
        Its priors, or None.
    topology
        Molecule that the file was made for, or None.
    embedding, temperature
        Numbering of its bead types; temperature of the training data, K, or None if it is not known.
    facts
        What is recorded in the checkpoint: source, format, what is left out, ``energy_offset``, the constant
        (kcal/mol) to be added to energies for those of the other program.
    """

    network: TorchMD_Net
    priors: PriorSet | None
    topology: CGTopology | None
    embedding: Embedding
    temperature: float | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> list[str]:
        """Return what the model is, one line per part."""
        body: Any = self.network.representation_model
        lines = [f"network: {body!r}"]
        if self.priors is not None:
            lines.append(f"priors: {', '.join(self.priors.terms)}")
            lines += [f"note: {FADE_NOTE}"] * ("dihedrals" in self.priors.terms)
        if "energy_offset" in self.facts:
            lines.append(
                f"constant: {self.facts['energy_offset']:.6f} kcal/mol of the source's energy left out"
            )
        if "embedding_of_file" in self.facts:
            lines.append(f"bead types: those of {self.facts['embedding_of_file']}, renumbered by 'cgal'")
        molecule = "any" if self.topology is None else self.topology.sequence
        return [*lines, f"molecule: {molecule}; embedding: {self.embedding.name}"]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint for ``cgal export``, ``training.init`` and TorchMD-Net's ``load_model``."""
        known: dict[str, Any] = {"temperature": self.temperature}
        if self.topology is not None:
            known["topology"] = self.topology.to_dict()
        priors: dict[str, Any] = {}
        if self.priors is not None:
            model = self.priors.to_prior_model()
            priors = {"prior_model": model, "prior_args": [next(iter(p.values())) for p in model]}
        save_checkpoint(
            self.network,
            path,
            facts={**known, **self.facts, "mode": "imported"},
            embedding=self.embedding,
            temperature=self.temperature,
            **priors,
        )


def import_model(
    path: str | os.PathLike[str],
    *,
    embedding: str | os.PathLike[str] | Mapping[str, Any] | Embedding | None = None,
    topology: CGTopology | None = None,
    temperature: float | None = None,
    priors: PriorSet | None = None,
    hparams: Mapping[str, Any] | None = None,
    precision: int | None = None,
) -> ImportedModel:
    """Read a trained model of mlcg or TorchMD-Net; no code of the file is run, and mlcg is not needed.

    Read are mlcg's pair (model, configurations) of a simulation, its Lightning checkpoints and saved models
    (StandardSchNet, with bonds, angles, dihedrals and repulsion), checkpoints of TorchMD-Net's
    ``graph-network``, and state dicts of either network. Å and kcal/mol are assumed.

    Parameters
    ----------
    path
        File.
    embedding
        How its bead types are numbered: ``"mlcg-tk"``, ``"torchmd-cg"``, ... (see ``resolve_embedding``). No
        file says it. Default: that of ``topology``.
    topology
        Molecule; default: that of the configurations in the file, if they are CA beads.
    temperature
        Temperature of the training data, K. Default: that of the file, if it has one.
    priors
        Priors that the network was trained with, for a file without priors.
    hparams
        Values of a state dict that are not in it: ``cutoff_upper``, ``cutoff_lower``, ``activation``.
    precision
        32 or 64 bits of the network; default: as in the file.

    Raises
    ------
    ConfigError
        The file is damaged, names something that no model file contains, is of another kind of model or in
        other units, or an argument is missing or contradicts the file.
    """
    if precision not in (None, 32, 64):
        raise ConfigError(f"precision is {precision!r}; allowed are 32, 64 (bits)")
    name = os.fspath(path)
    content = read_inert(path, error=ConfigError)
    mlcg = is_mlcg(content)
    numbering = _embedding(embedding, topology, name)
    given = dict(hparams or {})
    facts: dict[str, Any] = {"source": {"file": Path(path).name, "sha256": hash_file(path)}}
    if mlcg:
        file = parse_mlcg(content, name)
        network = _mlcg_network(file, given, numbering)
        topology = molecule_of(file, numbering, topology)
        found, more = _mlcg_priors(file, topology, numbering, priors, temperature, facts["source"])
        facts |= {"format": "mlcg", "left_out": list(file.notes), **more}
    else:
        network, kind = _other_network(content, path, given, numbering)
        known = getattr(network, "cgal_hparams", {})
        temperature = _temperature(known, temperature, name)
        found, facts = priors, facts | {"format": kind, "left_out": []}
        if priors is not None and known.get("prior_model"):
            raise ConfigError(f"{name} has priors of its own; do not give others")
    if numbering.shares:
        facts["embedding_of_file"] = numbering.name
        numbering = FIVE_BEAD.embedding
    _check_units(network, name)
    _check_types(network, topology, name)
    if precision is not None:
        network = network.double() if precision == 64 else network.float()
        network.cgal_hparams = {**network.cgal_hparams, "precision": precision}
    if found is not None and topology is not None:
        found = found.for_topology(topology)
    _say(name, facts["left_out"], temperature, bare=mlcg and found is None)
    return ImportedModel(network, found, topology, numbering, temperature, facts)


def _embedding(value: Any, topology: CGTopology | None, name: str) -> Embedding:
    if value is None and topology is None:
        raise ConfigError(
            f"{name} does not say how its bead types are numbered: give the embedding, --embedding mlcg-tk "
            "(CA beads of mlcg-tk), mlcg-tk-5bead or torchmd-cg (AA2INT), or a table"
        )
    if value is None:
        assert topology is not None
        types = dict(zip(topology.type_names, topology.types.tolist(), strict=True))
        return Embedding(topology.embedding, types)
    found = resolve_embedding(value)
    own = CGAL if found.shares else found.name
    if topology is not None and topology.embedding != own:
        raise ConfigError(
            f"the topology has embedding {topology.embedding!r}, not {own!r}: give one of them, or "
            "use topology.with_embedding(...)"
        )
    return found


def _mlcg_network(file: MlcgFile, given: Mapping[str, Any], numbering: Embedding) -> TorchMD_Net:
    if file.state is None:
        raise ConfigError(
            f"{file.name} contains priors ({', '.join(file.parts)}) and no network: import them with "
            "`cgal import-priors`"
        )
    for key, value in given.items():
        if key in file.hparams and file.hparams[key] != value:
            raise ConfigError(f"{key} is {value!r}, but {file.name} has {file.hparams[key]!r}: leave it out")
    state = renumbered(file.state, numbering, file.name) if numbering.shares else file.state
    try:
        return from_mlcg(state, file.hparams)
    except ConfigError as error:
        raise ConfigError(f"{file.name}: {error}") from error


def _mlcg_priors(
    file: MlcgFile,
    topology: CGTopology | None,
    embedding: Embedding,
    given: PriorSet | None,
    temperature: float | None,
    source: Mapping[str, Any],
) -> tuple[PriorSet | None, dict[str, Any]]:
    """Return the priors and what is recorded about them."""
    from cgal_plugin.models.mlcg_energies import check_priors
    from cgal_plugin.priors.mlcg import priors_from_mlcg

    if not file.parts:
        return given, {}
    if given is not None:
        raise ConfigError(f"{file.name} has priors of its own ({', '.join(file.parts)}); do not give others")
    priors = priors_from_mlcg(file.parts, topology, embedding, temperature=temperature, source=source)
    if topology is None or not file.configurations:
        return priors, {}
    positions = np.stack([c.positions for c in file.configurations[:4]])
    types = np.array(embedding.numbers(topology.type_names)) if embedding.shares else topology.types
    offset = check_priors(priors.for_topology(topology), file.parts, topology, positions, file.name, types)
    return priors, {"energy_offset": offset}


def _other_network(
    content: Any, path: Any, given: Mapping[str, Any], numbering: Embedding
) -> tuple[TorchMD_Net, str]:
    """Return the network of a TorchMD-Net checkpoint or of a state dict, and what it was."""
    name = os.fspath(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise ConfigError(f"{name} contains {type(content).__name__}, neither a model nor a checkpoint")
    known = content.get("hyper_parameters") if state is not content else None
    kind = known.get("model") if isinstance(known, Mapping) else None
    if kind == MODEL_NAME:
        raise ConfigError(f"{name} is a checkpoint of this package already: use it as it is")
    try:
        if any("embedding_layer.weight" in str(k) for k in state):
            # configurations of mlcg are nested mappings
            configured = known if isinstance(known, Mapping) else {}
            weights = renumbered(state, numbering, name) if numbering.shares else dict(state)
            return from_mlcg(weights, {**configured, **given}), "mlcg state dict"
        numbering.one_to_one()
        return from_torchmdnet_gn(path, given), "TorchMD-Net graph-network"
    except CGALError as error:
        hint = (
            "; give them with --cutoff and --activation (in Python hparams)"
            if "hparams lack" in str(error)
            else ""
        )
        raise ConfigError(f"{name}: {error}{hint}") from error


def _temperature(known: Mapping[str, Any], given: float | None, name: str) -> float | None:
    from cgal_plugin.data.temperature import same_temperature

    found = known.get("temperature")
    return same_temperature(found, given, name, "the temperature given", ConfigError)


def _check_units(network: TorchMD_Net, name: str) -> None:
    body: Any = network.representation_model
    if body.cutoff_upper < _LEAST_CUTOFF:
        raise ConfigError(
            f"{name} has cutoff_upper {body.cutoff_upper:g}, which is no cutoff in Å: this package reads "
            "models in Å and kcal/mol; convert it before the import"
        )


def _check_types(network: TorchMD_Net, topology: CGTopology | None, name: str) -> None:
    body: Any = network.representation_model
    if topology is not None and int(topology.types.max()) >= body.max_z:
        raise ConfigError(
            f"{name} has an embedding of {body.max_z} bead types, but {topology!r} has types up to "
            f"{int(topology.types.max())}: it is not numbered by embedding {topology.embedding!r}"
        )


def _say(name: str, left_out: list[str], temperature: float | None, *, bare: bool) -> None:
    said = []
    if bare:
        said.append(
            "it has no priors, and mlcg trains networks on forces without those of their priors: give "
            "them with --priors (cgal import-priors), unless there were none"
        )
    if left_out:
        said.append(f"left out: {'; '.join(left_out)}")
    if temperature is None:
        said.append(
            "the temperature of its training data is not known: give --temperature, or give it to cgal "
            "export or cgal simulate"
        )
    if said:
        warnings.warn(f"{name}: {'. '.join(said)}", CGALWarning, stacklevel=3)

"""Export of a trained model to a file that needs only torch: TorchScript of plain aten operations."""

from __future__ import annotations

import copy
import json
import os
import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cgal_plugin.errors import CGALError, ExportError
from cgal_plugin.provenance import atomic_write, hash_object, versions

if TYPE_CHECKING:
    from torch import nn

    from cgal_plugin.mapping.topology import CGTopology

METADATA_FILE = "cgal.json"
FORMAT_VERSION = 1
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def export_torchscript(
    model_or_ckpt: nn.Module | str | os.PathLike[str],
    topology: CGTopology,
    path: str | os.PathLike[str],
    *,
    n_replicas: int = 1,
    dtype: str | None = None,
    temperature: float | None = None,
    config_hash: str = "",
    filters: str = "auto",
    tolerance: float = 1e-6,
    pairs: str = "auto",
    skin: float = 2.0,
) -> dict[str, Any]:
    """Write a model as a self-contained TorchScript file.

    The file's ``forward(positions (n_replicas·n_beads, 3) nm)`` returns the energy (kJ/mol, scalar)
    and the forces ``(n_replicas·n_beads, 3)`` in kJ/mol/nm, as ``TorchForce.setOutputsForces(True)``
    wants them; ``replica_energies(positions)`` the energy of each replica. It is checked against the
    model before it is written.

    Parameters
    ----------
    model_or_ckpt
        A ``TorchMD_Net`` with CGSchNet or TorchMD-Net's graph-network, or a checkpoint of one.
    topology
        Of one molecule.
    path
        File to write, usually ``*.pt``; atomically.
    n_replicas
        Copies of the molecule that one call evaluates.
    dtype
        ``"float32"``, ``"float64"``, or None for the model's own.
    temperature
        K, recorded in the metadata.
    config_hash
        Recorded in the metadata.
    filters
        ``"exact"`` computes filters by their MLP, ``"table"`` takes them from tables, which is faster.
        ``"auto"``: tables in float32, where their error is that of rounding, unless the model has a
        neighbour embedding or needs a larger table than there is.
    tolerance
        With tables: largest error of a force component, relative to the largest; checked against the
        exact network in float64 and recorded.
    pairs
        ``"dense"``: all pairs of a molecule; ``"list"``: those within the cutoff, from a neighbour list;
        ``"auto"``: the list for more than 30 beads. The same forces to rounding.
    skin
        Å; the list is made again when a bead has moved by half of it.

    Returns
    -------
    dict
        The metadata that went into the file.

    Raises
    ------
    ExportError
        The model cannot be exported or does not fit the topology, or an argument is not valid.
    """
    from cgal_plugin.export.tables import check_tolerance

    if isinstance(n_replicas, bool) or not isinstance(n_replicas, int | np.integer) or n_replicas < 1:
        raise ExportError(f"n_replicas is {n_replicas!r}; a positive integer is needed")
    if dtype is not None and dtype not in _DTYPES:
        raise ExportError(f"dtype {dtype!r} is not known; use 'float32', 'float64' or None")
    if filters not in ("auto", "exact", "table"):
        raise ExportError(f"filters {filters!r} are not known; use 'auto', 'exact' or 'table'")
    check_tolerance(tolerance)
    model = load_any(model_or_ckpt)
    potential = potential_module(
        model, topology, n_replicas=int(n_replicas), dtype=dtype, pairs=pairs, skin=skin
    )
    about = _tabulate(potential, model, topology, tolerance, filters)
    script = _script(potential)
    metadata = {
        "format": "cgal_plugin potential",
        "format_version": FORMAT_VERSION,
        "n_beads": topology.n_beads,
        "n_replicas": int(n_replicas),
        "topology": topology.to_dict(),
        "topology_hash": topology.hash,
        "types": topology.types.tolist(),
        "units": {"positions": "nm", "energy": "kJ/mol", "forces": "kJ/mol/nm"},
        "dtype": str(potential.unit.dtype).removeprefix("torch."),
        "periodic": False,
        "temperature": temperature,
        "config_hash": config_hash,
        "parameters_hash": _parameters_hash(potential),
        **about,
        "versions": versions(),
    }
    extra = {METADATA_FILE: json.dumps(metadata, sort_keys=True)}
    # not save(): the archive would have the temporary file's name, which differs between processes
    with atomic_write(path) as handle:
        handle.write(script.save_to_buffer(_extra_files=extra))
    return metadata


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata of an exported potential: beads, replicas, topology, units, versions, hashes.

    Raises
    ------
    ExportError
        The file is missing, or was not written by :func:`export_torchscript`.
    """
    if not Path(path).is_file():
        raise ExportError(f"potential {str(path)!r} does not exist")
    extra = {METADATA_FILE: ""}
    try:
        with warnings.catch_warnings():
            _ignore_deprecation()
            torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"{str(path)!r} is not a TorchScript file: {error}") from error
    if not extra[METADATA_FILE]:
        raise ExportError(
            f"{str(path)!r} has no {METADATA_FILE}: it was not written by cgal_plugin's export_torchscript"
        )
    return json.loads(extra[METADATA_FILE])


def potential_module(
    model: nn.Module,
    topology: CGTopology,
    *,
    n_replicas: int = 1,
    dtype: str | None = None,
    verify: bool = True,
    pairs: str = "auto",
    skin: float = 2.0,
) -> nn.Module:
    """The potential as a Python module, before scripting: what ``export_torchscript`` writes.

    The arguments and errors are those of :func:`export_torchscript`; the model is not changed.
    ``verify=False`` leaves out the comparison with the model, which takes memory for all pairs.
    """
    from cgal_plugin.export.assemble import build_potential
    from cgal_plugin.export.neighbors import check_skin
    from cgal_plugin.models import model_parameters

    if pairs not in ("auto", "dense", "list"):
        raise ExportError(f"pairs {pairs!r} are not known; use 'auto', 'dense' or 'list'")
    if not check_skin(skin):
        raise ExportError(f"skin is {skin!r}; a positive number of Å is needed (default 2)")
    if not hasattr(model, "representation_model"):
        raise ExportError(
            f"{type(model).__name__} cannot be exported; give one TorchMD_Net (of an ensemble, each member)"
        )
    own = next(iter(model.parameters())).dtype
    target = own if dtype is None else _DTYPES[dtype]
    if target not in _DTYPES.values():
        raise ExportError(f"models in {target} cannot be exported; use float32 or float64")
    model = prepare(model, target)
    try:
        weights = model_parameters(model)
    except CGALError as error:
        raise ExportError(str(error)) from error
    priors = [] if model.prior_model is None else list(model.prior_model)
    potential = build_potential(weights, priors, topology, n_replicas, target, pairs=pairs, skin=skin)
    potential = potential.to(target).eval()
    if verify:
        check_against_model(potential, model, topology)
    return potential


def prepare(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a model for evaluation on the CPU that returns energies only."""
    model = copy.deepcopy(model).to(device="cpu", dtype=dtype).eval()
    model.derivative = False
    return model


def _tabulate(
    potential: nn.Module, model: nn.Module, topology: CGTopology, tolerance: float, filters: str
) -> dict[str, Any]:
    """Put tables in the place of a potential's filters where wanted; what the metadata says of it."""
    from cgal_plugin.export.forms import ListPotential
    from cgal_plugin.export.tables import TableFilters, choose_table

    about: dict[str, Any] = {"pairs": "list" if isinstance(potential, ListPotential) else "dense"}
    if about["pairs"] == "list":
        about["skin"] = potential.neighbors.skin
    exact_is_meant = potential.unit.dtype == torch.float64 or potential.network.embedding is not None
    if filters == "exact" or (filters == "auto" and exact_is_meant):
        return {**about, "filters": "exact"}
    if potential.network.embedding is not None:
        raise ExportError("filters='table' does not go with a neighbour embedding; use filters='exact'")
    exact = potential_module(model, topology, dtype="float64", verify=False).network
    try:
        table, error = choose_table(exact, tolerance)
    except ExportError as reason:
        if filters == "table":
            raise
        return {**about, "filters": "exact", "no_table": str(reason)}
    potential.network.exact = potential.network.filters
    potential.network.filters = TableFilters(table, potential.unit.dtype)
    check_against_model(potential, prepare(model, potential.unit.dtype), topology)
    about |= {"filters": "table", "table_intervals": table.intervals}
    return {**about, "table_tolerance": tolerance, "table_error": error}


def load_any(model_or_ckpt: nn.Module | str | os.PathLike[str]) -> nn.Module:
    if isinstance(model_or_ckpt, torch.nn.Module):
        return model_or_ckpt
    if not Path(model_or_ckpt).is_file():
        raise ExportError(f"checkpoint {str(model_or_ckpt)!r} does not exist")
    from cgal_plugin.training import load_model

    try:
        return load_model(model_or_ckpt)
    except (CGALError, OSError, pickle.UnpicklingError, EOFError, RuntimeError, KeyError) as error:
        raise ExportError(f"checkpoint {str(model_or_ckpt)!r} cannot be loaded: {error}") from error


def _script(potential: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        _ignore_deprecation()
        return torch.jit.script(potential)


def _ignore_deprecation() -> None:
    # upstream deprecates TorchScript; openmm-torch's TorchForce still takes nothing else
    warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is deprecated.*")
    warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is not supported in Python 3\.14.*")


def _parameters_hash(potential: nn.Module) -> str:
    from cgal_plugin.provenance import hash_array

    state = potential.state_dict()
    return hash_object([list(state), hash_array(*(t.numpy() for t in state.values()))])


def check_against_model(potential: Any, model: nn.Module, topology: CGTopology) -> None:
    """Compare with the model on a stretched, jittered chain (few neighbours, so that no list overflows).

    Raises
    ------
    ExportError
        Energies or forces differ by more than rounding: the model computes something else than its
        parameters say, such as a subclass of CGSchNet with a forward of its own.
    """
    replicas, n = potential.n_replicas, topology.n_beads
    jitter = np.random.default_rng(0).normal(scale=0.7, size=(n, 3))
    one = jitter + np.arange(n)[:, None] * np.array([2.6, 1.4, 0.9])
    pos = torch.from_numpy(one - one.mean(0)).to(potential.unit.dtype)
    z = torch.from_numpy(np.array(topology.types, dtype=np.int64))
    with torch.enable_grad():
        positions = pos.clone().requires_grad_(True)
        energy = model(z, positions)[0]
        forces = -torch.autograd.grad(energy.sum(), positions)[0]
    energy = energy.detach()
    every, found = potential.evaluate((pos / potential.length).repeat(replicas, 1))
    tolerance = 1e-4 if pos.dtype == torch.float32 else 1e-8
    force_gap = float((found - forces).abs().max()) / (1.0 + float(forces.abs().max()))
    energy_gap = float((every - energy.sum()).abs().max()) / (1.0 + float(energy.abs().sum()))
    if not (force_gap < tolerance and energy_gap < tolerance):
        raise ExportError(
            f"the exported potential differs from the model by {energy_gap:.1e} in the energy and "
            f"{force_gap:.1e} in the forces (relative): {type(model.representation_model).__name__} computes "
            "something that its parameters do not tell"
        )

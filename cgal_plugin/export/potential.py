"""Export of a trained model to a file that needs only torch: TorchScript of plain aten operations."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from cgal_plugin.data.temperature import same_temperature
from cgal_plugin.errors import CGALError, ExportError
from cgal_plugin.export.script_file import METADATA_FILE, load_script, save_script
from cgal_plugin.mapping.embedding import check_same_embedding
from cgal_plugin.provenance import hash_array, hash_object, versions
from cgal_plugin.units import ANGSTROM_PER_NM, POTENTIAL_UNITS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from cgal_plugin.export.forms import Potential
    from cgal_plugin.mapping.topology import CGTopology

FORMAT_VERSION = 1
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@contextmanager
def differentiable() -> Iterator[None]:
    """Compute gradients, also inside ``torch.no_grad()`` and ``torch.inference_mode()`` of the caller."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@differentiable()
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

    ``forward(positions (n_replicas·n_beads, 3) nm)`` of the file returns the energy (kJ/mol, scalar) and the
    forces ``(n_replicas·n_beads, 3)`` in kJ/mol/nm, as ``TorchForce.setOutputsForces(True)`` expects;
    ``replica_energies(positions)`` returns the energy of each replica. The potential is compared with the
    model before it is written.

    Parameters
    ----------
    model_or_ckpt
        A ``TorchMD_Net`` with CGSchNet or TorchMD-Net's graph-network, or a checkpoint of one.
    topology
        Beads of one molecule.
    path
        Output file, usually ``*.pt``; written atomically.
    n_replicas
        Copies of the molecule that one call evaluates.
    dtype
        ``"float32"``, ``"float64"``, or None for the dtype of the model.
    temperature
        K, recorded in the metadata; default: that of the checkpoint, if it records one.
    config_hash
        Hash of the configuration, recorded in the metadata.
    filters
        ``"exact"`` evaluates the filter MLPs; ``"table"`` interpolates tables, which is faster. ``"auto"``
        uses tables in float32, where their error is similar to rounding, unless the model has a
        neighbour embedding or no table is accurate enough.
    tolerance
        With tables: largest error of a force component, relative to the largest component. The error is
        measured against the exact network in float64 and recorded.
    pairs
        ``"dense"``: all pairs of a molecule; ``"list"``: pairs within the cutoff, from a neighbour list;
        ``"auto"``: the list for more than 30 beads. The forces agree to rounding.
    skin
        Å; the list is rebuilt when a bead has moved by half the skin.

    Returns
    -------
    dict
        The metadata in the file.

    Raises
    ------
    ExportError
        The model cannot be exported, does not fit the topology or is for another temperature, or an argument
        is invalid.
    """
    from cgal_plugin.export.tables import check_tolerance

    if isinstance(n_replicas, bool) or not isinstance(n_replicas, int | np.integer) or n_replicas < 1:
        raise ExportError(f"n_replicas is {n_replicas!r}; it must be a positive integer")
    if dtype is not None and dtype not in _DTYPES:
        raise ExportError(f"unknown dtype {dtype!r}; use 'float32', 'float64' or None")
    if filters not in ("auto", "exact", "table"):
        raise ExportError(f"unknown filters {filters!r}; use 'auto', 'exact' or 'table'")
    check_tolerance(tolerance)
    model = load_any(model_or_ckpt)
    known: Any = getattr(model, "cgal_temperature", None)
    temperature = same_temperature(known, temperature, "the model", "the argument temperature", ExportError)
    potential = potential_module(
        model, topology, n_replicas=int(n_replicas), dtype=dtype, pairs=pairs, skin=skin
    )
    form = tabulate(potential, model, topology, tolerance, filters)
    metadata = {
        "format": "cgal_plugin potential",
        "format_version": FORMAT_VERSION,
        "n_beads": topology.n_beads,
        "n_replicas": int(n_replicas),
        "topology": topology.to_dict(),
        "topology_hash": topology.hash,
        "types": topology.types.tolist(),
        "embedding": topology.embedding,
        "units": dict(POTENTIAL_UNITS),
        "dtype": str(potential.unit.dtype).removeprefix("torch."),
        "periodic": False,
        "temperature": temperature,
        "config_hash": config_hash,
        "parameters_hash": _parameters_hash(potential),
        **form,
        "versions": versions(),
    }
    save_script(potential, path, metadata)
    return metadata


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of an exported potential: beads, replicas, topology, units, temperature, hashes.

    Raises
    ------
    ExportError
        The file is missing, damaged, or was not written by :func:`export_torchscript` or
        ``FastPotential.save``.
    """
    from cgal_plugin.export.fast_file import read_fast_metadata

    saved = read_fast_metadata(path) if Path(path).is_file() else None
    return load_exported(path)[1] if saved is None else saved


def load_exported(path: str | os.PathLike[str]) -> tuple[torch.jit.ScriptModule, dict[str, Any]]:
    """Return the module and the metadata of an exported potential; raises as :func:`load_metadata`."""
    if not Path(path).is_file():
        raise ExportError(f"potential {str(path)!r} does not exist")
    try:
        module, metadata = load_script(path)
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"{str(path)!r} is not a TorchScript file: {error}") from error
    if not metadata:
        raise ExportError(
            f"{str(path)!r} has no {METADATA_FILE}: it was not written by cgal_plugin's export_torchscript"
        )
    return module, metadata


@differentiable()
def potential_module(
    model: nn.Module,
    topology: CGTopology,
    *,
    n_replicas: int = 1,
    dtype: str | None = None,
    verify: bool = True,
    pairs: str = "auto",
    skin: float = 2.0,
) -> Potential:
    """Return the unscripted module that ``export_torchscript`` writes.

    Arguments and errors are those of :func:`export_torchscript`; the model is not changed.
    ``verify=False`` skips the comparison with the model, which needs memory for all pairs.
    """
    from cgal_plugin.export.assemble import build_potential
    from cgal_plugin.export.neighbors import check_skin
    from cgal_plugin.models import model_parameters

    if pairs not in ("auto", "dense", "list"):
        raise ExportError(f"unknown pairs {pairs!r}; use 'auto', 'dense' or 'list'")
    if not check_skin(skin):
        raise ExportError(f"skin is {skin!r}; it must be a positive number in Å (default 2)")
    known: Any = getattr(model, "cgal_embedding", None)
    check_same_embedding(known, topology.embedding, "the model", repr(topology), ExportError)
    if not hasattr(model, "representation_model"):
        raise ExportError(
            f"{type(model).__name__} cannot be exported; give one TorchMD_Net (for an ensemble, each member)"
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
    priors = list(cast("Iterable[object] | None", model.prior_model) or [])
    potential = build_potential(weights, priors, topology, n_replicas, target, pairs=pairs, skin=skin)
    potential = potential.to(target).eval()
    if verify:
        check_against_model(potential.evaluate, n_replicas, target, model, topology)
    return potential


def prepare(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model on the CPU that computes energies only."""
    copied: Any = copy.deepcopy(model).to(device="cpu", dtype=dtype).eval()
    copied.derivative = False
    return cast("nn.Module", copied)


def tabulate(
    potential: Potential, model: nn.Module, topology: CGTopology, tolerance: float, filters: str
) -> dict[str, Any]:
    """Replace the filters of a potential by tables if requested; return the metadata about its form."""
    from cgal_plugin.export.forms import ListPotential
    from cgal_plugin.export.probes import probe_frames
    from cgal_plugin.export.tables import TableFilters, choose_table

    form: dict[str, Any] = {"pairs": "dense"}
    if isinstance(potential, ListPotential):
        form = {"pairs": "list", "skin": potential.neighbors.skin}
    dtype, embedded = potential.unit.dtype, potential.network.embedding is not None
    if filters == "exact" or (filters == "auto" and (dtype == torch.float64 or embedded)):
        return {**form, "filters": "exact"}
    if embedded:
        raise ExportError("filters='table' does not support a neighbour embedding; use filters='exact'")
    exact = potential_module(model, topology, dtype="float64", verify=False)
    try:
        table, error = choose_table(exact.network, tolerance, probe_frames(exact, topology))
    except ExportError as reason:
        if filters == "table":
            raise
        return {**form, "filters": "exact", "no_table": str(reason)}
    network = potential.network
    network.exact = cast("Any", network.filters)
    network.filters = TableFilters(table, dtype)
    check_against_model(potential.evaluate, potential.n_replicas, dtype, prepare(model, dtype), topology)
    form |= {"filters": "table", "table_intervals": table.intervals}
    return {**form, "table_tolerance": tolerance, "table_error": error}


def load_any(model_or_ckpt: nn.Module | str | os.PathLike[str]) -> nn.Module:
    """Return a model, or load it from a checkpoint.

    Raises
    ------
    ExportError
        The checkpoint is missing or cannot be loaded.
    """
    if isinstance(model_or_ckpt, torch.nn.Module):
        return model_or_ckpt
    if not Path(model_or_ckpt).is_file():
        raise ExportError(f"checkpoint {str(model_or_ckpt)!r} does not exist")
    from cgal_plugin.training import load_model

    try:
        return load_model(model_or_ckpt)
    except (CGALError, OSError, pickle.UnpicklingError, EOFError, RuntimeError, KeyError) as error:
        raise ExportError(f"checkpoint {str(model_or_ckpt)!r} cannot be loaded: {error}") from error


def _parameters_hash(potential: nn.Module) -> str:
    state = potential.state_dict()
    return hash_object([list(state), hash_array(*(t.numpy() for t in state.values()))])


def _stretched(n: int) -> NDArray[np.float64]:
    """Return beads ``(n, 3)`` Å on a line; more than 256 on a wide helix, where float32 loses no digits."""
    step: NDArray[np.float64] = np.array([2.6, 1.4, 0.9])
    if n <= 256:
        return np.outer(np.arange(n), step)
    radius, rise = 120.0, 50.0
    angle = np.arange(n) * (np.linalg.norm(step) / radius)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), rise / (2.0 * np.pi) * angle], axis=1)


def check_against_model(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    n_replicas: int,
    dtype: torch.dtype,
    model: nn.Module,
    topology: CGTopology,
) -> None:
    """Compare a potential with its model on a stretched, jittered chain with few neighbours.

    Parameters
    ----------
    evaluate
        The potential: positions ``(n_replicas·N, 3)`` nm to energies ``(n_replicas,)`` kcal/mol and forces
        ``(n_replicas, N, 3)`` kcal/mol/Å.
    dtype
        Dtype of the potential and the model.

    Raises
    ------
    ExportError
        Energies or forces differ by more than rounding: the model does not compute what its parameters
        define, for example because a subclass of CGSchNet overrides ``forward``.
    """
    from cgal_plugin.export.assemble import index_tables

    n = topology.n_beads
    jitter = np.random.default_rng(0).normal(scale=0.7, size=(n, 3))
    one = jitter + _stretched(n)
    pos = torch.from_numpy(one - one.mean(0)).to(dtype)
    z = torch.from_numpy(np.array(topology.types, dtype=np.int64))
    with torch.enable_grad():
        positions = pos.clone().requires_grad_(True)
        # priors of a model for several molecules take their terms from the tables
        energy = model(z, positions, extra_args=index_tables(topology))[0]
        forces = -torch.autograd.grad(energy.sum(), positions)[0]
    energy = energy.detach()
    every, found = evaluate((pos / ANGSTROM_PER_NM).repeat(n_replicas, 1))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-8
    force_gap = float((found - forces).abs().max()) / (1.0 + float(forces.abs().max()))
    energy_gap = float((every - energy.sum()).abs().max()) / (1.0 + float(energy.abs().sum()))
    if not (force_gap < tolerance and energy_gap < tolerance):
        raise ExportError(
            f"the exported potential differs from the model by {energy_gap:.1e} in the energy and "
            f"{force_gap:.1e} in the forces (relative): {type(model.representation_model).__name__} does not "
            "compute what its parameters define"
        )

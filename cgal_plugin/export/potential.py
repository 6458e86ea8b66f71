"""Export of a trained model to a file that needs only torch: TorchScript, or the portable form."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from cgal_plugin.data.temperature import same_temperature
from cgal_plugin.errors import CGALError, CGALWarning, ExportError
from cgal_plugin.export.loading import differentiable, load_exported, load_metadata
from cgal_plugin.export.model_check import check_against_model, prepare
from cgal_plugin.export.portable import save_portable
from cgal_plugin.export.script_check import script_available
from cgal_plugin.export.script_file import save_script
from cgal_plugin.mapping.embedding import check_same_embedding
from cgal_plugin.provenance import hash_array, hash_object, versions
from cgal_plugin.units import POTENTIAL_UNITS

if TYPE_CHECKING:
    from torch import nn

    from cgal_plugin.export.forms import Potential
    from cgal_plugin.export.tables import FilterTable
    from cgal_plugin.mapping.topology import CGTopology

__all__ = ["export_potential", "export_torchscript", "load_exported", "load_metadata", "potential_module"]

FORMAT_VERSION = 1
#: forms of a file; "auto" goes by the suffix
FORMATS = ("auto", "portable", "torchscript")
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def export_torchscript(
    model_or_ckpt: nn.Module | str | os.PathLike[str],
    topology: CGTopology,
    path: str | os.PathLike[str],
    **options: Any,
) -> dict[str, Any]:
    """Write a model as a TorchScript file; see :func:`export_potential`, which takes the same options."""
    return export_potential(model_or_ckpt, topology, path, form="torchscript", **options)


@differentiable()
def export_potential(
    model_or_ckpt: nn.Module | str | os.PathLike[str],
    topology: CGTopology,
    path: str | os.PathLike[str],
    *,
    form: str = "auto",
    n_replicas: int = 1,
    dtype: str | None = None,
    temperature: float | None = None,
    config_hash: str = "",
    filters: str = "auto",
    tolerance: float = 1e-6,
    pairs: str = "auto",
    skin: float = 2.0,
) -> dict[str, Any]:
    """Write a model as a self-contained file. The potential is compared with the model before it is written.

    A TorchScript file is for TorchForce and other programs: its ``forward(positions (n_replicas·n_beads, 3)
    nm)`` returns the energy (kJ/mol, scalar) and the forces ``(n_replicas·n_beads, 3)`` in kJ/mol/nm, as
    ``TorchForce.setOutputsForces(True)`` expects; ``replica_energies(positions)`` returns the energy of each
    replica. A portable file has no code or pickle: all other backends read it without TorchMD-Net, for any
    number of replicas. Both give the same energies and forces.

    Parameters
    ----------
    model_or_ckpt
        A ``TorchMD_Net`` with CGSchNet or TorchMD-Net's graph-network, or a checkpoint of one.
    topology
        Beads of one molecule.
    path
        Output file, usually ``*.pt`` or ``*.npz``; written atomically.
    form
        ``"torchscript"``, ``"portable"``, or ``"auto"``: portable for the suffix ``.npz``, TorchScript for
        others. Where torch has no TorchScript, ``"auto"`` writes the portable form and warns.
    n_replicas
        Copies of the molecule that one call of a TorchScript file evaluates.
    dtype
        ``"float32"``, ``"float64"``, or None for the dtype of the model.
    temperature
        K, recorded in the metadata; default: that of the checkpoint, if it records one.
    config_hash
        Hash of the configuration, recorded in the metadata.
    filters
        ``"exact"`` evaluates the filter MLPs; ``"table"`` interpolates tables, which is faster. ``"auto"``
        uses tables in float32, where their error is similar to rounding, unless the model has a
        neighbour embedding or no table is accurate enough. A portable file has tables for the compiled
        engines in any case, if they can be made.
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
        The model cannot be exported, does not fit the topology or is for another temperature, an argument
        is invalid, or torch has no TorchScript.
    """
    from cgal_plugin.export.tables import check_tolerance

    form = resolve_form(form, path)
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
    numbers, table = tabulate(potential, model, topology, tolerance, filters, always=form == "portable")
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
        **numbers,
        "versions": versions(),
    }
    if form == "portable":
        return save_portable(potential, path, metadata, table)
    save_script(potential, path, metadata)
    return metadata


def resolve_form(form: str, path: str | os.PathLike[str]) -> str:
    """Return ``"portable"`` or ``"torchscript"`` for the argument ``form`` of :func:`export_potential`.

    Raises
    ------
    ExportError
        The form is unknown, or torch has no TorchScript.
    """
    if form not in FORMATS:
        raise ExportError(f"unknown form {form!r} of a potential; use one of {', '.join(map(repr, FORMATS))}")
    if form == "portable" or (form == "auto" and os.fspath(path).endswith(".npz")):
        return "portable"
    if script_available():
        return "torchscript"
    reason = f"torch {torch.__version__} has no TorchScript"
    if form == "torchscript":
        raise ExportError(f"{reason}: write the portable form (suffix .npz), or install an earlier torch")
    warnings.warn(f"{reason}: {os.fspath(path)} is written in the portable form", CGALWarning, stacklevel=3)
    return "portable"


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
    """Return the unscripted module that :func:`export_potential` writes.

    Arguments and errors are those of :func:`export_potential`; the model is not changed.
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
    trained: Any = getattr(model, "cgal_types", None)
    unknown = sorted(set(topology.type_names) - set(trained)) if trained is not None else []
    if unknown:
        raise ExportError(
            f"the model was trained on no {', '.join(unknown)}, which {topology!r} has: its energies of "
            "these beads mean nothing. Train on a molecule that has them, or choose another sequence"
        )
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


def tabulate(
    potential: Potential,
    model: nn.Module,
    topology: CGTopology,
    tolerance: float,
    filters: str,
    *,
    always: bool = False,
) -> tuple[dict[str, Any], tuple[FilterTable, float] | None]:
    """Replace the filters of a potential by tables if requested.

    Returns the metadata about its form, and the table with its force error if one was made; ``always``: also
    for a potential that does not use it.
    """
    from cgal_plugin.export.forms import ListPotential
    from cgal_plugin.export.probes import probe_frames
    from cgal_plugin.export.tables import TableFilters, choose_table

    form: dict[str, Any] = {"pairs": "dense"}
    if isinstance(potential, ListPotential):
        form = {"pairs": "list", "skin": potential.neighbors.skin}
    dtype, embedded = potential.unit.dtype, potential.network.embedding is not None
    exact_only = filters == "exact" or (filters == "auto" and (dtype == torch.float64 or embedded))
    if embedded and not exact_only:
        raise ExportError("filters='table' does not support a neighbour embedding; use filters='exact'")
    if embedded or (exact_only and not always):
        return {**form, "filters": "exact"}, None
    exact = potential_module(model, topology, dtype="float64", verify=False)
    try:
        table, error = choose_table(exact.network, tolerance, probe_frames(exact, topology))
    except ExportError as reason:
        if filters == "table":
            raise
        return {**form, "filters": "exact", "no_table": str(reason)}, None
    found = {"table_intervals": table.intervals, "table_tolerance": tolerance, "table_error": error}
    if exact_only:
        return {**form, "filters": "exact", **found}, (table, error)
    network = potential.network
    network.exact = cast("Any", network.filters)
    network.filters = TableFilters(table, dtype)
    check_against_model(potential.evaluate, potential.n_replicas, dtype, prepare(model, dtype), topology)
    return {**form, "filters": "table", **found}, (table, error)


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

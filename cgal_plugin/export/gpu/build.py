"""Build a GPU potential from a model or a file, and compare it with the exact one on its device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ExportError
from cgal_plugin.export.engine_source import engine_metadata, source_of_model
from cgal_plugin.export.gpu.arrays import cubic, network_arrays
from cgal_plugin.export.gpu.device import find_device
from cgal_plugin.export.gpu.pairs import MAX_BEADS, MAX_INTERVALS
from cgal_plugin.export.loading import differentiable, load_for_engine
from cgal_plugin.export.model_check import check_engine_against_model, stretched_chain
from cgal_plugin.export.probes import probe_frames
from cgal_plugin.export.tables import choose_table, exact_filters, reference_forces, relative_error
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

#: largest accepted force error of table and rounding together, relative to the largest component
LARGEST_ERROR = 1e-4
_UNIT = KJ_PER_KCAL * ANGSTROM_PER_NM


def from_model(
    cls: Any,
    model_or_ckpt: nn.Module | str | os.PathLike[str],
    topology: CGTopology,
    n_replicas: int,
    tolerance: float,
    device: str | None,
    skin: float,
) -> Any:
    """See :meth:`GPUPotential.from_model`."""
    find_device(device)
    with differentiable():
        model, potential, described = source_of_model(model_or_ckpt, topology)
        found = _build(cls, potential, described, n_replicas, tolerance, device, skin)
        check_engine_against_model(found.with_replicas(1), model, topology)
    return found


def from_file(
    cls: Any,
    path: str | os.PathLike[str],
    n_replicas: int | None,
    tolerance: float,
    device: str | None,
    skin: float,
) -> Any:
    """See :meth:`GPUPotential.from_file`."""
    find_device(device)
    potential, described, _ = load_for_engine(path)  # the engine makes tables of its own form
    count = int(described.get("n_replicas", 1)) if n_replicas is None else n_replicas
    with differentiable():
        found = _build(cls, potential, described, count, tolerance, device, skin)
        _check_potential(found, potential)
    return found


def _build(
    cls: Any,
    potential: Any,
    described: dict[str, Any],
    n_replicas: int,
    tolerance: float,
    device: str | None,
    skin: float,
) -> Any:
    network = potential.network
    if getattr(network, "embedding", None) is not None:
        raise ExportError(
            "the GPU engine does not support a neighbour embedding; use backend 'python' or 'torchforce'"
        )
    if network.n_beads > MAX_BEADS:
        raise ExportError(f"the GPU engine supports molecules of at most {MAX_BEADS} beads")
    frames = probe_frames(potential, CGTopology.from_dict(described["topology"]))
    table, table_error = choose_table(network, tolerance, frames, cubic)
    if table.intervals > MAX_INTERVALS:
        raise ExportError(f"the GPU engine supports tables of at most {MAX_INTERVALS} intervals")
    metadata = {
        **engine_metadata(described, n_replicas, table, tolerance, table_error),
        "format": "cgal_plugin GPU potential",
    }
    error = _check_network(
        cls, network, network_arrays(potential, table, frames.shape[1]), metadata, frames, device
    )
    if not error < max(LARGEST_ERROR, 2.0 * tolerance):
        raise ExportError(
            f"the GPU engine on {device or 'cuda'} differs from the exact network by {error:.1e} of the "
            f"largest force, more than {max(LARGEST_ERROR, 2.0 * tolerance):.1e}; use backend 'fast' or "
            "'python'"
        )
    arrays = network_arrays(potential, table)
    return cls(arrays, {**metadata, "engine_error": error}, n_replicas, device=device, skin=skin)


def _check_network(
    cls: Any,
    network: Any,
    arrays: Any,
    metadata: dict[str, Any],
    frames: NDArray[np.float64],
    device: str | None,
) -> float:
    """Return the largest relative force error on probe frames against the exact float64 network.

    Both forms of the matrix products are checked: one frame at a time, and all frames many times over.
    """
    exact = [reference_forces(network, exact_filters(network), frame) for frame in frames]
    one = cls(arrays, metadata, 1, device=device)
    found = [one(frame / ANGSTROM_PER_NM)[1] for frame in frames]
    copies = -(-320 // (len(frames) * frames.shape[1])) * len(frames)
    many = cls(arrays, metadata, copies, device=device)
    repeated = np.resize(frames, (copies, *frames.shape[1:])).reshape(-1, 3)
    together = many(repeated / ANGSTROM_PER_NM)[1].reshape(copies, -1, 3)
    errors = [relative_error(f / _UNIT, e) for f, e in zip(found, exact, strict=True)]
    errors += [relative_error(f / _UNIT, exact[k % len(exact)]) for k, f in enumerate(together)]
    return float(np.max(errors))


def _check_potential(gpu: Any, potential: Any) -> None:
    """Compare with the potential of a file, priors included, on a stretched, jittered chain.

    Raises
    ------
    ExportError
        Energies or forces differ by more than the table allows.
    """
    import torch

    # the module was read for this build: it may become that of one replica
    potential.n_replicas, potential.n_atoms = 1, gpu.n_beads
    frame = stretched_chain(gpu.n_beads) / ANGSTROM_PER_NM
    energy, forces = potential(torch.from_numpy(frame))
    e, f = gpu.with_replicas(1)(frame)
    force_error = relative_error(f, forces.detach().numpy())
    energy_error = abs(e - float(energy)) / (KJ_PER_KCAL + abs(float(energy)))
    if not max(force_error, energy_error) < LARGEST_ERROR:
        raise ExportError(
            f"the GPU engine on {gpu.device} differs from the file's potential, priors included, by "
            f"{energy_error:.1e} in the energy and {force_error:.1e} in the forces (relative); use backend "
            "'fast' or 'python'"
        )

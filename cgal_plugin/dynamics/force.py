"""An exported potential as an OpenMM Force, for several backends."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.dynamics.fast_force import FastForce
from cgal_plugin.dynamics.potential_metadata import check_metadata, is_portable, only_fast, read_metadata
from cgal_plugin.dynamics.torch_force import make_torch_force
from cgal_plugin.errors import DynamicsError, ExportError

if TYPE_CHECKING:
    import openmm
    from torch import Tensor

    from cgal_plugin.mapping import CGTopology

#: names of the backends; ``"auto"`` chooses the first or the third
BACKENDS = ("torchforce", "pythontorch", "python", "fast", "cpu", "gpu")
#: those of the compiled CPU engine
FAST_BACKENDS = ("fast", "cpu")
_INSTALL = 'pip install "cgal_plugin[openmm-torch]" (CPU), or the extra cuda12 or cuda13 (GPU)'
#: openmm-torch crashes inside getState with torch 2.13
_TORCH_BELOW = (2, 13)


class ScriptedPotential:
    """A TorchScript or portable potential as a callable for PythonForce and PythonTorchForce.

    Pickling stores the path, so a System that contains it can be serialised. ``n_replicas`` is for a
    portable file; that of a TorchScript file is fixed.
    """

    #: also of objects that were pickled before there were portable files
    n_replicas = 1

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu", n_replicas: int = 1) -> None:
        self.path = str(Path(path).resolve())
        self.device = device
        self.n_replicas = n_replicas
        self._module: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "device": self.device, "n_replicas": self.n_replicas, "_module": None}

    def load(self) -> Any:
        """Return the module of the file, read once.

        Raises
        ------
        ExportError
            The file cannot be read.
        """
        if self._module is None:
            from cgal_plugin.export.portable import is_portable_file, load_portable
            from cgal_plugin.export.script_file import load_script

            if is_portable_file(self.path):
                self._module = load_portable(self.path, self.n_replicas)[0].to(self.device)
            else:
                self._module = load_script(self.path, self.device)[0].eval()
        return self._module

    def _evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = self.load()(positions)
        return energy.detach(), forces.detach()

    def __call__(self, state: Any, positions: Tensor | None = None) -> tuple[Any, Any]:
        """Return energy (kJ/mol) and forces (kJ/mol/nm): tensors for tensor positions, else for a State."""
        import torch

        if positions is not None:
            # PythonTorchForce: tensors on the device of the platform, which expects the forces there
            if str(positions.device) != self.device:
                self.device = str(positions.device)
                self._module = None
            return self._evaluate(positions)
        # _value is the array in nm; a unit conversion would copy it at every step
        energy, forces = self._evaluate(
            torch.from_numpy(state.getPositions(asNumpy=True)._value).to(self.device)
        )
        return float(energy), forces.to("cpu", torch.float64).numpy()


def _import_openmmtorch() -> Any:
    # the import prints a deprecation notice of simtk to stderr
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            import openmmtorch
        except ImportError as error:
            raise DynamicsError(f"openmm-torch cannot be imported ({error}); {_INSTALL}") from error
    return openmmtorch


def _torch_allowed() -> bool:
    import torch

    return tuple(int(part) for part in torch.__version__.split(".")[:2]) < _TORCH_BELOW


def resolve_backend(backend: str = "auto") -> str:
    """Return the backend for ``backend`` on this machine.

    * ``"torchforce"``: TorchForce of openmm-torch with the exported file
    * ``"pythontorch"``: PythonTorchForce of openmm-torch, in versions that have it
    * ``"python"``: PythonForce of OpenMM
    * ``"fast"``: the compiled CPU engine (:class:`cgal_plugin.export.fast.FastPotential`) in a PythonForce
    * ``"cpu"``: the same engine in a loop of its own, without OpenMM; for ``simulate`` only
    * ``"gpu"``: the GPU engine (:class:`cgal_plugin.export.gpu.GPUPotential`) in a PythonForce
    * ``"auto"``: TorchForce if openmm-torch can be imported and torch is below 2.13, otherwise ``"python"``

    Raises
    ------
    DynamicsError
        The backend is unknown or not installed.
    """
    if backend == "auto":
        usable = importlib.util.find_spec("openmmtorch") is not None and _torch_allowed()
        if usable:
            try:
                _import_openmmtorch()
            except DynamicsError:
                # built for another torch or CUDA; the fallback gives the same results
                usable = False
        return "torchforce" if usable else "python"
    if backend not in BACKENDS:
        raise DynamicsError(f"unknown backend {backend!r}; use 'auto' or one of {', '.join(BACKENDS)}")
    if backend in ("python", "gpu"):
        return backend  # find_device says whether there is a GPU
    if backend in FAST_BACKENDS:
        if importlib.util.find_spec("numba") is None:
            raise DynamicsError(f'backend {backend!r} needs numba: pip install "cgal_plugin[fast]"')
        return backend
    if importlib.util.find_spec("openmmtorch") is None:
        raise DynamicsError(f"backend {backend!r} needs openmm-torch: {_INSTALL}; or use backend 'python'")
    if not _torch_allowed():
        import torch

        raise DynamicsError(
            f"backend {backend!r} crashes with torch {torch.__version__}: "
            f"install torch below {'.'.join(map(str, _TORCH_BELOW))}, or use backend 'python'"
        )
    plugin = _import_openmmtorch()
    if backend == "pythontorch" and not hasattr(plugin, "PythonTorchForce"):
        raise DynamicsError(
            "backend 'pythontorch' needs an openmm-torch version with PythonTorchForce; "
            "use 'torchforce' or 'python'"
        )
    return backend


def resolve_for_file(backend: str, metadata: dict[str, Any], potential: str | os.PathLike[str]) -> str:
    """Return :func:`resolve_backend` for a file with these metadata.

    Raises
    ------
    DynamicsError
        The backend is unknown or not installed, or does not read a file of this form.
    """
    if backend == "auto" and is_portable(metadata):
        return "python"
    chosen = resolve_backend(backend)
    name = os.fspath(potential)
    if only_fast(metadata) and chosen not in FAST_BACKENDS:
        raise DynamicsError(f"potential {name!r} was written by FastPotential.save; use backend 'fast'")
    if is_portable(metadata) and chosen == "torchforce":
        raise DynamicsError(
            f"potential {name!r} has the portable form, but TorchForce reads TorchScript only: use backend "
            "'python' or 'fast', or export it with `cgal export --format torchscript`"
        )
    return chosen


def _check_script(path: str) -> None:
    from cgal_plugin.export.portable import is_portable_file
    from cgal_plugin.export.script_check import check_script

    try:
        if not is_portable_file(path):
            check_script(path)
    except ExportError as error:
        raise DynamicsError(str(error)) from error


def add_potential(
    system: openmm.System,
    potential: str | os.PathLike[str],
    topology: CGTopology,
    *,
    backend: str = "auto",
    n_replicas: int = 1,
    device: str | None = None,
    n_threads: int = 1,
) -> openmm.Force:
    """Add an exported potential to ``system``; all backends give the same energies and forces.

    Parameters
    ----------
    system
        ``n_replicas * n_beads`` particles, replica after replica (see :func:`build_system`).
    potential
        File of ``export_potential``: portable, or TorchScript whose ``forward(positions (n_replicas *
        n_beads, 3) nm)`` returns the energy in kJ/mol and the forces in kJ/mol/nm.
    backend
        See :func:`resolve_backend`.
    device
        Device of ``python`` (default ``"cpu"``) and ``gpu`` (default ``"cuda"``, the first visible GPU; or
        ``"cpu"``); TorchForce and PythonTorchForce use that of the OpenMM platform.
    n_threads
        Largest number of threads of the ``fast`` backend; results do not depend on it.

    Returns
    -------
    openmm.Force
        The added force.

    Raises
    ------
    DynamicsError
        The backend is missing, or the potential is damaged or does not fit the topology or the System.
    """
    if backend != "auto":
        resolve_backend(backend)  # that it is missing is said before anything about the file
    metadata = read_metadata(potential)
    chosen = resolve_for_file(backend, metadata, potential)
    if chosen == "cpu":
        raise DynamicsError("backend 'cpu' is dynamics without OpenMM; in an OpenMM System, use 'fast'")
    if chosen in ("fast", "gpu"):
        # the engines evaluate any number of replicas
        metadata = {key: value for key, value in metadata.items() if key != "n_replicas"}
    check_metadata(metadata, potential, topology, n_replicas)
    if system.getNumParticles() != n_replicas * topology.n_beads:
        raise DynamicsError(
            f"the System has {system.getNumParticles()} particles; {n_replicas} replica(s) of "
            f"{topology.n_beads} beads need {n_replicas * topology.n_beads}"
        )
    force = make_force(potential, backend=chosen, device=device, n_replicas=n_replicas, n_threads=n_threads)
    system.addForce(force)
    return force


def make_force(
    potential: str | os.PathLike[str],
    *,
    backend: str,
    device: str | None = None,
    particles: Any = None,
    n_replicas: int | None = None,
    n_threads: int = 1,
) -> openmm.Force:
    """Return the Force of a potential, for a backend from :func:`resolve_backend`.

    Parameters
    ----------
    particles
        Indices of the particles on which the potential acts; default: all. Not supported by TorchForce.
    n_replicas
        Number of replicas for ``fast``, ``gpu`` and a portable file; default: that of the file, or 1.
    n_threads
        Largest number of threads of the fast engine.

    Raises
    ------
    DynamicsError
        ``particles`` were given for TorchForce, the file is damaged, the engine cannot use it, or ``gpu``
        does not run on ``device``.
    """
    path = str(Path(potential).resolve())
    if backend == "torchforce":
        if particles is not None:
            raise DynamicsError("TorchForce acts on all particles of a System; use backend 'python'")
        _check_script(path)  # TorchForce reads it without a check
        force = make_torch_force(_import_openmmtorch(), path)
    else:
        function: Any = ScriptedPotential(path, device or "cpu", 1 if n_replicas is None else n_replicas)
        if backend in ("python", "pythontorch"):
            _check_script(path)  # it is loaded at the first call, inside OpenMM
        if backend == "fast":
            function = FastForce(path, n_replicas, n_threads)
            function.build()
        elif backend == "gpu":
            from cgal_plugin.dynamics.gpu_force import GPUForce

            if device not in (None, "cpu", "cuda", "cuda:0"):
                raise DynamicsError(
                    f"device is {device!r}; backend 'gpu' uses 'cuda', the first visible GPU (choose one "
                    "with CUDA_VISIBLE_DEVICES), or 'cpu' to test its kernels"
                )
            function = GPUForce(path, n_replicas, "CPU" if device == "cpu" else "CUDA")
            function.build()
        if backend == "pythontorch":
            force = _import_openmmtorch().PythonTorchForce(function)
        else:
            import openmm

            force = openmm.PythonForce(function)
        if particles is not None:
            force.setParticles(np.asarray(particles, dtype=int).tolist())
    force.setName("CGPotential")
    return force

"""All atoms from CA positions with the diffusion model of the ``cgback`` package (optional extra).

CGBack (D. R. Ugarte La Torre, MIT licence) includes its weights; nothing is downloaded. Its command-line
class seeds the global random generators, installs log handlers and exits the process on an error. This
module therefore calls the model, data set and hydrogen functions directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import BackmapError
from cgal_plugin.mapping.residues import canonical_residue
from cgal_plugin.models.torch_files import read_torch
from cgal_plugin.oracle.screen import chirality
from cgal_plugin.oracle.stereo import StereoTables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.oracle.system import AllAtomModel

# the S model: diffusion steps, layers, hidden width, cutoff in Å
_STEPS, _LAYERS, _WIDTH, _CUTOFF, _FEATURES = 20, 2, 128, 8.0, 60
_HINT = 'the method "cgback" needs the package cgback: pip install "cgal_plugin[backmap]"'
_ATTEMPTS = 3


def available() -> bool:
    """Return whether the package is installed."""
    from importlib.util import find_spec

    return find_spec("cgback") is not None


def require() -> None:
    """Raise an ImportError that names the extra to install if the package is missing."""
    if not available():
        raise ImportError(_HINT)


def cgback_structure(
    model: AllAtomModel, tables: StereoTables, target: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Sample a rough all-atom structure, which may have overlaps, on a CA trace.

    Parameters
    ----------
    model
        The molecule, implicit solvent.
    tables
        Stereo tables of the molecule.
    target
        ``(n_beads, 3)`` Å; beads other than CA are not used.
    seed
        Seed of the diffusion noise. The states of numpy's and torch's generators are restored.

    Returns
    -------
    ``(n_atoms, 3)`` float64, Å, in the model's atom order. Of up to three samples, the one with the fewest
    inverted stereocentres.

    Raises
    ------
    ImportError
        cgback is not installed.
    BackmapError
        A residue has no CA bead or is not a standard amino acid, or the sample is not finite.
    """
    require()
    trace = target[check_beads(model)]
    network = _diffusion_model()
    samples: list[tuple[int, NDArray[np.float64]]] = []
    for attempt in range(_ATTEMPTS):
        with _own_random(seed + attempt):
            atoms = _sample(model, network, trace)
        samples.append((int((chirality(atoms, tables) <= 0).sum()), atoms))
        if samples[-1][0] == 0:
            break
    return min(samples, key=lambda sample: sample[0])[1]


def check_beads(model: AllAtomModel) -> list[int]:
    """Return the CA bead of each residue.

    Raises
    ------
    BackmapError
        A residue has no CA bead.
    """
    cg = model.cg_topology
    beads = [
        i for i, name in enumerate(cg.bead_names) if name == "CA" and len(model.mapping.atom_groups[i]) == 1
    ]
    n_residues = sum(1 for _ in model.mdtraj_topology.residues)
    if len(beads) != n_residues:
        raise BackmapError(
            f"cgback needs a CA bead of one atom for every residue; mapping {cg.mapping!r} has "
            f"{len(beads)} for {n_residues} residues (caps included); use the method library"
        )
    return beads


@lru_cache(maxsize=1)
def _diffusion_model() -> Any:
    from cgback.diffuser import DDPM

    sizes = f"cutoff-{int(_CUTOFF):03}-steps-{_STEPS:03}-layers-{_LAYERS:03}-hidden-{_WIDTH:03}"
    name = f"protein-carbon-alpha-{sizes}.pt"
    with resources.as_file(resources.files("cgback") / "checkpoints" / name) as path:
        checkpoint = read_torch(path, error=BackmapError)
    state = {k.removeprefix("module."): v for k, v in checkpoint["model"]["state_dict"].items()}
    with _own_random(0):  # the constructor draws initial weights
        network = DDPM(_STEPS, _FEATURES, _WIDTH, _LAYERS, "cosine")
    network.load_state_dict(state)
    return network.eval()


@contextmanager
def _own_random(seed: int) -> Iterator[None]:
    """Seed the global generators that cgback uses, and restore their states afterwards."""
    import torch

    saved = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(saved)  # noqa: NPY002


def _sample(model: AllAtomModel, network: Any, trace: NDArray[np.float64]) -> NDArray[np.float64]:
    from cgback.dataloader import collate_fn
    from cgback.dataset import ProteinDataset
    from cgback.hydrogen import update_hydrogen_coordinates
    from cgback.parser import RESIDUE_TYPE_ENCODER, determine_loc_types
    from cgback.system import System

    residues = list(model.mdtraj_topology.residues)
    n = len(residues)
    chains = np.array([r.chain.index for r in residues], dtype=np.uint32)
    heavy = np.full((n, 15, 3), np.nan, dtype=np.float32)
    heavy[:, 1] = trace
    system = System(
        chain_ids=chains,
        residue_types=np.array(
            [RESIDUE_TYPE_ENCODER[canonical_residue(r.name)] for r in residues], dtype=np.uint8
        ),
        loc_types=determine_loc_types(chains),
        heavy_coordinates=heavy,
        hydrogen_coordinates=np.full((n, 16, 3), np.nan, dtype=np.float32),
        heavy_mask=np.ones(n, dtype=bool),
        hydrogen_mask=np.ones(n, dtype=bool),
    )
    dataset = ProteinDataset(system, _CUTOFF)
    if len(dataset) != n:
        raise BackmapError(f"cgback returned {len(dataset)} graphs for {n} residues")
    data = network.sample(collate_fn([dataset[i] for i in range(n)]), verbose=False)
    offset = 0
    for i, (own, context) in enumerate(zip(data.num_h.tolist(), data.num_u.tolist(), strict=True)):
        # the residue's atoms without CA (N, C, O, side chain), then its context, which begins with CA
        shift = trace[i] - data.xw[offset + own].numpy()
        atoms = data.xw[offset : offset + own].numpy() + shift
        heavy[i, 0], heavy[i, 2:4], heavy[i, 5 : 5 + own - 3] = atoms[0], atoms[1:3], atoms[3:]
        offset += own + context
    update_hydrogen_coordinates(system)
    return _in_model_order(model, system)


def _in_model_order(model: AllAtomModel, system: Any) -> NDArray[np.float64]:
    from cgback.parser import HEAVY_ATOM_TYPE_ENCODER, HYDROGEN_ATOM_TYPE_ENCODER

    topology = model.mdtraj_topology
    xyz = np.full((topology.n_atoms, 3), np.nan)
    for i, residue in enumerate(topology.residues):
        code = canonical_residue(residue.name)
        for atom in residue.atoms:
            names = (atom.name, "H1") if atom.name == "H" else (atom.name,)
            for name in names:
                if name in HEAVY_ATOM_TYPE_ENCODER[code]:
                    xyz[atom.index] = system.heavy_coordinates[i, HEAVY_ATOM_TYPE_ENCODER[code][name]]
                elif name in HYDROGEN_ATOM_TYPE_ENCODER[code]:
                    xyz[atom.index] = system.hydrogen_coordinates[i, HYDROGEN_ATOM_TYPE_ENCODER[code][name]]
                if np.isfinite(xyz[atom.index]).all():
                    break
    # place hydrogens that cgback does not know (protonation states) next to their heavy atom
    for a, b in topology.bonds:
        for atom, heavy in ((a, b), (b, a)):
            if atom.element.symbol == "H" and not np.isfinite(xyz[atom.index]).all():
                direction = np.random.standard_normal(3)  # noqa: NPY002 (seeded by _own_random)
                xyz[atom.index] = xyz[heavy.index] + direction / np.linalg.norm(direction)
    if not np.isfinite(xyz).all():
        missing = [str(topology.atom(i)) for i in np.flatnonzero(~np.isfinite(xyz).all(axis=1))]
        raise BackmapError(f"cgback gave no coordinates for {', '.join(missing[:5])}")
    return xyz

"""CG data in one ``.npz`` file: the names of the arrays say what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cgal_plugin.data.arrays import choose_arrays, has_delta_forces, load_numpy
from cgal_plugin.data.pairing import pair_arrays
from cgal_plugin.data.raw_data import RawMolecule, RawTrajectory, read_embeds
from cgal_plugin.errors import DataError
from cgal_plugin.provenance import BAD_ARCHIVE

_EMBEDS = ("embeddings", "embedding", "embeds", "embed", "cg_embeds", "z", "types", "atom_types")


def read_npz_layout(path: Path) -> RawMolecule:
    """Read ``coords``, ``forces`` and ``embeddings`` (or ``z``) of an npz file; arrays may be numbered.

    Raises
    ------
    DataError
        The file is missing or damaged, or the names do not decide what is read.
    """
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path} is no .npz file: leave out --format")
    coords, forces = list(load_numpy(path)), list(load_numpy(path, role="forces"))
    if len(coords) != len(forces):
        raise DataError(f"{path} has {len(coords)} arrays of coordinates and {len(forces)} of forces")
    order = pair_arrays((path, [name for name, _ in coords]), (path, [name for name, _ in forces]))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            chosen = [*choose_arrays(path, arrays), *choose_arrays(path, arrays, "forces")]
            names = [name for name in arrays.files if name.lower() in _EMBEDS]
            if len(names) > 1:
                raise DataError(f"{path} has several arrays of bead types: {', '.join(names)}; keep one")
            found = arrays[names[0]] if names else None
            left_out = [name for name in arrays.files if name not in (*chosen, *names)]
            temperature = None
            if "temperature" in left_out and arrays["temperature"].dtype.kind in "fiu":
                values = np.unique(arrays["temperature"])
                if len(values) != 1:
                    raise DataError(f"{path} has data of {len(values)} temperatures; import them one by one")
                temperature = float(values[0])
                left_out.remove("temperature")
    except BAD_ARCHIVE as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from error
    delta = has_delta_forces(path)
    trajectories = [
        RawTrajectory(name, xyz, None if delta else forces[k][1], forces[k][1] if delta else None)
        for (name, xyz), k in zip(coords, order, strict=True)
    ]
    embeds = None if found is None else read_embeds(found, f"{path}, array {names[0]!r}")
    return RawMolecule(path.stem, trajectories, embeds, [path], left_out=left_out, temperature=temperature)

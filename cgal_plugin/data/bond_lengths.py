"""Refuse frames whose bonds are impossible: molecules broken across a periodic box, and wrong units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import DataError
from cgal_plugin.mapping.spec import BUILTIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

#: usual length of a bond of the built-in maps, Å
_USUAL = {
    ("CA", "CA"): 3.8,
    ("CA", "CB"): 1.5,
    ("CA", "N"): 1.46,
    ("C", "CA"): 1.53,
    ("C", "O"): 1.23,
    ("C", "N"): 1.33,
}
#: bonds from one residue to the next; the others are inside residues
_LINKS = (("CA", "CA"), ("C", "N"))
#: possible lengths relative to the usual one; the guard of CG dynamics allows less (0.4 to 1.6)
_RATIO = (0.3, 1.9)
#: possible lengths of bonds between the beads of a user's map, Å
_USER_MAP = (0.3, 15.0)
#: median lengths that are those of another unit: relative to the usual one; for a user's map, in Å
_TENTH, _TENFOLD = (0.07, 0.14), (7.0, 14.0)
_USER_TENTH, _USER_TENFOLD = (0.05, 0.9), (9.5, 100.0)
#: frames that the unit is judged from
_SAMPLE = 1000

NO_CELL = (
    "the molecule is probably broken across the periodic box, and the file has no unit cell: write whole "
    "molecules (gmx trjconv -pbc whole; mdtraj: image_molecules), or remove these frames"
)
OVERLAP = "beads overlap: check how the frames were made, or remove these frames"
CELL = "its unit cell does not mend them: check that the topology is that of the file, or remove these frames"


@dataclass(frozen=True)
class Broken:
    """Frames with an impossible bond.

    Attributes
    ----------
    rows
        ``(k,)`` int64, their rows.
    n
        Number of frames that were checked.
    bond
        Name of the first such bond of the first such frame, its length and the possible lengths, as text.
    long
        Whether that bond is too long.
    """

    rows: NDArray[np.int64]
    n: int
    bond: str
    long: bool

    def text(self, first: int = 0) -> str:
        """Describe them for the user; frames are counted from ``first``."""
        return (
            f"{len(self.rows)} of {self.n} frames have impossible bonds "
            f"(first: frame {first + int(self.rows[0])}, {self.bond})"
        )

    def error(self, source: str, remedy: str, first: int = 0) -> DataError:
        """Return the error that refuses them; ``remedy`` is for bonds that are too long."""
        return DataError(f"{source}: {self.text(first)}; {remedy if self.long else OVERLAP}")


def bond_limits(topology: CGTopology) -> NDArray[np.float64]:
    """Return the smallest and the largest possible length of each bond, ``(n_bonds, 2)`` Å."""
    usual = usual_lengths(topology)
    limits: NDArray[np.float64] = usual[:, None] * np.array(_RATIO)
    limits[np.isnan(usual)] = _USER_MAP
    return limits


def find_broken(frames: NDArray[np.floating], topology: CGTopology) -> Broken | None:
    """Return the frames ``(n, n_beads, 3)`` Å that have a bond of impossible length; None without any."""
    if not len(topology.bond_index) or not len(frames):
        return None
    length, limits = bond_lengths(frames, topology), bond_limits(topology)
    bad = (length < limits[:, 0]) | (length > limits[:, 1])
    rows = np.flatnonzero(bad.any(axis=1))
    if not rows.size:
        return None
    k = int(bad[rows[0]].argmax())
    lo, hi = limits[k]
    found = length[rows[0], k]
    text = f"bond {describe_bond(topology, k)} is {found:.3g} Å long, possible are {lo:.1f} to {hi:.1f} Å"
    return Broken(rows, len(frames), text, bool(found > hi))


def bond_lengths(frames: NDArray[np.floating], topology: CGTopology) -> NDArray[np.floating]:
    """Return the length of each bond, ``(n, n_bonds)`` Å."""
    i, j = topology.bond_index.T
    lengths: NDArray[np.floating] = np.linalg.norm(frames[:, i] - frames[:, j], axis=-1)
    return lengths


def check_unit(frames: NDArray[np.floating], topology: CGTopology, source: str, *, remedy: str = "") -> None:
    """Check that coordinates are not those of another length unit.

    Parameters
    ----------
    frames
        ``(n, n_beads, 3)``, taken for Å.
    remedy
        How to give the unit.

    Raises
    ------
    DataError
        The bonds have a tenth, or ten times, of their usual length.
    """
    if not len(topology.bond_index) or not len(frames):
        return
    sample = frames[:: -(-len(frames) // _SAMPLE)]
    median = np.median(bond_lengths(sample, topology), axis=0)
    usual = usual_lengths(topology)
    user = np.isnan(usual)

    def within(own: tuple[float, float], ratio: tuple[float, float]) -> bool:
        lo, hi = (np.where(user, a, b * usual) for a, b in zip(own, ratio, strict=True))
        return bool(((median > lo) & (median < hi)).all())

    for own, ratio, text, unit in (
        (_USER_TENTH, _TENTH, "a tenth of their usual length", "nm"),
        (_USER_TENFOLD, _TENFOLD, "ten times their usual length", "angstrom"),
    ):
        if within(own, ratio):
            # the bond that is typical
            k = int(np.argsort(median)[len(median) // 2])
            how = remedy or f"convert them to Å, or give the unit {unit!r}"
            raise DataError(
                f"{source}: bonds have {text} (median of {describe_bond(topology, k)}: {median[k]:.3g} Å); "
                f"the coordinates are probably in {'nm' if unit == 'nm' else 'Å, and were read as nm'}; "
                + how.format(unit=unit)
            )


def check_bonds(
    frames: NDArray[np.floating],
    topology: CGTopology,
    source: str,
    *,
    first: int = 0,
    unit_remedy: str = "",
    remedy: str = NO_CELL,
) -> None:
    """Check that frames are those of a whole molecule in Å.

    Parameters
    ----------
    frames
        ``(n, n_beads, 3)`` Å.
    first
        Number of the first frame, for the message.

    Raises
    ------
    DataError
        See :func:`check_unit`; or a bond has an impossible length. The message names the first such frame
        and bond.
    """
    check_unit(frames, topology, source, remedy=unit_remedy)
    broken = find_broken(frames, topology)
    if broken is not None:
        raise broken.error(source, remedy, first)


def usual_lengths(topology: CGTopology) -> NDArray[np.float64]:
    """Return the usual length of each bond, Å; NaN for a user's map, or if the bond is no chain bond."""
    found = np.full(len(topology.bond_index), np.nan)
    if topology.mapping_hash not in {spec.hash for spec in BUILTIN.values()}:
        return found
    for k, (i, j) in enumerate(topology.bond_index.tolist()):
        names: Any = tuple(sorted((topology.bead_names[i], topology.bead_names[j])))
        apart = abs(int(topology.residue_index[i]) - int(topology.residue_index[j]))
        same_chain = topology.chain_index[i] == topology.chain_index[j]
        if same_chain and apart == (1 if names in _LINKS else 0):
            found[k] = _USUAL.get(names, np.nan)
    return found


def describe_bond(topology: CGTopology, bond: int) -> str:
    """Return the names of the beads of a bond, such as ``CA_TYR1–CA_TYR2``."""
    return "–".join(describe_bead(topology, b) for b in topology.bond_index[bond].tolist())


def describe_bead(topology: CGTopology, bead: int) -> str:
    """Return the name of a bead with its residue, such as ``CA_TYR1``."""
    residue = f"{topology.residue_names[bead]}{int(topology.residue_index[bead]) + 1}"
    return f"{topology.bead_names[bead]}_{residue}"

"""Backmap CG frames to all-atom structures: try methods in order, check results, quarantine failures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.bond_lengths import describe_bead
from cgal_plugin.errors import BackmapError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.dihedrals import CHIRALITY
from cgal_plugin.mapping.geometry import dihedral_angles, superpose, superposed_rmsd
from cgal_plugin.mapping.spec import built_in
from cgal_plugin.oracle import cgback
from cgal_plugin.oracle.library import AllAtomLibrary
from cgal_plugin.oracle.pull import Puller, PullSettings
from cgal_plugin.oracle.screen import Screen, screen
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.provenance import derive_seed, hash_array
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

METHODS = ("library", "cgback")
_POOL = 50  # nearest library frames from which starts are chosen


@dataclass(frozen=True, eq=False)
class BackmapResult:
    """All-atom structure of one CG frame, or the reason for its quarantine.

    Attributes
    ----------
    positions
        ``(n_atoms, 3)`` float64, Å, in the order of the model's solute atoms, superposed on the frame;
        all NaN if quarantined.
    ok
        True if the structure passed the screen and its beads match the frame.
    reason
        Empty if ``ok``; else the failure of each method.
    energy
        Potential energy in the model's implicit solvent without restraints, kcal/mol; NaN if
        quarantined.
    method
        ``"library"`` or ``"cgback"``; empty if quarantined.
    rmsd_to_target
        RMSD of the beads to the frame after superposition, Å; NaN if quarantined.
    """

    positions: NDArray[np.float64]
    ok: bool
    reason: str
    energy: float
    method: str
    rmsd_to_target: float

    @property
    def quarantined(self) -> bool:
        """True if there is no structure."""
        return not self.ok


@dataclass(frozen=True)
class BackmapSettings:
    """Limits of a backmapping.

    Attributes
    ----------
    max_rmsd
        Largest superposed RMSD (Å) of the beads to the frame. Above this limit the structure is rejected,
        because its label would belong to another conformation.
    n_starts
        Largest number of library structures tried, nearest first.
    start_distance
        Smallest bead RMSD (Å) of a further start from those already tried, if the library has such a frame.
    high_energy
        Energy limit per residue above the structure of the model, kcal/mol. A good result below this limit is
        kept. Above it, the other method is also tried, and the result of lower energy is kept.
    max_stretch
        A frame is not attempted if a bond between its beads is longer than this multiple of the length in the
        model.
    pull
        Settings of the targeted MD.
    """

    max_rmsd: float = 0.5
    n_starts: int = 3
    start_distance: float = 1.0
    high_energy: float = 5.0
    max_stretch: float = 2.0
    pull: PullSettings = field(default_factory=PullSettings)


@dataclass(frozen=True, eq=False)
class _Attempt:
    method: str
    label: str
    start: NDArray[np.float64]
    retry: bool  # only tried if no other attempt was good


def backmap(
    frames: ArrayLike | Any,
    topology: Any,
    *,
    library: AllAtomLibrary | None = None,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
    unit: str = "angstrom",
    settings: BackmapSettings | None = None,
) -> list[BackmapResult]:
    """Build all-atom structures on CG frames. Return one result per frame, in order.

    Parameters
    ----------
    frames
        ``(n, n_beads, 3)`` or ``(n_beads, 3)`` in ``unit``, or an ``mdtraj.Trajectory`` of the beads.
    topology
        The molecule: an :class:`AllAtomModel`, a one-letter sequence or PDB file (beads at CA), or a
        :class:`CGTopology` with a built-in mapping.
    library
        Start structures, in addition to the structure of the model.
    methods
        Methods in the order of trial, up to the first good result of normal energy. ``"library"``: pull the
        nearest structures onto the frame by targeted MD. ``"cgback"``: build a structure on the CA beads
        with a diffusion model and relax it on the frame.
    seed
        A result depends on frame, library and seed, not on the other frames.

    Raises
    ------
    BackmapError
        A method is unknown, the number of beads is wrong, or the library is for another molecule. A frame
        that cannot be backmapped raises no error: its result has ``ok=False`` and a reason.
    ImportError
        ``"cgback"`` is the only method and is not installed. If there is another method, ``"cgback"`` is
        skipped and the reason says so.
    """
    return Backmapper(as_model(topology), library=library, methods=methods, seed=seed, settings=settings).run(
        frames, unit
    )


class Backmapper:
    """Backmap frames as :func:`backmap` does, with an OpenMM context that is kept for the next call.

    Parameters and errors are those of :func:`backmap`.
    """

    def __init__(
        self,
        model: AllAtomModel,
        *,
        library: AllAtomLibrary | None = None,
        methods: Sequence[str] = METHODS,
        seed: int = 0,
        settings: BackmapSettings | None = None,
    ) -> None:
        unknown = [m for m in methods if m not in METHODS]
        if unknown or not methods:
            raise BackmapError(f"backmapping methods {list(methods)}: use some of {', '.join(METHODS)}")
        if tuple(methods) == ("cgback",):
            cgback.require()
        self.settings = settings or BackmapSettings()
        self.methods, self.seed = tuple(methods), seed
        self.puller = Puller(model, self.settings.pull)
        self.model = self.puller.model
        self.library = AllAtomLibrary(self.model) if library is None else library
        if self.library.mapping.hash != self.model.mapping.hash:
            raise BackmapError(
                f"the library is for {self.library.mapping.topology!r}, "
                f"the frames for {self.model.cg_topology!r}"
            )
        self._own = AllAtomLibrary(self.model, self.model.positions[None])
        high = self.settings.high_energy * len(set(self.model.cg_topology.residue_index.tolist()))
        self._high_energy = self.puller.energy(self.model.positions) + high

    def run(self, frames: ArrayLike | Any, unit: str = "angstrom") -> list[BackmapResult]:
        """Backmap ``(n, n_beads, 3)`` or ``(n_beads, 3)`` frames in ``unit``; return one result per frame.

        Raises
        ------
        BackmapError
            The frames have the wrong number of beads.
        """
        if not hasattr(frames, "xyz") and np.ndim(frames) == 2:
            frames = np.asarray(frames)[None]
        targets = as_angstrom(frames, unit).astype(np.float64)
        n_beads = self.model.mapping.n_beads
        if targets.shape[1] != n_beads:
            raise BackmapError(
                f"frames have {targets.shape[1]} beads; {self.model.cg_topology!r} has {n_beads}"
            )
        return [self._one(target) for target in targets]

    def nearest(self, target: ArrayLike) -> BackmapResult:
        """Return the nearest structure of the library, superposed on ``target`` ``(n_beads, 3)`` Å.

        The structure is not pulled and its ``energy`` is not computed (NaN). Frames that no structure can
        match are quarantined.
        """
        goal = np.asarray(target, dtype=np.float64)
        defect = self._defect(goal)
        if defect:
            return self._quarantined(defect)
        structure, distance = self._library_starts(goal)[0]
        atoms = superpose(structure, self._beads(structure), goal)
        return BackmapResult(atoms, True, "", float("nan"), "library", distance)

    def _one(self, target: NDArray[np.float64]) -> BackmapResult:
        defect = self._defect(target)
        if defect:
            return self._quarantined(defect)
        failures: list[str] = []
        good: list[BackmapResult] = []
        root = derive_seed(self.seed, "backmap", hash_array(target.astype(np.float32)))
        for attempt in self._attempts(target, root, failures):
            if good and attempt.retry:
                break
            try:
                pulled = self.puller.pull(
                    attempt.start, target, derive_seed(root, attempt.label), rough=attempt.method == "cgback"
                )
            except BackmapError as error:
                failures.append(f"{attempt.label}: {error}")
                continue
            distance = float(superposed_rmsd(self._beads(pulled.positions)[None], target)[0])
            verdict = self._judge(pulled.positions, distance)
            if verdict:
                found = BackmapResult(pulled.positions, True, "", pulled.energy, attempt.method, distance)
                good.append(found)
                if found.energy < self._high_energy:
                    break
            else:
                failures.append(f"{attempt.label}: {'; '.join(verdict.reasons)}")
        if good:
            return min(good, key=lambda result: result.energy)
        return self._quarantined(" | ".join(failures))

    def _beads(self, atoms: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self.model.mapping.map_positions(atoms), dtype=np.float64)

    def _judge(self, positions: NDArray[np.float64], distance: float) -> Screen:
        verdict = screen(positions, self.puller.tables)
        assert isinstance(verdict, Screen)
        if distance > self.settings.max_rmsd:
            far = f"beads end {distance:.2f} Å from the frame (limit {self.settings.max_rmsd:g} Å)"
            return Screen(False, (*verdict.reasons, far))
        return verdict

    def _defect(self, target: NDArray[np.float64]) -> str:
        """Return why no structure can match the frame; empty if one can."""
        bad = int((~np.isfinite(target).all(axis=1)).sum())
        if bad:
            return f"{bad} of {len(target)} beads have non-finite coordinates"
        inverted = self._inverted(target)
        if inverted:
            return f"{inverted} is inverted: no structure of this molecule matches this frame"
        i, j = self.model.cg_topology.bond_index.T
        own = self._own.beads[0]
        ratio = np.linalg.norm(target[i] - target[j], axis=1) / np.linalg.norm(own[i] - own[j], axis=1)
        if not len(ratio) or ratio.max() <= self.settings.max_stretch:
            return ""
        k = int(ratio.argmax())
        return (
            f"the bond of beads {i[k]} and {j[k]} is {ratio[k]:.1f} times its length in the molecule "
            f"(limit {self.settings.max_stretch:g}): no structure matches this frame"
        )

    def _inverted(self, target: NDArray[np.float64]) -> str:
        """Return the first bead whose chirality is not that of the molecule; empty if there is none.

        Only beads at N, CA, CB and C (map 5bead) define it.
        """
        top = self.model.cg_topology
        index = np.array(
            [beads for beads, spec in top.named_dihedrals if spec.name == CHIRALITY], dtype=np.int64
        )
        if not len(index):
            return ""
        angles = dihedral_angles(np.stack([self._own.beads[0], target])[:, index])
        wrong = np.flatnonzero(angles[0] * angles[1] < 0)
        return "" if not wrong.size else describe_bead(top, int(index[wrong[0], 3]))

    def _attempts(self, target: NDArray[np.float64], seed: int, failures: list[str]) -> Iterator[_Attempt]:
        """Yield one attempt per method, then the further library starts. Most are never requested."""
        further: list[_Attempt] = []
        for method in self.methods:
            if method == "library":
                made = [
                    _Attempt(method, f"library start {k} ({far:.1f} Å away)", start, k > 1)
                    for k, (start, far) in enumerate(self._library_starts(target), 1)
                ]
                further += made[1:]
                yield made[0]
                continue
            try:
                start = cgback.cgback_structure(
                    self.model, self.puller.tables, target, derive_seed(seed, method)
                )
            except (BackmapError, ImportError) as error:
                failures.append(f"{method}: {error}")
                continue
            yield _Attempt(method, method, start, False)
        yield from further

    def _library_starts(self, target: NDArray[np.float64]) -> list[tuple[NDArray[np.float64], float]]:
        pools = [pool for pool in (self.library, self._own) if len(pool)]
        found = [
            (float(d), pool.positions[i].astype(np.float64), pool.beads[i])
            for pool in pools
            for i, d in zip(*pool.nearest(target, _POOL), strict=True)
        ]
        found.sort(key=lambda item: item[0])
        chosen = [found.pop(0)]
        while found and len(chosen) < self.settings.n_starts:
            beads = np.stack([item[2] for item in chosen])
            apart = [superposed_rmsd(beads, item[2]).min() >= self.settings.start_distance for item in found]
            chosen.append(found.pop(apart.index(True) if any(apart) else 0))
        return [(positions, distance) for distance, positions, _ in chosen]

    def _quarantined(self, reason: str) -> BackmapResult:
        nothing = np.full((self.model.mapping.n_atoms, 3), np.nan)
        return BackmapResult(nothing, False, reason, float("nan"), "", float("nan"))


def as_model(topology: Any) -> AllAtomModel:
    """Return ``topology`` as an :class:`AllAtomModel`; see :func:`backmap` for the accepted types."""
    if isinstance(topology, AllAtomModel):
        return topology
    if isinstance(topology, str | os.PathLike):
        return AllAtomModel.create(topology)
    if isinstance(topology, CGTopology) and built_in(topology.mapping_hash) and ":" not in topology.sequence:
        return AllAtomModel.from_sequence(topology.sequence, topology.mapping)
    raise BackmapError(
        f"cannot backmap onto {topology!r}: give an AllAtomModel, a one-letter sequence, a PDB file, "
        "or the CGTopology of one chain with a built-in mapping"
    )

"""The all-atom oracle: backmaps CG frames, runs OpenMM, and gives mapped forces."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.frames import LabelledFrames
from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.forces import ForceMap, basic_force_map
from cgal_plugin.mapping.maps import CGMapping
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.oracle.checks import check_library, check_methods, check_number, check_temperature
from cgal_plugin.oracle.labelling import free_rows, label_frames, make_backmapper, metadata
from cgal_plugin.oracle.labels import LabelSettings
from cgal_plugin.oracle.sampling import fit_force_map, run_dynamics, start_positions, stretched_positions
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.oracle.trajectory import AllAtomTrajectory, common_temperature

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cgal_plugin.oracle.backmap import Backmapper
    from cgal_plugin.oracle.library import AllAtomLibrary


class OpenMMOracle:
    """All-atom labels from OpenMM (design.md §7).

    Stateless in its randomness: a label depends on the oracle's settings and seed and on the content
    of the frame, not on what else is labelled, nor in which order or process. Picklable.

    Modes
    -----
    ``free``
        Short free MD from each backmapped frame. Every saved frame is a row with its own mapped force;
        rows of one start are one correlated block. ``force_error`` is the noise of a single frame
        (:func:`~cgal_plugin.oracle.labels.frame_noise`). With ``restraint``, soft springs keep the beads
        near the frame, so that barriers are sampled where the selector asked; kept forces are without it.
    ``steered``
        As ``free`` with a ``restraint``, but from the nearest structure of the library, along with which
        the springs travel to the frame: rows join what is known to the frame, barriers between included,
        and no frame needs a backmapping of its own.
    ``mean_force``
        The bead atoms are frozen at the frame and the mapped force is averaged: one row a frame, at
        exactly the frame's coordinates, averaged over ``n_starts`` starts whose spread gives
        ``force_error``. Only for maps whose beads are single atoms.

    Force maps: OpenMM reports no constraint forces, so a valid map gives constrained atoms equal
    coefficients. In ``free`` mode bonds to hydrogen are constrained, CA–HA among them, which rules the
    slice out. In ``mean_force`` mode no constraint touches a bead atom: all three maps are valid and
    have the same mean; ``optimal`` has the least noise.

    Parameters
    ----------
    sequence_or_pdb
        One-letter codes or a PDB file; or an :class:`AllAtomModel`, which brings mapping and solvent.
    temperature
        K.
    mapping
        ``"CA"``, ``"CACB"``, a YAML file or its content.
    solvent
        ``"obc2"``, ``"gbn2"`` or ``"tip3pfb"``.
    mode, production_ps, relax_ps, save_ps, n_starts, restraint, release_ps, platform, n_threads
        See :class:`~cgal_plugin.oracle.labels.LabelSettings`. ``n_starts`` is 1 in ``free`` and 2 in
        ``mean_force`` mode unless given.
    force_map
        A :class:`ForceMap` or a file of one; default is the basic map.
    library
        :class:`~cgal_plugin.oracle.library.AllAtomLibrary` that backmapping starts from, beside the
        native structure; default is a stretched chain.
    methods
        Backmapping methods, in the order they are tried.
    seed
        Root of the random streams.

    Raises
    ------
    OracleError, MappingError
        Bad sequence, structure, setting, or a force map that is not valid here.
    """

    def __init__(
        self,
        sequence_or_pdb: str | os.PathLike[str] | AllAtomModel,
        *,
        temperature: float,
        mapping: Any = "CA",
        solvent: str = "obc2",
        mode: str = "free",
        production_ps: float = 5.0,
        relax_ps: float = 2.0,
        save_ps: float = 0.04,
        n_starts: int | None = None,
        restraint: float = 0.0,
        release_ps: float = 0.0,
        force_map: ForceMap | str | os.PathLike[str] | None = None,
        library: AllAtomLibrary | None = None,
        methods: Sequence[str] = ("library", "cgback"),
        seed: int = 0,
        n_threads: int = 1,
        platform: str = "CPU",
    ) -> None:
        self.temperature = check_temperature(temperature)
        starts = (2 if mode == "mean_force" else 1) if n_starts is None else n_starts
        self.settings = LabelSettings(
            mode, production_ps, relax_ps, save_ps, starts, restraint, release_ps, platform, n_threads
        )
        self.seed = int(check_number(seed, "seed"))
        self.methods = check_methods(methods)
        if isinstance(sequence_or_pdb, AllAtomModel):
            self.model = sequence_or_pdb
        else:
            self.model = AllAtomModel.create(sequence_or_pdb, mapping, solvent)
        self.library = check_library(library, self.mapping)
        if mode == "mean_force" and not self.mapping.is_slice:
            raise OracleError(
                f"mode 'mean_force' freezes bead atoms, so each bead of mapping {self.topology.mapping!r} "
                "must be one atom; use mode 'free'"
            )
        if isinstance(force_map, str | os.PathLike):
            force_map = ForceMap.load(force_map)
        self.force_map = force_map or basic_force_map(self.mapping, self.model.constraints)
        self.force_map.check(self.mapping, self.label_constraints)

    # ------------------------------------------------------------------ facts

    @property
    def mapping(self) -> CGMapping:
        """Atoms of each bead."""
        return self.model.mapping

    @property
    def topology(self) -> CGTopology:
        """The beads."""
        return self.model.cg_topology

    @property
    def atom_topology(self) -> Any:
        """``mdtraj.Topology`` of the solute, in the oracle's atom order."""
        return self.model.mdtraj_topology

    @cached_property
    def label_constraints(self) -> NDArray[np.int64]:
        """``(n, 2)``: pairs of atoms whose distance is constrained in the labels' dynamics."""
        pairs = self.model.constraints
        if self.settings.mode != "mean_force":
            return pairs
        beads = [group[0] for group in self.mapping.atom_groups]
        return pairs[~np.isin(pairs, beads).any(axis=1)]

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON-ready facts that go with every label."""
        return metadata(self)

    def cost_estimate(self, n_frames: int, *, ns_per_day: float = 250.0) -> dict[str, float]:
        """What labelling ``n_frames`` costs: ``oracle_ns`` and ``minutes`` on one worker.

        ``ns_per_day`` is for chignolin in OBC2 on one core; a second a start is added for backmapping.
        """
        ns = n_frames * self.settings.ps_per_frame / 1000.0
        seconds = ns / ns_per_day * 86400.0 + n_frames * self.settings.n_starts * 1.0
        return {"oracle_ns": ns, "minutes": seconds / 60.0}

    def native_positions(self) -> NDArray[np.float64]:
        """``(n_solute, 3)`` Å of the given or built structure, minimised."""
        return np.array(self.model.positions[: self.model.n_solute])

    def extended_positions(self) -> NDArray[np.float64]:
        """``(n_solute, 3)`` Å of a stretched chain of the same atoms, minimised."""
        return stretched_positions(self.model.implicit)

    def __repr__(self) -> str:
        return (
            f"OpenMMOracle({self.topology.sequence!r}, {self.temperature:g} K, {self.model.solvent}, "
            f"{self.settings.mode}, force map {self.force_map.kind})"
        )

    def __getstate__(self) -> dict[str, Any]:
        # OpenMM contexts belong to a process; copies and other processes make their own
        return {k: v for k, v in self.__dict__.items() if k not in ("label_constraints", "_backmappers")}

    def backmapper(self, start: int) -> Backmapper:
        """The backmapper of a frame's ``start``-th structure; starts draw on disjoint library frames."""
        made = self.__dict__.setdefault("_backmappers", {})
        if start not in made:
            made[start] = make_backmapper(self, start)
        return made[start]

    # ------------------------------------------------------------------ trajectories and force map

    def run(
        self,
        start: str | ArrayLike,
        picoseconds: float,
        *,
        seed: int,
        save_ps: float | None = None,
        temperature: float | None = None,
        equilibrate_ps: float = 5.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> AllAtomTrajectory:
        """Free dynamics for seed or reference data.

        Parameters
        ----------
        start
            ``"folded"`` (the native structure), ``"extended"``, or ``(n_solute, 3)`` Å.
        picoseconds, save_ps, equilibrate_ps
            Length, interval of frames (default: the labels'), and discarded beginning, ps.
        seed
            Of this trajectory.
        temperature
            K; default is the oracle's. Trajectories of another one are for pre-runs only: they cannot
            be mapped or used for a force map.
        progress
            Called as ``progress(frames done, frames in all)``.

        Raises
        ------
        OracleError
            Bad arguments, or the dynamics blew up.
        """
        save_ps = self.settings.save_ps if save_ps is None else check_number(save_ps, "save_ps")
        length = max(check_number(picoseconds, "picoseconds"), save_ps)
        free = replace(self.settings, mode="free", restraint=0.0, release_ps=0.0)
        settings = replace(free, save_ps=save_ps, production_ps=length)
        return run_dynamics(
            self.model,
            start_positions(self, start),
            picoseconds,
            settings,
            temperature=self.temperature if temperature is None else check_temperature(temperature),
            seed=int(check_number(seed, "seed")),
            equilibrate_ps=check_number(equilibrate_ps, "equilibrate_ps"),
            progress=progress,
        )

    def fit_force_map(
        self, trajectories: Sequence[AllAtomTrajectory], kind: str = "optimal", *, max_frames: int = 20_000
    ) -> ForceMap:
        """A force map for this oracle; use it with :meth:`with_force_map`.

        ``trajectories`` are of :meth:`run` at the oracle's temperature (``"basic"`` and ``"slice"`` need
        none); of longer data, ``max_frames`` evenly spaced frames are used.

        Raises
        ------
        OracleError, MappingError
            Unknown kind, another temperature, fewer than 200 frames, or no valid map exists.
        """
        return fit_force_map(self.model, trajectories, self.temperature, kind, max_frames)

    def with_force_map(self, force_map: ForceMap) -> OpenMMOracle:
        """A copy that labels with ``force_map``, after checking that it is valid here."""
        force_map.check(self.mapping, self.label_constraints)
        other = copy.copy(self)
        other.force_map = force_map
        return other

    def with_library(self, library: AllAtomLibrary | None) -> OpenMMOracle:
        """A copy whose backmapping starts from the frames of ``library``."""
        other = copy.copy(self)
        other.library = check_library(library, self.mapping)
        return other

    def map_trajectory(self, trajectory: AllAtomTrajectory, *, index: int = 0) -> LabelledFrames:
        """CG frames and forces of a trajectory of :meth:`run`, as one block; ``index`` is its frame_index.

        Raises
        ------
        OracleError, MappingError
            Another temperature, or a force map that is not valid with constraints (slice).
        """
        common_temperature([trajectory], self.temperature)
        self.force_map.check(self.mapping, self.model.constraints)
        rows = free_rows(self, trajectory, index, 0)
        save_ps = float(trajectory.time_ps[1] - trajectory.time_ps[0]) if len(trajectory) > 1 else 0.0
        own = {"mode": "free", "save_ps": save_ps, "n_starts": 1, "restraint": 0.0, "release_ps": 0.0}
        return replace(rows, metadata=self.metadata | own)

    # ------------------------------------------------------------------ labels

    def label(
        self, frames: ArrayLike, *, progress: Callable[[int, int], None] | None = None
    ) -> LabelledFrames:
        """Labels of CG frames ``(n, n_beads, 3)`` Å; ``progress`` is called with frames done and in all.

        Returns
        -------
        LabelledFrames
            Rows as the mode says. Frames that cannot be labelled (not finite, no sound backmapping,
            dynamics that blew up, wrong stereochemistry afterwards) are in ``quarantined``; there may
            be no row at all. Starts that failed beside others that worked are in
            ``metadata["failed_starts"]``.

        Raises
        ------
        OracleError
            The array has the wrong shape.
        """
        return label_frames(self, frames, progress)

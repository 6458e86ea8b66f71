"""The all-atom oracle: backmap CG frames, run OpenMM dynamics, return mapped forces."""

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
from cgal_plugin.oracle.cgback import check_beads
from cgal_plugin.oracle.checks import check_library, check_methods, check_number, check_temperature
from cgal_plugin.oracle.label_settings import LabelSettings, with_defaults
from cgal_plugin.oracle.labelling import Labeller
from cgal_plugin.oracle.library import AllAtomLibrary
from cgal_plugin.oracle.options import ReadOptions
from cgal_plugin.oracle.sampling import (
    fit_force_map,
    native_positions,
    run_dynamics,
    start_positions,
    stretched_positions,
)
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.oracle.trajectory import AllAtomTrajectory, common_temperature

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import ArrayLike, NDArray


class OpenMMOracle:
    """All-atom labels from OpenMM.

    A label depends on the oracle's settings and seed and on the content of its frame. It does not depend on
    the other frames, on their order, or on the process. Oracles can be pickled.

    Modes
    -----
    ``free``
        Short free MD from each backmapped frame. Each saved frame is a row with its mapped force;
        the rows of one start are one correlated block. ``force_error`` is the noise of a single frame
        (:func:`~cgal_plugin.oracle.force_error.frame_noise`). With ``restraint``, a soft restraint keeps
        the beads near the frame, so that selected barriers are sampled. It is not part of the saved forces.
    ``steered``
        Like ``free`` with a ``restraint``, but from the nearest structure of the library. The restraint
        moves from there to the frame, so the rows connect known structures with the frame, including the
        barriers between them. The frame itself is not backmapped.
    ``mean_force``
        The bead atoms are frozen at the frame and the mapped force is averaged: one row per frame, at
        exactly the coordinates of the frame, averaged over ``n_starts`` starts. The spread of the starts
        gives ``force_error``. Only for mappings whose beads are single atoms.

    Force maps: OpenMM reports no constraint forces, so a valid map gives constrained atoms equal
    coefficients. In ``free`` mode the bonds to hydrogen (also CA–HA) are constrained, which excludes the
    slice map. In ``mean_force`` mode no constraint acts on a bead atom: all three maps are valid and have
    the same mean; ``optimal`` has the least noise.

    Parameters
    ----------
    sequence_or_pdb
        One-letter codes or a structure file (PDB, mmCIF); or an :class:`AllAtomModel`, which includes
        mapping and solvent.
    temperature
        K.
    mapping
        ``"CA"``, ``"CACB"``, ``"5bead"``, a YAML file or its content.
    solvent
        ``"obc2"``, ``"gbn2"`` or ``"tip3pfb"``.
    options
        How to read the structure (:class:`~cgal_plugin.oracle.options.ReadOptions`).
    mode, production_ps, relax_ps, save_ps, n_starts, restraint, release_ps
        See :class:`~cgal_plugin.oracle.label_settings.LabelSettings`. Default: as in ``cgal run`` for a
        molecule of this size, so labels are steered and released.
    platform, n_threads
        OpenMM platform; threads of the CPU platform.
    force_map
        A :class:`ForceMap` or its file; default: the basic map.
    library
        :class:`~cgal_plugin.oracle.library.AllAtomLibrary` with the start structures of backmapping, in
        addition to the native structure; default: a stretched chain.
    methods
        Backmapping methods, in the order of trial.
    seed
        Seed; all random numbers are derived from it.

    Raises
    ------
    OracleError, MappingError
        The sequence, the structure or a setting is invalid, or the force map does not fit the mode.
    """

    def __init__(
        self,
        sequence_or_pdb: str | os.PathLike[str] | AllAtomModel,
        *,
        temperature: float,
        mapping: Any = "CA",
        solvent: str = "obc2",
        options: ReadOptions | None = None,
        mode: str | None = None,
        production_ps: float | None = None,
        relax_ps: float | None = None,
        save_ps: float | None = None,
        n_starts: int | None = None,
        restraint: float | None = None,
        release_ps: float | None = None,
        force_map: ForceMap | str | os.PathLike[str] | None = None,
        library: AllAtomLibrary | None = None,
        methods: Sequence[str] = ("library", "cgback"),
        seed: int = 0,
        n_threads: int = 1,
        platform: str = "CPU",
    ) -> None:
        self.temperature = check_temperature(temperature)
        self.seed = int(check_number(seed, "seed"))
        self.methods = check_methods(methods)
        if isinstance(sequence_or_pdb, AllAtomModel):
            self.model = sequence_or_pdb
        else:
            self.model = AllAtomModel.create(sequence_or_pdb, mapping, solvent, options)
        given = {
            "mode": mode,
            "production_ps": production_ps,
            "relax_ps": relax_ps,
            "save_ps": save_ps,
            "n_starts": n_starts,
            "restraint": restraint,
            "release_ps": release_ps,
        }
        self.settings = LabelSettings(
            **with_defaults(given, len(self.topology.sequence.replace(":", ""))),
            platform=platform,
            n_threads=n_threads,
            longest_step_fs=self.model.timestep_fs,
        )
        if self.methods == ("cgback",):
            check_beads(self.model)
        self.library = check_library(library, self.mapping)
        if self.settings.mode == "mean_force" and not self.mapping.is_slice:
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
    def atom_topology(self) -> mdtraj.Topology:
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
        """JSON-ready record of model, force map and settings; part of every label."""
        return self._labeller.metadata

    def cost_estimate(self, n_frames: int, *, ns_per_day: float = 250.0) -> dict[str, float]:
        """Estimate the cost of labelling ``n_frames``: ``oracle_ns``, and ``minutes`` on one worker.

        The default of ``ns_per_day`` is for chignolin in OBC2 on one core. One second per start is added
        for backmapping.
        """
        ns = n_frames * self.settings.ps_per_frame / 1000.0
        seconds = ns / ns_per_day * 86400.0 + n_frames * self.settings.n_starts * 1.0
        return {"oracle_ns": ns, "minutes": seconds / 60.0}

    def native_positions(self) -> NDArray[np.float64]:
        """``(n_solute, 3)`` Å of the given or built structure, minimised."""
        return native_positions(self.model)

    def extended_positions(self) -> NDArray[np.float64]:
        """``(n_solute, 3)`` Å of the stretched chain, minimised."""
        return stretched_positions(self.model.implicit)

    def __repr__(self) -> str:
        return (
            f"OpenMMOracle({self.topology.sequence!r}, {self.temperature:g} K, {self.model.solvent}, "
            f"{self.settings.mode}, force map {self.force_map.kind})"
        )

    def __getstate__(self) -> dict[str, Any]:
        # a Labeller has OpenMM contexts, which belong to one process; each copy creates its own
        return {k: v for k, v in self.__dict__.items() if k not in ("label_constraints", "_labeller")}

    @cached_property
    def _labeller(self) -> Labeller:
        return Labeller(
            self.model,
            self.settings,
            self.force_map,
            self.library,
            temperature=self.temperature,
            methods=self.methods,
            seed=self.seed,
        )

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
        """Run free dynamics for seed or reference data.

        Parameters
        ----------
        start
            ``"folded"`` (the given structure or known fold), ``"extended"``, ``"auto"`` (folded if there is
            a fold), or ``(n_solute, 3)`` Å.
        picoseconds, save_ps, equilibrate_ps
            Length, interval of the frames (default: that of the labels), and discarded equilibration, ps.
        seed
            Seed of this trajectory.
        temperature
            K; default: that of the oracle. A trajectory at another temperature can only provide start
            structures: it cannot be mapped or used for a force map.
        progress
            Called as ``progress(frames done, total frames)``.

        Raises
        ------
        OracleError
            An argument is invalid, or the dynamics blew up.
        """
        save_ps = self.settings.save_ps if save_ps is None else check_number(save_ps, "save_ps")
        length = max(check_number(picoseconds, "picoseconds"), save_ps)
        free = replace(self.settings, mode="free", restraint=0.0, release_ps=0.0)
        settings = replace(free, save_ps=save_ps, production_ps=length)
        return run_dynamics(
            self.model,
            start_positions(self.model, start),
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
        """Return a force map for this oracle, for use with :meth:`with_force_map`.

        ``trajectories`` come from :meth:`run` at the oracle's temperature (``"basic"`` and ``"slice"`` need
        none). At most ``max_frames`` evenly spaced frames are used.

        Raises
        ------
        OracleError, MappingError
            The kind is unknown, the temperature differs, there are fewer than 200 frames, or there is no
            valid map.
        """
        return fit_force_map(self.model, trajectories, self.temperature, kind, max_frames)

    def with_force_map(self, force_map: ForceMap) -> OpenMMOracle:
        """Return a copy that labels with ``force_map``.

        Raises
        ------
        OracleError, MappingError
            The map is not valid for this oracle.
        """
        force_map.check(self.mapping, self.label_constraints)
        other = copy.copy(self)
        other.force_map = force_map
        return other

    def with_library(self, library: AllAtomLibrary | None) -> OpenMMOracle:
        """Return a copy whose backmapping starts from the frames of ``library``."""
        other = copy.copy(self)
        other.library = check_library(library, self.mapping)
        return other

    def map_trajectory(self, trajectory: AllAtomTrajectory, *, index: int = 0) -> LabelledFrames:
        """Map a trajectory of :meth:`run` to CG frames and forces, as one block with frame_index ``index``.

        Raises
        ------
        OracleError, MappingError
            The temperature differs, or the force map is not valid with constraints (slice).
        """
        common_temperature([trajectory], self.temperature)
        self.force_map.check(self.mapping, self.model.constraints)
        rows = self._labeller.free_rows(trajectory, index, 0)
        save_ps = float(trajectory.time_ps[1] - trajectory.time_ps[0]) if len(trajectory) > 1 else 0.0
        own = {"mode": "free", "save_ps": save_ps, "n_starts": 1, "restraint": 0.0, "release_ps": 0.0}
        return replace(rows, metadata=self.metadata | own)

    # ------------------------------------------------------------------ labels

    def label(
        self, frames: ArrayLike, *, progress: Callable[[int, int], None] | None = None
    ) -> LabelledFrames:
        """Label CG frames ``(n, n_beads, 3)`` Å; calls ``progress(frames done, total frames)``.

        Returns
        -------
        LabelledFrames
            Rows according to the mode, possibly none. Frames that cannot be labelled are in ``quarantined``:
            coordinates not finite, no correct backmapped structure, dynamics that blew up, or wrong
            stereochemistry after the dynamics. Failed starts of frames that have a label from another start
            are in ``metadata["failed_starts"]``.

        Raises
        ------
        OracleError
            The array has the wrong shape.
        """
        return self._labeller.label(frames, progress)

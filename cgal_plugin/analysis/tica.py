"""Time-lagged independent components (TICA) of bead–bead distances."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.trajectory_checks import as_trajectories
from cgal_plugin.damage import check_archive
from cgal_plugin.errors import AnalysisError
from cgal_plugin.mapping.spec import FIVE_BEAD
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write, canonical_json, hash_array, versions
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

FORMAT_VERSION = 1
_CHUNK = 20_000


def distance_features(frames: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute all bead–bead distances i < j, including bonded neighbours.

    Parameters
    ----------
    frames
        ``(n, n_beads, 3)`` Å.

    Returns
    -------
    ``(n, n_beads (n_beads − 1) / 2)`` in **nm**, the unit of the published benchmark. deeptime's rank cut-off
    (1e-6) is absolute, so the unit matters.
    """
    frames = np.asarray(frames, dtype=np.float64)
    first, second = np.triu_indices(frames.shape[1], k=1)
    out = np.empty((len(frames), len(first)))
    for start in range(0, len(frames), _CHUNK):
        part = frames[start : start + _CHUNK]
        out[start : start + _CHUNK] = np.linalg.norm(part[:, first] - part[:, second], axis=-1)
    return out / ANGSTROM_PER_NM


@dataclass(frozen=True, eq=False)
class TICAModel:
    """A linear projection of frames onto their slowest components.

    Attributes
    ----------
    mean
        ``(n_features,)`` nm.
    coefficients
        ``(n_features, dim)`` 1/nm, with kinetic-map scaling: the variance of each component over the
        reference is its eigenvalue squared (Noé & Clementi, J. Chem. Theory Comput. 11, 5002, 2015).
    eigenvalues
        ``(rank,)`` autocorrelations at the lag time, in order of decreasing magnitude.
    lag_frames
        Lag time in frames of the reference.
    n_beads
        Number of beads of the frames.
    beads
        Beads whose distances are the features; empty: all beads.
    provenance
        JSON-ready record: frames, pairs, rank, hash of the reference, versions.
    """

    mean: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    lag_frames: int
    n_beads: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    beads: tuple[int, ...] = ()

    @property
    def dim(self) -> int:
        """Number of components."""
        return int(self.coefficients.shape[1])

    @property
    def timescales(self) -> NDArray[np.float64]:
        """``(dim,)`` implied timescales −lag / ln|λ| in reference frames (infinite where |λ| ≥ 1)."""
        value = np.abs(self.eigenvalues[: self.dim])
        with np.errstate(divide="ignore"):
            finite = -self.lag_frames / np.log(np.minimum(value, 1.0))
        return np.asarray(np.where(value < 1.0, finite, np.inf))

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings that belong to every result obtained with this projection."""
        notes = []
        pairs, rank = self.provenance.get("n_pairs"), self.provenance.get("rank")
        if pairs is not None and rank is not None and pairs < 5 * rank:
            notes.append(
                f"TICs were fitted to {pairs} lagged frame pairs for {rank} independent distances: "
                "the components are probably over-fitted"
            )
        short = self.provenance.get("n_short_trajectories", 0)
        if short:
            notes.append(
                f"{short} reference trajectories are not longer than the TICA lag ({self.lag_frames} "
                "frames) and were left out of the TICA fit"
            )
        return tuple(notes)

    @classmethod
    def fit(cls, trajectories: Any, lag_frames: int, dim: int = 2, *, beads: Sequence[int] = ()) -> TICAModel:
        """Fit deeptime's reversible TICA with kinetic-map scaling.

        Pairs of frames are taken within trajectories only. Trajectories not longer than the lag contain no
        pair: they are left out and counted.

        Parameters
        ----------
        trajectories
            List of ``(n, n_beads, 3)`` Å in time order, equally spaced (or one such array).
        lag_frames
            Lag time in frames.
        dim
            Number of components to keep.
        beads
            Beads whose distances are the features (:func:`feature_beads`); empty: all beads.

        Raises
        ------
        AnalysisError
            ``lag_frames`` or ``dim`` is out of range, no trajectory is longer than the lag, frames are not
            finite, bead counts differ, or the distances have fewer than ``dim`` independent directions.
        """
        for name, number in (("lag_frames", lag_frames), ("dim", dim)):
            if int(number) != number or number < 1:
                raise AnalysisError(f"TICA {name} is {number!r}; it must be an integer of 1 or more")
        trajs = as_trajectories(trajectories, "TICA reference")
        n_beads = trajs[0].shape[1]
        chosen = tuple(int(b) for b in beads)
        if (len(chosen) or n_beads) < 2:
            raise AnalysisError(f"TICA needs at least two beads; the reference has {len(chosen) or n_beads}")
        used = [distance_features(_only(t, chosen)) for t in trajs if len(t) > lag_frames]
        if not used:
            raise AnalysisError(
                f"no reference trajectory is longer than the TICA lag of {lag_frames} frames "
                f"(longest: {max(len(t) for t in trajs)}); use a shorter lag or longer trajectories"
            )
        model, eigenvalues = _deeptime_tica(used, int(lag_frames), int(dim))
        mean = np.asarray(model.mean_0, dtype=np.float64)
        return cls(
            mean=mean,
            coefficients=np.asarray(model.instantaneous_coefficients, dtype=np.float64)[:, : int(dim)],
            eigenvalues=eigenvalues,
            lag_frames=int(lag_frames),
            n_beads=n_beads,
            provenance={
                "n_trajectories": len(used),
                "n_short_trajectories": len(trajs) - len(used),
                "n_frames": sum(len(f) for f in used),
                "n_pairs": sum(len(f) - int(lag_frames) for f in used),
                "n_features": len(mean),
                **({"beads": list(chosen)} if chosen else {}),
                "rank": len(eigenvalues),
                "reference_sha256": hash_array(*trajs),
                "scaling": "kinetic_map",
                "versions": versions(),
            },
            beads=chosen,
        )

    def transform(self, frames: Any) -> Any:
        """Project frames onto the components.

        Parameters
        ----------
        frames
            ``(n, n_beads, 3)`` Å, or a sequence of such arrays.

        Returns
        -------
        ``(n, dim)``, or a list of such arrays for a sequence. Empty trajectories give empty arrays.

        Raises
        ------
        AnalysisError
            The bead count or shape is wrong, or values are not finite.
        """
        if isinstance(frames, np.ndarray) or hasattr(frames, "xyz"):
            if len(frames) == 0:
                return np.empty((0, self.dim))
            (array,) = as_trajectories(frames, "frames to project", self.n_beads)
            return self._project(array)
        return [self.transform(f if hasattr(f, "xyz") else np.asarray(f)) for f in frames]

    def _project(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = [
            (distance_features(_only(array[i : i + _CHUNK], self.beads)) - self.mean) @ self.coefficients
            for i in range(0, len(array), _CHUNK)
        ]
        return np.concatenate(parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as NPZ, without pickle."""
        with atomic_write(path) as handle:
            np.savez(
                handle,
                format_version=np.array(FORMAT_VERSION),
                mean=self.mean,
                coefficients=self.coefficients,
                eigenvalues=self.eigenvalues,
                lag_frames=np.array(self.lag_frames),
                n_beads=np.array(self.n_beads),
                beads=np.array(self.beads, dtype=np.int64),
                provenance=np.array(canonical_json(dict(self.provenance))),
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TICAModel:
        """Read a model written by :meth:`save`.

        Raises
        ------
        AnalysisError
            The file is missing, or is not a TICA model in this format.
        """
        path = Path(path)
        if not path.is_file():
            raise AnalysisError(f"TICA model {str(path)!r} does not exist")
        try:
            check_archive(path)
            with np.load(path, allow_pickle=False) as data:
                version = int(data["format_version"])
                if version != FORMAT_VERSION:
                    raise AnalysisError(
                        f"{str(path)!r} has format version {version}; this release reads {FORMAT_VERSION}"
                    )
                return cls(
                    mean=data["mean"],
                    coefficients=data["coefficients"],
                    eigenvalues=data["eigenvalues"],
                    lag_frames=int(data["lag_frames"]),
                    n_beads=int(data["n_beads"]),
                    provenance=json.loads(str(data["provenance"])),
                    beads=tuple(data["beads"].tolist()) if "beads" in data else (),
                )
        except BAD_ARCHIVE as error:
            raise AnalysisError(f"{str(path)!r} is not a saved TICA model: {error!r}") from error


def feature_beads(topology: CGTopology) -> tuple[int, ...]:
    """Return the beads whose distances are TICA features: of the 5bead map CA, of other maps all (empty).

    Distances of CA are those of the published benchmark, and those inside a residue have no slow motion.
    """
    if topology.mapping_hash != FIVE_BEAD.hash:
        return ()
    return tuple(i for i, name in enumerate(topology.bead_names) if name == "CA")


def _only(frames: NDArray[np.float64], beads: Sequence[int]) -> NDArray[np.float64]:
    return frames[:, list(beads)] if len(beads) else frames


def _deeptime_tica(
    features: Sequence[NDArray[np.float64]], lag: int, dim: int
) -> tuple[Any, NDArray[np.float64]]:
    from deeptime.decomposition import TICA
    from deeptime.numeric import ZeroRankError

    estimator = TICA(lagtime=lag, dim=None, scaling="kinetic_map")
    try:
        for part in features:
            estimator.partial_fit((part[:-lag], part[lag:]))
        model = estimator.fetch_model()
    except (ZeroRankError, np.linalg.LinAlgError) as error:
        raise AnalysisError(
            f"TICA failed: the distances of the reference are constant or degenerate ({error})"
        ) from error
    eigenvalues = np.asarray(model.singular_values, dtype=np.float64)
    if len(eigenvalues) < dim:
        raise AnalysisError(
            f"TICA with {dim} components failed: the distances of the reference have only "
            f"{len(eigenvalues)} independent directions; use fewer components or more frames"
        )
    return model, eigenvalues

"""Labels with springs on the beads: forces stay those of the molecule, and steering arrives."""

from __future__ import annotations

import numpy as np
import pytest

from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.geometry import superposed_rmsd
from cgal_plugin.oracle import LabelledFrames, LabelSettings, OpenMMOracle
from cgal_plugin.oracle.library import AllAtomLibrary
from cgal_plugin.units import kT

from .conftest import TEMPERATURE

SPRING = 100.0  # kcal/mol/Å²; the distance of two beads has a spring of its own of about 300


def along(labels: object) -> tuple[np.ndarray, np.ndarray]:
    """Distance of two beads (n,) and the force along it, ½ (F₂ − F₁)·e."""
    arrow = np.diff(labels.positions.astype(float), axis=1)[:, 0]
    distance = np.linalg.norm(arrow, axis=1)
    force = 0.5 * np.diff(labels.forces.astype(float), axis=1)[:, 0]
    return distance, (force * arrow).sum(axis=1) / distance


def test_forces_are_without_the_springs(aa_oracle: OpenMMOracle) -> None:
    """What springs do to the distance, the kept forces resist: their mean is that of the springs.

    In equilibrium the mean force along d, 2 kT/d of its volume included, is nought. Each bead's spring k
    moves by half of Δ = d − d₀, so that they contribute −kΔ/2, and the rest is what is kept.
    """
    beads = aa_oracle.mapping.map_positions(aa_oracle.native_positions())
    middle, arrow = beads.mean(axis=0), beads[1] - beads[0]
    far = middle + 1.06 * np.array([-0.5, 0.5])[:, None] * arrow
    oracle = OpenMMOracle(
        aa_oracle.model, temperature=TEMPERATURE, production_ps=60.0, relax_ps=4.0, save_ps=0.04,
        restraint=SPRING, methods=("library",), seed=3,
    )  # fmt: skip
    labels = oracle.label(far[None].astype(np.float32))
    assert not labels.quarantined
    distance, force = along(labels)
    stretched = distance - 1.06 * np.linalg.norm(arrow)
    expected = 0.5 * SPRING * stretched.mean() - 2.0 * kT(TEMPERATURE) / distance.mean()
    blocks = np.array([(f - 0.5 * SPRING * s).mean() for f, s in zip(
        np.array_split(force, 20), np.array_split(stretched, 20), strict=True)])  # fmt: skip
    error = blocks.std(ddof=1) / np.sqrt(20)
    # the springs hold the distance back by several times what the test can resolve
    assert abs(0.5 * SPRING * stretched.mean()) > 8 * error
    assert force.mean() == pytest.approx(expected, abs=5 * error)
    assert labels.metadata["restraint"] == SPRING


def test_steering_joins_the_known_to_the_frame() -> None:
    chain = OpenMMOracle("GYGGYG", temperature=TEMPERATURE)
    library = AllAtomLibrary(chain.model, chain.extended_positions()[None])
    bent = chain.run("extended", 30.0, seed=1, save_ps=30.0)
    frame = chain.mapping.map_positions(bent.positions)[0].astype(np.float32)
    oracle = OpenMMOracle(
        chain.model, temperature=TEMPERATURE, mode="steered", production_ps=8.0, relax_ps=0.4, save_ps=0.04,
        restraint=5.0, seed=2,
    ).with_library(library)  # fmt: skip
    labels = oracle.label(frame[None])
    assert len(labels.positions) == 200
    distance = superposed_rmsd(labels.positions.astype(float), frame.astype(float))
    assert distance[:5].mean() > 1.2
    assert distance[-20:].mean() < 0.8
    np.testing.assert_array_equal(labels.forces, oracle.label(frame[None]).forces)
    assert labels.metadata["mode"] == "steered"
    torn = frame.copy()
    torn[5] += 40.0
    assert "bond of beads" in oracle.label(torn[None]).quarantined[0].reason


def test_release_lets_go_of_the_beads() -> None:
    """What comes before it is the shorter label bit for bit; what comes after leaves a strained frame."""
    chain = OpenMMOracle("GYGGYG", temperature=TEMPERATURE)
    library = AllAtomLibrary(chain.model, chain.extended_positions()[None])
    frame = chain.mapping.map_positions(chain.run("extended", 30.0, seed=1, save_ps=30.0).positions)[0]

    def label(production_ps: float, release_ps: float) -> LabelledFrames:
        oracle = OpenMMOracle(
            chain.model, temperature=TEMPERATURE, mode="steered", production_ps=production_ps, relax_ps=0.4,
            save_ps=0.04, restraint=5.0, release_ps=release_ps, seed=2,
        )  # fmt: skip
        return oracle.with_library(library).label(frame.astype(np.float32)[None])

    steered, released = label(4.0, 0.0), label(12.0, 8.0)
    assert (len(steered.positions), len(released.positions)) == (100, 300)
    np.testing.assert_array_equal(released.positions[:100], steered.positions)
    np.testing.assert_array_equal(released.forces[:100], steered.forces)
    distance = superposed_rmsd(released.positions.astype(float), frame.astype(float))
    assert distance[-100:].mean() > 1.5 * distance[80:100].mean()
    assert released.metadata["release_ps"] == 8.0
    assert released.metadata["ps_per_frame"] == steered.metadata["ps_per_frame"] + 8.0


def test_bad_settings() -> None:
    with pytest.raises(OracleError, match="only mode steered has springs"):
        LabelSettings(restraint=1.0, release_ps=1.0)
    with pytest.raises(OracleError, match=r"release_ps = 5\.0 leaves no frame of production_ps = 5\.0"):
        LabelSettings("steered", restraint=1.0, release_ps=5.0)
    with pytest.raises(OracleError, match=r"release_ps = -1\.0 must not be negative"):
        LabelSettings("steered", restraint=1.0, release_ps=-1.0)
    with pytest.raises(OracleError, match="mode steered needs springs"):
        LabelSettings("steered")
    with pytest.raises(OracleError, match="beads are frozen"):
        LabelSettings("mean_force", restraint=1.0)
    with pytest.raises(OracleError, match="restraint = -1"):
        LabelSettings(restraint=-1.0)

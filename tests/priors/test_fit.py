"""Fits: recover known constants, account for correlated and scarce data, never return NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.signal import lfilter

from cgal_plugin.errors import ConfigError, PriorFitError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import FitSettings, PriorSet, estimate, fit_priors
from cgal_plugin.priors.plot import plot_priors
from cgal_plugin.units import kT
from tests.priors.chains import chains, draw, place

TEMPERATURE = 400.0
BETA = 1.0 / kT(TEMPERATURE)


@pytest.fixture(scope="module")
def tetramer(chance_seed: int) -> tuple[CGTopology, np.ndarray, dict[str, float]]:
    """6,000 frames of four beads drawn from the exact distribution of known constants."""
    n, known = 6000, {"k": 20.0, "r0": 3.6, "ka": 6.0, "a0": 1.9, "kd": 1.2, "phase": 0.8}
    r = np.linspace(0.5, 7.0, 4000)
    t = np.linspace(1e-4, np.pi - 1e-4, 4000)
    p = np.linspace(-np.pi, np.pi, 4000)
    bonds = draw(
        r**2 * np.exp(-BETA * 0.5 * known["k"] * (r - known["r0"]) ** 2), r, 3 * n, 100 * chance_seed + 1
    )
    angles = draw(
        np.sin(t) * np.exp(-BETA * 0.5 * known["ka"] * (t - known["a0"]) ** 2),
        t,
        2 * n,
        100 * chance_seed + 2,
    )
    energy = known["kd"] * np.cos(p - known["phase"]) + 0.4 * np.cos(2 * p + 1.0)
    phi = draw(np.exp(-BETA * energy), p, n, 100 * chance_seed + 3)
    frames = place(bonds.reshape(n, 3), angles.reshape(n, 2), phi)
    return CGTopology.from_sequence("AAAA"), frames, known


def row(priors: PriorSet, term: str, wild: bool = False) -> dict:
    return next(r for r in priors.table() if r["term"] == term and any("*" in t for t in r["types"]) == wild)


def within(value: float, truth: float, error: float, sigmas: float = 4.0) -> bool:
    # four standard errors: a false alarm in 16,000 checks
    return abs(value - truth) < sigmas * error


def test_known_constants_come_back(tetramer: tuple) -> None:
    topology, frames, known = tetramer
    priors = fit_priors(topology, frames, TEMPERATURE, terms=("bonds", "angles", "dihedrals"))
    bond, angle, dihedral = (row(priors, t) for t in ("bonds", "angles", "dihedrals"))
    assert within(bond["parameters"]["k"], known["k"], bond["standard_error"]["k"])
    assert within(bond["parameters"]["r0"], known["r0"], bond["standard_error"]["r0"])
    assert within(angle["parameters"]["k"], known["ka"], angle["standard_error"]["k"])
    assert within(angle["parameters"]["x0"], known["a0"], angle["standard_error"]["x0"])
    k, phase = np.array(dihedral["parameters"]["k"]), np.array(dihedral["parameters"]["phase"])
    found = k * np.exp(1j * phase)
    truth = np.array([1.2 * np.exp(0.8j), 0.4 * np.exp(-1.0j), 0.0])
    assert (np.abs(found - truth) < 4 * np.array(dihedral["standard_error"]["k"])).all()
    for r in (bond, angle, dihedral):
        n = r["n_effective"]
        assert r["n_effective"] > 0.7 * r["n"]
        assert r["ks"] < 2.5 / np.sqrt(n)  # false alarm: 2 exp(-2 x 2.5²) = 7e-6
        assert r["overlap"] > 0.9
        assert not r["at_bound"]
        assert r["standard_error"]
    # the plain mean, without the Jacobian, is off by many standard errors
    lengths = np.linalg.norm(np.diff(frames, axis=1), axis=-1)
    assert lengths.mean() - known["r0"] > 4 * bond["standard_error"]["r0"]


def test_cosine_angles(chance_seed: int) -> None:
    topology = CGTopology.from_sequence("AAAA")
    c = np.linspace(-1, 1, 4001)
    x = draw(np.exp(-BETA * 0.5 * 15.0 * (c + 0.2) ** 2), c, 12_000, 100 * chance_seed + 5).reshape(-1, 2)
    frames = place(np.full((6000, 3), 3.8), np.arccos(x), np.zeros(6000))
    priors = fit_priors(topology, frames, TEMPERATURE, terms=("angles",), angle_form="cos")
    r = row(priors, "angles")
    assert within(r["parameters"]["k"], 15.0, r["standard_error"]["k"])
    assert within(r["parameters"]["x0"], -0.2, r["standard_error"]["x0"])
    assert priors.arguments("angles")["angle_form"] == "cos"


def test_estimates_scatter_by_their_standard_errors(chance_seed: int) -> None:
    r = np.linspace(0.5, 7.0, 3000)
    density = r**2 * np.exp(-BETA * 0.5 * 10.0 * (r - 3.0) ** 2)
    pulls = []
    for seed in range(1000 * chance_seed, 1000 * chance_seed + 60):
        fit = estimate.fit_harmonic(draw(density, r, 500, seed), BETA, np.square, (0.0, np.inf), (0.1, 1e3))
        pulls.append((fit.parameters["k"] - 10.0) / (fit.error["k"] / np.sqrt(500)))
    # 60 standard normal pulls: mean within 4/√60, spread within four standard errors of one
    assert abs(np.mean(pulls)) < 4 / np.sqrt(60)
    assert abs(np.std(pulls) - 1) < 4 / np.sqrt(120)


def test_correlated_frames_count_less(chance_seed: int) -> None:
    rng = np.random.default_rng(chance_seed)
    a, n = np.exp(-1 / 25.0), 40_000
    noise = rng.normal(size=(16, n))
    x = lfilter([np.sqrt(1 - a * a)], [1.0, -a], noise)  # x_i = a x_(i-1) + sqrt(1 - a²) noise_i
    exact = n * (1 - a) / (1 + a)
    # the estimates of single series scatter by 10 %, their mean by 2.5 %
    assert np.mean([estimate.effective_samples(s) for s in x]) == pytest.approx(exact, rel=0.125)
    assert estimate.effective_samples(noise[0]) == pytest.approx(n, rel=0.1)


def test_a_tuple_with_one_transition_uses_the_wildcard() -> None:
    topology, rng = CGTopology.from_sequence("AAAA"), np.random.default_rng(0)
    n = 3000
    slow = np.where(np.arange(n) < n // 2, 1.6, 2.1) + 0.02 * rng.normal(size=n)  # one transition
    frames = place(3.8 + 0.05 * rng.normal(size=(n, 3)), np.stack([slow, slow], 1), rng.uniform(-3, 3, n))
    with pytest.raises(PriorFitError, match="independent"):
        fit_priors(topology, frames, TEMPERATURE, terms=("angles",))
    priors = fit_priors(topology, frames, TEMPERATURE, terms=("angles",), min_effective_wildcard=2)
    assert row(priors, "angles")["fallback"] == ["*", "*", "*"]


def test_few_samples_use_the_wildcard() -> None:
    topology = CGTopology.from_sequence("AAAAAAG")
    frames = chains(60, 7)
    priors = fit_priors(topology, frames, TEMPERATURE, terms=("bonds", "repulsion"))
    alone = next(r for r in priors.table() if r["types"] == ["CA_ALA", "CA_GLY"] and r["term"] == "bonds")
    assert alone["n"] == 60
    assert alone["parameters"] is None
    assert alone["fallback"] == ["*", "*"]
    many = next(r for r in priors.table() if r["types"] == ["CA_ALA", "CA_ALA"] and r["term"] == "bonds")
    assert many["fallback"] is None
    assert many["n"] == 300
    with pytest.raises(PriorFitError, match="Give more frames"):
        fit_priors(topology, frames[:5], TEMPERATURE, terms=("bonds",))


def test_kinds_of_beads_are_not_pooled() -> None:
    topology = CGTopology.from_sequence("AAAA", mapping="CACB")
    backbone = chains(200, 4)
    rng = np.random.default_rng(0)
    frames = np.zeros((200, 8, 3))
    frames[:, 0::2] = backbone
    side = rng.normal(size=(200, 4, 3))
    frames[:, 1::2] = backbone + 1.53 * side / np.linalg.norm(side, axis=-1, keepdims=True)
    priors = fit_priors(topology, frames, TEMPERATURE, terms=("bonds", "repulsion"), per_type=False)
    bonds = {tuple(r["types"]): r["parameters"]["r0"] for r in priors.table() if r["term"] == "bonds"}
    assert bonds["CA_*", "CA_*"] == pytest.approx(3.8, abs=0.05)
    assert bonds["CA_*", "CB_*"] == pytest.approx(1.53, abs=0.01)


def test_constant_data_reach_the_bound_without_nan() -> None:
    topology = CGTopology.from_sequence("AAAAAA")
    frames = np.repeat(chains(1, 6), 400, axis=0)
    priors = fit_priors(topology, frames, TEMPERATURE)
    for r in priors.table():
        values = np.concatenate([np.atleast_1d(v) for v in (r["parameters"] or {"none": 0.0}).values()])
        assert np.isfinite(values).all()
    straight = np.zeros((400, 6, 3))
    straight[:, :, 0] = 3.8 * np.arange(6)
    flat = fit_priors(topology, straight, TEMPERATURE)
    bond = row(flat, "bonds")
    assert bond["at_bound"]
    assert bond["parameters"]["k"] == pytest.approx(FitSettings().bond_k[1])
    assert bond["parameters"]["r0"] == pytest.approx(3.8, abs=1e-3)
    for r in flat.table():
        values = np.concatenate([np.atleast_1d(v) for v in (r["parameters"] or {"none": 0.0}).values()])
        assert np.isfinite(values).all()


def test_repulsion_is_1_kT_at_contact_and_not_larger_for_pairs_without_contacts() -> None:
    topology = CGTopology.from_sequence("YYDPETGTWY")
    frames = chains(300, 10)
    ahead = frames[:, 7] - frames[:, 3]
    ahead *= 3.8 / np.linalg.norm(ahead, axis=1, keepdims=True)
    frames[:, 8], frames[:, 9] = frames[:, 7] + ahead, frames[:, 7] + 2 * ahead  # the end has few contacts
    priors = fit_priors(topology, frames, TEMPERATURE, terms=("repulsion",))
    wild = row(priors, "repulsion", wild=True)
    p = wild["parameters"]
    assert p["epsilon"] * (p["sigma"] / wild["contact"]) ** priors.power == pytest.approx(kT(TEMPERATURE))
    for r in priors.table():
        if r["parameters"] is not None:
            assert r["parameters"]["sigma"] <= p["sigma"]
    far = next(r for r in priors.table() if r["types"] == ["CA_TRP", "CA_TYR"])
    assert far["contact"] > wild["contact"]
    assert far["fallback"] == ["*", "*"]


def test_uniform_fraction_limits_the_barriers() -> None:
    rng = np.random.default_rng(0)
    narrow = rng.normal(scale=0.2, size=4000)
    plain = estimate.fit_cosines(narrow, BETA, 3, 50.0, 0.0)
    mixed = estimate.fit_cosines(narrow, BETA, 3, 50.0, 0.2)
    assert sum(mixed.parameters["k"]) < sum(plain.parameters["k"])


def test_bad_input_is_named() -> None:
    topology, frames = CGTopology.from_sequence("AAAAA"), chains(200, 5)
    with pytest.raises(ConfigError, match="bond"):
        fit_priors(topology, frames, TEMPERATURE, terms=("bond",))
    with pytest.raises(ConfigError, match="min_counts"):
        fit_priors(topology, frames, TEMPERATURE, min_counts=3)
    with pytest.raises(ConfigError, match="temperature"):
        fit_priors(topology, frames, 0.0)
    with pytest.raises(PriorFitError, match="5 beads"):
        fit_priors(CGTopology.from_sequence("AAAA"), frames, TEMPERATURE)
    broken = frames.copy()
    broken[17, 2, 1] = np.nan
    with pytest.raises(PriorFitError, match="frame 17"):
        fit_priors(topology, broken, TEMPERATURE)
    with pytest.raises(PriorFitError, match="no frames"):
        fit_priors(topology, frames[:0], TEMPERATURE)
    with pytest.raises(PriorFitError, match="no dihedrals"):
        fit_priors(CGTopology.from_sequence("AAA"), frames[:, :3], TEMPERATURE)
    with pytest.raises(ConfigError, match="uniform_fraction"):
        FitSettings(uniform_fraction=1.5)


def test_save_load_hash_and_plot(tmp_path: Path) -> None:
    topology = CGTopology.from_sequence("YYDPETGTWY")
    priors = fit_priors(topology, chains(150, 10), TEMPERATURE)
    path = tmp_path / "priors.yaml"
    priors.save(path)
    again = PriorSet.load(path)
    assert again.hash == priors.hash
    assert again.table() == priors.table()
    assert again.to_prior_model() == priors.to_prior_model()
    assert [next(iter(p)) for p in priors.to_prior_model()] == [
        "CGBonds",
        "CGAngles",
        "CGDihedrals",
        "CGRepulsion",
    ]
    assert fit_priors(topology, chains(150, 10), TEMPERATURE).hash == priors.hash
    assert fit_priors(topology, chains(150, 10), 390.0).hash != priors.hash
    plot_priors(again, tmp_path / "priors.png")
    assert (tmp_path / "priors.png").read_bytes()[:4] == b"\x89PNG"

    content = yaml.safe_load(path.read_text())
    content["rows"][0]["parameters"]["k"] *= 1.01
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="damaged or was edited"):
        PriorSet.load(path)
    path.write_text("a: [1")
    with pytest.raises(ConfigError, match="not YAML"):
        PriorSet.load(path)
    path.write_text("a: 1")
    with pytest.raises(ConfigError, match="not a prior file"):
        PriorSet.load(path)
    with pytest.raises(ConfigError, match="does not exist"):
        PriorSet.load(tmp_path / "nothing.yaml")

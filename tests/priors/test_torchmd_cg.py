"""Prior force fields of torchmd-cg: energies, order of the beads, wrong files, and the way back."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cgal_plugin import register
from cgal_plugin.errors import CGALWarning, ConfigError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet, fit_priors, read_torchmd_priors, write_torchmd_priors
from cgal_plugin.priors.modules import PRIORS
from tests.artefacts import artefact
from tests.priors.chains import chains
from tests.priors.torchmd_files import energies, force_field, write

PROTEINS = ("cln", "trp", "bba", "bbl", "ntl9", "proteinb", "homeodomain", "lambda")
RESIDUES = ["GLY", "ALA", "GLY", "LEU", "PRO", "ASP", "CYS", "ALA", "GLY", "LEU", "ALA", "PRO", "LEU", "CYS"]
SEQUENCE = "GAGLPDCAGLAPLC"


def read(path: Path, *arguments: Any, **options: Any) -> PriorSet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CGALWarning)
        return read_torchmd_priors(path, *arguments, **options)


def evaluate(priors: PriorSet, frames: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Energies (kcal/mol) of each term of frames ``(n, n_beads, 3)`` Å, and the forces of all terms."""
    n, topology = len(frames), priors.molecule
    z = torch.from_numpy(np.tile(topology.types, n))
    batch = torch.arange(n).repeat_interleave(topology.n_beads)
    pos = torch.from_numpy(np.asarray(frames, dtype=np.float64).reshape(-1, 3)).requires_grad_()
    zero = torch.zeros(n, 1, dtype=torch.float64)
    found = {
        t: PRIORS[t](**priors.arguments(t)).double().post_reduce(zero, z, pos, batch) for t in priors.terms
    }
    forces = -torch.autograd.grad(sum(e.sum() for e in found.values()), pos)[0]
    return {t: e.detach().numpy()[:, 0] for t, e in found.items()}, forces.numpy().reshape(frames.shape)


@pytest.mark.parametrize("protein", PROTEINS)
def test_energies_and_forces_of_the_published_priors_are_torchmds(protein: str) -> None:
    folder = artefact("torchmd_cg")
    topology = CGTopology.from_file(folder / f"{protein}.psf")
    priors = read(folder / "prior_force_field.yaml", topology)
    expected = np.load(folder / f"{protein}_expected.npz")
    found, forces = evaluate(priors, expected["positions"])
    names = {"bonds": "bonds", "repulsion": "repulsioncg", "dihedrals": "dihedrals"}
    assert set(found) == set(names)
    for term, name in names.items():
        assert np.abs(found[term] - expected[f"energy_{name}"]).max() < 1e-9
    assert np.abs(forces - expected["forces"]).max() < 1e-9


def test_energies_of_any_file_are_those_of_its_formulas(tmp_path: Path) -> None:
    """Order of the beads, reverse where it is missing, wildcards in torchmd's order, all terms."""
    topology, frames = CGTopology.from_sequence(SEQUENCE), chains(5, len(SEQUENCE), seed=4)
    for seed in range(3):
        content = force_field(seed)
        priors = read(write(content, tmp_path / "ff.yaml"), topology)
        assert set(priors.ordered) == {"bonds", "angles", "dihedrals"}
        found, _ = evaluate(priors, frames)
        for k, frame in enumerate(frames):
            for term, value in energies(content, RESIDUES, frame).items():
                assert found[term][k] == pytest.approx(value, rel=1e-12), term


def test_the_order_of_the_beads_counts(tmp_path: Path) -> None:
    content = force_field()
    priors = read(write(content, tmp_path / "ff.yaml"), terms=["bonds"])
    assert content["bonds"]["(CAA, CAL)"] != content["bonds"]["(CAL, CAA)"]
    forward, backward = (priors.for_topology(CGTopology.from_sequence(s)) for s in ("AL", "LA"))
    x = np.array([[[0.0, 0, 0], [4.0, 0, 0]]])
    assert evaluate(forward, x)[0]["bonds"] != evaluate(backward, x)[0]["bonds"]
    # the reverse of what the table has
    assert np.array_equal(
        evaluate(priors.for_topology(CGTopology.from_sequence("AG")), x)[0]["bonds"],
        evaluate(priors.for_topology(CGTopology.from_sequence("GA")), x)[0]["bonds"],
    )


def test_batches_of_different_molecules_have_their_own_parameters(tmp_path: Path) -> None:
    priors = read(write(force_field(), tmp_path / "ff.yaml"))
    molecules = [CGTopology.from_sequence(s) for s in (SEQUENCE, "LAGCP", SEQUENCE[::-1])]
    frames = [chains(1, m.n_beads, seed=k)[0] for k, m in enumerate(molecules)]
    z = torch.from_numpy(np.concatenate([m.types for m in molecules]))
    pos = torch.from_numpy(np.concatenate(frames))
    sizes = torch.tensor([m.n_beads for m in molecules])
    batch = torch.repeat_interleave(torch.arange(3), sizes)
    first = np.cumsum([0, *sizes.tolist()[:-1]])
    tables = {
        name: torch.from_numpy(
            np.concatenate([getattr(m, name).T + o for m, o in zip(molecules, first, strict=True)], axis=1)
        )
        for name in ("bond_index", "angle_index", "dihedral_index", "bridge_index")
    }
    for term in priors.terms:
        prior = PRIORS[term](**priors.arguments(term))
        together = prior.post_reduce(torch.zeros(3, 1).double(), z, pos, batch, None, tables)
        alone = [
            evaluate(priors.for_topology(m), f[None])[0][term][0]
            for m, f in zip(molecules, frames, strict=True)
        ]
        assert together[:, 0].tolist() == pytest.approx(alone, rel=1e-12)
        again = PRIORS[term](**yaml.safe_load(yaml.safe_dump(prior.get_init_args())))
        assert again.ordered == (term in priors.ordered)
        assert torch.equal(
            again.post_reduce(torch.zeros(3, 1).double(), z, pos, batch, None, tables), together
        )


def test_a_torchmdnet_file_and_its_data_set_use_them(tmp_path: Path) -> None:
    from types import SimpleNamespace

    priors = read(write(force_field(), tmp_path / "ff.yaml"), temperature=350.0)
    priors.save(tmp_path / "priors.yaml")
    again = PriorSet.load(tmp_path / "priors.yaml")
    assert again.hash == priors.hash
    assert (again.topology, again.temperature, again.n_frames) == (None, 350.0, 0)
    assert again.ordered == priors.ordered
    assert again.source is not None
    assert again.source["format"] == "torchmd-cg"
    topology = CGTopology.from_sequence(SEQUENCE)
    data = SimpleNamespace(topology=topology, temperature=350.0)
    made = PRIORS["bonds"](file=tmp_path / "priors.yaml", dataset=data)
    assert made.get_init_args() == priors.for_topology(topology).arguments("bonds")
    with pytest.raises(ConfigError, match=r"for any molecule at 350 K; the data are for .* at 300 K"):
        PRIORS["bonds"](
            file=tmp_path / "priors.yaml", dataset=SimpleNamespace(topology=topology, temperature=300.0)
        )
    several = SimpleNamespace(
        topology=None,
        topologies=(topology, CGTopology.from_sequence("LAG")),
        temperature=350.0,
        embedding="cgal",
    )
    made = PRIORS["bonds"](file=tmp_path / "priors.yaml", dataset=several)
    assert made.get_init_args()["molecule"] is None
    numbers = {f"CA_{r}": n for n, r in enumerate(("LEU", "GLY", "CYS", "ASP", "ALA", "PRO"), start=3)}
    other = SimpleNamespace(
        topology=None,
        topologies=tuple(m.with_embedding(numbers) for m in several.topologies),
        temperature=350.0,
    )
    other.embedding = other.topologies[0].embedding
    frame, expected = chains(1, len(SEQUENCE), seed=2)[0], []
    for data in (several, other):
        own, molecule = PRIORS["bonds"](file=tmp_path / "priors.yaml", dataset=data), data.topologies[0]
        own = PRIORS["bonds"](**own.get_init_args())
        z, table = torch.tensor(molecule.types), {"bond_index": torch.tensor(molecule.bond_index.T.copy())}
        zero, batch = torch.zeros(1, 1, dtype=torch.float64), torch.zeros_like(z)
        expected.append(own.post_reduce(zero, z, torch.from_numpy(frame), batch, None, table).item())
    assert expected[0] == expected[1] == evaluate(priors.for_topology(topology), frame[None])[0]["bonds"][0]
    several.topologies = (topology, CGTopology.from_sequence("WWW"))
    with pytest.raises(ConfigError, match="repulsion has no parameters for CA_TRP-CA_TRP"):
        PRIORS["repulsion"](file=tmp_path / "priors.yaml", dataset=several)


def test_priors_without_temperature_take_that_of_the_data(tmp_path: Path) -> None:
    priors, topology = read(write(force_field(), tmp_path / "ff.yaml")), CGTopology.from_sequence(SEQUENCE)
    assert priors.temperature is None
    with pytest.warns(CGALWarning, match="do not record their temperature: they are used at 320 K"):
        used = priors.for_topology(topology, 320.0)
    assert used.temperature == 320.0
    with pytest.raises(ConfigError, match="at 320 K; the data are for"):
        used.for_topology(topology, 350.0)
    with pytest.raises(ConfigError, match="the data are for"):
        used.for_topology(CGTopology.from_sequence("AG"), 320.0)


def test_export_and_fast_engine_have_the_same_energies(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    register()
    from torchmdnet.models.model import create_model

    from cgal_plugin.export.fast import FastPotential
    from cgal_plugin.export.potential import potential_module
    from cgal_plugin.models.build import MODEL_DEFAULTS

    topology = CGTopology.from_sequence(SEQUENCE)
    priors = read(write(force_field(), tmp_path / "ff.yaml"), topology)
    values = {
        **MODEL_DEFAULTS,
        "model": "cgschnet",
        "activation": "silu",
        "embedding_dimension": 32,
        "num_layers": 1,
        "num_rbf": 8,
        "cutoff_lower": 3.0,
        "cutoff_upper": 12.0,
        "derivative": True,
    }
    torch.manual_seed(0)
    model = create_model(
        values, prior_model=[PRIORS[t](**priors.arguments(t)) for t in priors.terms]
    ).double()
    frames = chains(3, len(SEQUENCE), seed=1)
    z = torch.from_numpy(np.tile(topology.types, 3))
    batch = torch.arange(3).repeat_interleave(len(SEQUENCE))
    energy, forces = (v.detach().numpy() for v in model(z, torch.from_numpy(frames.reshape(-1, 3)), batch))
    scale, largest = 4.184, np.abs(forces).max()
    nm = frames.reshape(-1, 3) / 10.0
    e, f = potential_module(model, topology, n_replicas=3)(torch.from_numpy(nm))
    assert float(e) == pytest.approx(scale * float(energy.sum()), rel=1e-6)
    assert np.abs(f.numpy() / scale / 10.0 - forces).max() < 1e-6 * largest
    fast = FastPotential.from_model(model, topology).with_replicas(3)
    e, f = fast(nm)
    assert e == pytest.approx(scale * float(energy.sum()), rel=1e-5)
    assert np.abs(f / scale / 10.0 - forces).max() < 1e-5 * largest


# ------------------------------------------------------------------ the way back


def test_priors_to_yaml_to_priors(tmp_path: Path) -> None:
    for number, content in enumerate((force_field(1), force_field(2, kinds="ADCLGP"))):
        priors = read(write(content, tmp_path / "ff.yaml"), temperature=340.0, exclude_bonds=number + 1)
        made = write_torchmd_priors(priors, tmp_path / "again.yaml")
        again = read(tmp_path / "again.yaml")
        assert again.hash == priors.hash
        assert (again.temperature, again.exclude_bonds) == (340.0, number + 1)
        # what torchmd reads is what it read before, rounded to float32
        for section in ("bonds", "angles", "lj"):
            assert list(made[section]) == list(content[section])
            for key, entry in content[section].items():
                assert made[section][key] == pytest.approx(entry, rel=1e-7)
        assert made["masses"] == content["masses"]


def test_the_published_file_comes_back_in_full(tmp_path: Path) -> None:
    path = artefact("torchmd_cg") / "prior_force_field.yaml"
    priors = read(path, temperature=350.0)
    write_torchmd_priors(priors, tmp_path / "again.yaml")
    assert read(tmp_path / "again.yaml").hash == priors.hash
    before, after = (yaml.safe_load(p.read_text()) for p in (path, tmp_path / "again.yaml"))
    for section in ("atomtypes", "electrostatics", "masses"):
        assert after[section] == before[section]
    assert list(after["bonds"]) == list(before["bonds"])
    assert list(after["lj"]) == list(before["lj"])


def test_priors_of_one_molecule_and_the_other_repulsion_come_back(tmp_path: Path) -> None:
    """Types without a pair of their own are solved for; power 12 is torchmd's term repulsion."""
    topology, frames = CGTopology.from_sequence("GALPDC"), chains(3, 6, seed=2)
    priors = read(write(force_field(), tmp_path / "ff.yaml"), topology, repulsion="repulsion")
    assert priors.power == 12
    write_torchmd_priors(priors, tmp_path / "again.yaml")
    again = read(tmp_path / "again.yaml", topology)
    assert again.power == 12
    before, after = evaluate(priors, frames), evaluate(again, frames)
    for term in priors.terms:
        assert after[0][term] == pytest.approx(before[0][term], rel=1e-10)
    assert np.abs(after[1] - before[1]).max() < 1e-9 * np.abs(before[1]).max()


def test_fitted_priors_are_written_too(tmp_path: Path) -> None:
    topology, frames = CGTopology.from_sequence("GALPDC"), chains(300, 6)
    fitted = fit_priors(topology, frames, 400.0)
    with pytest.raises(ConfigError, match=r"mixes the repulsion .* leave it out"):
        write_torchmd_priors(fitted, tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()
    some = fitted.with_terms(["bonds", "angles", "dihedrals"])
    write_torchmd_priors(some, tmp_path / "x.yaml")
    again = read(tmp_path / "x.yaml", topology)
    assert again.temperature == 400.0
    before, after = evaluate(some, frames[:5]), evaluate(again, frames[:5])
    for term in some.terms:
        assert after[0][term] == pytest.approx(before[0][term], rel=1e-12)
    cosine = fit_priors(topology, frames, 400.0, terms=("angles",), angle_form="cos")
    with pytest.raises(ConfigError, match="cos"):
        write_torchmd_priors(cosine, tmp_path / "y.yaml")
    with pytest.raises(ConfigError, match=r"no term 'pairs'; they have bonds"):
        fitted.with_terms(["pairs"])


NUMBER = st.floats(0.01, 1e4, allow_subnormal=False)
LENGTH = st.floats(1.0, 20.0)
PHASE = st.floats(-720.0, 720.0)


@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    bonds=st.dictionaries(
        st.tuples(st.sampled_from("ACDGX"), st.sampled_from("ACDGX")), st.tuples(NUMBER, LENGTH), min_size=1
    ),
    series=st.lists(st.tuples(NUMBER, PHASE), min_size=1, max_size=5),
    lj=st.dictionaries(st.sampled_from("ACDG"), st.tuples(NUMBER, LENGTH), min_size=1),
)
def test_any_priors_come_back(
    tmp_path_factory: pytest.TempPathFactory, bonds: Any, series: Any, lj: Any
) -> None:
    def name(kind: str) -> str:
        return "X" if kind == "X" else f"CA{kind}"

    content = {
        "bonds": {f"({name(a)}, {name(b)})": {"k0": k, "req": r} for (a, b), (k, r) in bonds.items()},
        "dihedrals": {
            "(X, X, X, X)": {
                "terms": [{"phi_k": k, "phase": p, "per": n} for n, (k, p) in enumerate(series, start=1)]
            }
        },
        "lj": {name(a): {"epsilon": e, "sigma": s} for a, (e, s) in lj.items()},
    }
    folder = tmp_path_factory.mktemp("round")
    priors = read(write(content, folder / "a.yaml"))
    write_torchmd_priors(priors, folder / "b.yaml")
    assert read(folder / "b.yaml").hash == priors.hash


# ------------------------------------------------------------------ wrong files


def wrong(change: Any) -> dict[str, Any]:
    content = copy.deepcopy(force_field())
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["electrostatics"]["CAD"].update(charge=-1.0),
            r"CAD has charge -1; .* no electrostatics",
        ),
        (lambda c: c.update(impropers={"(X, X, X, X)": {}}), "has impropers, which prior tables cannot"),
        (lambda c: c["bonds"]["(CAA, CAC)"].update(req=0.383), r"CA_ALA-CA_CYS .* 0.383 Å; .* in nm"),
        (lambda c: c["bonds"]["(CAA, CAC)"].pop("req"), r"\(CAA, CAC\) needs k0, req; found \['k0'\]"),
        (lambda c: c["bonds"]["(CAA, CAC)"].update(r0=3.8), "needs k0, req; found"),
        (lambda c: c["bonds"]["(CAA, CAC)"].update(k0=float("nan")), "k0 is nan; it must be a finite number"),
        (lambda c: c["bonds"]["(CAA, CAC)"].update(k0="many"), "k0 is 'many'"),
        (lambda c: c["bonds"]["(CAA, CAC)"].update(k0=-3.0), "k0 is -3.0; .* at least 0"),
        (lambda c: c["bonds"]["(CAA, CAC)"].update(k0=True), "k0 is True"),
        (lambda c: c["bonds"].update({"(CAA, CBA)": {"k0": 1, "req": 3.8}}), "atom type 'CBA' is not known"),
        (lambda c: c["bonds"].update({"(CAA, CAC, CAD)": {"k0": 1, "req": 3.8}}), "expected 2 atom types"),
        (lambda c: c["bonds"].update({"CAA, CAC": {"k0": 1, "req": 3.8}}), "expected 2 atom types"),
        (lambda c: c["angles"]["(X, X, X)"].update(theta0=210.0), "theta0 is 210; it must be 0 to 180"),
        (lambda c: c["dihedrals"]["(X, X, X, X)"]["terms"][0].update(per=0), "per is 0; .* harmonic"),
        (lambda c: c["dihedrals"]["(X, X, X, X)"]["terms"][0].update(per=2), "has per 2 twice"),
        (lambda c: c["dihedrals"]["(X, X, X, X)"].update(terms=[]), "terms must be a list"),
        (lambda c: c["lj"].update(X={"epsilon": 1.0, "sigma": 1.0}), "lj has X beside CA_ALA"),
        (lambda c: c["lj"]["CAA"].update(sigma=0.0), "sigma is 0"),
        (lambda c: c["lj"]["CAA"].update(epsilon=-1.0), "epsilon is -1.0; .* at least 0"),
        (lambda c: c.update(lj=[1, 2]), "lj is .* one entry per atom type"),
        (lambda c: [c.pop(k) for k in list(c) if k != "masses"], "has no parameters"),
    ],
)
def test_what_the_tables_cannot_hold_is_an_error(tmp_path: Path, change: Any, message: str) -> None:
    path = write(wrong(change), tmp_path / "ff.yaml")
    with pytest.raises(ConfigError, match=message):
        read_torchmd_priors(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "ff.yaml"
    with pytest.raises(ConfigError, match="does not exist"):
        read(path)
    path.write_text("bonds: {(CAA, CAC: {k0: 1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read(path)
    path.write_text("bonds:\n  (CAA, CAC): {k0: 1, req: 3.8}\n  (CAA, CAC): {k0: 2, req: 3.8}\n")
    with pytest.raises(ConfigError, match="given twice"):
        read(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="list"):
        read(path)
    priors = read(write(force_field(), path))
    priors.save(tmp_path / "own.yaml")
    with pytest.raises(ConfigError, match="is a prior file of this package already"):
        read(tmp_path / "own.yaml")
    for options, message in (
        ({"repulsion": "lj"}, "'lj' is not a term"),
        ({"exclude_bonds": -1}, "exclude_bonds is -1"),
        ({"temperature": 0.0}, "temperature is 0.0 K"),
        ({"terms": ["pairs"]}, "has no pairs; it has bonds, angles, dihedrals, repulsion"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(path, **options)
    write_torchmd_priors(read(path, temperature=350.0), path)
    with pytest.raises(ConfigError, match=r"records temperature 350.0, not 300.0"):
        read(path, temperature=300.0)


def test_a_residue_without_parameters_is_named(tmp_path: Path) -> None:
    path = write(force_field(), tmp_path / "ff.yaml")
    with pytest.raises(
        ConfigError, match=r"repulsion has no parameters for CA_GLY-CA_TRP .*no CA_TRP at all"
    ):
        read(path, CGTopology.from_sequence("GAWL"))
    content = wrong(lambda c: [c["bonds"].pop(k) for k in list(c["bonds"]) if "X" in k])
    with pytest.raises(ConfigError, match=r"bonds has no parameters for CA_LEU-CA_PRO \(beads 1, 2 of"):
        read(write(content, path), CGTopology.from_sequence("GLP"))


def test_what_is_read_and_what_is_not_is_said(tmp_path: Path) -> None:
    path = write(force_field(), tmp_path / "ff.yaml")
    with pytest.warns(
        CGALWarning, match="term repulsioncg between beads more than 1 bond apart; .*1-4.*masses"
    ):
        priors = read_torchmd_priors(path)
    assert priors.source is not None
    assert any("repulsioncg" in note for note in priors.source["notes"])
    with pytest.raises(ConfigError, match="any molecule: choose one"):
        _ = priors.molecule


def test_a_residue_that_is_not_standard_has_its_atom_type(tmp_path: Path) -> None:
    """NLE of villin: torchmd-cg's topology types it CAL, as leucine."""
    residues = ["GLY", "NLE", "ALA", "NLE", "PRO"]
    kinds = ["CAG", "CAL", "CAA", "CAL", "CAP"]
    atoms = [
        f"{n:8d} P    {n + 41:<8d} {r:8s} CA       {k:8s} 0.000000        0.0000           0"
        for n, (r, k) in enumerate(zip(residues, kinds, strict=True), start=1)
    ]
    bonds = "".join(f"{i:10d}{i + 1:10d}" for i in range(1, 5))
    text = [
        "PSF NAMD",
        "",
        "       0 !NTITLE",
        "",
        "       5 !NATOM",
        *atoms,
        "",
        "       4 !NBOND: bonds",
        bonds,
        "",
    ]
    (tmp_path / "v.psf").write_text("\n".join(text))
    with pytest.warns(CGALWarning, match=r"read NLE as LEU \(atom type CAL\)"):
        topology = CGTopology.from_file(tmp_path / "v.psf")
    assert topology.sequence == "GLALP"
    read(write(force_field(), tmp_path / "ff.yaml"), topology)
    (tmp_path / "v.psf").write_text("\n".join(text).replace("CAL ", "CT1 "))
    with pytest.raises(Exception, match="NLE"):
        CGTopology.from_file(tmp_path / "v.psf")

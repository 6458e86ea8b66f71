"""``cgal import-priors`` and ``export-priors``; imported priors in ``cgal train``, export and a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.components.trainer import TorchMDNetTrainer
from cgal_plugin.config.load import parse_config
from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.errors import CGALWarning, ConfigError
from cgal_plugin.export.potential import potential_module
from cgal_plugin.mapping import CGTopology
from cgal_plugin.models.mlcg_files import read_mlcg
from cgal_plugin.priors import PriorSet, priors_from_mlcg, write_mlcg_priors
from cgal_plugin.training import load_model
from tests.cli.test_main import call
from tests.priors.chains import chains
from tests.priors.mlcg_parts import parts
from tests.priors.torchmd_files import force_field, write

TOPOLOGY = CGTopology.from_sequence("GAGLP")


def make_store(path: Path, temperature: float = 350.0) -> DataStore:
    store = DataStore.create(path, TOPOLOGY, temperature=temperature, force_map_hash="m")
    frames, index = chains(40, 5), np.arange(40)
    forces = np.random.default_rng(0).normal(size=frames.shape)
    store.append("s", LabelledFrames(frames, forces, index, 0 * index, np.zeros(40)), source="seed")
    return store


def imported(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """``cgal import-priors`` of a force field, which says what it reads."""
    code, out, err = noted(capsys, "import-priors", *words)
    assert "note: " in err
    assert "lj is read as torchmd's term" in err
    return code, out, err


def noted(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """A command whose warnings are printed as notes."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CGALWarning)
        return call(capsys, *words)


def test_torchmds_force_field_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(force_field(), tmp_path / "ff.yaml")
    code, out, err = imported(capsys, tmp_path / "ff.yaml", "-o", tmp_path / "p.yaml", "--temperature", 350)
    assert code == 0, err
    assert '{"term": "repulsion", "rows": 21}' in out
    priors = PriorSet.load(tmp_path / "p.yaml")
    assert (priors.topology, priors.temperature) == (None, 350.0)
    assert call(capsys, "export-priors", tmp_path / "p.yaml", "-o", tmp_path / "again.yaml")[0] == 0
    assert imported(capsys, tmp_path / "again.yaml", "-o", tmp_path / "q.yaml")[0] == 0
    assert PriorSet.load(tmp_path / "q.yaml").hash == priors.hash
    code, _, err = imported(
        capsys, tmp_path / "ff.yaml", "-o", tmp_path / "r.yaml",
        "--topology", "GAL", "--terms", "repulsion,bonds", "--exclude-bonds", 2, "--repulsion", "repulsion",
    )  # fmt: skip
    assert code == 0, err
    priors = PriorSet.load(tmp_path / "r.yaml")
    assert (priors.terms, priors.exclude_bonds, priors.power) == (("bonds", "repulsion"), 2, 12)
    assert priors.molecule.sequence == "GAL"


def test_mlcgs_priors_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    priors = priors_from_mlcg(parts(), None, "mlcg-tk")
    write_mlcg_priors(priors, tmp_path / "p.pt", "mlcg-tk")
    arguments = ("import-priors", tmp_path / "p.pt", "-o", tmp_path / "p.yaml")
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert "does not say how: give --embedding" in err
    assert not (tmp_path / "p.yaml").exists()
    code, _, err = call(capsys, *arguments, "--embedding", "mlcg-tk")
    assert code == 0, err
    arguments = ("export-priors", tmp_path / "p.yaml", "-o", tmp_path / "q.pt")
    assert call(capsys, *arguments, "--embedding", "mlcg-tk")[0] == 0
    again = priors_from_mlcg(read_mlcg(tmp_path / "q.pt").parts, None, "mlcg-tk")
    assert again.hash == PriorSet.load(tmp_path / "p.yaml").hash


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import-priors", "ff.yaml", "--topology", "GAW"), "has no parameters for"),
        (("import-priors", "ff.txt"), "the ending of"),
        (("import-priors", "ff.yaml", "--format", "gromacs"), "--format 'gromacs' is not known"),
        (("import-priors", "none.yaml"), "does not exist"),
        (("import-priors", "none.pt", "--embedding", "mlcg-tk"), "none.pt"),
        (("import-priors", "ff.yaml", "--format", "mlcg", "--embedding", "mlcg-tk"), "ff.yaml"),
        (("import-priors", "ff.yaml", "--terms", "pairs"), "has no pairs"),
        (("export-priors", "ff.yaml", "--format", "torchmd-cg"), "is not a prior file"),
    ],
)
def test_wrong_calls_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    write(force_field(), tmp_path / "ff.yaml")
    (tmp_path / "ff.txt").write_text("x")
    code, _, err = noted(capsys, words[0], tmp_path / words[1], *words[2:], "-o", tmp_path / "out.yaml")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out.yaml").exists()


def test_a_training_and_its_export_have_imported_priors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "data")
    write(force_field(), tmp_path / "ff.yaml")
    keys = "num_epochs: 1\nembedding_dimension: 8\nnum_layers: 1\nnum_rbf: 8\nprecision: 64\n"
    (tmp_path / "keys.yaml").write_text(keys)
    assert imported(capsys, tmp_path / "ff.yaml", "-o", tmp_path / "p.yaml")[0] == 0
    words = ("train", tmp_path / "data", "-o", tmp_path / "out", "--config", tmp_path / "keys.yaml")
    code, out, err = noted(capsys, *words, "--priors", tmp_path / "p.yaml")
    assert code == 0, err
    assert "do not record their temperature: they are used at 350 K" in err
    model = load_model(out.splitlines()[-1])
    expected = PriorSet.load(tmp_path / "p.yaml").for_topology(TOPOLOGY)
    assert [p.get_init_args() for p in model.prior_model] == [expected.arguments(t) for t in expected.terms]
    assert model.prior_model[0].ordered
    x = chains(2, 5, seed=3)
    z, batch = torch.from_numpy(np.tile(TOPOLOGY.types, 2)), torch.arange(2).repeat_interleave(5)
    energy, forces = model.double()(z, torch.from_numpy(x.reshape(-1, 3)), batch)
    e, f = potential_module(model, TOPOLOGY, n_replicas=2)(torch.from_numpy(x.reshape(-1, 3) / 10.0))
    assert float(e) == pytest.approx(4.184 * float(energy.detach().sum()), rel=1e-6)
    assert f.numpy() / 41.84 == pytest.approx(forces.detach().numpy(), rel=1e-5, abs=1e-5)


def trainer(file: Path, **more: Any) -> TorchMDNetTrainer:
    system = {"sequence": TOPOLOGY.sequence, "temperature": 350.0}
    return TorchMDNetTrainer(
        parse_config({"system": system, "training": {"priors": {"file": str(file)}}, **more})
    )


def test_a_run_takes_imported_priors_and_fits_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(force_field(), tmp_path / "ff.yaml")
    assert imported(capsys, tmp_path / "ff.yaml", "-o", tmp_path / "p.yaml")[0] == 0
    made = trainer(tmp_path / "p.yaml")
    with pytest.warns(CGALWarning, match="do not record their temperature"):
        made.check(TOPOLOGY)
    (tmp_path / "priors").mkdir()
    store = make_store(tmp_path / "data")
    made.prepare(store, tmp_path / "priors")  # says nothing again
    kept = PriorSet.load(tmp_path / "priors" / "priors.yaml")
    assert (kept.topology, kept.temperature, kept.n_frames) == (TOPOLOGY, 350.0, 0)
    assert (tmp_path / "priors" / "priors.png").exists()
    assert made.priors(tmp_path).hash == kept.hash
    with pytest.raises(ConfigError, match=r"priors.yaml are for .* at 350 K; the data are for .* at 300 K"):
        trainer(tmp_path / "p.yaml").prepare(make_store(tmp_path / "other", 300.0), tmp_path / "priors")


def test_a_run_with_unusable_priors_stops_before_anything_is_spent(tmp_path: Path) -> None:
    from cgal_plugin.priors import read_torchmd_priors

    with pytest.warns(CGALWarning, match="repulsioncg"):
        read_torchmd_priors(write(force_field(), tmp_path / "ff.yaml"), temperature=350.0).save(
            tmp_path / "p.yaml"
        )
    with pytest.raises(ConfigError, match=r"p.yaml: .* has no parameters for CA_GLY-CA_TRP"):
        trainer(tmp_path / "p.yaml").check(CGTopology.from_sequence("GAWG"))
    refined = trainer(tmp_path / "p.yaml", refinement={"lag_ps": 2.0})
    with pytest.raises(
        ConfigError, match=r"refinement changes pair energies, and the priors in .* have only"
    ):
        refined.check(TOPOLOGY)

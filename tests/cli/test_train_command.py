"""``cgal train``: a refused call does not block the corrected one, and no key is overridden in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgal_plugin.data import DataStore
from cgal_plugin.priors import fit_priors
from tests.cli.test_main import call
from tests.priors.chains import chains
from tests.training.data import make_store

SMALL = "num_epochs: 1\nembedding_dimension: 8\nnum_layers: 1\nnum_rbf: 8\n"


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_store(tmp_path / "data", n=40)

    def run(keys: str, *words: object) -> tuple[int, str, str]:
        (tmp_path / "keys.yaml").write_text(SMALL + keys)
        return call(
            capsys,
            "train",
            tmp_path / "data",
            "-o",
            tmp_path / "out",
            "--config",
            tmp_path / "keys.yaml",
            *words,
        )

    return run


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("cgschnet: {forms: 1}", "did you mean 'form'"),
        ("prior_model: [CGBond]", "CGBond"),
        ("max_z: 4", "max_z is 4"),
        ("output_model: DipoleMoment", "use Scalar"),
        ("train_size: 50", "the data set has 40"),
        ("dataset_root: other", "dataset_root names other data"),
        ("dataset: HDF5", "dataset names other data"),
        ("dataset_arg: {coords: x.npy, forces: f.npy}", "dataset_arg.coords names other data"),
    ],
)
def test_a_refused_call_leaves_nothing_and_the_corrected_one_works(train, tmp_path, keys, message):
    code, _, err = train(keys)
    assert code in (1, 2)
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    if keys.startswith("cgschnet"):
        code, out, err = train("")
        assert code == 0, err
        assert out.splitlines()[-1].endswith("epoch_0000.ckpt")


def test_priors_of_other_data_are_refused(train, tmp_path):
    topology = DataStore(tmp_path / "data").topology
    priors = fit_priors(topology, chains(300, 5), 300.0, terms=("bonds",))
    priors.save(tmp_path / "p.yaml")
    code, _, err = train("", "--priors", tmp_path / "p.yaml")
    assert code == 2
    assert "at 300 K; the data are for" in err
    code, _, err = train("prior_model: [CGBonds]", "--priors", tmp_path / "p.yaml")
    assert code == 2
    assert "priors are given twice" in err

"""register(): what TorchMD-Net finds afterwards, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torchmdnet.datasets
import torchmdnet.models
import torchmdnet.models.model
import torchmdnet.module
import torchmdnet.priors
import torchmdnet.scripts.train

from cgal_plugin import register
from cgal_plugin._register import check_version
from cgal_plugin.errors import RegistrationError


def test_registration_is_complete_and_idempotent():
    register()
    before = (
        torchmdnet.models.model.create_model,
        torchmdnet.scripts.train.get_argparse,
        list(torchmdnet.models.__all_models__),
        list(torchmdnet.priors.__all__),
        list(torchmdnet.datasets.__all__),
    )
    register()
    after = (
        torchmdnet.models.model.create_model,
        torchmdnet.scripts.train.get_argparse,
        list(torchmdnet.models.__all_models__),
        list(torchmdnet.priors.__all__),
        list(torchmdnet.datasets.__all__),
    )
    assert before == after
    assert torchmdnet.module.create_model is torchmdnet.models.model.create_model
    assert torchmdnet.models.__all_models__.count("cgschnet") == 1
    assert {"CGBonds", "CGAngles", "CGDihedrals", "CGRepulsion", "CGPairs"} <= set(torchmdnet.priors.__all__)
    assert torchmdnet.datasets.CGDataset.__module__ == "cgal_plugin.data.dataset"
    args = torchmdnet.scripts.train.get_argparse().parse_args(
        ["--model", "cgschnet", "--cgschnet", "{form: mlcg}"]
    )
    assert args.cgschnet == {"form": "mlcg"}


def test_other_models_are_left_alone():
    register()
    args = vars(torchmdnet.scripts.train.get_argparse().parse_args([]))
    args |= {"embedding_dimension": 8, "num_layers": 1, "num_rbf": 4}
    model = torchmdnet.models.model.create_model(args)
    assert type(model.representation_model).__name__ == "TorchMD_GN"
    with pytest.raises(ValueError, match="Unknown architecture: nonsense"):
        torchmdnet.models.model.create_model({**args, "model": "nonsense"})


@pytest.mark.parametrize("version", ["3.0.2", "3.2.0", "2.4", "4.0.0", "unknown"])
def test_other_versions_are_refused(version):
    with pytest.raises(RegistrationError, match="pip install"):
        check_version(version)


def test_supported_versions_pass():
    check_version("3.1.0")
    check_version("3.1.7")


def refused(monkeypatch, module, name, value, message):
    """Registration with ``module.name`` set to ``value`` (or gone) fails, and changes nothing."""
    register()
    if value is None:
        monkeypatch.delattr(module, name)
    else:
        monkeypatch.setattr(module, name, value)
    with pytest.raises(RegistrationError, match=message):
        register()


def test_a_taken_name_is_refused(monkeypatch):
    refused(monkeypatch, torchmdnet.priors, "CGBonds", object(), r"priors\.CGBonds is already")


def test_a_missing_function_is_refused(monkeypatch):
    refused(monkeypatch, torchmdnet.scripts.train, "get_argparse", None, "get_argparse is missing")


def test_a_replaced_copy_is_refused(monkeypatch):
    refused(monkeypatch, torchmdnet.module, "create_model", lambda args: None, "another plugin")


def test_a_changed_signature_is_refused(monkeypatch):
    def create_model(config):
        return None

    register()
    monkeypatch.setattr(torchmdnet.module, "create_model", create_model)
    monkeypatch.setattr(torchmdnet.models.model, "create_model", create_model)
    with pytest.raises(RegistrationError, match=r"takes .*expected"):
        register()


def test_a_tuple_in_place_of_a_list_is_refused(monkeypatch):
    refused(monkeypatch, torchmdnet.models, "__all_models__", ("graph-network",), "not a list")


def test_registration_prints_nothing():
    code = "import cgal_plugin; cgal_plugin.register()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == ""


def test_the_user_is_not_warned_that_torchmd_net_uses_torchscript():
    """torch deprecates TorchScript, with a FutureWarning since 2.14, which Python shows by default."""
    code = "from cgal_plugin import register; register()"
    options = ["-W", "error:`torch.jit.script` is deprecated"]
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

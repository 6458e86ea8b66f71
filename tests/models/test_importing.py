"""Models of mlcg and TorchMD-Net become checkpoints with the same energies; no code of a file is run."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.errors import CGALWarning, ConfigError, ExportError
from cgal_plugin.export import export_torchscript
from cgal_plugin.mapping import CGTopology, resolve_spec
from cgal_plugin.models import import_model, save_checkpoint
from cgal_plugin.models.inert_pickle import read_inert, walk
from cgal_plugin.training import load_model
from tests.cli.test_main import call

from . import mlcg_writer as w
from .mlcg_reference import energy_and_forces, random_state
from .test_convert import GN, graph_network

ARTEFACTS = Path("/work/shared/artefacts/mlcg")
real = pytest.mark.skipif(not ARTEFACTS.is_dir(), reason="the public files are not here")
UPPER = 9.0


def chain(n: int = 10, seed: int = 0) -> np.ndarray:
    """A chain with bonds of 3.8 Å that does not overlap itself."""
    rng = np.random.default_rng(seed)
    step = np.array([2.8, 1.6, 0.8]) * np.where(np.arange(n)[:, None] % 2, [1, -1, 1], 1.0)
    return np.cumsum(step + rng.normal(scale=0.3, size=(n, 3)), axis=0)


FRAMES = np.stack([chain(seed=s) for s in range(2)])


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return random_state(upper=UPPER, types=25)


def make(path: Path, state: dict[str, Any], *, frames: np.ndarray = FRAMES, **changes: Any) -> Path:
    """Write the specialised pair; changes are of the network (net_*) or of the priors."""
    network = {k.removeprefix("net_"): v for k, v in changes.items() if k.startswith("net_")}
    others = {k: v for k, v in changes.items() if not k.startswith("net_")}
    with w.stand_ins() as c:
        network = {"upper": UPPER, **network}
        content = w.specialised(c, w.schnet(c, state, **network), frames=frames, **others)
        return w.write(path, content)


def prior_energy(pos: Any, types: list[int]) -> Any:
    """The energy of the priors of :func:`mlcg_writer.specialised`, one term at a time."""
    p, lists = w.parameters(types), w.neighbours(len(types))
    total = pos.sum() * 0.0
    for n, (i, j) in enumerate(lists["bonds"].T):
        total = total + p["bonds"]["k"][n] * ((pos[i] - pos[j]).norm() - p["bonds"]["x0"][n]) ** 2
    for n, (i, j, k) in enumerate(lists["angles"].T):
        a, b = pos[i] - pos[j], pos[k] - pos[j]
        cosine = (a @ b) / a.norm() / b.norm()
        total = total + p["angles"]["k"][n] * (cosine - p["angles"]["x0"][n]) ** 2
    for n, (i, j, k, m) in enumerate(lists["dihedrals"].T):
        a, b, c = pos[j] - pos[i], pos[k] - pos[j], pos[m] - pos[k]
        n1, n2 = torch.linalg.cross(a, b), torch.linalg.cross(b, c)
        phi = torch.atan2(b.norm() * (a @ n2), n1 @ n2)
        for d in range(3):
            total = total + p["dihedrals"]["k1s"][n, d] * torch.sin((d + 1) * phi)
            total = total + p["dihedrals"]["k2s"][n, d] * torch.cos((d + 1) * phi)
        total = total + p["dihedrals"]["v_0"][n]
    for i, j in lists["non_bonded"].T:
        total = total + ((4.0 + 0.05 * (types[i] + types[j])) / (pos[i] - pos[j]).norm()) ** 6
    return total


def assert_equal(checkpoint: Path, state: dict[str, Any], offset: float, act: str = "tanh") -> None:
    model, z = load_model(checkpoint), torch.tensor(w.TYPES)
    for frame in FRAMES:
        pos = torch.from_numpy(frame).requires_grad_(True)
        priors = prior_energy(pos, w.TYPES)
        forces = -torch.autograd.grad(priors, pos)[0]
        e, f = energy_and_forces(state, z, torch.from_numpy(frame), upper=UPPER, act=act)
        found, found_f = model(z, torch.from_numpy(frame))
        expected = float(e) + float(priors.detach())
        assert float(found.detach()) + offset == pytest.approx(expected, rel=1e-9)
        assert (found_f - f - forces).abs().max() < 1e-9 * (f + forces).abs().max()


# ---------------------------------------------------------------------- what is read


def test_specialised_model_with_its_priors(state: dict[str, Any], tmp_path: Path) -> None:
    path = make(tmp_path / "mlcg.pt", state)
    found = import_model(path, embedding="mlcg-tk", temperature=350.0)
    found.save(tmp_path / "model.ckpt")
    assert found.topology == CGTopology.from_sequence("YYDPETGTWY", resolve_spec("CA", "mlcg-tk"))
    assert_equal(tmp_path / "model.ckpt", state, found.facts["energy_offset"])
    model: Any = load_model(tmp_path / "model.ckpt")
    assert (model.cgal_embedding, model.cgal_temperature) == ("mlcg-tk", 350.0)
    facts = torch.load(tmp_path / "model.ckpt", weights_only=True)["cgal_plugin"]
    assert facts["source"]["file"] == "mlcg.pt"
    assert facts["topology"]["embedding"] == "mlcg-tk"


def test_imported_model_is_exported_for_its_embedding_only(state: dict[str, Any], tmp_path: Path) -> None:
    found = import_model(make(tmp_path / "m.pt", state), embedding="mlcg-tk", temperature=350.0)
    found.save(tmp_path / "model.ckpt")
    made = export_torchscript(tmp_path / "model.ckpt", found.topology, tmp_path / "p.pt")
    assert (made["embedding"], made["temperature"]) == ("mlcg-tk", 350.0)
    with pytest.raises(ExportError, match=r"'mlcg-tk'.*'cgal'"):
        export_torchscript(
            tmp_path / "model.ckpt", CGTopology.from_sequence("YYDPETGTWY"), tmp_path / "wrong.pt"
        )


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_bare_network(state: dict[str, Any], tmp_path: Path, old: bool) -> None:
    with w.stand_ins() as c:
        w.write(tmp_path / "m.pt", w.schnet(c, state, upper=UPPER, act="silu"), old=old)
    with pytest.warns(CGALWarning, match=r"no priors.*temperature of its training data is not known"):
        found = import_model(tmp_path / "m.pt", embedding="mlcg-tk")
    z, pos = torch.tensor(w.TYPES), torch.from_numpy(FRAMES[0])
    e, f = energy_and_forces(state, z, pos, upper=UPPER, act="silu")
    e2, f2 = found.network(z, pos)
    assert float(e2.detach()) == pytest.approx(float(e), rel=1e-9)
    assert (f - f2).abs().max() < 1e-9 * f.abs().max()
    assert found.topology is None


def test_lightning_checkpoint_has_the_trained_weights(state: dict[str, Any], tmp_path: Path) -> None:
    start = random_state(upper=UPPER, types=25, seed=8)
    with w.stand_ins() as c:
        content = w.lightning(module_of(c, w.schnet(c, start, upper=UPPER)), state)
        w.write(tmp_path / "m.ckpt", content)
    with pytest.warns(CGALWarning, match="left out: training state"):
        found = import_model(tmp_path / "m.ckpt", embedding="mlcg-tk", temperature=350.0)
    own = found.network.state_dict()["representation_model.embedding.weight"]
    assert torch.equal(own, state["embedding_layer.weight"])


def module_of(c: dict[str, Any], network: Any) -> Any:
    return w.module(c["GradientsOut"], model=network, targets=["forces"])


def test_lower_limit_of_an_extended_basis(tmp_path: Path) -> None:
    state = random_state(upper=10.0, lower=2.0)
    with w.stand_ins() as c:
        network = w.schnet(c, state, upper=10.0, basis="ExtendedExpNormalBasis")
        network.rbf_layer.internal_cutoff_lower, network.rbf_layer.internal_cutoff_upper = 2.0, 10.0
        network.rbf_layer.alpha = 5.0 / 8.0
        w.write(tmp_path / "m.pt", network)
    with pytest.warns(CGALWarning, match="no priors"):
        found = import_model(tmp_path / "m.pt", embedding="mlcg-tk", temperature=300.0)
    z, pos = torch.tensor([1, 2, 3, 4]), torch.from_numpy(chain(4))
    e, _ = energy_and_forces(state, z, pos, upper=10.0, lower=2.0)
    assert float(found.network(z, pos)[0].detach()) == pytest.approx(float(e), rel=1e-9)


def test_state_dict_with_its_cutoff(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save({f"models.SchNet.model.{k}": v for k, v in state.items()}, tmp_path / "s.pt")
    with pytest.raises(ConfigError, match=r"lack cutoff_upper, activation.*--cutoff and --activation"):
        import_model(tmp_path / "s.pt", embedding="mlcg-tk")
    hparams = {"cutoff_upper": UPPER, "activation": "tanh"}
    found = import_model(tmp_path / "s.pt", embedding="mlcg-tk", temperature=300.0, hparams=hparams)
    assert found.network.representation_model.cutoff_upper == UPPER


def test_state_dict_with_a_configuration_of_mlcg(state: dict[str, Any], tmp_path: Path) -> None:
    cutoff = {"class_path": "mlcg.nn.CosineCutoff", "init_args": {"cutoff_lower": 0, "cutoff_upper": UPPER}}
    config = {"model": {"init_args": {"cutoff": cutoff, "activation": {"class_path": "torch.nn.Tanh"}}}}
    weights = {f"model.model.{k}": v for k, v in state.items()}
    torch.save({"state_dict": weights, "hyper_parameters": config}, tmp_path / "s.pt")
    found = import_model(tmp_path / "s.pt", embedding="mlcg-tk", temperature=300.0)
    body: Any = found.network.representation_model
    assert (body.cutoff_upper, body.activation) == (UPPER, "tanh")


def test_files_of_mlcg_are_named_elsewhere(state: dict[str, Any], tmp_path: Path) -> None:
    path = make(tmp_path / "m.pt", state)
    with pytest.raises(ExportError, match="cgal import-model"):
        export_torchscript(path, CGTopology.from_sequence("YYDPETGTWY"), tmp_path / "p.pt")


def test_graph_network_needs_its_embedding(tmp_path: Path) -> None:
    model = graph_network()
    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {**GN, "temperature": 300.0}}, tmp_path / "gn.ckpt")
    with pytest.raises(ConfigError, match=r"--embedding mlcg-tk .* or torchmd-cg"):
        import_model(tmp_path / "gn.ckpt")
    with pytest.raises(ConfigError, match="350"):
        import_model(tmp_path / "gn.ckpt", embedding="torchmd-cg", temperature=350.0)
    found = import_model(tmp_path / "gn.ckpt", embedding="torchmd-cg")
    found.save(tmp_path / "model.ckpt")
    loaded: Any = load_model(tmp_path / "model.ckpt")
    assert (loaded.cgal_embedding, loaded.cgal_temperature) == ("torchmd-cg", 300.0)
    z, pos = torch.tensor([4, 4, 5, 8, 6, 13, 2, 13, 7, 4]), torch.from_numpy(FRAMES[0])
    assert float(loaded(z, pos)[0].detach()) == pytest.approx(float(model(z, pos)[0].detach()), rel=1e-9)
    with pytest.raises(ConfigError, match="checkpoint of this package already"):
        import_model(tmp_path / "model.ckpt", embedding="torchmd-cg")


def test_command(state: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "m.pt", state)
    command = ["import-model", tmp_path / "m.pt", "-o", tmp_path / "model.ckpt"]
    code, out, err = call(capsys, *command, "--embedding", "mlcg-tk", "--temperature", "350")
    assert code == 0, err
    assert "priors: bonds, angles, dihedrals, repulsion" in out
    assert (tmp_path / "model.ckpt").exists()
    code, _, err = call(capsys, *command)
    assert code == 2
    assert "--embedding" in err


# ---------------------------------------------------------------------- what is refused


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, "posix.system|nt.system"),
        (eval, "builtins.eval"),
        (subprocess.call, r"\w+.call"),
    ],
)
def test_no_function_of_a_file_is_called(function: Any, named: str, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    argument = f"open({str(target)!r}, 'w')" if function is eval else f"touch {target}"
    torch.save({"state_dict": _Call(function, argument)}, tmp_path / "bad.pt")
    with pytest.raises(ConfigError, match=f"({named}).*can run any code"):
        import_model(tmp_path / "bad.pt", embedding="mlcg-tk")
    assert not target.exists()


def test_functions_of_known_packages_are_recorded_and_not_called(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    content = {"model": _Call(torch.save, 1, str(target)), "weights": torch.ones(2)}
    torch.save(content, tmp_path / "m.pt")
    found = read_inert(tmp_path / "m.pt")
    assert [r.kind for r in walk(found)] == ["torch.serialization.save"]
    assert torch.equal(found["weights"], torch.ones(2))
    assert not target.exists()


def test_allowed_functions_cannot_be_changed(tmp_path: Path) -> None:
    code = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + b"N}X\x01\x00\x00\x00aK\x01s\x86" + b"b."
    import zipfile

    torch.save({}, tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, code if name.endswith("data.pkl") else data)
    with pytest.raises(ConfigError, match="changes a function"):
        read_inert(tmp_path / "bad.pt", error=ConfigError)


@pytest.mark.parametrize("how", ["cut", "flipped", "text", "pickle", "missing", "script"])
def test_damaged_and_foreign_files(state: dict[str, Any], tmp_path: Path, how: str) -> None:
    path = make(tmp_path / "m.pt", state)
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        changed = bytearray(data)
        changed[data.index(state["embedding_layer.weight"].numpy().tobytes()[:64])] ^= 0xFF
        path.write_bytes(bytes(changed))
    elif how == "text":
        path.write_text("no model")
    elif how == "pickle":
        path.write_bytes(pickle.dumps([1, 2]))
    elif how == "script":
        torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))
    else:
        path.unlink()
    with pytest.raises(ConfigError, match=r"m\.pt"):
        import_model(path, embedding="mlcg-tk")


def two_molecules(c: dict[str, Any], network: Any) -> Any:
    model, structures = w.specialised(c, network, frames=FRAMES)
    structures[1]._store._mapping = {
        **structures[1]._store._mapping,
        "atom_types": torch.tensor(w.TYPES[::-1]),
    }
    return model, structures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net_kind": "NoiseEmbedSchNet"}, "NoiseEmbedSchNet"),
        ({"net_act": "gelu"}, "activation 'GELU' is not known"),
        ({"net_last_act": "silu"}, "activations SiLU, Tanh"),
        ({"net_lower": 1.0}, "cutoff_lower is 1 Å"),
        ({"net_self_interaction": True}, "self_interaction"),
        ({"net_basis": "ExpSpacedBasis"}, "rbf_layer is .*ExpSpacedBasis"),
        ({"net_upper": 0.9}, "no cutoff in Å"),
        ({"change": {"bonds": {"x0": np.full(9, 0.38)}}}, "in nm"),
        ({"mass": 0.001}, "other units"),
        ({"lists": {k: v for k, v in w.neighbours(10).items() if k != "bonds"}}, "list of prior 'bonds'"),
        ({"lists": {**w.neighbours(10), "non_bonded": w.neighbours(10)["non_bonded"][:, 1:]}}, "repulsion"),
        ({"lists": {**w.neighbours(10), "angles": w.neighbours(10)["angles"][:, ::2]}}, "angles"),
        ({"types": [20] * 10, "change": {"bonds": {"k": np.arange(9.0) + 60}}}, "CA_TYR-CA_TYR at different"),
        ({"change": {"angles": {"x0": np.full(8, np.nan)}}}, "angles has values of x_0 that are not finite"),
        ({"change": {"bonds": {"x0": np.full(7, 3.8)}}}, "parameters of 14 terms"),
        ({"bonds": None, "SchNet": None}, "no network"),
    ],
)  # fmt: skip
def test_what_cannot_be_represented_is_named(
    state: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = make(tmp_path / "m.pt", state, **changes)
    with pytest.raises(ConfigError, match=message):
        import_model(path, embedding="mlcg-tk", temperature=350.0)


def test_parameters_that_do_not_fit_their_types(state: dict[str, Any], tmp_path: Path) -> None:
    with w.stand_ins() as c:
        content = w.specialised(c, w.schnet(c, state, upper=UPPER), frames=FRAMES)
        content[0].models["non_bonded"].model.allowed_interaction_keys = [(20, 99)]
        w.write(tmp_path / "m.pt", content)
    with pytest.raises(ConfigError, match=r"m\.pt is not laid out as a file of mlcg .*damaged"):
        import_model(tmp_path / "m.pt", embedding="mlcg-tk")


@pytest.mark.parametrize("kind", ["StandardPaiNN", "StandardMACE", "HarmonicImpropers"])
def test_other_parts_of_a_model_are_named(state: dict[str, Any], tmp_path: Path, kind: str) -> None:
    with w.stand_ins() as c:
        content = w.specialised(c, w.schnet(c, state, upper=UPPER), frames=FRAMES, other=w.module(c[kind]))
        w.write(tmp_path / "m.pt", content)
    with pytest.raises(ConfigError, match=f"other .*{kind}.*this package reads"):
        import_model(tmp_path / "m.pt", embedding="mlcg-tk")


def test_several_molecules_are_refused(state: dict[str, Any], tmp_path: Path) -> None:
    with w.stand_ins() as c:
        w.write(tmp_path / "m.pt", two_molecules(c, w.schnet(c, state, upper=UPPER)))
    with pytest.raises(ConfigError, match="several molecules: configuration 1"):
        import_model(tmp_path / "m.pt", embedding="mlcg-tk")


def test_molecule_and_embedding_must_be_those_of_the_file(state: dict[str, Any], tmp_path: Path) -> None:
    path = make(tmp_path / "m.pt", state)
    same = CGTopology.from_sequence("YYDPETGTWY", resolve_spec("CA", "mlcg-tk"))
    found = import_model(path, topology=same, temperature=350.0)
    assert found.embedding.name == "mlcg-tk"
    with pytest.raises(ConfigError, match="differs first at bead 0"):
        import_model(path, topology=CGTopology.from_sequence("YYDPETGTWY"))
    with pytest.raises(ConfigError, match="differs first at bead 9"):
        import_model(path, topology=CGTopology.from_sequence("YYDPETGTWA", resolve_spec("CA", "mlcg-tk")))
    with pytest.raises(ConfigError, match="has embedding 'mlcg-tk', not 'torchmd-cg'"):
        import_model(path, topology=same, embedding="torchmd-cg")
    with pytest.raises(ConfigError, match=r"bead types \[3, 4, 6, 13, 17, 19\]"):
        import_model(path, embedding={"CA_TYR": 20})
    with pytest.raises(ConfigError, match="priors of its own"):
        import_model(path, embedding="mlcg-tk", priors=found.priors)


def test_priors_of_another_file(state: dict[str, Any], tmp_path: Path) -> None:
    """A network that was saved alone gets the priors that it was trained with, for its molecule."""
    whole = import_model(make(tmp_path / "whole.pt", state), embedding="mlcg-tk", temperature=350.0)
    whole.save(tmp_path / "whole.ckpt")
    with w.stand_ins() as c:
        w.write(tmp_path / "bare.pt", w.schnet(c, state, upper=UPPER))
    found = import_model(
        tmp_path / "bare.pt", topology=whole.topology, priors=whole.priors, temperature=350.0
    )
    found.save(tmp_path / "bare.ckpt")
    z, pos = torch.tensor(w.TYPES), torch.from_numpy(FRAMES[1])
    one, other = (load_model(tmp_path / f"{n}.ckpt")(z, pos)[1] for n in ("whole", "bare"))
    assert torch.equal(one, other)
    shorter = CGTopology.from_sequence("YYDPE", resolve_spec("CA", "mlcg-tk"))
    with pytest.raises(ConfigError, match="YYDPE"):
        import_model(tmp_path / "bare.pt", topology=shorter, priors=whole.priors, temperature=350.0)


def test_only_converted_models_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="from_mlcg"):
        save_checkpoint(graph_network(), tmp_path / "m.ckpt", embedding="cgal")


# ---------------------------------------------------------------------- public files


@real
@pytest.mark.filterwarnings("ignore::cgal_plugin.errors.CGALWarning")
def test_public_chignolin_model(tmp_path: Path) -> None:
    """Energies and forces of mlcg itself: of the network, of each prior, and of their sum."""
    path = ARTEFACTS / "schnet_cln_ca_specialized_model_and_config.pt"
    found = import_model(path, embedding="mlcg-tk", precision=64)
    found.save(tmp_path / "m.ckpt")
    model: Any = load_model(tmp_path / "m.ckpt")
    with np.load(ARTEFACTS / "expected.npz") as stored:
        e = dict(stored)
    z, batch = torch.from_numpy(e["atom_types"]), torch.zeros(10, dtype=torch.int64)
    named = {
        "bonds": "bonds",
        "angles": "angles",
        "repulsion": "non_bonded",
        "dihedrals": "pseudo_ca_dihedral",
    }

    def same(energy: Any, forces: Any, names: list[str], frame: int, offset: float = 0.0) -> None:
        expected = sum(e[f"energy_{n}"][frame] for n in names)
        assert float(energy.detach()) + offset == pytest.approx(expected, rel=1e-9)
        total = sum(e[f"forces_{n}"][frame] for n in names)
        np.testing.assert_allclose(forces.detach().numpy(), total, rtol=1e-9, atol=1e-11)

    offset = found.facts["energy_offset"]
    for n, frame in enumerate(e["positions"]):
        same(*model(z, torch.from_numpy(frame)), ["network", *named.values()], n, offset)
        same(*found.network(z, torch.from_numpy(frame)), ["network"], n)
        for prior in model.prior_model:
            pos = torch.from_numpy(frame).requires_grad_(True)
            energy = prior.post_reduce(torch.zeros(1, 1, dtype=torch.float64), z, pos, batch)
            forces = -torch.autograd.grad(energy.sum(), pos)[0]
            own = offset if prior.term == "dihedrals" else 0.0
            same(energy.sum(), forces, [named[prior.term]], n, own)


@real
def test_public_lightning_checkpoint(tmp_path: Path) -> None:
    with pytest.warns(CGALWarning, match="left out"):
        found = import_model(ARTEFACTS / "schnet_train.ckpt", embedding="mlcg-tk")
    body: Any = found.network.representation_model
    assert (body.cutoff_upper, body.activation, body.hidden_channels, body.max_z) == (15.0, "tanh", 32, 50)
    with pytest.raises(ConfigError, match=r"contains priors .* and no network"):
        import_model(ARTEFACTS / "sparse_prior_cln_ca.pt", embedding="mlcg-tk")
    with pytest.raises(ConfigError, match=r"structures_cln_ca\.pt"):
        import_model(ARTEFACTS / "structures_cln_ca.pt", embedding="mlcg-tk")

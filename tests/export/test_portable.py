"""The portable form: energies and forces of TorchScript, without TorchScript, pickle or TorchMD-Net."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from typer.testing import CliRunner

from cgal_plugin.cli.main import app
from cgal_plugin.dynamics import add_potential, build_system
from cgal_plugin.dynamics.force import ScriptedPotential
from cgal_plugin.errors import CGALWarning, DynamicsError, ExportError
from cgal_plugin.export import export_potential, export_torchscript, load_metadata
from cgal_plugin.export.fast import FastPotential, fast_available
from cgal_plugin.export.loading import convert_potential, load_exported, load_for_engine
from cgal_plugin.export.portable import is_portable_file, load_portable, read_portable, save_portable
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM
from tests.export.conftest import unscripted
from tests.export.test_torchscript import EAGER

MODELS: dict[str, dict[str, Any]] = {
    **EAGER,
    "no_priors": {"prior_model": None},
    "odd_sizes": {"cgschnet": {"form": "mlcg", "num_filters": 24}, "embedding_dimension": 40},
    "trainable_basis": {"cgschnet": {"form": "mlcg"}, "trainable_rbf": True, "rbf_type": "gauss"},
}


def nm(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames.reshape(-1, 3) / ANGSTROM_PER_NM)


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("pairs", ["dense", "list"])
@pytest.mark.parametrize("name", list(MODELS))
def test_round_trip_is_exact(
    name: str, pairs: str, make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    model = make(**MODELS[name])
    module = unscripted(model, topology, 3, "exact", pairs)
    save_portable(module, tmp_path / "p.npz", {})
    loaded, _ = load_portable(tmp_path / "p.npz", 3)
    assert type(loaded) is type(module)
    x = nm(frames[:3])
    assert same(loaded(x), module(x))
    assert torch.equal(loaded.replica_energies(x), module.replica_energies(x))
    state, again = module.state_dict(), loaded.state_dict()
    # a neighbour list holds the pairs of its last call
    assert {k: v for k, v in state.items() if k != "neighbors.built"}.keys() <= again.keys()
    assert all(torch.equal(again[k], v) for k, v in state.items() if k.startswith("network."))


@pytest.mark.parametrize("precision", [32, 64])
def test_equals_torchscript_bit_for_bit(
    precision: int, make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    """With tables in float32, exact filters in float64."""
    model = make(cgschnet={"form": "majewski"}, precision=precision)
    scripted = export_torchscript(model, topology, tmp_path / "p.pt", n_replicas=2, config_hash="abc")
    portable = export_potential(model, topology, tmp_path / "p.npz", n_replicas=2, config_hash="abc")
    x = nm(frames[:2])
    script = load_exported(tmp_path / "p.pt")[0]
    found = load_portable(tmp_path / "p.npz", 2)[0](x)
    if precision == 64:
        assert same(found, script(x))
    else:  # the executor of TorchScript fuses operations
        for a, b in zip(found, script(x), strict=True):
            assert float((a - b).abs().max()) < 1e-6 * float(b.abs().max())
    # the metadata are those of TorchScript, but for the number of replicas
    own = {"format", "format_version", "n_replicas", "table_intervals", "table_tolerance", "table_error"}
    assert {k: v for k, v in scripted.items() if k not in own} == {
        k: v for k, v in portable.items() if k not in own
    }
    assert load_metadata(tmp_path / "p.npz") == portable
    assert "n_replicas" not in portable

    # the same file of the TorchScript file, without the model
    converted = convert_potential(tmp_path / "p.pt", tmp_path / "c.npz")
    assert converted["parameters_hash"] == portable["parameters_hash"]
    assert same(load_portable(tmp_path / "c.npz", 2)[0](x), found)


def test_bytes_depend_on_the_content_only(make: Any, topology: CGTopology, tmp_path: Path) -> None:
    for name in ("a.npz", "other_name.npz"):
        export_potential(make(num_layers=1), topology, tmp_path / name, filters="exact")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "other_name.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.npz", "other_name.npz"]


@pytest.fixture(scope="module")
def portable(make: Any, topology: CGTopology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``p.npz``, and ``p.pt`` for two replicas, of one float32 model."""
    folder = tmp_path_factory.mktemp("portable")
    model = make(cgschnet={"form": "mlcg"}, cutoff_lower=0.0, precision=32)
    export_potential(model, topology, folder / "p.npz", temperature=300.0)
    export_potential(model, topology, folder / "p.pt", n_replicas=2, temperature=300.0)
    return folder


def openmm_forces(
    path: Path, topology: CGTopology, x: np.ndarray, backend: str, n_replicas: int
) -> tuple[float, np.ndarray]:
    system = build_system(topology, n_replicas)
    add_potential(system, path, topology, backend=backend, n_replicas=n_replicas)
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(again, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(x)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value.copy()


@pytest.mark.parametrize("backend", ["auto", "python", "fast"])
def test_openmm_takes_it_for_any_number_of_replicas(
    backend: str, portable: Path, topology: CGTopology, frames: np.ndarray
) -> None:
    if backend == "fast" and not fast_available():
        pytest.skip("needs numba")
    x = frames[:3].reshape(-1, 3) / ANGSTROM_PER_NM
    energy, forces = openmm_forces(portable / "p.npz", topology, x, backend, 3)
    whole = load_portable(portable / "p.npz", 3)[0](torch.from_numpy(x))
    assert energy == pytest.approx(float(whole[0]), rel=1e-5)
    assert np.abs(forces - whole[1].numpy()).max() < 1e-5 * float(whole[1].abs().max())
    # and as many as the TorchScript file
    energy, forces = openmm_forces(portable / "p.npz", topology, x[:20], backend, 2)
    other, expected = openmm_forces(portable / "p.pt", topology, x[:20], "python", 2)
    assert energy == pytest.approx(other, rel=1e-5)
    assert np.abs(forces - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_callable_of_python_torch_force(portable: Path, topology: CGTopology, frames: np.ndarray) -> None:
    """Upstream calls it with a State and a tensor, and expects two tensors like the positions."""
    for name in ("p.npz", "p.pt"):
        function = pickle.loads(pickle.dumps(ScriptedPotential(portable / name, n_replicas=2)))
        for dtype in (torch.float32, torch.float64):
            energy, forces = function(None, nm(frames[:2]).to(dtype))
            assert not energy.requires_grad
            assert forces.dtype == dtype
            assert forces.shape == (20, 3)


def test_torchforce_and_other_molecules_are_refused(portable: Path, topology: CGTopology) -> None:
    path = portable / "p.npz"
    with pytest.raises(DynamicsError, match=r"needs openmm-torch|crashes with torch|--format torchscript"):
        add_potential(build_system(topology, 1), path, topology, backend="torchforce")
    other = CGTopology.from_sequence("YYDPETGTWF")
    with pytest.raises(DynamicsError, match="exported for"):
        add_potential(build_system(other, 1), path, other, backend="python")
    with pytest.raises(DynamicsError, match="particles"):
        add_potential(build_system(topology, 1), path, topology, backend="python", n_replicas=2)


@pytest.mark.skipif(not fast_available(), reason="needs numba")
def test_engines_take_the_table_of_the_file(
    portable: Path, topology: CGTopology, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, x = portable / "p.npz", frames[:2].reshape(-1, 3) / ANGSTROM_PER_NM
    expected = FastPotential.from_file(portable / "p.pt")(x)
    _, _, table = load_for_engine(path)
    assert table is not None
    assert table[1] < 1e-6

    def search(*_: Any) -> Any:
        raise AssertionError("the table was searched for")

    monkeypatch.setattr("cgal_plugin.export.tables.choose_table", search)
    found = FastPotential.from_file(path, n_replicas=2)
    assert found.metadata["table_error"] == table[1]
    np.testing.assert_array_equal(found(x)[1], expected[1])
    with pytest.raises(AssertionError, match="searched"):
        FastPotential.from_file(path, tolerance=table[1] / 2)


WITHOUT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torchmdnet", "lightning", "pytorch_lightning", "torch_geometric", "warp"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Block())
import torch
del torch.jit.script, torch.jit.load, torch.jit.export  # a torch without TorchScript
import json
import numpy as np
from cgal_plugin.dynamics import simulate
from cgal_plugin.errors import CGALError
from cgal_plugin.export import load_metadata
from cgal_plugin.mapping import CGTopology
topology = CGTopology.from_dict(load_metadata("p.npz")["topology"])
start = np.load("x.npy")
result = simulate("p.npz", topology, start, steps=20, timestep_fs=2.0, temperature=300.0, friction=1.0,
                  out_dir="run", report_interval=10, backend="python")
assert result.n_frames == (2, 2, 2), result
assert load_metadata("p.pt")["n_beads"] == topology.n_beads  # read without TorchScript
try:
    simulate("p.pt", topology, start[:2], steps=20, timestep_fs=2.0, temperature=300.0, friction=1.0,
             out_dir="script", backend="python")
except CGALError as error:
    print(error)
print(json.dumps([m for m in sys.modules if m.split(".")[0] in ("torchmdnet", "lightning")]))
"""


def test_dynamics_without_torchmdnet_lightning_and_torchscript(
    portable: Path, topology: CGTopology, frames: np.ndarray
) -> None:
    np.save(portable / "x.npy", frames[:3])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT],
        cwd=portable,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    error, loaded = done.stdout.strip().splitlines()
    assert "no longer reads: export it again" in error
    assert json.loads(loaded) == []


def test_ase_and_openmm_ml_take_it(portable: Path, topology: CGTopology, frames: np.ndarray) -> None:
    expected = load_portable(portable / "p.npz")[0](nm(frames[:1]))
    pytest.importorskip("ase")
    from cgal_plugin.ase import CGCalculator

    calculator = CGCalculator(portable / "p.npz", backend="python")
    assert calculator.temperature == 300.0
    forces = calculator.make_atoms(frames[0]).get_forces() * 96.48533212331 * ANGSTROM_PER_NM
    assert np.abs(forces - expected[1].numpy()).max() < 1e-5 * float(expected[1].abs().max())
    pytest.importorskip("openmmml")
    from cgal_plugin.dynamics.openmmml import CGSchNetPotentialFactory

    chain = topology.to_mdtraj().to_openmm()
    factory = CGSchNetPotentialFactory().createImpl("cgschnet", modelPath=str(portable / "p.npz"))
    system = build_system(topology, 1)
    factory.addForces(chain, system, None, 0)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(frames[0] / ANGSTROM_PER_NM)
    energy = context.getState(energy=True).getPotentialEnergy()._value
    assert energy == pytest.approx(float(expected[0]), rel=1e-5)


def rewritten(source: Path, target: Path, **changes: Any) -> Path:
    """Copy a file with other arrays, and with ``metadata`` and ``form`` changed."""
    with np.load(source) as stored:
        arrays = {name: stored[name] for name in stored.files}
    content = json.loads(arrays["portable"].tobytes())
    for section in ("metadata", "form"):
        content[section] |= changes.pop(section, {})
    arrays["portable"] = np.frombuffer(json.dumps(content).encode(), dtype=np.uint8)
    for name, value in changes.items():
        name = name.replace("__", "/")
        arrays = {k: v for k, v in arrays.items() if k != name} | ({} if value is None else {name: value})
    np.savez(target, **arrays)
    return target


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "later": ({"metadata": {"format_version": 4}}, "this version reads .* 3"),
    "missing": ({"network__h": None}, "inconsistent"),
    "shape": ({"network__first": np.zeros((2, 2), np.float32)}, "inconsistent"),
    "beads": ({"terms__0__beads": np.full((2, 9), 77)}, "inconsistent .*not below 10"),
    # torch would broadcast them, or an engine read others, in silence
    "weights": ({"network__blocks__0__lin2_bias": np.zeros(31)}, "lin2_bias' has shape .*31"),
    "output": ({"network__output__0__bias": np.zeros(1)}, "output/0/bias' has shape"),
    "constants": ({"terms__0__first": np.ones(1)}, r"terms/0/first' has shape \(1,\), not \(9,\)"),
    "series": ({"terms__3__coefficients": np.zeros((1, 4))}, "term 3 has rows that are not"),
    "nan": ({"terms__0__second": np.full(9, np.nan)}, "terms/0/second' has values that are not finite"),
    "dtype": ({"form": {"dtype": "float16"}}, "inconsistent"),
    "pickle": ({"network__h": np.array([{"a": 1}], dtype=object)}, "not a portable potential"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_files_are_refused(name: str, portable: Path, tmp_path: Path) -> None:
    changes, message = BAD[name]
    path = rewritten(portable / "p.npz", tmp_path / "bad.npz", **changes)
    with pytest.raises(ExportError, match=message):
        load_portable(path)


def test_damage_is_named(portable: Path, topology: CGTopology, tmp_path: Path) -> None:
    content = bytearray((portable / "p.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "p.npz").write_bytes(content)
    for read in (load_metadata, load_portable, load_exported, load_for_engine):
        with pytest.raises(ExportError, match=r"p\.npz' is damaged \(.*CRC"):
            read(tmp_path / "p.npz")
    (tmp_path / "cut.npz").write_bytes(content[:1000])
    with pytest.raises(DynamicsError, match=r"cut\.npz"):
        add_potential(build_system(topology, 1), tmp_path / "cut.npz", topology)


def test_wrong_arguments(portable: Path, topology: CGTopology, make: Any, tmp_path: Path) -> None:
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(ExportError, match="n_replicas"):
            load_portable(portable / "p.npz", wrong)
    with pytest.raises(ExportError, match="float16"):
        load_portable(portable / "p.npz", 1, "float16")
    with pytest.raises(ExportError, match="unknown form 'onnx'"):
        export_potential(make(), topology, tmp_path / "p.npz", form="onnx")
    with pytest.raises(ExportError, match="already"):
        convert_potential(portable / "p.npz", tmp_path / "p.npz")
    with pytest.raises(ExportError, match="another molecule"):
        convert_potential(portable / "p.pt", tmp_path / "p.npz", CGTopology.from_sequence("GAG"))
    with pytest.raises(ExportError, match="300"):
        convert_potential(portable / "p.pt", tmp_path / "p.npz", temperature=350.0)
    with pytest.raises(ExportError, match="npz file, such as an exported potential"):
        export_potential(portable / "p.npz", topology, tmp_path / "p.pt")
    assert list(tmp_path.iterdir()) == []


def test_where_torch_has_no_torchscript(
    make: Any, topology: CGTopology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the loop exports: ``potential.pt``, of which the content is portable, and that is said."""
    monkeypatch.delattr(torch.jit, "script")
    with pytest.warns(CGALWarning, match="no TorchScript: .* is written in the portable form"):
        export_potential(make(num_layers=1), topology, tmp_path / "p.pt")
    assert is_portable_file(tmp_path / "p.pt")
    assert read_portable(tmp_path / "p.pt").metadata["n_beads"] == 10
    with pytest.raises(ExportError, match=r"has no TorchScript: write the portable form \(suffix \.npz\)"):
        export_torchscript(make(num_layers=1), topology, tmp_path / "q.pt")


@pytest.mark.parametrize(
    ("name", "form", "portable_form"),
    [
        ("a.npz", "auto", True),
        ("a.pt", "auto", False),
        ("a.pt", "portable", True),
        ("a.npz", "torchscript", False),
    ],
)
def test_cgal_export(
    name: str, form: str, portable_form: bool, portable: Path, topology: CGTopology, tmp_path: Path
) -> None:
    """Of an exported file; a checkpoint goes the same way as before."""
    topology.save(tmp_path / "t.json")
    arguments = [str(portable / "p.pt"), "-t", str(tmp_path / "t.json"), "-o", str(tmp_path / name)]
    result = CliRunner().invoke(app, ["export", *arguments, "--format", form])
    assert (result.exit_code == 0) == portable_form, result.output
    assert (tmp_path / name).exists() == portable_form
    if portable_form:
        assert is_portable_file(tmp_path / name)
        assert load_metadata(tmp_path / name)["temperature"] == 300.0


def test_the_gpu_engine_takes_it(portable: Path, frames: np.ndarray) -> None:
    pytest.importorskip("warp")
    from cgal_plugin.export.gpu.potential import GPUPotential

    x = frames[:2].reshape(-1, 3) / ANGSTROM_PER_NM
    found = GPUPotential.from_file(portable / "p.npz", n_replicas=2, device="cpu")(x)
    expected = GPUPotential.from_file(portable / "p.pt", device="cpu")(x)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    assert GPUPotential.from_file(portable / "p.npz", device="cpu").n_replicas == 1

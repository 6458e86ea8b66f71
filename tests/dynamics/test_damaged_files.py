"""A damaged checkpoint or potential gives the same forces, or is named and refused, by every reader."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import cgal_plugin
from cgal_plugin.damage import archive_damage
from cgal_plugin.dynamics import add_potential, build_system, simulate
from cgal_plugin.dynamics.force import make_force, read_metadata
from cgal_plugin.dynamics.openmmml import CGSchNetPotentialFactory
from cgal_plugin.dynamics.simulate_file import simulate_file
from cgal_plugin.errors import CGALError, ConfigError, DynamicsError, ExportError
from cgal_plugin.export import FastPotential, export_torchscript, load_metadata
from cgal_plugin.export.fast_file import read_fast_metadata
from cgal_plugin.export.script_file import load_script
from cgal_plugin.mapping import CGTopology
from cgal_plugin.models import build_model, from_mlcg, from_torchmdnet_gn
from cgal_plugin.models.torch_files import check_torch, read_torch
from cgal_plugin.priors import PriorSet, fit_priors
from cgal_plugin.training import load_model, train
from cgal_plugin.training.prepare import read_hparams
from cgal_plugin.training.replace_priors import replace_priors
from tests.damage import cut, empty, flip, flip_bit, flip_weight, member_start
from tests.priors.chains import chains
from tests.torchforce import TORCHFORCE

TOPOLOGY = CGTopology.from_sequence("YYDPE")


class Files(NamedTuple):
    """One model in every form."""

    checkpoint: Path
    potential: Path
    fast: Path
    priors: Path
    topology: Path


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("intact")
    names = ("model.ckpt", "potential.pt", "fast.npz", "priors.yaml", "topology.json")
    files = Files(*(folder / name for name in names))
    cgal_plugin.register()
    priors = fit_priors(TOPOLOGY, chains(80, 5), 400.0, terms=("bonds", "repulsion"))
    sizes: dict[str, Any] = {"embedding_dimension": 16, "num_layers": 1, "num_rbf": 8, "max_z": 50}
    hparams = {"model": "cgschnet", **sizes, "prior_model": priors.to_prior_model(), "prior_args": None}
    hparams["embedding"] = "cgal"
    torch.manual_seed(0)
    model = build_model(hparams)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": hparams}, files.checkpoint)
    export_torchscript(files.checkpoint, TOPOLOGY, files.potential, temperature=400.0)
    FastPotential.from_file(files.potential).save(files.fast)
    priors.save(files.priors)
    TOPOLOGY.save(files.topology)
    return files


@pytest.fixture
def files(intact: Files, tmp_path: Path) -> Files:
    """Copies to be damaged."""
    return Files(*(Path(shutil.copy(path, tmp_path)) for path in intact))


def openmmml_force(path: Path) -> Any:
    return CGSchNetPotentialFactory().createImpl("cgschnet", modelPath=str(path))


def forces_of(path: Path) -> np.ndarray:
    """Forces of a model or potential on one frame."""
    frame = chains(1, 5)[0]
    if path.suffix == ".ckpt":
        types = torch.from_numpy(np.array(TOPOLOGY.types))
        return load_model(path)(types, torch.tensor(frame, dtype=torch.float32))[1].detach().numpy()
    return load_script(path)[0](torch.tensor(frame / 10))[1].numpy()


def ensemble(path: Path) -> Any:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, "a/model.ckpt")
    return load_model(path.with_suffix(".zip"))


CHECKPOINT_READERS: dict[str, Callable[[Path], Any]] = {
    "load_model": load_model,
    "list": lambda path: load_model([path, path]),
    "ensemble": ensemble,
    "trusted": lambda path: load_model(path, trust=True),
    "export": lambda path: export_torchscript(path, TOPOLOGY, path.parent / "x.pt"),
    "fast": lambda path: FastPotential.from_model(path, TOPOLOGY),
    "graph_network": from_torchmdnet_gn,
    "mlcg": from_mlcg,
    "finetune": lambda path: train({}, path.parent / "out", seed=0, init_checkpoint=path, mode="finetune"),
    "hparams": read_hparams,
    "replace_priors": lambda path: replace_priors(
        path, PriorSet.load(path.parent / "priors.yaml"), path.parent / "new.ckpt"
    ),
}


@pytest.mark.parametrize("reader", list(CHECKPOINT_READERS))
def test_a_damaged_checkpoint_is_named_and_refused(reader: str, files: Files) -> None:
    flip_weight(files.checkpoint)
    with pytest.raises(CGALError, match=r"model\.(ckpt|zip).* is damaged \(.*CRC"):
        CHECKPOINT_READERS[reader](files.checkpoint)
    assert not (files.checkpoint.parent / "out" / "training.json").exists()


def test_a_damaged_archive_of_checkpoints_is_refused(files: Files) -> None:
    path = files.checkpoint.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(files.checkpoint, "a/model.ckpt")
    check_torch(path)
    flip(path)
    with pytest.raises(CGALError, match=r"model\.zip is damaged"):
        load_model(path)


@pytest.mark.integration
def test_training_from_a_damaged_checkpoint_with_torchmd_nets_command(files: Files) -> None:
    (files.checkpoint.parent / "hparams.yaml").write_text("model: cgschnet\n")
    flip_weight(files.checkpoint)
    command = [sys.executable, "-m", "cgal_plugin.cli.train", "--load-model", str(files.checkpoint)]
    command += ["--log-dir", str(files.checkpoint.parent / "log")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "model.ckpt is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def add(backend: str) -> Callable[[Path], Any]:
    return lambda path: add_potential(build_system(TOPOLOGY, 1), path, TOPOLOGY, backend=backend)


OPTIONS: dict[str, Any] = {"steps": 2, "timestep_fs": 2.0, "temperature": 400.0, "friction": 1.0}
POTENTIAL_READERS: dict[str, Callable[[Path], Any]] = {
    "load_metadata": load_metadata,
    "read_metadata": read_metadata,
    "load_script": load_script,
    "torchforce": add("torchforce"),
    "python": add("python"),
    "fast": add("fast"),
    "make_force": lambda path: make_force(path, backend="torchforce"),
    "openmmml": openmmml_force,
    "from_file": FastPotential.from_file,
    "simulate": lambda path: simulate(path, TOPOLOGY, chains(1, 5), out_dir=path.parent / "o", **OPTIONS),
    "simulate_file": lambda path: simulate_file(
        path,
        TOPOLOGY,
        path.parent / "start.npy",
        n_replicas=1,
        message=print,
        out_dir=path.parent / "o",
        **OPTIONS,
    ),
}


@pytest.mark.parametrize(
    "reader", [name if name != "torchforce" else TORCHFORCE for name in POTENTIAL_READERS]
)
def test_a_damaged_potential_is_named_and_refused(reader: str, files: Files) -> None:
    np.save(files.potential.parent / "start.npy", chains(1, 5))
    flip_weight(files.potential)
    with pytest.raises((ExportError, DynamicsError), match=r"potential\.pt' is damaged \(.*CRC"):
        POTENTIAL_READERS[reader](files.potential)


@pytest.mark.parametrize(
    "reader", [FastPotential.from_file, FastPotential.load, read_fast_metadata, add("fast")]
)
@pytest.mark.parametrize("where", ["shape", "data", "metadata"])
def test_a_damaged_fast_potential_is_named_and_refused(
    reader: Callable[[Path], Any], where: str, files: Files
) -> None:
    """A shorter array (a flipped digit of its shape) is read without a check by numpy."""
    with zipfile.ZipFile(files.fast) as archive:
        largest = max(archive.infolist(), key=lambda m: m.file_size).filename
    begin = member_start(files.fast, "metadata.npy" if where == "metadata" else largest)
    content = files.fast.read_bytes()
    at = content.index(b"'shape': (", begin) + 10 if where == "shape" else begin + 200
    flip_bit(files.fast, 8 * at + 1)
    with pytest.raises((ExportError, DynamicsError), match=r"fast\.npz' is damaged \(.*CRC"):
        reader(files.fast)


@pytest.mark.parametrize("name", ["checkpoint", "potential"])
def test_any_flipped_bit_gives_the_same_forces_or_is_refused(name: str, files: Files) -> None:
    path = getattr(files, name)
    content, before = path.read_bytes(), forces_of(path)
    refused = 0
    for bit in np.random.default_rng(0).choice(8 * len(content), 60, replace=False).tolist():
        flip_bit(path, bit)
        try:
            np.testing.assert_array_equal(forces_of(path), before, err_msg=f"bit {bit}")
        except (CGALError, RuntimeError):
            refused += 1
        path.write_bytes(content)
    assert refused > 30


def small_checkpoint() -> tuple[bytes, Callable[[bytes], str]]:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": torch.rand(3), "b": torch.rand(2, 2)}, "cutoff": 12.0}, buffer)
    return buffer.getvalue(), lambda data: repr(torch.load(io.BytesIO(data), weights_only=True))


class Scaled(torch.nn.Module):
    """A potential of three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def small_potential() -> tuple[bytes, Callable[[bytes], str]]:
    def load(data: bytes) -> str:
        extra = {"cgal.json": ""}
        return repr((torch.jit.load(io.BytesIO(data), "cpu", extra)(torch.ones(3)), extra))

    return torch.jit.script(Scaled()).save_to_buffer(_extra_files={"cgal.json": "{}"}), load


@pytest.mark.parametrize("make", [small_checkpoint, small_potential])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_checksums_reach_every_bit(make: Callable[[], tuple[bytes, Callable[[bytes], str]]]) -> None:
    """Every 23rd bit of a small file, headers and directory included (all bits were tried once)."""
    content, load = make()
    before, found = load(content), 0
    for bit in range(0, 8 * len(content), 23):
        harmed = bytearray(content)
        harmed[bit // 8] ^= 1 << bit % 8
        if archive_damage(io.BytesIO(harmed)) is not None:
            found += 1
            continue
        try:
            assert load(bytes(harmed)) == before, f"bit {bit}"
        except (RuntimeError, ValueError, KeyError, OSError):  # torch finds it
            continue
    assert found > 8 * len(content) / 23 / 3


def test_a_tensor_that_is_marked_as_a_folder_is_not_left_uninitialised(files: Files) -> None:
    content = files.checkpoint.read_bytes()
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"model/data/5"))
    flip_bit(files.checkpoint, 8 * (entry + 38) + 4)  # external attributes
    with pytest.raises(CGALError, match="marked as a folder"):
        load_model(files.checkpoint)


@pytest.mark.parametrize("harm", [cut, empty])
@pytest.mark.parametrize("name", ["checkpoint", "potential", "fast", "priors", "topology"])
def test_a_truncated_file_is_named(harm: Callable[[Path], None], name: str, files: Files) -> None:
    path = getattr(files, name)
    harm(path)
    readers: dict[str, Callable[[Path], Any]] = {
        "checkpoint": load_model,
        "potential": read_metadata,
        "fast": FastPotential.from_file,
        "priors": PriorSet.load,
        "topology": CGTopology.load,
    }
    with pytest.raises(CGALError, match=path.name.replace(".", r"\.")):
        readers[name](path)


def test_files_without_checksums_are_read_with_a_note(tmp_path: Path) -> None:
    """``torch.save`` can leave them out, and torch before 1.6 had none."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.ones(3)}, tmp_path / "new.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.warns(UserWarning, match=r"new\.pt has no checksums: damage cannot be detected"):
        assert read_torch(tmp_path / "new.pt")["x"].tolist() == [1, 1, 1]
    torch.save({"x": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_torch(tmp_path / "old.pt")["x"].tolist() == [1, 1, 1]


# ---------------------------------------------------------------------- text files


def test_any_flipped_bit_of_priors_gives_the_same_table_or_is_refused(files: Files) -> None:
    content, before = files.priors.read_bytes(), PriorSet.load(files.priors)
    for bit in np.random.default_rng(0).choice(8 * len(content), 150, replace=False).tolist():
        flip_bit(files.priors, bit)
        try:
            found = PriorSet.load(files.priors)
            assert found.table() == before.table(), f"bit {bit}"
            assert found.hash == before.hash
            assert found.histograms == before.histograms
            assert found.n_frames == before.n_frames
        except ConfigError:
            pass
        files.priors.write_bytes(content)


def test_any_flipped_bit_of_a_topology_gives_the_same_beads_or_is_refused(files: Files) -> None:
    content = files.topology.read_bytes()
    for bit in range(0, 8 * len(content), 41):
        flip_bit(files.topology, bit)
        with contextlib.suppress(CGALError):
            assert CGTopology.load(files.topology) == TOPOLOGY, f"bit {bit}"
        files.topology.write_bytes(content)


def test_an_edited_topology_is_read_without_its_seal(files: Files) -> None:
    text = files.topology.read_text().replace('"PRO"', '"GLY"')
    assert "PRO" not in text.split("type_names")[0]
    files.topology.write_text(text)
    with pytest.raises(CGALError, match=r"edited it on purpose, delete its line \"seal\""):
        CGTopology.load(files.topology)
    files.topology.write_text("\n".join(line for line in text.splitlines() if '"seal"' not in line))
    assert CGTopology.load(files.topology).residue_names[3] == "GLY"


def test_edited_priors_are_read_without_hash_and_seal(files: Files) -> None:
    lines = files.priors.read_text().replace("n_frames: 80", "n_frames: 81").splitlines(keepends=True)
    files.priors.write_text("".join(lines))
    with pytest.raises(ConfigError, match="delete its lines 'hash:' and 'seal:'"):
        PriorSet.load(files.priors)
    files.priors.write_text("".join(x for x in lines if not x.startswith(("hash:", "seal:"))))
    with pytest.warns(UserWarning, match=r"priors\.yaml' has no hash: its values are used as edited"):
        assert PriorSet.load(files.priors).n_frames == 81

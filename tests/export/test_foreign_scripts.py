"""A foreign TorchScript file runs nothing when its metadata are read, and only arithmetic later."""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from cgal_plugin.cli.main import app
from cgal_plugin.dynamics import add_potential, build_system
from cgal_plugin.dynamics.potential_metadata import read_metadata
from cgal_plugin.errors import CGALError, ExportError
from cgal_plugin.export import load_metadata
from cgal_plugin.export.loading import convert_potential, load_exported
from cgal_plugin.export.script_check import check_script, read_script_metadata
from cgal_plugin.mapping import CGTopology
from tests.torchforce import TORCHFORCE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit.*")
EXAMPLES = Path(__file__).parents[2] / "examples"
TOPOLOGY = CGTopology.from_sequence("GYG")
#: nm
START = np.array([[0.0, 0.0, 0.0], [0.38, 0.0, 0.0], [0.38, 0.38, 0.0]])


class FromFile(torch.nn.Module):
    """Creates a file when it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.kept = torch.zeros(4)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        self.kept = torch.from_file(self.path, True, 4)  # what is not kept is no part of the code

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sum(), -x


class Saves(FromFile):
    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save([1, 2], self.path)


class Nested(torch.nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.part = torch.nn.Sequential(torch.nn.Identity(), FromFile(path))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sum(), -x


class InForward(torch.nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        torch.save(x, self.path)
        return x.sum(), -x


class Prints(InForward):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        print(self.path)
        return x.sum(), -x


def _fork(x: Tensor) -> Tensor:
    return x + 1


class Forks(InForward):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.jit.wait(torch.jit.fork(_fork, x))
        return y.sum(), -x


class Harmonic(torch.nn.Module):
    """A potential as a user may write it for TorchForce."""

    def __init__(self, k: float = 3.0) -> None:
        super().__init__()
        self.register_buffer("k", torch.tensor(k))
        self.net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.SiLU(), torch.nn.Linear(4, 1)).double()

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        x = positions.detach().to(torch.float64).requires_grad_(True)
        first, second = torch.triu_indices(x.size(0), x.size(0), 1).unbind(0)
        r = torch.cdist(x, x)[first, second]
        energy = self.k * (r - 0.4).pow(2).sum() + torch.einsum("ij->", self.net(r.unsqueeze(-1)))
        (grad,) = torch.autograd.grad([energy], [x])
        assert grad is not None
        return energy.detach(), -grad


def save(module: torch.nn.Module, path: Path, metadata: dict[str, Any] | None = None) -> Path:
    script = torch.jit.script(module)
    extra = {} if metadata is None else {"cgal.json": json.dumps(metadata)}
    path.write_bytes(script.save_to_buffer(_extra_files=extra))
    return path


#: every way by which a user gives a potential
READERS: dict[str, Callable[[Path], Any]] = {
    "load_metadata": load_metadata,
    "read_metadata": read_metadata,
    "load_exported": load_exported,
    "convert": lambda path: convert_potential(path, path.with_suffix(".npz")),
    "python": lambda path: add_potential(build_system(TOPOLOGY), path, TOPOLOGY, backend="python"),
    "fast": lambda path: add_potential(build_system(TOPOLOGY), path, TOPOLOGY, backend="fast"),
    "simulate": lambda path: CliRunner().invoke(
        app,
        f"simulate -p {path} --topology GYG --start {path.parent / 'start.npy'} --steps 10 --temperature 300"
        f" -o {path.parent / 'out'}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("module", [FromFile, Saves, Nested, InForward])
@pytest.mark.parametrize("metadata", [None, {"n_beads": 3, "temperature": 300.0}])
def test_no_file_is_written(module: Any, metadata: dict[str, Any] | None, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = save(module(str(mark)), tmp_path / "p.pt", metadata)
    np.save(tmp_path / "start.npy", START[None] * 10)
    for name, read in READERS.items():
        with contextlib.suppress(CGALError):
            read(path)
        assert not mark.exists(), name
    assert read_script_metadata(path) == (metadata or {})


@pytest.mark.parametrize("backend", ["python", TORCHFORCE])
@pytest.mark.parametrize(
    ("module", "word"),
    [
        (FromFile, "__setstate__"),
        (Saves, "__setstate__"),
        (Nested, "__setstate__"),
        (InForward, "aten::save"),
        (Prints, "print"),
        (Forks, "fork"),
    ],
)
def test_the_message_names_what_it_calls(module: Any, word: str, backend: str, tmp_path: Path) -> None:
    path = save(module(str(tmp_path / "mark")), tmp_path / "p.pt")
    system = build_system(TOPOLOGY)
    with pytest.raises(CGALError, match=re.escape(word)) as error:
        add_potential(system, path, TOPOLOGY, backend=backend)
    assert "cgal export" in str(error.value)


def _evaluate(system: Any, force: Any) -> float:
    import openmm

    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(START)
    return float(context.getState(getEnergy=True).getPotentialEnergy()._value)


@pytest.mark.parametrize("backend", ["python", TORCHFORCE])
def test_a_foreign_potential_of_plain_operators_runs(backend: str, tmp_path: Path) -> None:
    module = Harmonic()
    path = save(module, tmp_path / "p.pt")
    system = build_system(TOPOLOGY)
    force = add_potential(system, path, TOPOLOGY, backend=backend)
    expected = module(torch.from_numpy(START))[0]
    assert _evaluate(system, force) == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(ExportError, match=r"no cgal\.json"):
        load_metadata(path)


def test_all_stored_potentials_pass() -> None:
    files = sorted(EXAMPLES.rglob("potential.pt"))
    assert len(files) >= 24
    for path in files[::5]:
        check_script(path)
        assert load_metadata(path)["n_beads"] == 10


# ------------------------------------------------------------------------------- edited archives


def _edit(path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None], target: Path) -> Path:
    """Write the archive with changed members; None leaves one out."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as made:
        for member in source.infolist():
            changed = change(member.filename, source.read(member))
            if changed is not None:
                made.writestr(zipfile.ZipInfo(changed[0]), changed[1])
    return target


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Harmonic(), tmp_path_factory.mktemp("plain") / "p.pt", {"n_beads": 3})


CODE = {
    "ops.aten.save(x, 'f')": "aten::save",
    "ops.aten . save(x, 'f')": "another way",
    "torch.autograd.from_file('f', True, 4)": "aten::from_file",
    "torch.\n  from_file('f', True, 4)": "aten::from_file",
    "x.save('f')": "aten::save",
    "t = torch\n  t.save(x, 'f')": "aten::save",
    "o = ops\n  o.aten.save(x, 'f')": "another way",
    "getattr('f', 'from_file')(True, 4)": "aten::from_file",
    "getattr('f', 'from\\137file')(True, 4)": "escape",
    "getattr('f', 'from\\x5ffile')(True, 4)": "escape",
    '"""a"""\n  torch.save(x)': "aten::save",
    "1.0 #  torch.save(x, 'f')": "outside a text",
    "x \\\n .save('f')": "outside a text",
    "x.sаve": "outside a text",  # a Cyrillic letter
    "ops.profiler._record_function_enter('f')": "profiler::",
    "ops.prim.rpc_async('w', 'f')": "prim::rpc_async",
    "ops.c10d.broadcast_(x)": "c10d::",
    "torch.set_data(x, x)": "aten::set_data",
    "torch.warn('x', 2)": "aten::warn",
    "torch.manual_seed(3)": "aten::manual_seed",
    "__torch__.torch.classes.quantized.Linear(x)": "classes",
    "print('x')": "print",
}


@pytest.mark.parametrize("line", CODE)
def test_no_spelling_hides_an_operator(line: str, plain: Path, tmp_path: Path) -> None:
    def change(name: str, content: bytes) -> tuple[str, bytes]:
        if name.endswith(".py") and b"def forward" in content and b"Harmonic" in content:
            text = content.decode().replace("Tensor]:\n", f"Tensor]:\n  {line}\n", 1)
            assert line in text
            return name, text.encode()
        return name, content

    path = _edit(plain, change, tmp_path / "p.pt")
    with pytest.raises(ExportError, match=re.escape(CODE[line])):
        check_script(path)


def test_operators_in_texts_are_texts(plain: Path, tmp_path: Path) -> None:
    def change(name: str, content: bytes) -> tuple[str, bytes]:
        line = "  w = 'call torch.save, # ops.aten.save \\n'\n"
        return name, content.replace(b"Tensor]:\n", b"Tensor]:\n" + line.encode(), 1)

    check_script(_edit(plain, change, tmp_path / "p.pt"))


ARCHIVES: dict[str, tuple[Callable[[str, bytes], tuple[str, bytes] | None], str]] = {
    "other case": (lambda n, c: (n.replace("/code/", "/Code/"), c), "member"),
    "two folders": (lambda n, c: (f"q/{n}" if n.endswith("version") else n, c), "ambiguous"),
    "legacy": (lambda n, c: (n.replace("/version", "/model.json"), c), "model.json"),
    "no constants": (lambda n, c: None if n.endswith("constants.pkl") else (n, c), "constants.pkl"),
    "class of a library": (
        lambda n, c: (n, b"\x80\x02c__torch__.torch.classes.a\nX\n." if n.endswith("/data.pkl") else c),
        "torch.classes",
    ),
    "function": (
        lambda n, c: (n, b"\x80\x02cos\nsystem\n." if n.endswith("constants.pkl") else c),
        "os system",
    ),
    "metadata of another type": (lambda n, c: (n, b"[1]" if n.endswith("cgal.json") else c), "not an object"),
    "metadata": (lambda n, c: (n, b"{" if n.endswith("cgal.json") else c), "Expecting"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_only_archives_of_torch_jit_are_read(name: str, plain: Path, tmp_path: Path) -> None:
    change, message = ARCHIVES[name]
    path = _edit(plain, change, tmp_path / "p.pt")
    with pytest.raises(ExportError, match=re.escape(message)):
        load_exported(path)


def test_two_members_of_one_name_and_other_formats(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.pt"
    content = plain.read_bytes()
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        name = next(n for n in archive.namelist() if n.endswith(".py"))
        archive.writestr(zipfile.ZipInfo(name.upper()), b"torch.save(1, 'f')")
    with pytest.raises(ExportError, match="ambiguous"):
        check_script(path)
    # torch reads the start of a file, zip readers its end: PTMF is its other format
    path.write_bytes(b"\x10\0\0\0PTMF" + b"\0" * 100 + content)
    with pytest.raises(ExportError, match="no zip archive"):
        check_script(path)
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ExportError, match="not an archive of torch"):
        check_script(path)

"""More than 200 malformed inputs: one clear error, an exit code, no traceback, nothing changed."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest
import torch
import yaml

from cgal_plugin.cli import main as cli
from cgal_plugin.config import parse_config
from cgal_plugin.config.template import template
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping import CGTopology
from tests.driver import stand_ins

#: a case: what the message has to name, and the command
Case = tuple[str, list[object]]
SEQUENCE = "GYGAG"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a valid file of every kind, and a completed run."""
    root = tmp_path_factory.mktemp("world")
    run(
        stand_ins.config(root),
        root / "run",
        oracle=stand_ins.Fails(0.0),
        **stand_ins.cheap(),
    )
    topology = CGTopology.from_sequence(SEQUENCE)
    frames = DataStore(root / "store").load_all().positions
    np.save(root / "frames.npy", frames)
    np.savez(root / "frames.npz", positions=frames)
    trajectory = mdtraj.Trajectory(frames / 10, topology.to_mdtraj())
    trajectory[0].save_pdb(str(root / "top.pdb"))
    trajectory.save_dcd(str(root / "frames.dcd"))
    trajectory.save_hdf5(str(root / "frames.h5"))
    topology.save(root / "top.json")
    _all_atom(root / "atoms.pdb")
    return root


def _all_atom(path: Path) -> None:
    from cgal_plugin.oracle import AllAtomModel

    model = AllAtomModel.create("GYG", "CA")
    mdtraj.Trajectory(np.array(model.positions)[None] / 10, model.mdtraj_topology).save_pdb(str(path))


def _stamps(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            status = os.stat(path)
            found[path] = (status.st_size, status.st_mtime_ns)
    return found


class Checker:
    """Call commands in this process and collect the problems of their answers."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.problems: list[str] = []
        self.count = 0

    def __call__(self, cases: list[Case]) -> None:
        before = _stamps(self.folder)
        for name, arguments in cases:
            self.count += 1
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["cgal", *map(str, arguments)])
                patch.chdir(self.folder)
                try:
                    cli.main()
                    code: Any = 0
                except SystemExit as end:
                    code = end.code
            captured = self.capsys.readouterr()
            wrong = []
            if code not in (1, 2):
                wrong.append(f"exit code {code}")
            if not captured.err.startswith("error: ") or "Traceback" in captured.err + captured.out:
                wrong.append("no clear error")
            if "--debug shows the traceback" in captured.err:
                wrong.append("an unexpected error")
            if name not in captured.err:
                wrong.append(f"does not name {name!r}")
            after = _stamps(self.folder)
            if after != before:
                changed = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
                wrong.append(f"changed {changed}")
                before = after
            if wrong:
                shown = " ".join(Path(str(a)).name for a in arguments)
                self.problems.append(f"{shown}: {', '.join(wrong)}: {captured.err[-300:]}")

    def finish(self, at_least: int) -> None:
        """Fail with all problems."""
        assert not self.problems, "\n".join([f"{len(self.problems)} of {self.count}:", *self.problems])
        assert self.count >= at_least


@pytest.fixture
def check(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Checker:
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    return Checker(folder, capsys)


# ---------------------------------------------------------------------- configurations

_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "nonsense",
    "5 parsecs",
    "../../../etc/passwd",
    "\x00",
    "a\nb",
    [],
    [[1]],
    {},
    {"kind": "nobody"},
    {"__class__": "x"},
    "!!python/object/apply:os.system [id]",
]
_TEXTS = [
    "",
    "[",
    "{",
    "- a\n- b",
    "just text",
    "system: {sequence: GYG}\nsystem: {sequence: GYG}",
    "system: !!python/object/apply:os.system ['touch ran']",
    "system: !!python/name:os.system",
    "a: &a [*a]",
    "\t- x: y",
    "system: {sequence: GYG}\n\tbad: tab",
    "%YAML 9.9\n---\nsystem: 3",
    "system: " + "[" * 1000,
    "\ufeff\x01",
    "system: {sequence: GXG}\nno: 1",
    "system: {pdb: ../../nowhere.pdb}",
]


def _mutations(world: Path) -> list[str]:
    """Mutate a valid configuration until it is refused."""
    base = yaml.safe_load(template())
    base["system"] = {"sequence": SEQUENCE, "temperature": 400}
    rng = random.Random(5)
    found: list[str] = []
    while len(found) < 100:
        content = copy.deepcopy(base)
        for _ in range(rng.randint(1, 2)):
            target, key = content, rng.choice(sorted(content))
            while isinstance(target.get(key), dict) and target[key] and rng.random() < 0.8:
                target = target[key]
                key = rng.choice(sorted(target))
            kind = rng.choice(["value", "value", "value", "rename", "extra"])
            if kind == "value":
                target[key] = rng.choice(_VALUES)
            elif kind == "rename":
                target[f"{key}_"] = target.pop(key)
            else:
                target[rng.choice(["sed", "kind_", "../x", "rounds "])] = rng.choice(_VALUES)
        # without the sections that were not changed, which only take time to parse
        content = {k: v for k, v in content.items() if k == "system" or repr(v) != repr(base.get(k))}
        try:
            parse_config(content, base=world)
        except ConfigError:
            found.append(yaml.safe_dump(content, allow_unicode=True))
    return found


def test_configurations(check: Checker) -> None:
    cases: list[Case] = []
    for number, text in enumerate([*_mutations(check.folder), *_TEXTS]):
        path = check.folder / f"bad{number}.yaml"
        path.write_text(text, encoding="utf-8")
        command = ("run", path, "--out", check.folder / "run") if number % 2 else ("validate", path)
        cases.append((path.name, list(command)))
    for number, content in enumerate([b"\xff\xfe\x00", bytes(range(256)), b"system: {sequence: \xc3\x28}"]):
        path = check.folder / f"binary{number}.yaml"
        path.write_bytes(content)
        cases.append((path.name, ["run", path, "--out", check.folder / "run"]))
    check(cases)
    assert not (check.folder / "ran").exists()
    check.finish(115)


# ---------------------------------------------------------------------- files

Harm = Callable[[bytes], bytes]
HARMS: dict[str, Harm] = {
    "empty": lambda c: b"",
    "cut in half": lambda c: c[: len(c) // 2],
    "last bytes gone": lambda c: c[:-7],
    "junk": lambda c: bytes(random.Random(1).randrange(256) for _ in range(500)),
    "zeros": lambda c: bytes(len(c)),
    "head of zeros": lambda c: bytes(16) + c[16:],
    "text": lambda c: b"this is no such file\n" * 20,
    "pickle": lambda c: b"\x80\x04cposix\nsystem\n(X\x09\x00\x00\x00touch rantR.",
}


def _harmed(folder: Path, name: str, harms: Sequence[str] = tuple(HARMS)) -> list[Path]:
    source = folder / name
    made = []
    for number, harm in enumerate(HARMS[name] for name in harms):
        path = folder / f"bad{number}_{source.name}"
        path.write_bytes(harm(source.read_bytes()))
        made.append(path)
    return made


def _flipped(folder: Path, name: str, n: int) -> list[Path]:
    """Write copies with one flipped bit; for formats with checksums."""
    content, rng = (folder / name).read_bytes(), random.Random(3)
    made = []
    for number in range(n):
        harmed = bytearray(content)
        harmed[rng.randrange(len(harmed) // 4, len(harmed) // 2)] ^= 1 << rng.randrange(8)
        path = folder / f"flip{number}_{Path(name).name}"
        path.write_bytes(bytes(harmed))
        made.append(path)
    return made


def _top(folder: Path) -> list[object]:
    return ["-t", folder / "top.json"]


def test_pdb_files(check: Checker) -> None:
    f = check.folder
    lines = (f / "atoms.pdb").read_text().splitlines(keepends=True)
    atoms = [i for i, line in enumerate(lines) if line.startswith("ATOM")]
    broken: dict[str, list[str]] = {
        "nocoords": [line[:30] + "\n" if i == atoms[5] else line for i, line in enumerate(lines)],
        "text": [
            line[:30] + "   a.bcd" + line[38:] if i == atoms[5] else line for i, line in enumerate(lines)
        ],
        "nan": [line[:30] + "     nan" + line[38:] if i in atoms else line for i, line in enumerate(lines)],
        "unknown": [line.replace("TYR", "XYZ") for line in lines],
        "noside": [line for line in lines if line[12:16].strip() not in ("CG", "CD1", "CZ")],
        "noca": [line for line in lines if line[12:16].strip() != "CA"],
        "headers": [line for line in lines if not line.startswith("ATOM")],
        "water": [line.replace("GLY", "HOH").replace("TYR", "HOH") for line in lines],
    }
    paths = _harmed(f, "atoms.pdb")
    for name, content in broken.items():
        path = f / f"bad_{name}.pdb"
        path.write_text("".join(content))
        paths.append(path)
    cases: list[Case] = []
    for path in paths:
        (f / f"{path.stem}.yaml").write_text(
            f"system: {{pdb: {path.name}, temperature: 400}}\n"
            "training: {priors: {terms: [bonds, angles, dihedrals, repulsion]}}\n"
        )
        cases.append((path.name, ["run", f / f"{path.stem}.yaml", "--out", f / "new" / path.stem]))
    check(cases)
    # a harmed file that can still be read: GYG is too short for these prior terms
    check.problems = [p for p in check.problems if "has no dihedrals, no repulsion" not in p]
    assert not (f / "new").exists()
    check([(p.name, ["backmap", f / "frames.npy", "--system", p, "-o", f / "x.pdb"]) for p in paths[3:11]])
    check.finish(24)


def test_trajectories(check: Checker) -> None:
    f = check.folder
    cases: list[Case] = []
    for name in ("frames.dcd", "frames.h5", "frames.npz", "frames.npy"):
        # HDF5 is read in a process of its own, which takes a second
        harms = ("cut in half", "junk", "head of zeros") if name == "frames.h5" else tuple(HARMS)
        for path in _harmed(f, name, harms):
            if name == "frames.dcd" and path.name.startswith("bad5"):
                continue  # a DCD's first bytes, gone: other record markers, which it can have
            top = ["--top", f / "top.pdb"] if name == "frames.dcd" else []
            pair = (
                ["-c", path, "-r", f / "frames.npy"]
                if len(cases) % 2
                else ["-c", f / "frames.npy", "-r", path]
            )
            cases.append((path.name, ["select", *pair, *_top(f), *top, "-o", f / "x.npz"]))
    cases += [
        (p.name, ["evaluate", "-m", p, "-r", f / "frames.npy", *_top(f)])
        for p in _flipped(f, "frames.npz", 8)
    ]
    arrays: dict[str, Any] = {
        "flat": np.zeros(30),
        "plane": np.zeros((4, 5, 2)),
        "beads": np.zeros((4, 6, 3)),
        "none": np.zeros((0, 5, 3)),
        "nan": np.full((4, 5, 3), np.nan),
        "words": np.full((4, 5, 3), "x"),
        "complex": np.zeros((4, 5, 3), dtype=complex),
        "objects": np.array([None, {}], dtype=object),
    }
    for name, array in arrays.items():
        np.save(f / f"bad_{name}.npy", array, allow_pickle=True)
        path = f / f"bad_{name}.npy"
        if name in ("flat", "nan"):  # this command builds the all-atom model first, which takes a second
            cases.append((path.name, ["label", path, "--system", SEQUENCE, "-o", f / "new"]))
        else:
            cases.append((path.name, ["evaluate", "-m", f / "frames.npy", "-r", path, *_top(f)]))
    check(cases)
    assert not (f / "ran").exists()
    check.finish(42)


def test_topologies_and_priors(check: Checker) -> None:
    f = check.folder
    (f / "priors.yaml").write_text("format: cgal_plugin priors\n")
    select = ["select", "-c", f / "frames.npy", "-r", f / "frames.npy", "-o", f / "x.npz", "-t"]
    cases: list[Case] = [(p.name, [*select, p]) for p in _harmed(f, "top.json")]
    content = json.loads((f / "top.json").read_text())
    for key in sorted(content)[:6]:
        path = f / f"without_{key}.json"
        path.write_text(json.dumps({k: v for k, v in content.items() if k != key}))
        cases.append((path.name, [*select, path]))
    for path in _harmed(f, "priors.yaml"):
        config = f / f"{path.stem}_config.yaml"
        priors = {"priors": {"file": path.name}}
        config.write_text(yaml.safe_dump({"system": {"sequence": SEQUENCE}, "training": priors}))
        cases.append((path.name, ["train", f / "store", "-o", f / "new", "--priors", path]))
    check(cases)
    check.finish(20)


def test_checkpoints_and_potentials(check: Checker) -> None:
    f = check.folder
    torch.save(
        {"state_dict": {}, "hyper_parameters": {"model": "nobody", "embedding": "cgal"}}, f / "model.ckpt"
    )
    torch.save(torch.zeros(3), f / "tensor.ckpt")
    torch.save({"weights": 1}, f / "dict.ckpt")
    paths = [
        *_harmed(f, "model.ckpt"),
        f / "tensor.ckpt",
        f / "dict.ckpt",
        f / "nowhere.ckpt",
        f / "model.ckpt",
    ]
    cases: list[Case] = [(p.name, ["export", p, *_top(f), "-o", f / "x.pt"]) for p in paths]
    cases += [(p.name, ["train", f / "store", "-o", f / "new", "--init", p]) for p in paths[:-1]]
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(f / "linear.pt"))
    start = ["--start", f / "frames.npy", "--steps", 5, "-o", f / "new"]
    for path in [*_harmed(f, "linear.pt"), f / "linear.pt"]:
        cases.append((path.name, ["simulate", "-p", path, *_top(f), *start]))
    check(cases)
    assert not (f / "ran").exists()
    check.finish(29)


def test_stores(check: Checker) -> None:
    f = check.folder
    cases: list[Case] = []

    def store(number: int) -> Path:
        path = f / f"store{number}"
        shutil.copytree(f / "store", path)
        return path

    commands: list[Callable[[Path], list[object]]] = [
        lambda s: ["fit-priors", s, "-o", f / "x.yaml"],
        lambda s: ["train", s, "-o", f / "new"],
        lambda s: ["select", "-c", f / "frames.npy", "-r", s, *_top(f), "-o", f / "x.npz"],
    ]
    number = 0
    for name in ("shards/s.npz", "shards/s.json", "store.json"):
        for harm in HARMS.values():
            made = store(number)
            (made / name).write_bytes(harm((made / name).read_bytes()))
            cases.append((Path(name).name, commands[number % 3](made)))
            number += 1
    for path in _flipped(f, "store/shards/s.npz", 8):
        made = store(number)
        shutil.move(path, made / "shards" / "s.npz")
        cases.append(("s.npz", commands[number % 3](made)))
        number += 1
    made = store(number)
    (made / "shards" / "s.npz").unlink()
    cases.append(("s.npz", commands[0](made)))
    check(cases)
    check.finish(33)


def test_run_directories(check: Checker) -> None:
    f = check.folder
    cases: list[Case] = []
    for number, harm in enumerate(HARMS.values()):
        root = f / f"run{number}"
        shutil.copytree(f / "run", root)
        path = root / "config.yaml"
        path.write_bytes(harm(path.read_bytes()))
        cases += [("config", ["status", root]), ("config", ["report", root])]
    for name in ("train/manifest.json", "label/manifest.json", "simulate/frames.npz", "select/selected.npz"):
        root = f / f"run_{name.replace('/', '_')}"
        shutil.copytree(f / "run", root)
        path = root / "rounds" / "round_000" / name
        path.write_bytes(HARMS["cut in half"](path.read_bytes()))
        cases.append((path.name, ["report", root]))
    check(cases)
    check.finish(18)

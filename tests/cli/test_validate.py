"""`cgal validate` and `--dry-run` build what a configuration describes, and say what was read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cgal_plugin.cli.main import main
from cgal_plugin.config import parse_config
from tests.oracle.structures import capped, kept, peptide, text


def cgal(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["cgal", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "capped.pdb").write_text(text(capped("GAKYAEG")))
    (tmp_path / "gap.pdb").write_text(text(kept(peptide("GAKAG"), lambda name, number: number != 3)))
    return tmp_path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"system": {"sequence": "NLYIXWLK"}}, "'X' at position 5"),
        ({"system": {"sequence": "GYXB"}}, "'X' at position 3, 'B' at position 4"),
        ({"system": {"sequence": ""}}, "system.sequence"),
        ({"system": {"sequence": "GYGAG", "mapping": "CB"}}, "mapping 'CB'"),
        ({"system": {"sequence": "GYGAG", "repair": True}}, "repair: for a structure only"),
        ({"system": {"sequence": "GYGAG", "model": 0}}, "model: for a structure only"),
        ({"system": {"structure": "gap.pdb"}}, "gap"),
        ({"system": {"structure": "capped.pdb", "chains": ["Q"]}}, "no chain 'Q'"),
        ({"system": {"structure": "capped.pdb", "model": 2}}, "no model 2"),
        ({"system": {"structure": "capped.pdb", "ignore": [False]}}, "put it in quotes"),
        ({"system": {"structure": "capped.pdb", "pdb": "gap.pdb"}}, "former name"),
        ({"system": {"structure": "capped.pdb"}, "oracle": {"backmap": ["cgback"]}}, "caps included"),
        ({"system": {"sequence": "GYGAG"}, "oracle": {"backmap": []}}, "backmapping methods"),
        ({"system": {"sequence": "GYGAG"}, "seed_data": {"start": "folded"}}, "needs a fold"),
        ({"system": {"sequence": "GYGAG"}, "seed_data": {"start": "diverse"}}, "needs a fold"),
        ({"system": {"sequence": "GYGAG"}, "evaluation": {"reference": ["run.yaml"]}}, "not a trajectory"),
        ({"system": {"sequence": "GYGAG"}, "training": {"torchmdnet": {"lrr": 1}}}, "did you mean 'lr'"),
        ({"system": {"sequence": "GYGAG"}, "training": {"torchmdnet": {"max_z": 5}}}, "max_z"),
        (
            {"system": {"sequence": "GYGAG"}, "selector": {"kind": "custom", "class": "nowhere:X"}},
            "selector.class = 'nowhere:X' cannot be imported",
        ),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_spent(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    content: dict[str, Any],
    expected: str,
) -> None:
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    assert cgal(monkeypatch, "validate", str(folder / "run.yaml")) == 2
    error = capfd.readouterr().err
    assert expected in error
    assert "Traceback" not in error


def test_the_output_is_a_configuration_and_says_what_was_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One name may stand for a list, and the former name of the key is accepted."""
    content = {"system": {"pdb": "capped.pdb", "chains": "A", "ignore": "ZN"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    assert cgal(monkeypatch, "validate", str(folder / "run.yaml")) == 0
    out, err = capfd.readouterr()
    printed = parse_config(yaml.safe_load(out))
    assert printed.system.structure == folder / "capped.pdb"
    assert printed.system.chains == ("A",)
    assert "caps: start ACE, end NME" in err
    assert "start of the seed trajectories: auto (folded)" in err
    assert cgal(monkeypatch, "run", str(folder / "run.yaml"), "--dry-run") == 0
    assert "caps: start ACE, end NME" in capfd.readouterr().out

"""Damage every file of a run in turn, run it again, and follow the remedy of an error as a user would."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cgal_plugin.errors import CGALError
from cgal_plugin.runs.log import LOG
from tests.damage import cut, empty, flip

HARMS: dict[str, Callable[[Path], None]] = {
    "flipped": flip,
    "truncated": cut,
    "emptied": empty,
    "deleted": Path.unlink,
}
#: files that hold nothing of a run: locks, logs, what each call writes anew
_UNREAD = ("run.lock", ".lock", "report.html", LOG)
#: called as ``call(root, accept_changes)``
Call = Callable[[Path, bool], Any]


def stages(root: Path) -> list[str]:
    """Return the stages of a run in the order in which they were completed."""
    order = ("train", "simulate", "evaluate", "test", "select", "label")
    rounds = [
        f"rounds/{p.name}/{stage}" for p in sorted((root / "rounds").glob("round_*")) for stage in order
    ]
    names = ["seed", "priors", *rounds]
    return [name for name in names if (root / name / "manifest.json").exists()]


def pause(root: Path, stage: str) -> None:
    """Leave the files that a kill at the end of a stage leaves behind."""
    order = stages(root)
    (root / stage / "manifest.json").unlink()
    for later in order[order.index(stage) + 1 :]:
        shutil.rmtree(root / later)
    for folder in sorted((root / "rounds").glob("round_*"), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    for name in ("model.ckpt", "potential.pt", "report.html"):
        (root / name).unlink(missing_ok=True)
    if stage == "seed":
        shutil.rmtree(root / "data")
        return
    number = int(stage.split("/")[1][-3:]) if "/" in stage else 0
    for path in (root / "data" / "shards").glob("r*"):
        made_in, frame = int(path.name[1:4]), int(path.stem[6:])
        if made_in > number or (made_in == number and not (stage.endswith("label") and frame % 2)):
            path.unlink()


def files(root: Path, stage: str | None = None) -> list[str]:
    """Return the files of a run; of a run that was paused in ``stage``, those of the stage and of the run."""
    names = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.is_file()]
    names = [n for n in names if Path(n).name not in _UNREAD and not n.startswith("work/")]
    return [n for n in names if stage is None or n.startswith((stage, "data/")) or "/" not in n]


def follow(text: str, root: Path, call: Call) -> None:
    """Do what the text of an error says.

    Raises
    ------
    AssertionError
        It names no remedy that this function knows.
    """
    deleted = re.search(r"delete '?(/[^\s';]+)", text)
    if "--accept-changes" in text:
        call(root, True)
        return
    if deleted:
        path = Path(deleted[1])
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    else:
        assert "again" in text, f"no remedy: {text}"
    call(root, False)


def sweep(
    base: Path,
    names: Iterable[str],
    folder: Path,
    call: Call,
    content: Callable[[Path], Any],
    expected: Any,
    harms: Callable[[int], Iterable[str]] = lambda number: HARMS,
) -> tuple[Counter[str], list[str]]:
    """Damage each file of the run ``base`` in a copy, and count the outcomes.

    ``harms`` gives the kinds of damage to the file with a number; default: all.

    Returns
    -------
    Counts of ``repaired`` and ``remedied``, and a line for each case that ended in another way.
    """
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for number, name in enumerate(names):
        for harm in harms(number):
            root = folder / "case"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(base, root)
            HARMS[harm](root / name)
            outcome = "repaired"
            try:
                try:
                    call(root, False)
                except CGALError as error:
                    outcome = "remedied"
                    follow(str(error), root, call)
                found = content(root)
                if found != expected:
                    keys = [k for k in {**expected, **found} if found.get(k) != expected.get(k)]
                    wrong.append(f"{name} {harm}: {outcome}, with another content: {keys}")
                    continue
            except Exception as error:  # noqa: BLE001  whatever it is, it is wrong
                wrong.append(f"{name} {harm}: {type(error).__name__}: {error}")
                continue
            counts[outcome] += 1
    return counts, wrong

"""Every file of a finished and of a paused run, flipped, truncated, emptied and deleted in turn.

The runs have components of no cost, and each file has one kind of damage, in rotation.
``tests/benchmarks/bench_damage.py``
does all kinds, with real runs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.driver import stand_ins
from tests.driver.cheap import cheap_run
from tests.driver.sweep import HARMS, files, pause, sweep
from tests.driver.test_damage import content

pytestmark = [pytest.mark.usefixtures("without_figures"), pytest.mark.integration]


@pytest.mark.parametrize(
    "stage",
    [None, "seed", "priors", "rounds/round_000/train", "rounds/round_000/label", "rounds/round_001/simulate"],
)
def test_every_damaged_file_is_repaired_or_its_remedy_works(
    stage: str | None, cheap_finished: Path, tmp_path: Path
) -> None:
    config, base = stand_ins.config(cheap_finished), tmp_path / "base"
    shutil.copytree(cheap_finished / "run", base)
    if stage is not None:
        pause(base, stage)
    names = [n for n in files(base, stage) if "_f" not in n or n.split("_f")[1][:4] in ("0000", "0003")]

    def call(root: Path, accept: bool) -> None:
        cheap_run(root, config, accept_changes=accept)

    expected = content(cheap_finished / "run")
    counts, wrong = sweep(
        base, names, tmp_path, call, content, expected, lambda number: [tuple(HARMS)[number % len(HARMS)]]
    )
    print(f"{stage or 'finished'}: {len(names)} files, {dict(counts)}, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert sum(counts.values()) == len(names)

"""Configuration of a benchmark: a base, the arms that change it, and the test of the models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from cgal_plugin.config.load import describe, parse_config, read_mapping
from cgal_plugin.config.model_test import ModelTest
from cgal_plugin.config.models import Config, ExternalComponent
from cgal_plugin.config.quantities import Count, SeedNumber
from cgal_plugin.config.refine_by_default import too_few_frames
from cgal_plugin.config.refinement import VERSION
from cgal_plugin.config.section import Section
from cgal_plugin.errors import ConfigError
from cgal_plugin.provenance import hash_object, hash_path


class Arm(Section):
    """One arm: one way to use the all-atom MD."""

    label: str = ""
    """Name in tables and figures (default: the key of the arm)."""
    seeds: Count = 3
    """Number of independent repeats, with seeds 1, 2, ...; a seed has the same start in each arm."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Keys that differ from `base`."""
    refines: str | None = None
    """Arm whose final models this arm refines. It continues the runs of that arm with their configuration and
    the changes given here, which are limited to the section refinement."""


class Benchmark(Section):
    """A benchmark file."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """Title of the report."""
    seed: SeedNumber = 0
    """Seed of the benchmark; all random numbers are derived from it."""
    base: dict[str, Any]
    """A configuration as for `cgal run`."""
    baseline: str = "static"
    """Arm with which the others are compared."""
    arms: dict[str, Arm]
    """Name → arm."""
    compare: tuple[str, ...] = ("rmsd",)
    """Arms that the report compares with each other arm, paired by seed."""
    test: ModelTest = ModelTest()
    """Test of the models of all arms; it takes the place of the section test in their configurations."""
    reference_forces: Path | None = None
    """Forces of the reference frames (npz), for the force error; the same as `test.reference_forces`."""
    small: dict[str, Any] = Field(default_factory=dict)
    """Keys of this file that `--small` changes."""

    @model_validator(mode="after")
    def _baseline(self) -> Benchmark:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is not among the arms {sorted(self.arms)}")
        most = max(arm.seeds for arm in self.arms.values())
        if self.arms[self.baseline].seeds < most:
            raise ValueError(f"the baseline {self.baseline!r} needs as many seeds as any other arm, {most}")
        return self

    @model_validator(mode="after")
    def _one_test(self) -> Benchmark:
        own = [name for name, arm in self.arms.items() if "test" in arm.changes]
        places = ["base"] * ("test" in self.base) + [f"arms.{name}.changes" for name in own]
        if places:
            raise ValueError(
                f"{', '.join(places)}: all arms are tested alike; give the section test at the top"
            )
        if self.reference_forces is not None and self.test.reference_forces is not None:
            raise ValueError("give reference_forces at the top or in the section test, not both")
        return self

    @model_validator(mode="after")
    def _refined(self) -> Benchmark:
        plain = {name: arm for name, arm in self.arms.items() if arm.refines is None}
        for name, arm in self.arms.items():
            if arm.refines is None:
                continue
            if arm.refines not in plain:
                raise ValueError(
                    f"arm {name!r} refines {arm.refines!r}; it must refine one of the arms {sorted(plain)}"
                )
            if set(arm.changes) != {"refinement"}:
                raise ValueError(
                    f"arm {name!r} refines another arm: its changes must be in the section refinement only, "
                    f"not in {sorted(arm.changes)}"
                )
            if arm.seeds > plain[arm.refines].seeds:
                raise ValueError(f"arm {name!r} refines {arm.refines!r} but has more seeds")
        unknown = sorted(set(self.compare) - set(self.arms))
        if unknown and "compare" in self.model_fields_set:
            raise ValueError(f"compare names {unknown}, which are not among the arms {sorted(self.arms)}")
        if self.arms[self.baseline].refines is not None:
            raise ValueError(f"the baseline {self.baseline!r} cannot refine another arm")
        return self


class LoadedBenchmark:
    """A benchmark with the complete configuration of every arm and seed.

    Attributes
    ----------
    settings
        Content of the file; paths in it are relative to its folder.
    jobs
        (arm, seed) → configuration, ordered by seed, then by arm.
    hashes
        (arm, seed) → SHA-256 of the keys that the file sets for the arm and for the test, and of the version
        of a refinement. Defaults are not included, so that results stay valid when a release adds keys. Keys
        that do not affect results (number of processes, failure limit) are not included either.
    reference
        SHA-256 of the content of each reference file, of its topology and of its forces, in order.
    """

    def __init__(self, settings: Benchmark, folder: Path, source: str) -> None:
        self.settings = settings
        self.jobs: dict[tuple[str, int], Config] = {}
        self.hashes: dict[tuple[str, int], str] = {}
        test = settings.test.model_dump(mode="json")
        forces = _existing(settings.reference_forces, folder, source)
        section = test if forces is None else test | {"reference_forces": str(forces)}
        for seed in range(1, max(a.seeds for a in settings.arms.values()) + 1):
            for name, arm in settings.arms.items():
                if seed <= arm.seeds:
                    content = _arm_content(settings, name, seed)
                    self.jobs[name, seed] = _arm_config(
                        content | {"test": section}, folder, f"{source}: arms.{name}"
                    )
                    refined = [VERSION] if self.jobs[name, seed].refinement is not None else []
                    self.hashes[name, seed] = hash_object([_essential(content), test, *refined])
        files = {path: None for config in self.jobs.values() for path in _reference_files(config)}
        self.reference = [hash_path(path) for path in files if path.exists()]


def load_benchmark(path: str | os.PathLike[str], *, small: bool = False) -> LoadedBenchmark:
    """Read and validate a benchmark file. Paths in it are relative to the file.

    Raises
    ------
    ConfigError
        The file or the configuration of an arm is invalid.
    """
    content, lines = read_mapping(path)
    if small:
        content = merged(content, content.get("small") or {})
    try:
        settings = Benchmark.model_validate(content)
    except ValidationError as error:
        problems = [describe(e, lines, str(path), Benchmark) for e in error.errors()]
        raise ConfigError("\n".join(problems)) from None
    return LoadedBenchmark(settings, Path(path).parent, str(path))


def _existing(path: Path | None, folder: Path, source: str) -> Path | None:
    if path is None:
        return None
    found = (folder / path.expanduser()).resolve()
    if not found.is_file():
        raise ConfigError(f"{source}: reference_forces = {str(found)!r} does not exist")
    return found


def _reference_files(config: Config) -> list[Path]:
    forces = None if config.test is None else config.test.reference_forces
    others = [path for path in (config.evaluation.reference_topology, forces) if path is not None]
    return [*config.evaluation.reference, *others]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` merged into it, section by section."""
    out = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def _arm_content(settings: Benchmark, name: str, seed: int) -> dict[str, Any]:
    arm = settings.arms[name]
    refined = settings.arms[arm.refines].changes if arm.refines else {}
    content = merged(merged(settings.base, refined), arm.changes)
    # the same root seed in every arm: all start from the same seed data and first model
    return content | {"name": f"{settings.name}: {name}, seed {seed}", "seed": settings.seed * 1000 + seed}


def _essential(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that affect results."""
    kept = {k: v for k, v in content.items() if k not in ("name", "executor")}
    if isinstance(kept.get("oracle"), Mapping):
        kept["oracle"] = {k: v for k, v in kept["oracle"].items() if k != "max_failure_rate"}
    return kept


def _arm_config(content: dict[str, Any], folder: Path, source: str) -> Config:
    config = parse_config(content, base=folder, source=source)
    unusable = [
        f"{name}.kind {section.kind}"
        for name, section in (("simulation", config.simulation), ("training", config.training))
        if isinstance(section, ExternalComponent)
    ]
    if unusable:
        raise ConfigError(f"{source}: {unusable[0]} cannot be used: all arms are tested with one dynamics")
    few = too_few_frames(config.refinement, config.simulation)
    if few is not None:
        raise ConfigError(f"{source}: {few}")
    if not config.evaluation.reference:
        raise ConfigError(f"{source}: evaluation.reference is empty: a benchmark needs a reference")
    return config

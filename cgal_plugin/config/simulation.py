"""The section ``simulation``: CG dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from cgal_plugin.config.external import INSTALLED, CustomComponent, InstalledSampler
from cgal_plugin.config.ladder import check_ladders, check_temperatures
from cgal_plugin.config.quantities import Count, Femtoseconds, Kelvin, PerPicosecond, Steps
from cgal_plugin.config.scale import by_size, count, scaled
from cgal_plugin.config.section import Decision, Section


class Simulation(Section):
    """CG dynamics with the trained potential."""

    kind: Literal["openmm"] = "openmm"
    n_replicas: Count = 64
    """Number of replicas, packed in one OpenMM System; with temperatures, of all temperatures together."""
    blocks: Count = 1
    """Number of Systems that the replicas are divided into; 2 or more run as tasks of the executor."""
    steps: Annotated[Steps, scaled("simulation.steps")] = count("simulation.steps")
    """Steps per replica."""
    timestep_fs: Annotated[Femtoseconds, Field(ge=1e-3, le=50)] = 4.0
    """Time step, fs."""
    friction: Annotated[PerPicosecond, Field(gt=0, le=1e4)] = 1.0
    """Friction coefficient of the Langevin thermostat, 1/ps."""
    report_interval: Steps = 100
    """Steps between saved frames."""
    backend: Literal["auto", "torchforce", "pythontorch", "python", "fast", "cpu", "gpu"] = "auto"
    """Engine of the potential. auto: gpu if there is a GPU and enough beads and replicas; else cpu if numba
    is installed and can run it; else TorchScript. A run keeps the one that it started with."""
    platform: Literal["auto", "Reference", "CPU", "CUDA", "OpenCL"] = "auto"
    """OpenMM platform; auto: Reference, which is the fastest for CG systems beside a CPU or its own GPU
    engine. A run keeps the one that it started with."""
    start: Literal["spread", "random"] = "spread"
    """Start frames from the training set: spread by farthest-point RMSD, or drawn at random."""
    temperatures: tuple[Kelvin, ...] = ()
    """Temperatures of parallel tempering, K, ascending, with that of the system; empty: no tempering."""
    exchange_interval: Steps | None = None
    """Steps between attempts to exchange temperatures. None: report_interval."""

    @classmethod
    def decide(cls, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
        """Return the length of the dynamics."""
        return by_size("simulation", given, n_residues)

    @model_validator(mode="after")
    def _divides(self) -> Simulation:
        if self.n_replicas % self.blocks:
            raise ValueError(f"n_replicas {self.n_replicas} cannot be divided into {self.blocks} blocks")
        return self

    @model_validator(mode="after")
    def _ladders(self) -> Simulation:
        check_temperatures(self.temperatures)
        if self.temperatures:
            check_ladders(self.n_replicas, len(self.temperatures), self.blocks)
            interval = self.exchange_interval or self.report_interval
            if interval > self.steps:
                raise ValueError(
                    f"exchange_interval {interval} exceeds steps {self.steps}: no exchange attempted"
                )
        elif self.exchange_interval is not None:
            raise ValueError("exchange_interval is for parallel tempering: give temperatures too")
        return self

    @model_validator(mode="after")
    def _engine(self) -> Simulation:
        if self.backend in ("fast", "cpu") and self.platform in ("CUDA", "OpenCL"):
            raise ValueError(
                f"backend {self.backend} computes on the CPU, but platform is {self.platform}: leave out one "
                "of them"
            )
        if self.backend == "gpu" and self.platform in ("CPU", "OpenCL"):
            raise ValueError(
                f"backend gpu keeps the replicas on the GPU, but platform is {self.platform}: leave out one "
                "of them"
            )
        return self

    @model_validator(mode="after")
    def _reports(self) -> Simulation:
        if self.report_interval > self.steps:
            raise ValueError(
                f"report_interval {self.report_interval} exceeds steps {self.steps}: no frame saved"
            )
        return self


SamplerConfig = Annotated[
    Annotated[Simulation, Tag("openmm")]
    | Annotated[CustomComponent, Tag("custom")]
    | Annotated[InstalledSampler, Tag(INSTALLED)],
    Field(discriminator=InstalledSampler.by_kind()),
]

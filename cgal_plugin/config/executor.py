"""The section ``executor``: processes of this machine, or Parsl's pilot jobs on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from cgal_plugin.config.quantities import (
    Count,
    CountOrAuto,
    CountOrZero,
    CountZeroOrAuto,
    Number,
    Seconds,
)
from cgal_plugin.config.section import Section

#: one word of a batch script: no white space, no shell syntax
Word = Annotated[str, StringConstraints(pattern=r"^[\w.,:+/@=%-]+$", max_length=200)]


class _Executor(Section):
    task_timeout: Annotated[Seconds, Field(gt=0)] | None = 3600.0
    """Time limit per label, s; then its worker is killed and the frame is quarantined. null: no limit."""
    retries: CountOrZero = 3
    """Number of retries of a task whose worker was lost (killed, out of memory, node down)."""
    retry_wait: Annotated[Seconds, Field(ge=0)] = 1.0
    """Wait before the first retry, s; doubled for each further retry, at most 60 s."""
    training_threads: CountOrAuto = "auto"
    """Cores for training and CG dynamics; auto: those that this process may use. The results are the same for
    any number."""


class LocalExecutor(_Executor):
    """Processes of this machine for oracle work."""

    kind: Literal["local"] = "local"
    workers: CountZeroOrAuto = "auto"
    """Worker processes, each with one pinned thread; auto: one per physical core that this process may use;
    0: work in this process, without time limit."""


class ParslExecutor(_Executor):
    """Parsl: pilot jobs on this machine or under Slurm, or a Parsl configuration file."""

    kind: Literal["parsl"]
    template: Literal["htex_local", "slurm_cpu", "slurm_gpu"] | None = None
    """Built-in configuration. Give this or `config`."""
    config: Path | None = None
    """A Python file that sets `config = parsl.Config(...)`. It is executed: use a file that you trust."""
    workers_per_node: Count = 1
    """Worker processes per node (slurm_gpu: at most one per GPU)."""
    cores_per_worker: Count = 1
    """Cores per worker."""
    memory_per_worker_gb: Annotated[Number, Field(gt=0)] | None = None
    """Memory per worker, GB; fewer workers start on a node that has too little. null: no limit."""
    gpus_per_node: Count = 1
    """slurm_gpu: GPUs per node; each worker sees one of them."""
    nodes: Count = 1
    """Nodes per batch job."""
    blocks: Count = 1
    """Largest number of batch jobs at the same time."""
    walltime: Annotated[str, Field(pattern=r"^\d{1,3}:[0-5]\d:[0-5]\d$")] = "24:00:00"
    """Time limit of a batch job, HH:MM:SS; an unfinished task is retried in the next job."""
    partition: Word | None = None
    """Slurm partition."""
    account: Word | None = None
    """Slurm account."""
    qos: Word | None = None
    """Slurm quality of service."""
    constraint: Word | None = None
    """Slurm constraint on nodes."""
    exclusive: bool = Field(default=True, strict=True)
    """Request whole nodes."""
    address: Word | None = None
    """Address of this machine for the nodes. null: the nodes try all addresses of this machine."""
    worker_init: str = ""
    """Shell commands that each job runs first, such as `module load ...` or `source .venv/bin/activate`."""
    heartbeat_threshold: Annotated[int, Field(strict=True, ge=2)] = 60
    """Time without a heartbeat of a node, s, after which its tasks are retried on other nodes."""
    straggler_factor: Annotated[Number, Field(gt=1)] | None = 5.0
    """A task that runs longer than this factor times the median is also run on an idle worker. null: off."""

    @property
    def workers(self) -> int:
        """Number of workers of the template when all its jobs run."""
        return self.blocks * self.nodes * self.workers_per_node

    @model_validator(mode="after")
    def _one_source(self) -> ParslExecutor:
        if (self.template is None) == (self.config is None):
            raise ValueError(
                "give exactly one of 'template' (htex_local, slurm_cpu, slurm_gpu) and 'config', a Parsl file"
            )
        if self.config is not None:
            ours = {"config", "kind", "straggler_factor", *_Executor.model_fields}
            others = {k: f.default for k, f in type(self).model_fields.items() if k not in ours}
            changed = sorted(k for k, default in others.items() if getattr(self, k) != default)
            if changed:
                raise ValueError(
                    f"{', '.join(changed)}: for templates only; with config, set this in the Parsl file"
                )
        if self.template == "slurm_gpu" and self.workers_per_node > self.gpus_per_node:
            raise ValueError(
                f"workers_per_node {self.workers_per_node} exceeds gpus_per_node {self.gpus_per_node}: "
                "each worker needs a GPU"
            )
        return self


Executor = LocalExecutor | ParslExecutor
ExecutorConfig = Annotated[Executor, Field(discriminator="kind")]

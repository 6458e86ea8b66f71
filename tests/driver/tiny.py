"""Whole runs, real in every part, small enough for a test."""

from __future__ import annotations

from typing import Any

#: two rounds over a worker process
TINY: dict[str, Any] = {
    "name": "tiny <b>run</b>",
    "seed": 3,
    "system": {"sequence": "GYGAG", "temperature": 400.0},
    "seed_data": {"n_trajectories": 2, "picoseconds": 4.0, "equilibration_ps": 0.4, "save_ps": 0.02},
    "oracle": {"mode": "free", "production_ps": 0.4, "relax_ps": 0.2, "save_ps": 0.04},
    "training": {
        "epochs": 3,
        "finetune_epochs": 2,
        "mode": "replay",
        "batch_size": 128,
        "weight_decay": 0.0,
        "model": {"embedding_dimension": 16, "num_layers": 1, "num_rbf": 8, "filter_grid": None},
        "priors": {"terms": ["bonds", "angles", "repulsion"]},
    },
    "simulation": {"n_replicas": 4, "steps": 200, "timestep_fs": 2.0, "report_interval": 20},
    "selector": {"n_select": 3, "min_rmsd": 0.0, "max_rmsd": None},
    "stopping": {"rounds": 2},
    "executor": {"workers": 1},
}

#: one round in this process
SMOKE: dict[str, Any] = {**TINY, "stopping": {"rounds": 1}, "executor": {"workers": 0}}

"""Train models with LNNP and the data module of TorchMD-Net: resume, fine-tune, replay, committees.

Importing this package does not import torch.
"""

from __future__ import annotations

from cgal_plugin.training.committee import train_ensemble
from cgal_plugin.training.load import load_model
from cgal_plugin.training.run import MODES, TrainingResult, train
from cgal_plugin.training.settings import CG_DEFAULTS, resolve

__all__ = ["CG_DEFAULTS", "MODES", "TrainingResult", "load_model", "resolve", "train", "train_ensemble"]

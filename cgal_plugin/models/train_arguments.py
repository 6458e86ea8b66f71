"""Complete and check the arguments of TorchMD-Net's training script, which ``cgal-train`` runs."""

from __future__ import annotations

import argparse

from cgal_plugin.data.dataset_facts import dataset_facts
from cgal_plugin.data.temperature import same_temperature
from cgal_plugin.mapping.embedding import check_given
from cgal_plugin.models.supported import (
    DATASET,
    check_bead_types,
    check_supported,
    loss_options,
    mapping_of,
    monitors,
    try_model,
)
from cgal_plugin.models.torch_files import check_torch


def completed(args: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Adapt the arguments to a CGDataset, to the loss and to the machine; check them. Changes ``args``.

    Raises
    ------
    ConfigError
        A setting cannot be met.
    DataError
        The data set does not exist, or is for another temperature or embedding.
    """
    import torch
    from lightning_utilities.core.rank_zero import rank_zero_warn

    if isinstance(args.dataset_arg, str):
        # JSON from the command line: TorchMD-Net decodes it in input.yaml only
        args.dataset_arg = mapping_of("dataset_arg", args.dataset_arg, "{sources: [seed]}")
    if args.train_loss_arg is not None:
        args.train_loss_arg = loss_options(args.train_loss_arg)
    if args.dataset == DATASET and not args.derivative:
        # TorchMD-Net's default is false; without energies the loss would then not depend on the model
        rank_zero_warn(f"dataset {DATASET} has forces and no energies: derivative is set to true")
        args.derivative = True
    if args.dataset == DATASET and args.y_weight:
        # TorchMD-Net's default is 1; it would add a loss of 0
        rank_zero_warn(f"dataset {DATASET} has forces and no energies: y_weight is set to 0")
        args.y_weight = 0.0
    if args.ngpus < 0 and torch.accelerator.current_accelerator(check_available=True) is None:
        # the default, "all GPUs", is an error in Lightning if there is none
        args.ngpus = 1
    if args.load_model:
        check_torch(args.load_model)  # TorchMD-Net reads it without a check
    check_supported(vars(args), {a.dest: a.default for a in parser._actions})
    for key, value in monitors(vars(args)).items():
        setattr(args, key, value)
    if args.dataset == DATASET:
        topologies, known = dataset_facts(args.dataset_root, args.dataset_arg)
        args.temperature = same_temperature(known, args.temperature, f"dataset {args.dataset_root!r}")
        where = f"dataset {args.dataset_root!r}"
        args.embedding = check_given(args.embedding, topologies[0].embedding, where)
        for topology in topologies:
            check_bead_types(args.max_z, topology)
        if not args.load_model:
            try_model(vars(args), topologies[0])
    return args

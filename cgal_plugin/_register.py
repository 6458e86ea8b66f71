"""Register the model, priors and data set of this package with TorchMD-Net.

This is the only file that changes the internals of TorchMD-Net.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

from cgal_plugin._native import no_torchscript_warnings
from cgal_plugin._warp import load_warp
from cgal_plugin.errors import RegistrationError

DATASETS = ("CGDataset",)
#: supported torchmd-net releases: from, and below
SUPPORTED = ((3, 1), (3, 2))
_MARK = "_cgal_plugin"
#: parameters of torchmdnet.data.make_splits
_SPLITS = (
    "dataset_len", "train_size", "val_size", "test_size", "seed", "filename", "splits", "order"
)  # fmt: skip


def register() -> None:
    """Add ``model: cgschnet``, the priors and ``dataset: CGDataset`` of this package to TorchMD-Net.

    A second call has no effect. All checks are done before the first change. TorchMD-Net gets factories of
    the priors, which fit a prior without parameters to the data set.

    Raises
    ------
    RegistrationError
        TorchMD-Net is missing or not of the 3.1 series, its internals differ from those expected, or a
        name is already used.
    """
    check_version()
    _module("warp")
    load_warp()
    model = _module("torchmdnet.models.model")
    module = _module("torchmdnet.module")
    models = _module("torchmdnet.models")
    script = _module("torchmdnet.scripts.train")
    datasets = _module("cgal_plugin.data.dataset")
    if model.__dict__.get("create_model") is not module.__dict__.get("create_model"):
        raise RegistrationError(
            "torchmdnet.models.model.create_model and torchmdnet.module.create_model are not the same "
            "function; another plugin replaced one of them: register cgal_plugin first"
        )
    changes = [
        *_function(model, "create_model", ("args", "prior_model", "mean", "std"), _wrap_create_model, module),
        *_function(script, "get_argparse", (), _wrap_get_argparse),
        *_function(script, "get_args", (), _wrap_get_args),
        *_function(_module("torchmdnet.data"), "make_splits", _SPLITS, _wrap_make_splits),
        *_model_name(models, model.create_model),
        *_names(_module("torchmdnet.priors"), _module("cgal_plugin.priors.factory").FACTORIES),
        *_names(_module("torchmdnet.datasets"), {name: getattr(datasets, name) for name in DATASETS}),
    ]
    for change in changes:
        change()


def check_version(version: str | None = None) -> None:
    """Check that the release of TorchMD-Net is supported.

    Parameters
    ----------
    version
        Such as ``"3.1.0"`` (default: that of the installed package).

    Raises
    ------
    RegistrationError
        TorchMD-Net is not installed, or its release is not supported.
    """
    low, high = (".".join(map(str, v)) for v in SUPPORTED)
    if version is None:
        try:
            version = metadata.version("torchmd-net")
        except metadata.PackageNotFoundError as error:
            raise RegistrationError(
                f"torchmd-net is not installed; install torchmd-net>={low},<{high}"
            ) from error
    parts = version.split(".")[:2]
    known = all(p.isdigit() for p in parts) and SUPPORTED[0] <= tuple(map(int, parts)) < SUPPORTED[1]
    if not known:
        raise RegistrationError(
            f"torchmd-net {version} is installed; cgal_plugin supports >={low},<{high}: "
            f"pip install 'torchmd-net>={low},<{high}'"
        )


def _module(name: str) -> ModuleType:
    try:
        with no_torchscript_warnings():
            return import_module(name)
    except ImportError as error:
        raise RegistrationError(f"{name} cannot be imported: {error}") from error


def _is_ours(function: Any) -> bool:
    """Return whether a function is a wrapper of this module, or wraps one."""
    while function is not None:
        if getattr(function, _MARK, False):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _function(
    home: ModuleType,
    name: str,
    parameters: tuple[str, ...],
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]],
    *others: ModuleType,
) -> list[Callable[[], None]]:
    """Return the changes that replace ``home.name`` and its copies in ``others`` by ``wrap(home.name)``."""
    original = home.__dict__.get(name)
    where = f"{home.__name__}.{name}"
    if not callable(original):
        raise RegistrationError(f"{where} is missing; this TorchMD-Net is not supported")
    if _is_ours(original):
        return []
    found = tuple(inspect.signature(original).parameters)
    if found != parameters:
        raise RegistrationError(
            f"{where} takes {found}, expected {parameters}; this TorchMD-Net is not supported"
        )
    wrapped = wrap(original)
    setattr(wrapped, _MARK, True)
    return [functools.partial(setattr, m, name, wrapped) for m in (home, *others)]


def _wrap_create_model(original: Callable[..., Any]) -> Callable[..., Any]:
    from cgal_plugin.models.build import MODEL_NAME, build_model

    @functools.wraps(original)
    def create_model(args: Any, prior_model: Any = None, mean: Any = None, std: Any = None) -> Any:
        if args["model"] == MODEL_NAME:
            return build_model(args, prior_model, mean, std)
        return original(args, prior_model, mean, std)

    return create_model


def _wrap_get_argparse(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_argparse() -> Any:
        import yaml
        from torchmdnet.loss import loss_class_mapping

        parser = original()
        parser.add_argument(
            "--cgschnet",
            default=None,
            type=yaml.safe_load,
            help="Options of model cgschnet, a dictionary: form (majewski or mlcg), num_filters, "
            "output_layers (list of widths), output_bias",
        )
        parser.add_argument(
            "--temperature",
            default=None,
            type=float,
            help="Temperature of the data, K (default: that of the CGDataset); kept in the checkpoints",
        )
        parser.add_argument(
            "--embedding",
            default=None,
            type=str,
            help="Name of the embedding that numbers bead types (default: that of the CGDataset); kept in "
            "the checkpoints",
        )
        for action in parser._actions:
            if action.dest in ("checkpoint_monitor", "early_stopping_monitor"):
                sides = ("train", "val")
                action.choices = [f"{side}_total_{loss}" for side in sides for loss in loss_class_mapping]
        return parser

    return get_argparse


def _wrap_get_args(original: Callable[..., Any]) -> Callable[..., Any]:
    from cgal_plugin.models.train_arguments import completed

    @functools.wraps(original)
    def get_args() -> Any:
        parser = _module("torchmdnet.scripts.train").get_argparse()
        completed(parser.parse_args(), parser)  # before the original creates the log folder
        return completed(original(), parser)

    return get_args


def _wrap_make_splits(original: Callable[..., Any]) -> Callable[..., Any]:
    from cgal_plugin.data.split_files import checked_splits

    @functools.wraps(original)
    def make_splits(
        dataset_len: int,
        train_size: Any,
        val_size: Any,
        test_size: Any,
        seed: int,
        filename: Any = None,
        splits: Any = None,
        order: Any = None,
    ) -> Any:
        sizes = {"train_size": train_size, "val_size": val_size, "test_size": test_size}
        sides = checked_splits(dataset_len, sizes, splits, filename)
        if sides is None:
            return original(dataset_len, train_size, val_size, test_size, seed, filename, None, order)
        return tuple(_module("torch").from_numpy(index) for index in sides)

    return make_splits


def _model_name(models: ModuleType, create_model: Any) -> list[Callable[[], None]]:
    from cgal_plugin.models.build import MODEL_NAME

    names = models.__dict__.get("__all_models__")
    if not isinstance(names, list):
        raise RegistrationError(
            "torchmdnet.models.__all_models__ is not a list; this TorchMD-Net is not supported"
        )
    if MODEL_NAME not in names:
        return [functools.partial(names.append, MODEL_NAME)]
    if not _is_ours(create_model):
        raise RegistrationError(f"TorchMD-Net already has another model {MODEL_NAME!r}")
    return []


def _names(home: ModuleType, values: Mapping[str, Any]) -> list[Callable[[], None]]:
    """Return the changes that add ``values`` to a module in which TorchMD-Net looks up names."""
    public = home.__dict__.get("__all__")
    if not isinstance(public, list):
        raise RegistrationError(f"{home.__name__}.__all__ is not a list; this TorchMD-Net is not supported")
    changes: list[Callable[[], None]] = []
    for name, value in values.items():
        found = getattr(home, name, None)
        if found is not None and found is not value:
            raise RegistrationError(
                f"{home.__name__}.{name} is already {found!r}; cgal_plugin does not replace it"
            )
        changes.append(functools.partial(setattr, home, name, value))
        if name not in public:
            changes.append(functools.partial(public.append, name))
    return changes

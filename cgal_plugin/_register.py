"""What TorchMD-Net looks up, and where: the only file that knows its seams."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
from collections.abc import Callable
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

from cgal_plugin._native import silent
from cgal_plugin.errors import RegistrationError

PRIORS = ("CGBonds", "CGAngles", "CGAngleSeries", "CGDihedrals", "CGRepulsion", "CGPairs")
DATASETS = ("CGDataset",)
#: torchmd-net releases whose seams this file knows: at least, and below
SUPPORTED = ((3, 1), (3, 2))
_MARK = "_cgal_plugin"


def register() -> None:
    """Make ``model: cgschnet``, our priors and ``dataset: CGDataset`` known to TorchMD-Net.

    Idempotent; nothing is changed unless every seam is where it is expected.

    Raises
    ------
    RegistrationError
        TorchMD-Net is missing or not of the 3.1 series, a seam is not where it is expected, or a
        name is taken by something else.
    """
    check_version()
    _start_warp()
    model = _module("torchmdnet.models.model")
    module = _module("torchmdnet.module")
    models = _module("torchmdnet.models")
    script = _module("torchmdnet.scripts.train")
    if model.__dict__.get("create_model") is not module.__dict__.get("create_model"):
        raise RegistrationError(
            "torchmdnet.models.model.create_model and torchmdnet.module.create_model are not the same "
            "function; another plugin replaced one of them: register cgal_plugin first"
        )
    changes = [
        *_function(model, "create_model", ("args", "prior_model", "mean", "std"), _wrap_create_model, module),
        *_function(script, "get_argparse", (), _wrap_get_argparse),
        *_function(script, "get_args", (), _wrap_get_args),
        *_model_name(models, model.create_model),
        *_classes(_module("torchmdnet.priors"), _module("cgal_plugin.priors"), PRIORS),
        *_classes(_module("torchmdnet.datasets"), _module("cgal_plugin.data.dataset"), DATASETS),
    ]
    for change in changes:
        change()


def check_version(version: str | None = None) -> None:
    """Refuse a TorchMD-Net that this package was not written for.

    Parameters
    ----------
    version
        As ``"3.1.0"`` (default: the installed one's).

    Raises
    ------
    RegistrationError
        Not installed, or not of the supported series.
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
            f"torchmd-net {version} is installed; cgal_plugin knows the seams of >={low},<{high}: "
            f"pip install 'torchmd-net>={low},<{high}'"
        )


def _start_warp() -> None:
    """Start NVIDIA Warp, which TorchMD-Net uses, without its greeting on the screen."""
    warp = _module("warp")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), silent(1, 2):
        warp.init()


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise RegistrationError(f"{name} cannot be imported: {error}") from error


def _is_ours(function: Any) -> bool:
    """Whether a function is our wrapper, or a later plugin's wrapper around it."""
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
    """Rebind ``home.name``, and its copies in ``others``, to ``wrap`` of it."""
    original = home.__dict__.get(name)
    where = f"{home.__name__}.{name}"
    if not callable(original):
        raise RegistrationError(f"{where} is not there; cgal_plugin does not know this TorchMD-Net")
    if _is_ours(original):
        return []
    found = tuple(inspect.signature(original).parameters)
    if found != parameters:
        raise RegistrationError(
            f"{where} takes {found}, expected {parameters}; cgal_plugin does not know this TorchMD-Net"
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

        parser = original()
        parser.add_argument(
            "--cgschnet",
            default=None,
            type=yaml.safe_load,
            help="Options of model cgschnet, a dictionary: form (majewski or mlcg), num_filters, "
            "output_layers (list of widths), output_bias",
        )
        return parser

    return get_argparse


def _wrap_get_args(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_args() -> Any:
        import json

        import torch
        from lightning_utilities.core.rank_zero import rank_zero_warn

        args = original()
        if isinstance(args.dataset_arg, str):
            # given on the command line as JSON, which upstream decodes for input.yaml only
            args.dataset_arg = json.loads(args.dataset_arg)
        if args.dataset in DATASETS and not args.derivative:
            # upstream's default; without energies the loss would have nothing to differentiate
            rank_zero_warn(f"dataset {args.dataset} has forces and no energies: derivative is set to true")
            args.derivative = True
        if args.ngpus < 0 and torch.accelerator.current_accelerator(check_available=True) is None:
            # "all GPUs" (the default) is refused by Lightning where there is none
            args.ngpus = 1
        return args

    return get_args


def _model_name(models: ModuleType, create_model: Any) -> list[Callable[[], None]]:
    from cgal_plugin.models.build import MODEL_NAME

    names = models.__dict__.get("__all_models__")
    if not isinstance(names, list):
        raise RegistrationError("torchmdnet.models.__all_models__ is not a list any more")
    if MODEL_NAME not in names:
        return [functools.partial(names.append, MODEL_NAME)]
    if not _is_ours(create_model):
        raise RegistrationError(f"TorchMD-Net already has a model {MODEL_NAME!r} that is not ours")
    return []


def _classes(home: ModuleType, source: ModuleType, names: tuple[str, ...]) -> list[Callable[[], None]]:
    """Put classes of ``source`` where TorchMD-Net looks them up by name."""
    public = home.__dict__.get("__all__")
    if not isinstance(public, list):
        raise RegistrationError(f"{home.__name__}.__all__ is not a list any more")
    changes: list[Callable[[], None]] = []
    for name in names:
        ours = getattr(source, name, None)
        if ours is None:
            raise RegistrationError(f"{source.__name__} has no {name}")
        there = getattr(home, name, None)
        if there is not None and there is not ours:
            raise RegistrationError(
                f"{home.__name__}.{name} is taken by {there!r}; cgal_plugin does not replace it"
            )
        changes.append(functools.partial(setattr, home, name, ours))
        if name not in public:
            changes.append(functools.partial(public.append, name))
    return changes

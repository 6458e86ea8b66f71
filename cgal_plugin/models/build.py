"""Build a TorchMD_Net with CGSchNet from TorchMD-Net's hyper-parameters."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torchmdnet.models.model import TorchMD_Net

MODEL_NAME = "cgschnet"
#: TorchMD-Net keys of the model and their defaults
MODEL_DEFAULTS: dict[str, Any] = {
    "precision": 32,
    "embedding_dimension": 128,
    "num_layers": 4,
    "num_rbf": 18,
    "rbf_type": "expnorm",
    "trainable_rbf": False,
    "activation": "tanh",
    "cutoff_lower": 0.0,
    "cutoff_upper": 12.0,
    "max_z": 100,
    "max_num_neighbors": 128,
    "neighbor_embedding": False,
    "aggr": "add",
    "reduce_op": "add",
    "output_model": "Scalar",
    "output_mlp_num_layers": 0,
    "box_vecs": None,
    "atom_filter": -1,
    "derivative": True,
    "prior_model": None,
    "prior_args": None,
}
#: keys of the mapping under the YAML key ``cgschnet``
OPTIONS = ("form", "num_filters", "output_layers", "output_bias", "filter_grid")


@dataclass(frozen=True)
class Options:
    """Values of the YAML key ``cgschnet``, with defaults filled in.

    Attributes
    ----------
    form
        ``"majewski"`` (default) or ``"mlcg"``.
    num_filters
        Filter size (default: ``embedding_dimension``).
    output_layers
        Widths of the hidden output layers. Default: half of ``embedding_dimension``,
        ``1 + output_mlp_num_layers`` times, in "majewski"; 128, 64 in "mlcg".
    output_bias
        Whether the last output layer has a bias. Default: yes in "majewski", no in "mlcg".
    filter_grid
        None (default): exact filters. A number: in training steps, filters are interpolated from a grid
        of this many distances between the cutoffs (see :mod:`cgal_plugin.models.filter_grid`);
        validation and inference stay exact.
    """

    form: str
    num_filters: int
    output_layers: tuple[int, ...]
    output_bias: bool
    filter_grid: int | None = None


def parse_options(options: Mapping[str, Any] | None, width: int, extra_layers: int = 0) -> Options:
    """Check the mapping under ``cgschnet`` and fill in the defaults.

    Parameters
    ----------
    options
        The mapping, or None.
    width
        ``embedding_dimension``.
    extra_layers
        ``output_mlp_num_layers``.

    Raises
    ------
    ConfigError
        A key is unknown, or a value is not allowed.
    """
    from cgal_plugin.models.cgschnet import FORMS

    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ConfigError(
            f"cgschnet is {options!r}; it must be a mapping with keys among {', '.join(OPTIONS)}"
        )
    for key in options:
        if key not in OPTIONS:
            near = difflib.get_close_matches(str(key), OPTIONS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"cgschnet.{key} is not known; allowed keys are {', '.join(OPTIONS)}{hint} "
                "(sizes, cutoffs, radial basis and activation are keys of TorchMD-Net)"
            )
    form = options.get("form", "majewski")
    if form not in FORMS:
        raise ConfigError(f"cgschnet.form is {form!r}; allowed are {', '.join(FORMS)}")
    filters = options.get("num_filters")
    filters = width if filters is None else filters
    layers = options.get("output_layers")
    if layers is None:
        layers = [width // 2] * (1 + extra_layers) if form == "majewski" else [128, 64]
    if isinstance(layers, str | int) or not isinstance(layers, Sequence):
        raise ConfigError(
            f"cgschnet.output_layers is {layers!r}; it must be a list of widths such as [128, 64]"
        )
    for name, value in (("num_filters", filters), *(("output_layers", n) for n in layers)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"cgschnet.{name} has {value!r}; widths are positive integers")
    bias = options.get("output_bias")
    if bias is not None and not isinstance(bias, bool):
        raise ConfigError(f"cgschnet.output_bias is {bias!r}; it must be true or false")
    grid = options.get("filter_grid")
    if grid is not None and (not isinstance(grid, int) or isinstance(grid, bool) or grid < 50):
        raise ConfigError(f"cgschnet.filter_grid is {grid!r}; it must be null or an integer of at least 50")
    return Options(form, filters, tuple(layers), form == "majewski" if bias is None else bias, grid)


def build_model(
    args: Mapping[str, Any],
    prior_model: nn.Module | Sequence[nn.Module] | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> TorchMD_Net:
    """Build a ``TorchMD_Net`` with CGSchNet; the signature is that of TorchMD-Net's ``create_model``.

    Parameters
    ----------
    args
        TorchMD-Net keys (those in :data:`MODEL_DEFAULTS` are used), and ``cgschnet`` with the keys of
        :data:`OPTIONS`. Not modified.
    prior_model
        Prior or list of priors. None: build them from ``args["prior_model"]``.
    mean, std
        Shift (per molecule) and scale of the network's energy.

    Raises
    ------
    ConfigError
        A value is not allowed for this model.
    """
    import torch
    from torchmdnet.models.model import create_prior_models
    from torchmdnet.models.utils import dtype_mapping

    from cgal_plugin.models.network import CGNet

    given = {**MODEL_DEFAULTS, **args}
    _check(given)
    dtype = dtype_mapping[given["precision"]]
    options = parse_options(
        given.get("cgschnet"), given["embedding_dimension"], given["output_mlp_num_layers"] or 0
    )
    box = given["box_vecs"]
    representation = _representation(
        given, options, dtype, None if box is None else torch.tensor(box, dtype=dtype)
    )
    if given["prior_model"] and prior_model is None:
        prior_model = create_prior_models(dict(given))
    return CGNet(
        representation,
        _output(given, options, dtype),
        prior_model=prior_model,
        mean=mean,
        std=std,
        derivative=given["derivative"],
        dtype=dtype,
    )


def _check(given: Mapping[str, Any]) -> None:
    # TorchMD-Net also allows 16: float16 weights, which become NaN in AdamW (eps 1e-8) after one step
    if given["precision"] not in (32, 64):
        raise ConfigError(f"precision is {given['precision']!r}; allowed are 32, 64 (bits)")
    if given["output_model"] != "Scalar":
        raise ConfigError(
            f"output_model is {given['output_model']!r}; cgschnet returns an energy: use Scalar"
        )
    if given["atom_filter"] > -1:
        raise ConfigError(f"atom_filter is {given['atom_filter']}; cgschnet sums over all beads: use -1")
    for key in ("charge", "spin"):
        if given.get(key):
            raise ConfigError(
                f"{key} is {given[key]}; model {MODEL_NAME} has no input for it: set {key}: false"
            )
    for key in ("embedding_dimension", "num_layers", "num_rbf", "max_z", "max_num_neighbors"):
        value = given[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{key} is {value!r}; it must be a positive integer")


def _representation(
    given: Mapping[str, Any], options: Options, dtype: torch.dtype, box: Tensor | None
) -> nn.Module:
    from cgal_plugin.models.cgschnet import CGSchNet

    return CGSchNet(
        form=options.form,
        hidden_channels=given["embedding_dimension"],
        num_filters=options.num_filters,
        num_layers=given["num_layers"],
        num_rbf=given["num_rbf"],
        rbf_type=given["rbf_type"],
        trainable_rbf=given["trainable_rbf"],
        activation=given["activation"],
        cutoff_lower=float(given["cutoff_lower"]),
        cutoff_upper=float(given["cutoff_upper"]),
        max_z=given["max_z"],
        max_num_neighbors=given["max_num_neighbors"],
        neighbor_embedding=given["neighbor_embedding"],
        aggr=given["aggr"],
        dtype=dtype,
        box_vecs=box,
        filter_grid=options.filter_grid,
    )


def _output(given: Mapping[str, Any], options: Options, dtype: torch.dtype) -> nn.Module:
    from torchmdnet.models.output_modules import Scalar

    from cgal_plugin.models.pairs import EnergyHead

    half = given["embedding_dimension"] // 2
    layers = options.output_layers
    if options.output_bias and layers and set(layers) == {half}:
        # the module of TorchMD-Net if it can represent the head; num_layers counts further hidden layers
        head: nn.Module = Scalar(
            given["embedding_dimension"],
            activation=given["activation"],
            reduce_op=given["reduce_op"],
            dtype=dtype,
            num_layers=len(layers) - 1,
        )
        return head
    return EnergyHead(
        given["embedding_dimension"],
        layers,
        activation=given["activation"],
        last_bias=options.output_bias,
        reduce_op=given["reduce_op"],
        dtype=dtype,
    )

"""The SchNet in a model file of mlcg: its weights, and the settings that are not in its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import ConfigError
from cgal_plugin.models.inert_pickle import Inert
from cgal_plugin.models.state_dicts import activation_name

if TYPE_CHECKING:
    from torch import Tensor

#: classes of mlcg that this package represents
MODELS = ("StandardSchNet", "SchNet")
_CHILDREN = {"embedding_layer", "rbf_layer", "interaction_blocks", "output_network"}


def network_of(record: Inert, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict of a SchNet, and the settings for :func:`cgal_plugin.models.from_mlcg`.

    Raises
    ------
    ConfigError
        The network has a part or a setting that CGSchNet cannot represent.
    """
    children = record.children()
    if set(children) != _CHILDREN:
        raise ConfigError(
            f"{name}: {record.name} has the parts {', '.join(sorted(children))}; expected "
            f"{', '.join(sorted(_CHILDREN))}"
        )
    _expect(children["embedding_layer"], ("Embedding",), "embedding_layer", name)
    blocks = [b for _, b in sorted(children["interaction_blocks"].children().items(), key=_number)]
    for block in blocks:
        _expect(block, ("InteractionBlock",), "an interaction block", name)
        _expect(block.part("conv"), ("CFConv",), "an interaction block's convolution", name)
    if record.get("self_interaction"):
        raise ConfigError(
            f"{name}: self_interaction is true; CGSchNet has no interaction of a bead with itself"
        )
    convolutions = [b.part("conv") for b in blocks]
    upper, lower, alpha = _cutoffs(children["rbf_layer"], [c.part("cutoff") for c in convolutions], name)
    aggregations = {str(c.get("aggr") or "add") for c in convolutions}
    if aggregations != {"add"} and len(aggregations) > 1:
        raise ConfigError(f"{name}: blocks aggregate by {', '.join(sorted(aggregations))}; expected one way")
    found = {
        "cutoff_upper": upper,
        "cutoff_lower": lower,
        **({} if alpha is None else {"alpha": alpha}),
        "activation": _activation(children["output_network"], blocks, name),
        "aggr": aggregations.pop() if aggregations else "add",
        "trainable_rbf": bool(children["rbf_layer"].get("trainable")),
    }
    state = {k: v.detach() for k, v in record.tensors().items()}
    return state, found


def _number(item: tuple[str, Any]) -> int:
    return int(item[0]) if item[0].isdigit() else -1


def _expect(record: Any, kinds: tuple[str, ...], what: str, name: str) -> None:
    found = record.kind if isinstance(record, Inert) else type(record).__name__
    if not isinstance(record, Inert) or record.name not in kinds:
        raise ConfigError(f"{name}: {what} is {found}; this package reads {', '.join(kinds)}")


def _cutoffs(basis: Inert, filters: list[Any], name: str) -> tuple[float, float, float | None]:
    """Return upper and lower cutoff (Å) and α (1/Å, None for Gaussians)."""
    _expect(basis, ("ExpNormalBasis", "ExtendedExpNormalBasis", "GaussianBasis"), "rbf_layer", name)
    gauss = basis.name == "GaussianBasis"
    own = basis.part("cutoff")
    _expect(own, ("IdentityCutoff",) if gauss else ("CosineCutoff",), f"the cutoff of {basis.name}", name)
    upper = float(own.get("cutoff_upper"))
    for one in filters:
        _expect(one, ("CosineCutoff",), "the cutoff of a filter", name)
        if float(one.get("cutoff_upper")) != upper:
            raise ConfigError(
                f"{name}: filters have cutoff_upper {one.get('cutoff_upper')} Å and the radial basis "
                f"{upper} Å; CGSchNet has one cutoff"
            )
    both = [*filters] if gauss else [own, *filters]
    lowers = {float(one.get("cutoff_lower") or 0.0) for one in both}
    if lowers != {0.0}:
        raise ConfigError(
            f"{name}: cutoff_lower is {max(lowers):g} Å, where mlcg's cosine cutoff is two-sided; CGSchNet "
            "of form mlcg has a cutoff_lower in its radial basis only (mlcg's ExtendedExpNormalBasis)"
        )
    inner = basis.get("internal_cutoff_lower")
    if basis.name == "ExtendedExpNormalBasis" and float(basis.get("internal_cutoff_upper")) != upper:
        raise ConfigError(f"{name}: internal_cutoff_upper is not cutoff_upper; CGSchNet has one upper cutoff")
    alpha = basis.get("alpha")
    return upper, float(inner or 0.0), None if gauss or alpha is None else float(alpha)


def _activation(output: Inert, blocks: list[Any], name: str) -> str:
    """Return the activation that all layers share."""
    found = [block.part("activation") for block in blocks]
    for network in (output, *(block.part("conv").part("filter_network") for block in blocks)):
        _expect(network, ("MLP",), "a network of layers", name)
        layers = network.part("layers").children()
        found += [layer for key, layer in layers.items() if _number((key, None)) % 2 == 1]
    kinds = {r.name if isinstance(r, Inert) else type(r).__name__ for r in found}
    if len(kinds) != 1:
        raise ConfigError(f"{name} has the activations {', '.join(sorted(kinds))}; CGSchNet has one")
    kind = kinds.pop()
    try:
        return activation_name(kind)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error

"""mlcg's StandardSchNet from its formulas, one pair at a time, as a reference for tests."""

from __future__ import annotations

import math

import torch

ACT = {
    "tanh": torch.tanh,
    "silu": torch.nn.functional.silu,
    "sigmoid": torch.sigmoid,
    # both codebases shift by the float32 logarithm of 2, also in float64
    "ssp": lambda x: torch.nn.functional.softplus(x) - torch.log(torch.tensor(2.0)).item(),
}


def random_state(
    *,
    features=12,
    filters=10,
    rbf=7,
    blocks=2,
    output=(9, 5),
    types=8,
    upper=12.0,
    lower=0.0,
    kind="expnorm",
    seed=0,
):
    """Return a state dict with mlcg's names and random values."""
    gen = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64) / (shape[-1] ** 0.5 if shape else 1)

    state = {"embedding_layer.weight": draw(types, features) * 2}
    if kind == "expnorm":
        start = math.exp(lower - upper)
        state["rbf_layer.means"] = torch.linspace(start, 1, rbf, dtype=torch.float64) + 0.01 * draw(rbf)
        state["rbf_layer.betas"] = torch.full((rbf,), (2 / rbf * (1 - start)) ** -2, dtype=torch.float64)
    else:
        state["rbf_layer.offset"] = torch.linspace(lower, upper, rbf, dtype=torch.float64)
        state["rbf_layer.coeff"] = torch.tensor(
            -0.5 / ((upper - lower) / (rbf - 1)) ** 2, dtype=torch.float64
        )
    for n in range(blocks):
        p = f"interaction_blocks.{n}."
        state[p + "conv.lin1.weight"] = draw(filters, features)
        state[p + "conv.lin2.weight"], state[p + "conv.lin2.bias"] = draw(features, filters), draw(features)
        state[p + "conv.filter_network.layers.0.weight"] = draw(filters, rbf)
        state[p + "conv.filter_network.layers.0.bias"] = draw(filters)
        state[p + "conv.filter_network.layers.2.weight"] = draw(filters, filters)
        state[p + "lin.weight"], state[p + "lin.bias"] = draw(features, features), draw(features)
    sizes = [features, *output, 1]
    for n in range(len(sizes) - 1):
        state[f"output_network.layers.{2 * n}.weight"] = draw(sizes[n + 1], sizes[n])
        if n < len(sizes) - 2:
            state[f"output_network.layers.{2 * n}.bias"] = draw(sizes[n + 1])
    return state


def energy(state, z, pos, *, upper, lower=0.0, act="tanh"):
    """Return the energy of one molecule, ``z (n,)``, ``pos (n, 3)``."""
    f = ACT[act]
    n = len(z)

    def cut(r):
        return 0.5 * (torch.cos(math.pi * r / upper) + 1.0)

    h = state["embedding_layer.weight"][z]
    pairs = {}
    for i in range(n):
        for j in range(n):
            if i != j:
                r = (pos[i] - pos[j]).norm()
                if r < upper:
                    pairs[i, j] = r
    block = 0
    while f"interaction_blocks.{block}.lin.weight" in state:
        p = f"interaction_blocks.{block}."
        x = h @ state[p + "conv.lin1.weight"].T
        rows = []
        for i in range(n):
            total = torch.zeros(x.shape[1], dtype=x.dtype)
            for j in range(n):
                if (i, j) not in pairs:
                    continue
                r = pairs[i, j]
                if "rbf_layer.means" in state:
                    inner = torch.exp(5.0 / (upper - lower) * (lower - r)) - state["rbf_layer.means"]
                    basis = cut(r) * torch.exp(-state["rbf_layer.betas"] * inner**2)
                else:
                    basis = torch.exp(state["rbf_layer.coeff"] * (r - state["rbf_layer.offset"]) ** 2)
                q = p + "conv.filter_network.layers."
                w = state[q + "2.weight"] @ f(state[q + "0.weight"] @ basis + state[q + "0.bias"])
                total = total + w * cut(r) * x[j]
            rows.append(total)
        m = torch.stack(rows) @ state[p + "conv.lin2.weight"].T + state[p + "conv.lin2.bias"]
        h = h + f(m) @ state[p + "lin.weight"].T + state[p + "lin.bias"]
        block += 1
    numbers = sorted(
        int(k.split(".")[2]) for k in state if k.startswith("output_network.") and k.endswith("weight")
    )
    for k in numbers:
        h = h @ state[f"output_network.layers.{k}.weight"].T
        if f"output_network.layers.{k}.bias" in state:
            h = h + state[f"output_network.layers.{k}.bias"]
        if k != numbers[-1]:
            h = f(h)
    return h.sum()


def energy_and_forces(state, z, pos, **settings):
    """Return energy and forces ``(n, 3)`` of one molecule."""
    pos = pos.clone().requires_grad_(True)
    e = energy(state, z, pos, **settings)
    (gradient,) = torch.autograd.grad(e, pos)
    return e.detach(), -gradient

"""Plot fitted priors: histogram of the frames and distribution of the model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.priors.nonbonded import pair_energy, spacing
from cgal_plugin.priors.tables import canonical
from cgal_plugin.provenance import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cgal_plugin.priors.prior_set import PriorSet

_LABELS = {
    "bonds": "bond length / Å",
    "bridges": "bridge length / Å",
    "angles": "angle / °",
    "dihedrals": "dihedral / °",
}
_COLUMNS = 5


def plot_priors(priors: PriorSet, path: str | os.PathLike[str]) -> None:
    """Draw one panel per row fitted to a distribution, one for repulsion, one for pairs.

    The suffix of ``path`` gives the format. No matplotlib backend or global state is changed.
    """
    from matplotlib.figure import Figure

    repulsion = [r for r in priors.rows if r["term"] == "repulsion" and r["parameters"] is not None]
    groups = [[h for h in priors.histograms if h["term"] == term] for term in priors.terms]
    pairs = [r for r in priors.rows if r["term"] == "pairs"]
    n_rows = max(1, sum(-(-len(group) // _COLUMNS) for group in groups) + bool(repulsion or pairs))
    height = 2.1 * n_rows + 0.5
    figure = Figure(figsize=(2.6 * _COLUMNS, height))
    figure.subplots_adjust(
        left=0.045, right=0.99, bottom=0.42 / height, top=1 - 0.85 / height, hspace=0.75, wspace=0.12
    )
    axes = np.atleast_2d(figure.subplots(n_rows, _COLUMNS))
    line = 0
    for group in groups:
        for i, record in enumerate(group):
            _panel(axes[line + i // _COLUMNS, i % _COLUMNS], priors, record)
        line += -(-len(group) // _COLUMNS)
    if repulsion:
        _repulsion_panel(axes[line, 0], priors, repulsion)
    if pairs:
        _pairs_panel(axes[line, 2], priors, pairs)
    for ax in axes.flat:
        if not ax.has_data():
            ax.set_axis_off()
    figure.suptitle(
        _title(priors),
        fontsize=10,
        y=1 - 0.12 / height,
    )
    atomic_path(path, lambda name: figure.savefig(name, dpi=110))


def _title(priors: PriorSet) -> str:
    molecule = "any molecule" if priors.topology is None else priors.topology.sequence
    at = "" if priors.temperature is None else f" at {priors.temperature:g} K"
    if priors.source is not None:
        return f"Priors of {molecule}{at}, imported from {priors.source['file']} ({priors.source['format']})"
    return f"Priors of {molecule}{at}, {priors.n_frames} frames: data (bars), model (line)"


def _panel(ax: Axes, priors: PriorSet, record: dict[str, Any]) -> None:
    row = next(r for r in priors.rows if r["term"] == record["term"] and r["types"] == record["types"])
    counts = np.array(record["counts"], dtype=float)
    cosine = record["term"] == "angles" and priors.angle_form == "cos"
    scale = 1.0 if cosine or record["term"] in ("bonds", "bridges") else 180.0 / np.pi
    low, high = record["range"]
    edges = np.linspace(low, high, len(counts) + 1) * scale
    ax.stairs(counts / counts.sum() / np.diff(edges), edges, fill=True, color="#9bb8d3")
    low, high = record["model_range"]
    x = np.linspace(low, high, len(record["model"])) * scale
    ax.plot(x, np.array(record["model"]) / scale, color="#b03a2e", lw=1.2)
    ax.set_yticks([])
    ax.tick_params(labelsize=7)
    ax.set_xlabel("cos of angle" if cosine else _LABELS[record["term"]], fontsize=7, labelpad=1)
    ax.set_title(f"{short_name(record['types'])}\nn = {row['n']}, KS {row['ks']:.3f}", fontsize=7)


def _repulsion_panel(ax: Axes, priors: PriorSet, rows: list[dict[str, Any]]) -> None:
    r = np.linspace(2.0, 12.0, 200)
    for row in rows:
        p = row["parameters"]
        wild = any("*" in t for t in row["types"])
        ax.plot(
            r,
            p["epsilon"] * (p["sigma"] / r) ** priors.power,
            color="#b03a2e" if wild else "#9bb8d3",
            lw=1.2 if wild else 0.7,
            zorder=2 if wild else 1,
        )
        if wild and "contact" in row:
            ax.axvline(row["contact"], color="#555555", lw=0.8, ls=":")
    ax.set_ylim(0, 10)
    ax.tick_params(labelsize=7)
    ax.set_xlabel("distance / Å", fontsize=7, labelpad=1)
    ax.set_ylabel("kcal/mol", fontsize=7)
    ax.set_title("repulsion, red: wildcard\n(dotted: its contact distance)", fontsize=7)


def _pairs_panel(ax: Axes, priors: PriorSet, rows: list[dict[str, Any]]) -> None:
    import torch

    arguments = priors.arguments("pairs")
    first, last = arguments["first"], arguments["last"]
    r = torch.linspace(first, last + 2.0, 200, dtype=torch.float64)
    for row in rows:
        c = torch.tensor(row["parameters"]["c"], dtype=torch.float64)
        u = pair_energy(r, c.expand(len(r), -1), first, spacing(first, last, len(c)))
        wild = any("*" in t for t in row["types"])
        ax.plot(r.numpy(), u.numpy(), color="#b03a2e" if wild else "#9bb8d3", lw=1.2 if wild else 0.7)
    ax.axhline(0.0, color="#555555", lw=0.6)
    ax.tick_params(labelsize=7)
    ax.set_xlabel("distance / Å", fontsize=7, labelpad=1)
    ax.set_title("pairs, kcal/mol\n(fitted to forces)", fontsize=7)


def short_name(types: list[str]) -> str:
    """Return ``TYR-TYR`` for ``CA_TYR, CA_TYR`` if all beads are CA, else the full names."""
    if all(t.startswith("CA_") for t in canonical(types)):
        return "-".join(t.removeprefix("CA_") for t in types)
    return "-".join(types) if any(t != "*" for t in types) else "all"

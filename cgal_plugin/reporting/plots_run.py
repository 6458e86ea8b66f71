"""Figures of the report: contact maps, training curves, wall times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.reporting.plots import CYCLE, finite, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from cgal_plugin.reporting.records import RoundSummary


def contact_maps(maps: Mapping[str, NDArray[np.floating]], labels: Sequence[str]) -> Figure:
    """Draw contact probabilities side by side on one scale; ``labels`` names the beads."""
    figure = new_figure(3.1 * len(maps) + 0.7, 3.4)
    grid = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    images = []
    for axes, (title, probability) in zip(grid, maps.items(), strict=True):
        images.append(axes.imshow(probability, vmin=0, vmax=1, cmap="cividis", interpolation="nearest"))
        tidy(axes, "", "", title)
        step = max(1, len(labels) // 20)
        ticks = range(0, len(labels), step)
        axes.set_xticks(ticks, [labels[i] for i in ticks], rotation=90, fontsize=7)
        axes.set_yticks(ticks, [labels[i] for i in ticks], fontsize=7)
    bar = figure.colorbar(images[-1], ax=list(grid), pad=0.01, fraction=0.03)
    bar.set_label("contact probability (8 Å)", fontsize=10)
    bar.ax.tick_params(labelsize=9)
    return figure


def training_keys(rounds: Sequence[RoundSummary]) -> tuple[str, list[str]]:
    """Return the metrics to draw: the x axis, and the losses with at least one finite value."""
    rows = [row for r in rounds for row in r.training]
    present: dict[str, int] = {}
    for row in rows:
        for key, value in row.items():
            if _number(value) is not None:
                present[key] = present.get(key, 0) + 1
    x = "epoch" if "epoch" in present else ""
    wanted = (
        "train_total_mse_loss", "train_neg_dy_mse_loss", "train_loss", "val_total_mse_loss",
        "val_neg_dy_mse_loss", "val_neg_dy_l1_loss", "val_loss",
    )  # fmt: skip
    keys = [k for k in wanted if k in present]
    if not keys:
        keys = sorted(k for k in present if k.startswith(("train", "val")) and k != x)[:4]
    train = [k for k in keys if k.startswith("train")][:1]
    val = [k for k in keys if k.startswith("val") and "l1" not in k][:1] or [
        k for k in keys if k.startswith("val")
    ][:1]
    return x, train + val


def training_curves(rounds: Sequence[RoundSummary]) -> Figure | None:
    """Draw the losses by epoch, one colour per round; None if there are no finite values."""
    x, keys = training_keys(rounds)
    if not keys:
        return None
    figure = new_figure(4.8 * len(keys), 3.3)
    drawn = 0
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        seen: list[float] = []
        for n, r in enumerate(rounds):
            points = [
                (_number(row.get(x)) if x else float(i), _number(row.get(key)))
                for i, row in enumerate(r.training)
            ]
            clean = [(a, b) for a, b in points if a is not None and b is not None]
            if not clean:
                continue
            drawn += 1
            a, b = np.array(clean).T
            seen += b.tolist()
            axes.plot(
                a, b, marker="o", ms=3, lw=1.4, color=CYCLE[n % len(CYCLE)],
                ls=("-", "--", "-.", ":")[n // len(CYCLE) % 4], label=f"round {r.index}",
            )  # fmt: skip
        # a logarithmic axis over less than a decade has no useful labels
        if seen and min(seen) > 0 and max(seen) > 10 * min(seen):
            axes.set_yscale("log")
        tidy(axes, x or "epoch in the round", key.replace("_", " "), "")
        axes.legend(fontsize=8, frameon=False, ncols=2)
    return figure if drawn else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return None
    return float(value) if np.isfinite(value) else None


def timing_bars(rounds: Sequence[RoundSummary]) -> Figure | None:
    """Draw the wall time of each stage, one bar per round; None without timings."""
    stages = list(dict.fromkeys(s for r in rounds for s in r.timings))
    rounds = [r for r in rounds if r.timings]
    if not stages:
        return None
    total = max(finite(list(r.timings.values())).sum() for r in rounds)
    unit, scale = ("s", 1.0) if total < 180 else ("min", 60.0) if total < 3 * 3600 else ("h", 3600.0)
    figure = new_figure(9.2, 0.9 + 0.38 * len(rounds))
    axes = figure.subplots()
    left = np.zeros(len(rounds))
    hatches = ("", "//", "..", "xx")
    for n, stage in enumerate(stages):
        width = np.array([np.nan_to_num(float(r.timings.get(stage, 0.0))) for r in rounds]) / scale
        axes.barh(
            np.arange(len(rounds)), width, left=left, height=0.62, label=stage, color=CYCLE[n % len(CYCLE)],
            hatch=hatches[n // len(CYCLE) % 4], edgecolor="white", linewidth=0.6,
        )  # fmt: skip
        left += width
    axes.set_yticks(range(len(rounds)), [r.name or f"round {r.index}" for r in rounds])
    axes.invert_yaxis()
    tidy(axes, f"wall time / {unit}", "", "")
    axes.legend(fontsize=9, frameon=False, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure

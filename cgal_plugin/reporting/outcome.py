"""What a run achieved, in one sentence: for the first screen of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cgal_plugin.analysis.results import Reduction, relative_reduction
from cgal_plugin.reporting.plots import finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgal_plugin.analysis.results import W1Result
    from cgal_plugin.reporting.records import ReportInput, RoundSummary


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes
    ----------
    kind
        ``"better"``: W1 fell by more than its uncertainty; ``"worse"``: it rose by more; ``"unresolved"``:
        neither is shown; ``"unknown"``: there is nothing to compare.
    sentence
        The result in plain English.
    remarks
        What limits it, one sentence each.
    """

    kind: Literal["better", "worse", "unresolved", "unknown"]
    sentence: str
    remarks: tuple[str, ...] = ()


def outcome(report: ReportInput) -> Outcome:
    """Compare the first model of a run with its last one."""
    found = _compared(report)
    remarks = [report.incomplete] if report.incomplete else []
    remarks += [*found.remarks, *report.remarks, *_drifts(report)]
    return Outcome(found.kind, found.sentence, tuple(remarks))


def measured(report: ReportInput) -> list[tuple[RoundSummary, W1Result]]:
    """Return the models that have a W1, in order."""
    return [(r, r.w1) for r in report.rounds if r.w1 is not None]


def model_name(row: RoundSummary) -> str:
    """Return the name of a model in sentences: ``round 1``, ``refined model``."""
    return row.name or f"round {row.index}"


def end_name(report: ReportInput, row: RoundSummary) -> str:
    """Return the name of the last model with a W1: ``final model`` if the run ends with it."""
    is_last = not report.incomplete and row is report.rounds[-1]
    return "final model" if is_last else model_name(row)


# ---------------------------------------------------------------------- the sentence


def _compared(report: ReportInput) -> Outcome:
    present = measured(report)
    if not present:
        return Outcome("unknown", _why_no_w1(report), _coverage(report.rounds))
    (first, before), (last, after) = present[0], present[-1]
    w1 = "W1" if report.measured == "test" else "W1 of the exploration"
    so_far = "So far, " if report.incomplete else ""
    if len(present) == 1:
        only = "only model" if len(report.rounds) == 1 else f"model of {model_name(first)}"
        sentence = (
            f"{w1} of the {only} is {before.value:.2f}{_interval(before)}. {_nothing_to_compare(report)}"
        )
        return Outcome("unknown", so_far + sentence + _floor(before), _late(report, last))
    reduction = relative_reduction(before, after)
    change = f"from {before.value:.2f} ({model_name(first)}) to {after.value:.2f} ({end_name(report, last)})"
    remarks = (*_late(report, last), *_published(first, last, reduction))
    kind: Literal["better", "worse", "unresolved"] = "unresolved"
    left = max(first.drift_w1, last.drift_w1)
    if reduction is None:
        sentence = (
            f"{w1} went {change}. Whether this is a change is not known: it has no interval or no floor."
        )
    elif not reduction.resolved:
        sentence = (
            f"No change is shown: {w1} went {change}, and the {_percent(reduction)} interval of the change "
            f"({_range(reduction)}) contains 0."
        )
    elif abs(before.value - after.value) <= left:
        sentence = f"No change is shown: {w1} went {change}, but the tests still drift by up to {left:.2f}."
    else:
        kind = "better" if reduction.value > 0 else "worse"
        word = "fell" if reduction.value > 0 else "rose"
        sentence = (
            f"{w1} {word} {change}: {_size(reduction)} ({_percent(reduction)} interval {_range(reduction)})."
        )
    if report.measured == "exploration":
        # a model that keeps its starts looks good: this is no test
        return Outcome("unknown", so_far + sentence + _floor(after), (_FLATTERS, *remarks))
    return Outcome(kind, so_far + sentence + _floor(after), remarks)


_FLATTERS = (
    "The models were not tested: this W1 is of each round's exploration, whose starts are spread over the "
    "training data. It flatters the model."
)


def _why_no_w1(report: ReportInput) -> str:
    if report.no_w1:
        return f"W1 is not known: {report.no_w1}."
    if not report.reference:
        return "W1 is not known: there is no reference, so nothing shows whether the model became better."
    return "W1 is not known: it was not computed."


def _nothing_to_compare(report: ReportInput) -> str:
    return "There is no other model to compare it with."


def _late(report: ReportInput, last: RoundSummary) -> tuple[str, ...]:
    """Name models after the last one with a W1."""
    missing = [r for r in report.rounds if r.index > last.index]
    if not missing:
        return ()
    names = " and ".join(model_name(r) for r in missing)
    return (f"There is no W1 of {names}: the values end with {model_name(last)}.",)


def _floor(result: W1Result) -> str:
    if result.floor is None:
        return ""
    level = f"{result.floor:.2f}"
    text = f" The floor of this reference is {level}: two halves of the reference differ by that much."
    if result.value <= result.floor:
        text += " It is reached: this reference cannot show a further reduction."
    return text


def _interval(result: W1Result) -> str:
    if result.interval is None:
        return ""
    low, high = result.interval
    return f" ({100 * result.confidence:.0f} % interval {low:.2f} to {high:.2f})"


def _percent(reduction: Reduction) -> str:
    return f"{100 * reduction.confidence:.0f} %"


def _size(reduction: Reduction) -> str:
    return f"{100 * abs(reduction.value):.0f} % {'lower' if reduction.value >= 0 else 'higher'}"


def _range(reduction: Reduction) -> str:
    """Return the interval as text, without signs: ``60 to 80 %`` or ``12 % higher to 30 % lower``."""
    low, high = (100 * v for v in reduction.interval)
    if low >= 0 and reduction.value >= 0:
        return f"{low:.0f} to {high:.0f} %"
    if high <= 0 and reduction.value < 0:
        return f"{-high:.0f} to {-low:.0f} %"
    ends = [f"{abs(v):.0f} % {'higher' if v < 0 else 'lower'}" for v in (low, high)]
    return " to ".join(ends)


def _published(first: RoundSummary, last: RoundSummary, robust: Reduction | None) -> tuple[str, ...]:
    """Say where the other estimate of W1 does not agree that there is a change."""
    if robust is None or not robust.resolved or first.w1_ucsc is None or last.w1_ucsc is None:
        return ()
    other = relative_reduction(first.w1_ucsc, last.w1_ucsc)
    if other is not None and other.resolved and (other.value > 0) == (robust.value > 0):
        return ()
    values = f"{first.w1_ucsc.value:.2f} to {last.w1_ucsc.value:.2f}"
    return (f"The published recipe of W1 ({values}) does not show this change.",)


def _drifts(report: ReportInput) -> list[str]:
    """Say which of the compared tests still depend on their starts or on time."""
    present = measured(report)
    names = {r: model_name(r) for r, _ in present[:1]}
    names |= {r: end_name(report, r) for r, _ in present[1:][-1:]}
    found = [f"{name}: {r.drift}" for r, name in names.items() if r.drift]
    if not found:
        return []
    one = len(found) == 1
    return [
        f"{'A test still drifts' if one else 'Tests still drift'} ({'; '.join(found)}): "
        f"{'its' if one else 'their'} W1 is not yet that of equilibrium."
    ]


def _coverage(rounds: Sequence[RoundSummary]) -> tuple[str, ...]:
    present = [finite(r.coverage) for r in rounds if finite(r.coverage).size]
    if len(present) < 2:
        return ()
    first, last = (float(np.quantile(v, 0.95)) for v in (present[0], present[-1]))
    return (
        f"The nearest RMSD of sampled frames to the training data (95th percentile) went from {first:.2f} to "
        f"{last:.2f} Å.",
    )

"""Reports: collect the records of a run, draw them, and write one HTML page."""

from cgal_plugin.reporting.page import write_report
from cgal_plugin.reporting.records import (
    QuarantineRecord,
    ReportInput,
    RoundSummary,
    SelectedFrames,
)

__all__ = [
    "QuarantineRecord",
    "ReportInput",
    "RoundSummary",
    "SelectedFrames",
    "write_report",
]

"""Reports: collect the records of a run, plot them, and write one HTML page."""

from cgal_plugin.reporting.page import write_report
from cgal_plugin.reporting.records import ReportInput, RoundSummary, SelectedFrames

__all__ = [
    "ReportInput",
    "RoundSummary",
    "SelectedFrames",
    "write_report",
]

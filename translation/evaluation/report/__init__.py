"""The HTML report of a run, and the words that its numbers allow (`verdicts`, shared with the terminal)."""

from translation.evaluation.report.data import Neighbour, Output, ReportData, RetrievalRow, TranslationRow
from translation.evaluation.report.examples import collect
from translation.evaluation.report.report import write_report
from translation.evaluation.report.terminal import terminal_table
from translation.evaluation.report.verdicts import Verdict, verdicts

__all__ = [
    "Neighbour",
    "Output",
    "ReportData",
    "RetrievalRow",
    "TranslationRow",
    "Verdict",
    "collect",
    "terminal_table",
    "verdicts",
    "write_report",
]

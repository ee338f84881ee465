"""The report: one HTML file about runs, with all that is in it.

`from pipeline.report import report`.
"""

from pipeline.report.stage import Report, report

__all__ = ["Report", "report"]

"""How results look as text: one function for each command's result, in a module for each stage."""

from pipeline.tables.audit import show_audit
from pipeline.tables.comparison import show_comparison
from pipeline.tables.demo import show_demo
from pipeline.tables.description import show_description
from pipeline.tables.diagnosis import show_diagnosis
from pipeline.tables.evaluation import show_evaluation
from pipeline.tables.export import show_export
from pipeline.tables.extraction import show_download, show_extraction
from pipeline.tables.fitting import show_fitting, show_grid, show_sizes
from pipeline.tables.prediction import csv_predictions, show_predictions
from pipeline.tables.pruning import show_pruning
from pipeline.tables.report import show_report
from pipeline.tables.reproduction import show_reproduction
from pipeline.tables.verification import show_verification

__all__ = [
    "csv_predictions",
    "show_audit",
    "show_comparison",
    "show_demo",
    "show_description",
    "show_diagnosis",
    "show_download",
    "show_evaluation",
    "show_export",
    "show_extraction",
    "show_fitting",
    "show_grid",
    "show_predictions",
    "show_pruning",
    "show_report",
    "show_reproduction",
    "show_sizes",
    "show_verification",
]

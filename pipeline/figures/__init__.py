"""Pictures of results, drawn with matplotlib and without a display; matplotlib is imported when one is drawn."""

from pipeline.figures.canvas import DPI
from pipeline.figures.confusion import CELL, LARGEST, SMALL_CELL, confusion_figure, draw_confusion
from pipeline.figures.curves import curves_figure, draw_curves
from pipeline.figures.detections import Example, detections_figure, draw_detections
from pipeline.figures.ranking import Rank, draw_ranking, ranking_figure
from pipeline.figures.reliability import draw_reliability, reliability_figure
from pipeline.figures.saving import save_figure
from pipeline.figures.sizes import draw_sizes, sizes_figure

__all__ = [
    "CELL",
    "DPI",
    "LARGEST",
    "SMALL_CELL",
    "Example",
    "Rank",
    "confusion_figure",
    "curves_figure",
    "detections_figure",
    "draw_confusion",
    "draw_curves",
    "draw_detections",
    "draw_ranking",
    "draw_reliability",
    "draw_sizes",
    "ranking_figure",
    "reliability_figure",
    "save_figure",
    "sizes_figure",
]

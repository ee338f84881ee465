"""A confusion matrix as a picture."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.figures.canvas import DPI, RIGHT, WRONG, new_figure
from pipeline.figures.lettering import any_letter, one_line, wrapped
from pipeline.figures.saving import draw_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERED_UP_TO = 60  # classes; beyond, the numbers in the cells would make the picture too large
CELL, SMALL_CELL = 0.38, 0.16  # inches: one that holds a number, one that is as high as its label
LARGEST = 40.0  # inches of the matrix
VERSION = 1  # of the drawing: raise it when pictures change, so that old ones are drawn anew


def draw_confusion(
    confusion: npt.NDArray[np.floating], classes: Sequence[str], title: str, path: Path, *, vector: bool = False
) -> Path:
    """Draw a confusion matrix as PNG, unless the picture there was drawn from the same figures.

    Args:
        confusion: See `confusion_figure`.
        classes: See `confusion_figure`.
        title: See `confusion_figure`.
        path: The file; it holds a digest of all the above.
        vector: Whether an SVG is written beside it.

    Returns:
        The file.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    content = [VERSION, confusion.tolist(), list(classes), title]
    return draw_once(path, content, lambda: confusion_figure(confusion, classes, title), vector=vector)


def confusion_figure(confusion: npt.NDArray[np.floating], classes: Sequence[str], title: str) -> "Figure":
    """Draw a confusion matrix: true classes as rows, predicted ones as columns, colour by share of the row.

    What is right is blue, what is wrong is red, and errors are drawn stronger than their share, so that they show.

    Args:
        confusion: (C, C) counts, or means of counts over several runs.
        classes: (C,) names, in the order of rows and columns.
        title: Drawn above; any text, taken as it is.
    """
    count = len(classes)
    numbered = count <= NUMBERED_UP_TO
    cell = min(CELL if numbered else SMALL_CELL, LARGEST / count)
    every = ceil(SMALL_CELL / cell)  # of more classes than fit, one in so many is named
    figure = new_figure()
    axes = figure.add_axes((0, 0, 1, 1))
    shown = range(0, count, every)
    # parse_math=False: a class may well be named "$x$".
    text: dict[str, Any] = {"fontsize": 8, "color": "0.2", "parse_math": False}
    names = [one_line(classes[number]) for number in shown]
    axes.set_xticks(shown, names, rotation=90, **text)
    axes.set_yticks(shown, names, **text)
    # Margins are computed from the widest name: matplotlib's own layouts draw everything several times.
    with any_letter():
        room = max(label.get_window_extent().width for label in axes.get_yticklabels()) / DPI + 0.5
    side = count * cell
    width = max(4.5, room + side + 0.7)
    lines = wrapped(figure, title, width - 0.24, 10)
    above, below = 0.35 + 0.17 * len(lines), room + 0.15
    height = above + side + below
    figure.set_size_inches(width, height)
    axes.set_position((room / width, below / height, side / width, side / height))
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))

    shares, strength = _shares(confusion)
    ink = np.where(np.eye(count, dtype=bool)[..., None], RIGHT, WRONG)
    axes.imshow(1 - strength[..., None] * (1 - ink), interpolation="nearest", aspect="auto")
    axes.tick_params(length=0, pad=4)
    for spine in axes.spines.values():
        spine.set(color="0.6", linewidth=0.8)
    if numbered:
        between = np.arange(1, count) - 0.5
        axes.hlines(between, -0.5, count - 0.5, colors="0.92", linewidth=0.6)
        axes.vlines(between, -0.5, count - 0.5, colors="0.92", linewidth=0.6)
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if strength[row, column] > 0.55 else "0.1"
            number = f"{confusion[row, column]:.1f}".removesuffix(".0")
            axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=8 if len(number) < 5 else 6)
        for row in np.flatnonzero(confusion.sum(axis=1)).tolist():
            axes.text(count - 0.35, row, f"{shares[row, row]:.0%}", va="center", fontsize=8, color="0.4")
        axes.text(count - 0.35, -0.65, "recall", va="bottom", fontsize=8, color="0.4")
    figure.text(0.12 / width, (below + side / 2) / height, "true", rotation=90, ha="left", va="center", fontsize=9)
    figure.text((room + side / 2) / width, 0.36 / height, "predicted", ha="center", va="bottom", fontsize=9)
    legend = "blue: right, red: wrong; the darker, the larger the share of the true class"
    figure.text(0.12 / width, 0.1 / height, legend, ha="left", va="bottom", fontsize=7, color="0.4")
    figure.text(0.12 / width, 1 - 0.12 / height, "\n".join(lines), ha="left", va="top", fontsize=10, parse_math=False)
    return figure


def _shares(confusion: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return each cell's share of its row, and how strongly it is coloured, both 0 to 1."""
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    return shares, np.where(np.eye(len(shares), dtype=bool), shares, np.sqrt(shares))

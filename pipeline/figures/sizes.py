"""Accuracy by the size of the training part."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pipeline.figures.canvas import RIGHT, add_panel, make_plain, new_figure, write
from pipeline.figures.lettering import wrapped
from pipeline.figures.saving import draw_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point: TypeAlias = tuple[int, float, float, float, tuple[float, ...]]
"""Training images of each class; mean accuracy, both ends of its 95 % interval; the accuracy of each run."""

VERSION = 2  # of the drawing: raise it when pictures change, so that old ones are drawn anew
WIDTH, PANEL, LEFT, MARGIN = 5.6, 3.0, 0.7, 0.14  # inches
NOTE = "Line: mean with its 95 % interval; a dot for each run. Sizes stand on a scale of doublings."


def draw_sizes(points: Sequence[Point], title: str, path: Path) -> Path:
    """Draw accuracy by size as PNG, with an SVG beside it, unless those there were drawn from the same figures.

    Args:
        points: See `sizes_figure`.
        title: See `sizes_figure`.
        path: The file; it holds a digest of all the above.

    Returns:
        The file.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    content = ["sizes", VERSION, title, [list(point) for point in points]]
    return draw_once(path, content, lambda: sizes_figure(points, title), vector=True)


def sizes_figure(points: Sequence[Point], title: str) -> "Figure":
    """Draw accuracy against training images of each class, on a scale of doublings.

    Args:
        points: By size.
        title: Drawn above; any text, taken as it is.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    figure = new_figure()
    lines, note = (wrapped(figure, text, WIDTH - 2 * MARGIN, size) for text, size in ((title, 10), (NOTE, 7)))
    above, below = 0.3 + 0.17 * len(lines), 0.62 + 0.13 * len(note)
    height = above + PANEL + below
    figure.set_size_inches(WIDTH, height)
    axes = add_panel(figure, LEFT, below, WIDTH - LEFT - MARGIN, PANEL)
    sizes, means, lows, highs, runs = zip(*points, strict=True)
    axes.set_xscale("log", base=2)
    for size, each in zip(sizes, runs, strict=True):
        axes.scatter([size] * len(each), each, s=9, color="0.3", alpha=0.35, linewidths=0)
    axes.fill_between(sizes, lows, highs, color=RIGHT, alpha=0.18, linewidth=0)
    axes.vlines(sizes, lows, highs, color=RIGHT, alpha=0.5, linewidth=1)
    axes.plot(sizes, means, "o-", color=RIGHT, linewidth=1.8, markersize=4.5)
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel("training images of each class", fontsize=8.5)
    axes.set_ylabel("accuracy", fontsize=8.5)
    make_plain(axes)
    write(figure, MARGIN, 0.1, "\n".join(note), 7, color="0.4", va="bottom")
    write(figure, MARGIN, height - MARGIN, "\n".join(lines), 10, va="top")
    return figure

"""The reliability diagram: how often a head is right, by how sure it was."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.calibration import Reliability
from pipeline.figures.canvas import RIGHT, WRONG, add_panel, make_plain, new_figure, write
from pipeline.figures.lettering import wrapped
from pipeline.figures.saving import draw_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSION = 2  # of the drawing: raise it when pictures change, so that old ones are drawn anew
WIDTH, SIDE, COUNTS, GAP, LEFT, MARGIN = 4.4, 3.5, 0.8, 0.12, 0.72, 0.14  # inches
NOTE = (
    "Blue, up to the black line: share of images named rightly, by the probability of the class that was named; "
    "hatched: how far that is from what the probability says. On the dashed line both are the same. Below, grey: how "
    "many images. ECE: the mean of the hatched distances over all images."
)


def draw_reliability(found: Reliability, title: str, path: Path, runs: int = 1) -> Path:
    """Draw a reliability diagram as PNG, with an SVG beside it, unless those there were drawn from the same figures.

    Args:
        found: See `reliability_figure`.
        title: See `reliability_figure`.
        path: The file; it holds a digest of all the above and the next.
        runs: See `reliability_figure`.

    Returns:
        The file.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    content = ["reliability", VERSION, title, runs]
    content += [np.nan_to_num(some, nan=-1.0).tolist() for some in (found.images, found.confidence, found.accuracy)]
    return draw_once(path, content, lambda: reliability_figure(found, title, runs), vector=True)


def reliability_figure(found: Reliability, title: str, runs: int = 1) -> "Figure":
    """Draw accuracy against confidence, bin by bin, and how many images are in each.

    Args:
        found: The bins.
        title: Drawn above; any text, taken as it is.
        runs: How many runs the images in the bins are of; of several the error is not the mean of theirs, which the
            picture says.
    """
    figure = new_figure()
    lines, note = (wrapped(figure, text, WIDTH - 2 * MARGIN, size) for text, size in ((title, 10), (NOTE, 7)))
    above, below = 0.3 + 0.17 * len(lines), 0.62 + 0.13 * len(note)
    height = above + SIDE + GAP + COUNTS + below
    figure.set_size_inches(WIDTH, height)
    upper = add_panel(figure, LEFT, below + COUNTS + GAP, SIDE, SIDE, xlim=(0, 1), ylim=(0, 1))
    lower = add_panel(figure, LEFT, below, SIDE, COUNTS, xlim=(0, 1))
    bins = len(found.images)
    places = (np.arange(bins) + 0.5) / bins
    held = found.images > 0
    sure, right = found.confidence[held], found.accuracy[held]
    upper.bar(places[held], right, 0.92 / bins, color=RIGHT, linewidth=0)
    upper.bar(
        places[held],
        sure - right,
        0.92 / bins,
        bottom=right,
        facecolor="white",
        edgecolor=WRONG,
        hatch="/////",
        alpha=0.85,
    )
    upper.hlines(right, places[held] - 0.46 / bins, places[held] + 0.46 / bins, colors="black", linewidth=2)
    upper.plot([0, 1], [0, 1], color="0.4", linewidth=0.9, linestyle=(0, (4, 2)))
    what = "ECE of all runs together" if runs > 1 else "ECE"
    upper.text(0.03, 0.95, f"{what} {found.error:.4f}", fontsize=9, va="top")
    lower.bar(places, found.images, 0.92 / bins, color="0.6", linewidth=0)
    upper.set_ylabel("accuracy", fontsize=8.5)
    lower.set_ylabel("images", fontsize=8.5)
    lower.set_xlabel("probability of the class that was named", fontsize=8.5)
    upper.tick_params(labelbottom=False)
    for axes in (upper, lower):
        make_plain(axes)
    write(figure, MARGIN, 0.1, "\n".join(note), 7, color="0.4", va="bottom")
    write(figure, MARGIN, height - MARGIN, "\n".join(lines), 10, va="top")
    return figure

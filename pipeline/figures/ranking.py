"""The ranking of names: each one's figure with its interval, and how far it is behind the best."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.figures.canvas import RIGHT, WRONG, add_panel, make_plain, new_figure, write
from pipeline.figures.lettering import fitted, line_width, wrapped
from pipeline.figures.saving import draw_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VERSION = 2  # of the drawing: raise it when pictures change, so that old ones are drawn anew
MOST = 60  # names that are shown
WIDTH, MARGIN, GAP, ROW = 8.4, 0.14, 0.3, 0.3  # inches
LONGEST = 2.4  # of names
QUIET = "0.55"
LEFT = "Left: mean with its 95 % interval"
DOTS = ", above it a dot for each run"
RIGHTS = (
    ". Right: distance to the best name with the 95 % interval of that difference, in which what is hard for both "
    "cancels out. Red: more than noise after Holm's correction, grey: within noise. An interval is that of the pair "
    "alone, not corrected: a grey one may leave out 0."
)


@dataclass(frozen=True)
class Rank:
    """One line of the picture.

    Attributes:
        name: Of the configuration.
        value: Its figure.
        low: Lower end of the 95 % interval.
        high: Upper end.
        runs: The figure of each of its runs.
        behind: The best name's figure minus this one's, and both ends of its interval; None for the best.
        shown: Whether that difference is more than noise.
    """

    name: str
    value: float
    low: float
    high: float
    runs: tuple[float, ...]
    behind: tuple[float, float, float] | None
    shown: bool


def draw_ranking(ranks: Sequence[Rank], metric: str, title: str, path: Path, *, points: bool = True) -> Path:
    """Draw a ranking as PNG, with an SVG beside it, unless those there were drawn from the same figures.

    Args:
        ranks: See `ranking_figure`.
        metric: See `ranking_figure`.
        title: See `ranking_figure`.
        path: The file; it holds a digest of all the above.
        points: See `ranking_figure`.

    Returns:
        The file.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    content = ["ranking", VERSION, title, metric, [astuple(rank) for rank in ranks]]
    return draw_once(path, content, lambda: ranking_figure(ranks, metric, title, points=points), vector=True)


def ranking_figure(ranks: Sequence[Rank], metric: str, title: str, *, points: bool = True) -> "Figure":
    """Draw names one below the other: figures with their intervals, and differences to the best with theirs.

    Args:
        ranks: From the best on; beyond 60 they are left out, which the picture says.
        metric: What the figures are, for the axis.
        title: Drawn above; any text, taken as it is.
        points: Whether figures are shares, whose differences are drawn in points.
    """
    scale = 100 if points else 1
    shown = ranks[:MOST]
    figure = new_figure()
    lines = wrapped(figure, title, WIDTH - 2 * MARGIN, 10)
    left_out = f" {len(ranks) - len(shown)} names further behind are not shown." if len(ranks) > len(shown) else ""
    dots = DOTS if any(len(rank.runs) > 1 for rank in shown) else ""
    note = wrapped(figure, LEFT + dots + RIGHTS + left_out, WIDTH - 2 * MARGIN, 7)
    names = [fitted(figure, rank.name, LONGEST, 9) for rank in shown]
    wide = max(line_width(figure, name, 9) for name in names) + 0.1
    above, below = 0.25 + 0.17 * len(lines), 0.6 + 0.13 * len(note)
    height = above + ROW * len(shown) + below
    figure.set_size_inches(WIDTH, height)
    panel = (WIDTH - 2 * MARGIN - wide - GAP) / 2
    left = add_panel(figure, MARGIN + wide, below, panel, ROW * len(shown))
    right = add_panel(figure, MARGIN + wide + panel + GAP, below, panel, ROW * len(shown))
    for row, (rank, name) in enumerate(zip(shown, names, strict=True)):
        place = below + (len(shown) - row - 0.5) * ROW
        write(figure, MARGIN + wide - 0.1, place, name, 9, ha="right", va="center")
        if len(rank.runs) > 1:
            left.scatter(rank.runs, [row - 0.27] * len(rank.runs), s=7, color="0.3", alpha=0.45, linewidths=0)
        _interval(left, row, (rank.value, rank.low, rank.high), RIGHT)
        if rank.behind is not None:
            value, low, high = (-scale * end for end in rank.behind)
            _interval(right, row, (value, high, low), WRONG if rank.shown else QUIET)
    right.axvline(0, color="0.3", linewidth=0.9)
    right.plot([0], [0], "D", color=RIGHT, markersize=4.5)
    for axes, label in ((left, metric), (right, "difference to the best" + (", points" if points else ""))):
        _frame(axes, len(shown), label)
    write(figure, MARGIN, 0.1, "\n".join(note), 7, color="0.4", va="bottom")
    write(figure, MARGIN, height - MARGIN, "\n".join(lines), 10, va="top")
    return figure


def _interval(axes: "Axes", row: int, ends: tuple[float, float, float], colour: object) -> None:
    value, low, high = ends
    axes.plot([low, high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot([value], [row], "o", color=colour, markersize=5)


def _frame(axes: "Axes", rows: int, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.margins(x=0.05)
    axes.set_xlabel(label, fontsize=8.5)
    make_plain(axes, sides=("bottom",), grid="x")

"""Learning curves: loss and accuracy by epoch, over all seeds of a name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.figures.canvas import add_panel, make_plain, new_figure, write
from pipeline.figures.lettering import fitted, wrapped
from pipeline.figures.saving import draw_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History: TypeAlias = Sequence[Mapping[str, float | None]]
"""One record an epoch: train_loss, train_accuracy, val_loss, val_accuracy; those of validation may be None."""

VERSION = 1  # of the drawing: raise it when pictures change, so that old ones are drawn anew
DPI = 130
ABREAST = 4  # columns side by side; more go below
WIDTHS = {1: 4.6, 2: 3.6}  # inches of a column's panels, by how many are abreast
WIDTH, GAP, LEFT, MARGIN = 2.9, 0.16, 0.62, 0.12
HEADING, LOSS, BETWEEN, ACCURACY, AXIS = 0.44, 1.5, 0.14, 2.1, 0.48  # inches of a block, from top to bottom
# Colours of Okabe and Ito, told apart by colour-blind people; dashes where there is no colour.
KINDS: dict[str, tuple[str, tuple[float, float, float], Any]] = {
    "train": ("training", (0.84, 0.37, 0.0), (0, (4, 1.5))),
    "val": ("validation", (0.0, 0.45, 0.70), "-"),
}
MEANING = (
    "Training figures are taken during the epoch, while weights still change and with dropout: they may well be worse "
    "than validation figures, which are taken after it."
)
DOTTED_UP_TO = 30  # epochs; beyond, the dots would hide the line


@dataclass(frozen=True)
class _Column:
    """The histories of one name: quantity -> (S, E) numbers, NaN where a seed has none."""

    name: str
    lengths: tuple[int, ...]
    tables: Mapping[str, npt.NDArray[np.float64]]

    def has(self, kind: str) -> bool:
        """Whether there is any figure of training or of validation."""
        return any(bool(np.isfinite(self.tables[f"{kind}_{what}"]).any()) for what in ("loss", "accuracy"))


def draw_curves(histories: Mapping[str, Sequence[History]], title: str, path: Path) -> Path:
    """Draw learning curves as PNG, unless the picture there was drawn from the same histories.

    Args:
        histories: See `curves_figure`.
        title: See `curves_figure`.
        path: The file; it holds a digest of all the above.

    Returns:
        The file.

    Raises:
        ValueError: No history has an epoch.
        NoRoom: The disk is full or read-only.
    """
    columns = _columns(histories)
    content = ["curves", VERSION, title]
    content += [
        [column.name, column.lengths, [table.tolist() for table in column.tables.values()]] for column in columns
    ]
    return draw_once(path, content, lambda: _figure(columns, title))


def curves_figure(histories: Mapping[str, Sequence[History]], title: str) -> "Figure":
    """Draw learning curves: for each name a panel of the loss above one of the accuracy, on the same scales for all.

    A line is the mean over the seeds that reached the epoch, a band goes from the smallest of them to the largest.

    Args:
        histories: Name -> `Run.history` of each seed. Names without epochs, such as k-nearest-neighbours, are left out.
        title: Drawn above; any text, taken as it is.

    Raises:
        ValueError: No history has an epoch.
    """
    return _figure(_columns(histories), title)


def _columns(histories: Mapping[str, Sequence[History]]) -> list[_Column]:
    """Turn histories into tables."""
    columns = []
    for name, every in histories.items():
        seeds = [history for history in every if history]
        if not seeds:
            continue
        tables = {}
        for quantity in (f"{kind}_{what}" for kind in KINDS for what in ("loss", "accuracy")):
            tables[quantity] = np.full((len(seeds), max(map(len, seeds))), np.nan)
            for row, history in zip(tables[quantity], seeds, strict=True):
                row[: len(history)] = [_number(record.get(quantity)) for record in history]
        columns.append(_Column(name, tuple(map(len, seeds)), tables))
    if not columns:
        raise ValueError("there is no history of epochs to draw: these heads are not trained in epochs")
    return columns


def _number(value: object) -> float:
    """Read a figure of a history; what is no number, or of no scale that could be drawn, is a gap."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e12 else np.nan


def _over_seeds(table: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return mean, smallest and largest of each epoch over the seeds that have it; NaN where none has."""
    reached = np.isfinite(table)
    count = reached.sum(axis=0)
    total = np.where(reached, table, 0).sum(axis=0)
    mean = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return mean, np.fmin.reduce(table, axis=0), np.fmax.reduce(table, axis=0)


def _figure(columns: Sequence[_Column], title: str) -> "Figure":
    blocks = ceil(len(columns) / ABREAST)
    abreast = ceil(len(columns) / blocks)
    panel = WIDTHS.get(abreast, WIDTH)
    width = LEFT + abreast * (panel + GAP) - GAP + MARGIN
    figure = new_figure(DPI)
    lines = wrapped(figure, title, width - 2 * MARGIN, 10)
    note = wrapped(figure, f"{_legend(columns)} {MEANING}", width - 2 * MARGIN, 7)
    above, below = 0.5 + 0.17 * len(lines), 0.15 + 0.13 * len(note)
    block = HEADING + LOSS + BETWEEN + ACCURACY + AXIS
    height = above + blocks * block + below
    figure.set_size_inches(width, height)

    limits = _limits(columns)
    for number, column in enumerate(columns):
        down, across = divmod(number, abreast)
        left, top = LEFT + across * (panel + GAP), height - above - down * block
        write(figure, left, top - 0.18, fitted(figure, column.name, panel, 9, "bold"), 9, weight="bold")
        write(figure, left, top - 0.33, _extent(column), 7.5, color="0.35")
        base = top - HEADING - LOSS
        loss = add_panel(figure, left, base, panel, LOSS, ylim=limits["loss"])
        accuracy = add_panel(figure, left, base - BETWEEN - ACCURACY, panel, ACCURACY, ylim=limits["accuracy"])
        for axes, what in ((loss, "loss"), (accuracy, "accuracy")):
            _draw(axes, column, what)
            axes.tick_params(labelleft=across == 0, labelbottom=what == "accuracy")
            axes.set_ylabel(what if across == 0 else "", fontsize=8.5)
        accuracy.set_xlabel("epoch", fontsize=8.5)
    _explain(figure, [kind for kind in KINDS if any(column.has(kind) for column in columns)], 0.3 + 0.17 * len(lines))
    write(figure, MARGIN, 0.1, "\n".join(note), 7, color="0.4", va="bottom")
    write(figure, MARGIN, height - MARGIN, "\n".join(lines), 10, va="top")
    return figure


def _explain(figure: "Figure", kinds: Sequence[str], down: float) -> None:
    """Say which line is which, so many inches below the picture's top."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    shown = {
        label: Line2D([], [], color=colour, linestyle=style) for label, colour, style in map(KINDS.__getitem__, kinds)
    }
    figure.legend(
        list(shown.values()),
        list(shown),
        loc="upper left",
        bbox_to_anchor=(MARGIN / width, 1 - (down - 0.1) / height),
        ncols=2,
        frameon=False,
        fontsize=8.5,
        borderaxespad=0,
    )


def _draw(axes: "Axes", column: _Column, what: str) -> None:
    """Draw the lines and bands of one panel."""
    from matplotlib.ticker import MaxNLocator

    last = max(column.lengths)
    epochs = np.arange(1, last + 1)
    for kind, (label, colour, style) in KINDS.items():
        mean, low, high = _over_seeds(column.tables[f"{kind}_{what}"])
        if not np.isfinite(mean).any():
            continue
        if len(column.lengths) > 1:
            axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
            if last == 1:  # a band of one epoch has no width
                axes.vlines(epochs, low, high, colors=[colour], alpha=0.2, linewidth=6)
        dots: dict[str, Any] = {"marker": "o", "markersize": 2.8} if last <= DOTTED_UP_TO else {}
        axes.plot(epochs, mean, color=colour, linestyle=style, linewidth=1.6, label=label, **dots)
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    make_plain(axes)


def _limits(columns: Sequence[_Column]) -> dict[str, tuple[float, float]]:
    """Return the scales of loss and accuracy that fit all columns."""
    ends = {}
    for what in ("loss", "accuracy"):
        numbers = np.concatenate([column.tables[f"{kind}_{what}"].ravel() for column in columns for kind in KINDS])
        numbers = numbers[np.isfinite(numbers)]
        ends[what] = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 1.0)
    (_, largest), (smallest, _) = ends["loss"], ends["accuracy"]
    least = max(0.0, floor(smallest * 10 - 0.2) / 10) if smallest >= 0.5 else 0.0
    return {"loss": (0.0, 1.05 * largest or 1.0), "accuracy": (least, 1 + 0.03 * (1 - least))}


def _extent(column: _Column) -> str:
    """Say over how many seeds and epochs a column goes."""
    seeds, shortest, longest = len(column.lengths), min(column.lengths), max(column.lengths)
    epochs = f"{shortest} to {longest}" if shortest < longest else str(longest)
    return f"{seeds} seed{'s' if seeds > 1 else ''}, {epochs} epoch{'s' if longest > 1 else ''}"


def _legend(columns: Sequence[_Column]) -> str:
    """Say what lines and bands are."""
    if all(len(column.lengths) == 1 for column in columns):
        return "One seed each." if len(columns) > 1 else "One seed."
    early = any(len(set(column.lengths)) > 1 for column in columns)
    reached = " that reached the epoch" if early else ""
    return f"Line: mean over the seeds{reached}; band: from the smallest seed to the largest."

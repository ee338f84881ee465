"""Detection examples, as in the paper's Fig. 5: pictures, and what two models take them for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from pipeline.figures.canvas import RIGHT, WRONG, add_panel, new_figure, write
from pipeline.figures.lettering import fitted, line_width, wrapped
from pipeline.figures.saving import draw_once
from pipeline.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VERSION = 1  # of the drawing: raise it when pictures change, so that old ones are drawn anew
DPI = 130
TOP = 5  # classes of each model
SIDE, CAPTION, BETWEEN = 1.5, 0.34, 0.24  # inches: of a picture, below it, between rows
LONGEST, BARS, PERCENT = 1.6, 1.5, 0.48  # inches: of a class name, of a bar of 100 %, of the number behind it
MARGIN, GAP = 0.12, 0.2
THICK = 0.64  # of the room that a bar has
LEGEND = "Blue: the true class. Red: another one. Without blue: the true class is not among the five."


@dataclass(frozen=True)
class Example:
    """One image and what two models take it for.

    Attributes:
        image: (H, W, 3) pixels.
        path: The image's path, shown below it.
        label: Its true class.
        left: (class, probability) of the first model, likeliest first; five are drawn.
        right: The same of the second model.
    """

    image: npt.NDArray[np.uint8]
    path: str
    label: str
    left: Sequence[tuple[str, float]]
    right: Sequence[tuple[str, float]]


def draw_detections(examples: Sequence[Example], left: str, right: str, title: str, path: Path) -> Path:
    """Draw detection examples as PNG, unless the picture there was drawn from the same ones.

    Args:
        examples: See `detections_figure`.
        left: See `detections_figure`.
        right: See `detections_figure`.
        title: See `detections_figure`.
        path: The file; it holds a digest of all the above.

    Returns:
        The file.

    Raises:
        ValueError: There is no example.
        NoRoom: The disk is full or read-only.
    """
    content: list[object] = ["detections", VERSION, left, right, title]
    for example in examples:
        pixels = hashlib.sha256(example.image.tobytes()).hexdigest()
        content.append([pixels, example.image.shape, example.path, example.label])
        content += [[(name, float(share)) for name, share in top] for top in (example.left, example.right)]
    return draw_once(path, content, lambda: detections_figure(examples, left, right, title))


def detections_figure(examples: Sequence[Example], left: str, right: str, title: str) -> "Figure":
    """Draw detection examples: a row for each, with the picture, and bars of the five likeliest classes of two models.

    Args:
        examples: From four to eight fit a page.
        left: Name of the first model; any text, taken as it is, like all others here.
        right: Name of the second model.
        title: Drawn above.

    Raises:
        ValueError: There is no example.
    """
    if not examples:
        raise ValueError("there is no example to draw")
    figure = new_figure(DPI)
    names = _room(figure, examples)
    chart = names + BARS + PERCENT
    starts = (MARGIN + SIDE + GAP, MARGIN + SIDE + GAP + chart + GAP)
    width = starts[1] + chart + MARGIN
    lines = wrapped(figure, title, width - 2 * MARGIN, 10)
    note = wrapped(figure, LEGEND, width - 2 * MARGIN, 7)
    above, row, below = 0.55 + 0.17 * len(lines), SIDE + CAPTION + BETWEEN, 0.05 + 0.13 * len(note)
    height = above + len(examples) * row + below
    figure.set_size_inches(width, height)

    for start, name in zip(starts, (left, right), strict=True):
        # Above the bars; a long one goes over the class names too.
        indent = 0.0 if line_width(figure, printable(name), 9, "bold") > BARS + PERCENT else names
        shown = fitted(figure, name, chart - indent, 9, "bold")
        write(figure, start + indent, height - above + 0.12, shown, 9, weight="bold")
    for number, example in enumerate(examples):
        base = height - above - number * row - SIDE
        if number:
            _rule(figure, base + SIDE + BETWEEN / 2)
        picture = add_panel(figure, MARGIN, base, SIDE, SIDE, anchor="SW")
        picture.imshow(_shrunk(example.image))
        picture.set_axis_off()
        write(figure, MARGIN, base - 0.16, fitted(figure, example.label, SIDE, 8.5, "bold"), 8.5, weight="bold")
        write(figure, MARGIN, base - 0.3, _short(figure, example.path), 6.5, color="0.4")
        for start, top in zip(starts, (example.left, example.right), strict=True):
            axes = add_panel(figure, start + names, base, BARS + PERCENT, SIDE)
            _draw(axes, top[:TOP], example.label)
    write(figure, MARGIN, 0.1, "\n".join(note), 7, color="0.4", va="bottom")
    write(figure, MARGIN, height - MARGIN, "\n".join(lines), 10, va="top")
    return figure


def _room(figure: "Figure", examples: Sequence[Example]) -> float:
    """Return the inches that the class names beside the bars need."""
    names = {name for example in examples for top in (example.left, example.right) for name, _ in top[:TOP]}
    shown = {fitted(figure, name, LONGEST, 8, "bold") for name in names}
    return max((line_width(figure, name, 8, "bold") for name in shown), default=0.0) + 0.08


def _short(figure: "Figure", path: str) -> str:
    """Show a path in the width of a picture; one that is too long without its folders."""
    whole = fitted(figure, path, SIDE, 6.5, keep="end")
    if whole == printable(path) or "/" not in path:
        return whole
    return fitted(figure, f"…/{path.rpartition('/')[2]}", SIDE, 6.5, keep="end")


def _draw(axes: "Axes", top: Sequence[tuple[str, float]], label: str) -> None:
    """Draw one model's bars for one image."""
    figure = cast("Figure", axes.figure)
    places, end = range(len(top)), (BARS + PERCENT) / BARS
    colours = [RIGHT if name == label else WRONG for name, _ in top]
    axes.barh(places, [1.0] * len(top), height=THICK, color="0.95")
    axes.barh(places, [share for _, share in top], height=THICK, color=colours)
    names = [fitted(figure, name, LONGEST, 8, "bold") for name, _ in top]
    axes.set_yticks(places, names, parse_math=False, fontsize=8, color="0.2")
    for place, (name, share) in enumerate(top):
        axes.text(end, place, _percent(share), fontsize=7.5, ha="right", va="center_baseline", color="0.2")
        if name == label:
            axes.get_yticklabels()[place].set_fontweight("bold")
    axes.set(xlim=(0, end), ylim=(TOP - 0.5, -0.5), xticks=[])
    axes.tick_params(length=0, pad=4)
    for side, spine in axes.spines.items():
        spine.set(color="0.6", linewidth=0.8, visible=side == "left")


def _percent(share: float) -> str:
    """Write a probability; only what is 0 or 1 is shown as that."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def _rule(figure: "Figure", y: float) -> None:
    """Draw a thin line between two rows."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    ends = (MARGIN / width, 1 - MARGIN / width)
    figure.add_artist(Line2D(ends, (y / height, y / height), color="0.88", linewidth=0.8))


def _shrunk(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Shrink a picture to what can be seen of it: drawing all pixels of a photograph takes seconds."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((round(2 * SIDE * DPI),) * 2, Image.Resampling.LANCZOS)
    return np.asarray(picture)

"""Text in pictures: from files, so it may hold anything, and cut to the room that it has."""

import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

from pipeline.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 30  # characters of a class name


@contextmanager
def any_letter() -> Iterator[None]:
    """Let a letter that the font lacks become a box without a warning; the file beside the picture holds it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def one_line(text: str, longest: int = LONGEST) -> str:
    """Show a text on one line whatever it holds, with at most so many characters."""
    plain = printable(text)
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


def wrapped(figure: "Figure", text: str, inches: float, size: float, weight: str = "normal") -> list[str]:
    """Break a text, of which 400 characters are shown, into lines of a width; at least one line.

    Args:
        figure: Measures it; it has a canvas (`new_figure`).
        text: Any text.
        inches: The width.
        size: Of the letters, in points.
        weight: `normal` or `bold`.
    """
    plain = one_line(text, 400)
    length = max(1, int(140 * inches / size))
    while True:
        lines = textwrap.wrap(plain, length) or [""]
        widest = max(line_width(figure, line, size, weight) for line in lines)
        if widest <= inches or length == 1:
            return lines
        length = max(1, min(length - 1, int(length * inches / widest)))


def fitted(
    figure: "Figure",
    text: str,
    inches: float,
    size: float,
    weight: str = "normal",
    keep: Literal["start", "end", "both"] = "start",
) -> str:
    """Cut a text, on one line, to the width that it may take.

    Args:
        figure: Measures it; it has a canvas (`new_figure`).
        text: Any text.
        inches: The width.
        size: Of the letters, in points.
        weight: `normal` or `bold`.
        keep: Which end of a text that is too long stays: titles tell most at their start, paths at their end; names
            may differ in either.

    Returns:
        The text, or as much of it as fits with an ellipsis.
    """
    plain = printable(text)

    def cut(length: int) -> str:
        head = {"start": length, "end": 0, "both": (length + 1) // 2}[keep]
        return f"{plain[:head].rstrip()}…{plain[len(plain) - length + head :].lstrip()}"

    low, high = 0, min(len(plain), 300)
    if len(plain) == high and line_width(figure, plain, size, weight) <= inches:
        return plain
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if line_width(figure, cut(middle), size, weight) <= inches else (low, middle - 1)
    return cut(low)


def line_width(figure: "Figure", text: str, size: float, weight: str = "normal") -> float:
    """Measure a line of text, taken as it is, in inches."""
    from matplotlib.font_manager import FontProperties

    renderer = cast(Any, figure.canvas).get_renderer()
    with any_letter():
        pixels, _, _ = renderer.get_text_width_height_descent(text, FontProperties(size=size, weight=weight), False)
    return float(pixels) / figure.dpi

"""Contact sheets: pictures side by side, with what an audit says of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.figures.canvas import DPI, WRONG, add_panel, new_figure, write
from pipeline.figures.lettering import fitted, line_width, wrapped
from pipeline.figures.saving import save_figure
from pipeline.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from pipeline.doubt import Audited, DoubtfulLabel
    from pipeline.near_duplicates import NearDuplicate

SHOWN = 40  # entries of a sheet
SIDE, BESIDE = 1.3, 0.1  # inches: of a picture, and between the two of a pair
GAP, MARGIN, LINE = 0.24, 0.14, 0.13
EDGE = 0.04  # by which a text ends before its picture does, as letters are drawn a little wider than measured
SMALL, TEXT, TITLE = 6.0, 7.0, 10.0  # points
ACROSS = (
    "Below each picture its path, its part of the split and its label. Pairs across parts come first, then the most "
    "similar; in red what lies across parts or has two labels."
)
OTHER = (
    "Below each picture its path, its part of the split and its label; in red the class that it may be. Last the "
    "probability of that class, less that of the label: the largest difference comes first."
)

Look = Callable[[str], npt.NDArray[np.uint8] | str]


@dataclass(frozen=True)
class Picture:
    """One image of a sheet.

    Attributes:
        pixels: (H, W, 3), or why there are none.
        path: The image's path, written below it; any text, taken as it is, like the next.
        label: Written below that.
    """

    pixels: npt.NDArray[np.uint8] | str
    path: str
    label: str


@dataclass(frozen=True)
class Sighting:
    """One entry of a sheet.

    Attributes:
        pictures: Side by side.
        caption: Written below them on three lines at most; any text, taken as it is, like the next.
        figures: Written below that.
        marked: Whether the caption is written in red.
    """

    pictures: tuple[Picture, ...]
    caption: str
    figures: str
    marked: bool


def draw_near_duplicates(pairs: Sequence["NearDuplicate"], look: Look, path: Path) -> Path:
    """Draw near-duplicates as PNG, the first 40 of them; what lies across parts, or has two labels, is in red.

    Args:
        pairs: What was found.
        look: Returns the pixels of an image by its path, or why there are none.
        path: The file.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    sightings = [
        Sighting(
            tuple(_picture(image, look) for image in (pair.first, pair.second)),
            f"similarity {pair.similarity:.3f}, cosine {pair.cosine:.3f}{', identical' if pair.identical else ''}",
            "",
            pair.straddles or pair.labels_differ,
        )
        for pair in pairs[:SHOWN]
    ]
    return save_figure(sheet_figure(sightings, _title("Near-duplicate images", len(pairs), path), ACROSS, 4), path)


def draw_doubtful_labels(doubtful: Sequence["DoubtfulLabel"], look: Look, path: Path) -> Path:
    """Draw images with doubtful labels as PNG, the first 40 of them.

    Args:
        doubtful: What was found.
        look: See `draw_near_duplicates`.
        path: The file.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    sightings = [
        Sighting((_picture(one.image, look),), one.suggested, _lead(one), marked=True) for one in doubtful[:SHOWN]
    ]
    return save_figure(sheet_figure(sightings, _title("Labels that may be wrong", len(doubtful), path), OTHER, 7), path)


def sheet_figure(sightings: Sequence[Sighting], title: str, note: str, columns: int) -> "Figure":
    """Draw a contact sheet; a picture without pixels becomes an empty box with the reason.

    Args:
        sightings: What is shown, row by row; there may be none. All have as many pictures as the first.
        title: Written above; any text, taken as it is.
        note: Written below the title.
        columns: Sightings in a row.
    """
    figure = new_figure(DPI)
    pictures = len(sightings[0].pictures) if sightings else 1
    wide = pictures * SIDE + (pictures - 1) * BESIDE
    width = 2 * MARGIN + columns * wide + (columns - 1) * GAP
    lines = wrapped(figure, title, width - 2 * MARGIN, TITLE)
    below = wrapped(figure, note, width - 2 * MARGIN, TEXT)
    words = [_words(figure, sighting, wide) for sighting in sightings]
    deepest = max(map(len, words), default=1)
    above, row = 3 * MARGIN + 0.17 * len(lines) + LINE * len(below), SIDE + (deepest + 2.6) * LINE + GAP / 2
    height = above + -(-len(sightings) // columns) * row
    figure.set_size_inches(width, height)
    write(figure, MARGIN, height - MARGIN, "\n".join(lines), TITLE, va="top")
    write(figure, MARGIN, height - above + 0.8 * MARGIN, "\n".join(below), TEXT, color="0.4", va="bottom")
    for number, (sighting, said) in enumerate(zip(sightings, words, strict=True)):
        down, across = divmod(number, columns)
        left, base = MARGIN + across * (wide + GAP), height - above - down * row - SIDE
        for place, picture in enumerate(sighting.pictures):
            _place(figure, picture, left + place * (SIDE + BESIDE), base)
        for place, (line, style) in enumerate(said):
            write(figure, left, base - (place + 3.2) * LINE, line, TEXT, **style)
    return figure


def shrunk(image: "Image.Image") -> npt.NDArray[np.uint8]:
    """Return a picture's pixels (H, W, 3), no more of them than a sheet shows."""
    from PIL import Image

    small = image.copy()
    small.thumbnail((round(1.5 * SIDE * DPI),) * 2, Image.Resampling.LANCZOS)
    return np.asarray(small)


def _picture(image: "Audited", look: Look) -> Picture:
    return Picture(look(image.path), image.path, f"{image.part}: {image.label}")


def _lead(one: "DoubtfulLabel") -> str:
    """Say by how much the suggested class is likelier than the label."""
    likely, own = round(one.suggested_probability, 3), round(one.probability, 3)  # so that the sum is right
    return f"{likely:.3f} − {own:.3f} = {likely - own:.3f}"  # noqa: RUF001


def _title(what: str, count: int, path: Path) -> str:
    if not count:
        return f"{what}: none was found"
    return f"{what}: {count}" if count <= SHOWN else f"{what}: the first {SHOWN} of {count}; all in {path.stem}.csv"


def _place(figure: "Figure", picture: Picture, left: float, base: float) -> None:
    panel = add_panel(figure, left, base, SIDE, SIDE, anchor="SW")
    if isinstance(picture.pixels, str):
        panel.set(xticks=[], yticks=[])
        for spine in panel.spines.values():
            spine.set(color="0.7", linewidth=0.8)
        reason = wrapped(figure, picture.pixels, SIDE - 0.2, SMALL)[:8]
        write(figure, left + 0.1, base + SIDE / 2, "\n".join(reason), SMALL, color="0.4", va="center")
    else:
        panel.imshow(picture.pixels)
        panel.set_axis_off()
    room = SIDE - EDGE
    write(figure, left, base - LINE, fitted(figure, picture.path, room, SMALL, keep="end"), SMALL, color="0.4")
    size = TEXT if line_width(figure, printable(picture.label), TEXT) <= room else SMALL
    write(figure, left, base - 2 * LINE, fitted(figure, picture.label, room, size, keep="both"), size, color="0.2")


def _words(figure: "Figure", sighting: Sighting, wide: float) -> list[tuple[str, dict[str, Any]]]:
    """Return the lines below the pictures, each with its style: the caption on three at most, and the figures."""
    room = wide - EDGE
    lines = wrapped(figure, sighting.caption, room, TEXT, "bold")
    if len(lines) > 3:  # the end stays, as two classes may differ in their last letter alone
        rest = printable(sighting.caption)[len(lines[0] + lines[1]) :]
        lines = [*lines[:2], fitted(figure, rest, room, TEXT, "bold", keep="end")]
    style = {"color": WRONG, "weight": "bold"} if sighting.marked else {"color": "0.2"}
    said: list[tuple[str, dict[str, Any]]] = [(line, style) for line in lines]
    if sighting.figures:
        said.append((fitted(figure, sighting.figures, room, TEXT), {"color": "0.2"}))
    return said

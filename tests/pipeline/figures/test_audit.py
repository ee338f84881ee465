"""Contact sheets: every picture with its name, boxes for those that are gone, and room for forty."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipeline.audit import NearDuplicate
from pipeline.doubt import Audited, DoubtfulLabel
from pipeline.figures.audit import Picture, Sighting, draw_doubtful_labels, draw_near_duplicates, sheet_figure, shrunk
from pipeline.figures.canvas import WRONG
from pipeline.figures.saving import save_figure

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def sighting(number: int = 0, marked: bool = False) -> Sighting:
    pictures = tuple(Picture(PIXELS, f"beach/{number}-{place}.png", "train: beach") for place in "ab")
    return Sighting(pictures, f"similarity 0.{number}", marked)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_pictures_stand_side_by_side_with_their_names() -> None:
    figure = sheet_figure([sighting(1), sighting(2, marked=True)], "title", "note", 4)
    assert [axes.images[0].get_array().shape for axes in figure.axes] == [PIXELS.shape] * 4  # type: ignore[union-attr]
    assert {"title", "note", "beach/1-a.png", "beach/2-b.png", "train: beach", "similarity 0.1"} <= {*texts(figure)}
    captions = {text.get_text(): text.get_color() for text in figure.texts}
    assert captions["similarity 0.2"] == WRONG
    assert captions["similarity 0.1"] != WRONG


def test_a_picture_that_is_gone_is_an_empty_box_with_the_reason() -> None:
    gone = Sighting((Picture("No such file", "beach/1.png", "test: beach"),), "", False)
    figure = sheet_figure([gone], "", "", 1)
    assert not figure.axes[0].images
    assert {"No such file", "beach/1.png"} <= {*texts(figure)}


def test_all_lies_within_the_sheet() -> None:
    for count in (0, 1, 5, 40):
        figure = sheet_figure([sighting(number) for number in range(count)], "a long title " * 30, "note", 4)
        figure.canvas.draw()
        whole = figure.bbox
        for box in [text.get_window_extent() for text in figure.texts] + [axes.bbox for axes in figure.axes]:
            assert box.x0 >= whole.x0 - 1
            assert box.y0 >= whole.y0 - 1
            assert box.x1 <= whole.x1 + 1
            assert box.y1 <= whole.y1 + 1


def test_any_name_is_drawn_as_it_is(tmp_path: Path) -> None:
    odd = Sighting((Picture(PIXELS, "$\\frac{a}$/\x1b\n字.png", "_^$x$"),), "$\\sum", True)
    figure = sheet_figure([odd], "$\\bad{", "$\\worse{", 2)
    save_figure(figure, tmp_path / "odd.png")
    assert "_^$x$" in texts(figure)


@pytest.mark.parametrize("size", [(3000, 200), (10, 10)])
def test_no_more_pixels_are_kept_than_are_shown(size: tuple[int, int]) -> None:
    pixels = shrunk(Image.new("RGB", size, "red"))
    assert max(pixels.shape) <= 215
    assert pixels.shape[2] == 3


@pytest.mark.parametrize(("count", "said"), [(0, "none was found"), (3, ": 3"), (41, "the first 40 of 41")])
def test_forty_are_drawn_and_the_sheet_says_so(count: int, said: str, tmp_path: Path) -> None:
    looked: list[str] = []

    def look(path: str) -> str:
        looked.append(path)
        return "gone"

    images = [Audited(f"{number}.png", "beach", "train") for number in range(count)]
    pairs = [NearDuplicate(image, image, 1, 1, True, False, False) for image in images]
    draw_near_duplicates(pairs, look, tmp_path / "near-duplicates.png")
    assert len(looked) == 2 * min(count, 40)
    draw_doubtful_labels([DoubtfulLabel(image, "river", 0, 1) for image in images], look, tmp_path / "doubtful.png")
    assert len(looked) == 3 * min(count, 40)
    for name in ("near-duplicates.png", "doubtful.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 500

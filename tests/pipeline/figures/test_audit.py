"""Contact sheets: every picture with its name, boxes for those that are gone, and room for forty."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipeline.doubt import Audited, DoubtfulLabel
from pipeline.figures.audit import (
    SMALL,
    TEXT,
    Picture,
    Sighting,
    draw_doubtful_labels,
    draw_near_duplicates,
    sheet_figure,
    shrunk,
)
from pipeline.figures.canvas import WRONG
from pipeline.figures.saving import save_figure
from pipeline.near_duplicates import NearDuplicate

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def sighting(number: int = 0, marked: bool = False) -> Sighting:
    pictures = tuple(Picture(PIXELS, f"beach/{number}-{place}.png", "train: beach") for place in "ab")
    return Sighting(pictures, f"similarity 0.{number}", "", marked)


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
    gone = Sighting((Picture("No such file", "beach/1.png", "test: beach"),), "", "", False)
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


def test_what_stands_below_a_picture_is_no_wider_than_it() -> None:
    pictures = tuple(Picture(PIXELS[:30], f"beach/{'very_' * 9}{place}.png", f"train: {'long' * 9}") for place in "ab")
    for columns in (1, 4):
        figure = sheet_figure([Sighting(pictures, "W" * 200, "8" * 90, True)] * columns, "title", "note", columns)
        figure.canvas.draw()
        boxes = [axes.bbox for axes in figure.axes]
        last = max(box.x1 for box in boxes)
        for text in figure.texts:
            box = text.get_window_extent()
            assert box.x1 <= last
            if text.get_text().endswith((".png", "long")):
                assert any(one.x0 - 1 <= box.x0 and box.x1 <= one.x1 for one in boxes)
        assert sum(text.get_text().endswith("long") for text in figure.texts) == 2 * columns


def test_a_label_is_written_smaller_before_it_is_cut() -> None:
    for label, shown, size in (
        ("train: beach", "train: beach", TEXT),
        ("unused: mediumresidential", "unused: mediumresidential", SMALL),
        ("unused: " + "x" * 90 + "B", "B", SMALL),
    ):
        figure = sheet_figure([Sighting((Picture(PIXELS, "a.png", label),), "", "", False)], "", "", 1)
        (text,) = (one for one in figure.texts if one.get_text().endswith(shown))
        assert text.get_fontsize() == size
        assert text.get_text().startswith(label[:8])


def test_lines_of_one_entry_do_not_overlap() -> None:
    figure = sheet_figure([Sighting((Picture(PIXELS, "a.png", "train: a"),), "W" * 200, "0.9", True)] * 2, "", "", 1)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    assert len(boxes) == 2 * 6
    assert not any(one is not other and one.overlaps(other) for one in boxes for other in boxes)


@pytest.mark.parametrize(
    ("suggested", "lines"),
    [("mediumresidential", 1), ("sparse_and_medium_residential_B", 2), ("tall_buildings_" * 3 + "of_kind_A", 3)],
)
def test_a_suggestion_is_shown_in_full_on_lines_of_its_own(suggested: str, lines: int) -> None:
    figure = sheet_figure([Sighting((Picture(PIXELS, "a.png", "train: a"),), suggested, "", True)], "", "", 1)
    shown = [text.get_text() for text in figure.texts if text.get_color() == WRONG]
    assert "".join(shown) == suggested
    assert len(shown) == lines


def test_of_a_suggestion_that_is_too_long_both_ends_stay() -> None:
    figure = sheet_figure([Sighting((Picture(PIXELS, "a.png", "b"),), "k" * 200 + "Z", "", True)], "", "", 1)
    shown = [text.get_text() for text in figure.texts if text.get_color() == WRONG]
    assert len(shown) == 3
    assert shown[0].startswith("kkk")
    assert shown[2].startswith("…k")
    assert shown[2].endswith("kZ")


def test_doubtful_labels_show_the_difference_by_which_they_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("pipeline.figures.audit.save_figure", lambda figure, path: drawn.append(figure))
    image = Audited("1.png", "beach", "train")
    draw_doubtful_labels([DoubtfulLabel(image, "river", 0.0586, 0.9052)], lambda path: PIXELS, Path("doubtful.png"))
    assert {"river", "0.905 − 0.059 = 0.846"} <= {*texts(drawn[0])}  # noqa: RUF001


def test_any_name_is_drawn_as_it_is(tmp_path: Path) -> None:
    odd = Sighting((Picture(PIXELS, "$\\frac{a}$/\x1b\n字.png", "_^$x$"),), "$\\sum", "$\\int", True)
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

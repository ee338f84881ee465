"""Detection examples: bars as long as probabilities, coloured by truth, beside the picture they are about."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from pipeline.figures import Example, detections_figure, draw_detections, save_figure
from pipeline.figures.canvas import RIGHT, WRONG
from pipeline.figures.detections import DPI, SIDE

RIVER = (("river", 0.62), ("beach", 0.2), ("harbor", 0.1), ("forest", 0.05), ("runway", 0.03))
LOST = (("runway", 0.5), ("freeway", 0.3), ("beach", 0.1999), ("forest", 0.0001), ("harbor", 0.0))


def example(seed: int = 0, height: int = 64, width: int = 64) -> Example:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Example(pixels, f"river/river{seed:02d}.jpg", "river", RIVER, LOST)


def panels(figure: Figure) -> list[tuple[Axes, Axes, Axes]]:
    """Return picture, first and second model of each row."""
    return list(zip(figure.axes[::3], figure.axes[1::3], figure.axes[2::3], strict=True))


def lengths(axes: Axes) -> list[float]:
    """Return the lengths of the bars that stand on the grey ones."""
    return [bar.get_width() for bar in axes.containers[1]]


def colours(axes: Axes) -> list[tuple[float, ...]]:
    return [bar.get_facecolor()[:3] for bar in axes.containers[1]]


def numbers(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def names(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_bars_are_the_probabilities_of_both_models() -> None:
    figure = detections_figure([example(0), replace(example(1), left=LOST, right=RIVER)], "pretrained", "scratch", "")
    assert len(figure.axes) == 6
    for row, tops in zip(panels(figure), ((RIVER, LOST), (LOST, RIVER)), strict=True):
        for axes, top in zip(row[1:], tops, strict=True):
            assert lengths(axes) == [share for _, share in top]
            assert names(axes) == [name for name, _ in top]
    (_, left, right), _ = panels(figure)
    assert numbers(left) == ["62.0%", "20.0%", "10.0%", "5.0%", "3.0%"]
    assert numbers(right) == ["50.0%", "30.0%", "20.0%", "<0.1%", "0.0%"]


def test_only_certainty_is_100_percent() -> None:
    figure = detections_figure([replace(example(), left=[("river", 1.0)], right=[("river", 0.99999)])], "", "", "")
    ((_, left, right),) = panels(figure)
    assert numbers(left) == ["100.0%"]
    assert numbers(right) == [">99.9%"]


def test_the_true_class_has_its_own_colour_and_weight() -> None:
    ((_, left, right),) = panels(detections_figure([example()], "", "", ""))
    assert colours(left) == [RIGHT, WRONG, WRONG, WRONG, WRONG]
    assert colours(right) == [WRONG] * 5
    assert [text.get_fontweight() for text in left.get_yticklabels()] == ["bold", *["normal"] * 4]


def test_every_row_has_its_picture_class_and_path() -> None:
    examples = [replace(example(number), label=f"class {number}") for number in range(6)]
    figure = detections_figure(examples, "pretrained", "scratch", "Detection examples")
    shown = texts(figure)
    assert {"pretrained", "scratch", "Detection examples"} <= set(shown)
    for row, one in zip(panels(figure), examples, strict=True):
        assert np.array_equal(np.asarray(row[0].images[0].get_array()), one.image)
        assert one.label in shown
        assert one.path in shown
    assert any("Blue: the true class. Red: another one." in text for text in shown)


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_nothing_overlaps_or_leaves_the_picture(rows: int) -> None:
    long = "a class with a name of great length and more"
    tops: Sequence[tuple[str, float]] = [(long, 0.9), *RIVER[1:]]
    examples = [replace(example(number), label=long, left=tops, right=tops) for number in range(rows)]
    figure = detections_figure(examples, "first " * 20, "second " * 20, "title " * 40)
    boxes = [text.get_window_extent() for text in figure.texts]
    for picture, *charts in panels(figure):
        boxes.append(picture.get_window_extent())
        for axes in charts:
            boxes += [bar.get_window_extent() for bar in axes.containers[1]]
            boxes += [text.get_window_extent() for text in (*axes.texts, *axes.get_yticklabels())]
    assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])
    everything = Bbox.union(boxes)
    assert min(everything.min) >= 0
    assert max(everything.max - figure.get_size_inches() * figure.dpi) <= 0


def test_long_paths_keep_their_file_name() -> None:
    figure = detections_figure([replace(example(), path=f"{'folder/' * 30}river07.jpg")], "", "", "")
    assert "…/river07.jpg" in texts(figure)


def test_fewer_classes_leave_room_and_more_than_five_are_cut() -> None:
    many = [(f"class {number}", 0.1) for number in range(9)]
    figure = detections_figure(
        [replace(example(), left=RIVER[:2], right=many), replace(example(), left=())], "", "", ""
    )
    (_, left, right), (_, empty, _) = panels(figure)
    assert lengths(left) == [0.62, 0.2]
    assert names(right) == [f"class {number}" for number in range(5)]
    assert names(empty) == []
    assert left.get_ylim() == right.get_ylim() == empty.get_ylim()


@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (1, 500), (500, 1), (7, 9)])
def test_pictures_of_any_size_keep_their_shape(tmp_path: Path, height: int, width: int) -> None:
    figure = detections_figure([example(height=height, width=width)], "", "", "")
    save_figure(figure, tmp_path / "a.png")
    box = figure.axes[0].get_window_extent()
    assert max(box.width, box.height) == pytest.approx(SIDE * DPI)
    if min(height, width) > 1:
        assert box.width / box.height == pytest.approx(width / height, rel=0.01)
    assert max(np.asarray(figure.axes[0].images[0].get_array()).shape) <= 2 * SIDE * DPI + 1


@pytest.mark.parametrize(
    "name", ["$x$", r"$\frac{1}$", "two\nlines", "森" * 40, "🌲", "W" * 300, "\x1b[31m", " ", "_a^b%"]
)
def test_any_text_is_drawn_as_it_is(tmp_path: Path, name: str) -> None:
    odd = replace(example(), path=name, label=name, left=[(name, 0.8), ("other", 0.2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = detections_figure([odd], name, name, name)
        path = save_figure(figure, tmp_path / "a.png")
    ((_, left, _),) = panels(figure)
    assert colours(left)[0] == RIGHT
    shown = names(left)[0]
    assert shown.isprintable()
    assert shown == name or not name.isprintable() or (shown.endswith("…") and name.startswith(shown[:-1]))
    with Image.open(path) as picture:
        assert picture.width < 1500


def test_a_picture_is_drawn_anew_only_when_its_examples_changed(tmp_path: Path) -> None:
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    assert draw_detections([example()], "a", "b", "title", path) == path
    drawn = path.stat().st_mtime_ns
    same = replace(example(), left=[(name, np.float64(share)) for name, share in RIVER])
    draw_detections([same], "a", "b", "title", path)
    assert path.stat().st_mtime_ns == drawn
    assert draw_detections([example()], "a", "b", "title", other).read_bytes() == path.read_bytes()
    pixels = example().image.copy()
    pixels[3, 4, 1] ^= 255
    for examples, left, right, title in (
        ([replace(example(), image=pixels)], "a", "b", "title"),
        ([replace(example(), label="beach")], "a", "b", "title"),
        ([replace(example(), right=RIVER)], "a", "b", "title"),
        ([example()], "x", "b", "title"),
        ([example()], "a", "x", "title"),
        ([example()], "a", "b", "x"),
        ([example(), example()], "a", "b", "title"),
    ):
        before = path.read_bytes()
        draw_detections(examples, left, right, title, path)
        assert path.read_bytes() != before


def test_no_examples_are_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no example"):
        draw_detections([], "a", "b", "title", tmp_path / "a.png")


def test_drawing_is_quick(drawn: Path, tmp_path: Path) -> None:
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(drawn.glob("*/*0[01].png"))]
    examples = [replace(example(), image=image) for image in images]
    draw_detections(examples[:1], "a", "b", "", tmp_path / "first.png")  # imports matplotlib
    before = time.process_time()
    draw_detections(examples, "a", "b", "", tmp_path / "second.png")
    assert time.process_time() - before < 1.5

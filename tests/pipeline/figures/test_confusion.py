"""Confusion matrices as pictures: of the right size, for any number of classes and any class names."""

import time
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.figures import CELL, DPI, LARGEST, SMALL_CELL, confusion_figure, draw_confusion, save_figure

# fmt: off
UC_MERCED = [
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest",
    "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass", "parkinglot",
    "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
]
# fmt: on


def confusion(classes: int, images: int = 10) -> npt.NDArray[np.float64]:
    generator = np.random.default_rng(0)
    rows = 0.88 * np.eye(classes) + 0.12 * generator.dirichlet(np.full(classes, 0.1), classes)
    return np.array([generator.multinomial(images, row / row.sum()) for row in rows], dtype=float)


@pytest.mark.parametrize("classes", [1, 2, 21, 70])
def test_pictures_are_as_large_as_their_matrix(tmp_path: Path, classes: int) -> None:
    names = [f"{UC_MERCED[number % 21]} {number}" for number in range(classes)]
    path = draw_confusion(confusion(classes), names, "mlp/seed-0000, test: 187/210 = 0.8905", tmp_path / "a.png")
    side = classes * (CELL if classes <= 60 else SMALL_CELL) * DPI
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert side + 100 < picture.width < side + 520
        assert side + 100 < picture.height < side + 400
        assert len(picture.convert("RGB").getcolors(2**24) or ()) > 20
    assert [child.name for child in tmp_path.iterdir()] == ["a.png"]


def test_very_many_classes_stay_drawable(tmp_path: Path) -> None:
    figure = confusion_figure(np.eye(1000), [str(number) for number in range(1000)], "many")
    assert max(figure.get_size_inches()) < LARGEST + 3
    assert len(figure.axes[0].get_xticklabels()) == 250


def test_what_is_right_is_blue_and_what_is_wrong_is_red() -> None:
    figure = confusion_figure(np.array([[5.0, 5.0], [0.0, 10.0]]), ["a", "b"], "")
    pixels = np.asarray(figure.axes[0].images[0].get_array())
    red, blue = pixels[..., 0], pixels[..., 2]
    assert blue[0, 0] > red[0, 0]
    assert blue[1, 1] > red[1, 1]
    assert red[0, 1] > blue[0, 1]
    assert pixels[1, 0].tolist() == [1, 1, 1]
    assert pixels[1, 1].sum() < pixels[0, 0].sum()  # the larger the share, the darker


def test_numbers_are_counts_with_the_recall_beside(tmp_path: Path) -> None:
    figure = confusion_figure(np.array([[7.5, 2.5, 0], [0, 1, 0], [0, 0, 0]]), ["a", "b", "c"], "")
    assert [text.get_text() for text in figure.axes[0].texts] == ["7.5", "2.5", "1", "75%", "100%", "recall"]


@pytest.mark.parametrize(
    "name",
    [
        "$x$",
        r"$\frac{1}$",
        "a,b\"c'",
        "two\nlines",
        "tab\t",
        "森",
        "Ärger",
        "🌲",
        "x" * 300,
        "<b>",
        "_a^b%",
        "\x1b[31m",
        " ",
    ],
)
def test_any_class_name_and_title_is_drawn_as_it_is(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = confusion_figure(np.eye(2), [name, "other"], f"{name}, {name}")
        path = save_figure(figure, tmp_path / "a.png")
    shown = figure.axes[0].get_yticklabels()[0].get_text()
    assert len(shown) <= 30
    assert shown.isprintable()
    assert shown == name or not name.isprintable() or len(name) > 30
    with Image.open(path) as picture:
        assert picture.width < 2000


def test_a_picture_is_drawn_anew_only_when_its_figures_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    draw_confusion(np.eye(2), ["a", "b"], "title", path)
    drawn = path.stat().st_mtime_ns
    draw_confusion(np.eye(2), ["a", "b"], "title", path)
    assert path.stat().st_mtime_ns == drawn
    for changed in (
        (np.ones((2, 2)), ["a", "b"], "title"),
        (np.eye(2), ["a", "c"], "title"),
        (np.eye(2), ["a", "b"], "x"),
    ):
        before = path.read_bytes()
        draw_confusion(*changed, path)
        assert path.read_bytes() != before
    path.write_bytes(b"not a picture")
    draw_confusion(np.eye(2), ["a", "b"], "title", path)
    with Image.open(path) as picture:
        picture.load()


def test_drawing_is_quick(tmp_path: Path) -> None:
    title = "mlp, test, 10 seeds: mean accuracy 0.8905"
    draw_confusion(confusion(2), ["a", "b"], title, tmp_path / "first.png")  # imports matplotlib
    before = time.process_time()
    draw_confusion(confusion(21), UC_MERCED, title, tmp_path / "second.png")
    assert time.process_time() - before < 1.5

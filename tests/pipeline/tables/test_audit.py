"""What an audit says in a terminal: the headline in plain words, whole figures, and nothing that a terminal obeys."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.audit import Audit
from pipeline.doubt import Audited, DoubtfulLabel
from pipeline.near_duplicates import NearDuplicate
from pipeline.tables.audit import show_audit


def pair(number: int, part: str = "test") -> NearDuplicate:
    first, second = Audited(f"beach/{number}.png", "beach", "train"), Audited(f"forest/{number}.png", "forest", part)
    return NearDuplicate(first, second, 0.8125, 0.875, False, part != "train", True)


def doubt(number: int) -> DoubtfulLabel:
    return DoubtfulLabel(Audited(f"river/{number}.png", "river", "val"), "harbor", 0.0625, 0.9375)


RESULT = Audit(
    cache=Path("cache"),
    images=300,
    classes=4,
    split="paper",
    similarity=0.8,
    pairs=(pair(0), pair(1, "train")),
    tested=50,
    leaked=1,
    doubtful=(doubt(0),),
    accuracy=0.955,
    folder=None,
    notes=("something to know",),
    seconds=1.0,
)


def said(result: Audit, width: int = 160) -> str:
    file = io.StringIO()
    show_audit(result, Console(file=file, width=width))
    return file.getvalue()


def test_the_headline_says_what_may_be_owed_to_memory() -> None:
    text = said(RESULT)
    assert "1 of 50 test images has a near-duplicate in train" in text
    assert "up to 2.0 points of an accuracy may be owed to memory; no result was changed" in text
    assert (
        "2 near-duplicate pairs among 300 images, 1 of them across parts of the split, 2 with different labels" in text
    )
    assert "1 label may be wrong; out of sample, 95.5 % of all labels" in text
    assert "note: something to know" in text


def test_where_to_see_them_is_told() -> None:
    assert "to see them as pictures, and all of them in tables, add --out DIR" in said(RESULT)
    assert "pictures and tables: seen" in said(replace(RESULT, folder=Path("seen")))


def test_nothing_found_is_said_too() -> None:
    text = said(replace(RESULT, pairs=(), doubtful=(), leaked=0, notes=()))
    assert "no test image of 50 has a near-duplicate in train" in text
    assert "0 near-duplicate pairs" in text
    assert "--out" not in text
    assert "no label was judged" in said(replace(RESULT, doubtful=(), accuracy=None))
    assert "no test part" in said(replace(RESULT, tested=0, leaked=0))


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_narrow_terminal_gets_fewer_columns_but_whole_figures(width: int) -> None:
    text = said(RESULT, width)
    assert "…" not in text
    assert "0.875" in text
    assert ("train / test" in text) == (width >= 60)
    assert ("cosine" in text) == (width > 100)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_long_names_go_on_below_before_figures_are_left_out(width: int) -> None:
    label, suggested = "a_very_long_name_of_a_class_" * 3, "another_very_long_name_of_a_class_" * 3
    one = DoubtfulLabel(Audited(f"{label}/1.png", label, "unused"), suggested, 0.0625, 0.9375)
    text = said(replace(RESULT, pairs=(), doubtful=(one,)), width)
    assert all(len(line) <= width for line in text.splitlines() if line.startswith(("│", "┃")))
    table = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    image, own, other = ("".join(cell.strip() for cell in column) for column in list(zip(*table, strict=True))[:3])
    assert (image, own, other) == (f"{label}/1.png", label, suggested)
    for figure, least in (("0.062", 60), ("0.938", 80), ("unused", 80)):
        assert (figure in text) == (width >= least)


def test_what_is_not_shown_is_not_explained() -> None:
    both, own = "own, other: probability of the image's own label and", "own: probability of the image's own label\n"
    assert [(both in said(RESULT, width), own in said(RESULT, width)) for width in (40, 45, 80)] == [
        (False, False),
        (False, True),
        (True, False),
    ]


def test_fifteen_of_each_are_shown() -> None:
    text = said(replace(RESULT, pairs=tuple(map(pair, range(40))), doubtful=tuple(map(doubt, range(16)))))
    assert "near-duplicates: the first 15 of 40" in text
    assert "doubtful labels: the first 15 of 16" in text
    assert "beach/14.png" in text
    assert "beach/15.png" not in text
    assert "river/15.png" not in text


def test_names_are_shown_as_they_are() -> None:
    image = Audited("a/\x1b[2J[bold]x.png", "[red]a\u202e", "test")
    text = said(
        replace(RESULT, pairs=(replace(RESULT.pairs[0], first=image),), doubtful=(DoubtfulLabel(image, "b", 0, 1),))
    )
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"a/\x1b[2J[bold]x.png" in text
    assert r"[red]a\u202e" in text

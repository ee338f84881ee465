"""Texts in pictures: cut to the room they have, and never more than needed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.figures.canvas import new_figure
from pipeline.figures.lettering import fitted, line_width, one_line, wrapped

TEXTS = st.text(max_size=80) | st.sampled_from(["W" * 500, "i" * 500, "$x$", "森林" * 30, "a " * 200])


@settings(max_examples=50)
@given(text=TEXTS, inches=st.floats(0.3, 6))
def test_a_fitted_text_fits_and_is_the_text_if_that_fits(text: str, inches: float) -> None:
    figure = new_figure()
    shown = fitted(figure, text, inches, 8)
    assert shown.isprintable()
    assert line_width(figure, shown, 8) <= inches
    if text.isprintable() and line_width(figure, text, 8) <= inches:
        assert shown == text or len(text) > 300
    else:
        assert shown.endswith("…") or not text.isprintable()


def test_what_is_cut_fills_the_room() -> None:
    figure = new_figure()
    shown = fitted(figure, "n" * 200, 2, 8)
    assert line_width(figure, shown.replace("…", "n…"), 8) > 2
    assert set(shown) == {"n", "…"}


def test_either_end_may_stay() -> None:
    figure = new_figure()
    text = "".join(f"{number} " for number in range(100))
    assert text.startswith(fitted(figure, text, 2, 8)[:-1])
    assert text.endswith(fitted(figure, text, 2, 8, keep="end")[1:])
    start, end = fitted(figure, text, 2, 8, keep="both").split("…")
    assert text.startswith(start)
    assert text.endswith(end)
    assert abs(len(start) - len(end)) <= 2


def test_resolution_does_not_matter() -> None:
    texts = [fitted(new_figure(dpi), "resolution " * 9, 2, 9) for dpi in (110, 130, 300)]
    assert max(map(len, texts)) - min(map(len, texts)) <= 2


@settings(max_examples=50)
@given(text=TEXTS, inches=st.floats(1, 9), weight=st.sampled_from(["normal", "bold"]))
def test_wrapped_lines_fit_and_hold_all_words(text: str, inches: float, weight: str) -> None:
    figure = new_figure()
    lines = wrapped(figure, text, inches, 10, weight)
    assert lines
    assert all(line_width(figure, line, 10, weight) <= inches for line in lines)
    assert "".join("".join(lines).split()) == "".join(one_line(text, 400).split())


@pytest.mark.parametrize(("text", "shown"), [("a" * 30, "a" * 30), ("a" * 31, f"{'a' * 29}…"), ("a\nb", r"a\nb")])
def test_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown

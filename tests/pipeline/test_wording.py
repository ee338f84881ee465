"""Counts and figures as people read them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.comparison import Pair
from pipeline.metrics import spread
from pipeline.wording import (
    amount_text,
    counted,
    detectable_text,
    ends_text,
    interval_text,
    p_text,
    points_text,
    span_text,
    spread_text,
    standing,
)
from tests.pipeline.pairs import made_pair

SHARES = st.floats(-1, 1)


def test_counts_and_figures() -> None:
    assert [counted(count, "run") for count in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert spread_text(spread([0.5])) == "0.5000"
    assert spread_text(spread([0.5, 0.7])) == "0.6000 ± 0.1414"
    assert interval_text((0.8704, 0.93)) == "0.870 to 0.930"
    assert points_text((0.091, 0.0104, -1e-9)) == "9.1 points (95 %: 1.0 to 0.0)"


@given(SHARES, SHARES)
@example(-0.0, 0.0)
@example(-0.0004, 0.0004)
@example(-0.3, -1e-17)
def test_differences_are_in_points(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ends = ends_text("accuracy", low, high)
    assert [float(end) for end in ends.split(" to ")] == pytest.approx([100 * low, 100 * high], abs=0.051)
    assert float(amount_text("accuracy", one).removesuffix(" points")) == pytest.approx(100 * one, abs=0.051)
    assert "-0.0" not in ends.split(" to ") + amount_text("accuracy", one).split()


def test_losses_are_as_they_are() -> None:
    assert amount_text("log_loss", 0.0341) == "0.034"
    assert ends_text("log_loss", -0.0, 0.05) == "0.000 to 0.050"
    assert detectable_text("log_loss", 0.5) == "0.500"
    assert detectable_text("accuracy", None) == "none"


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (0.24, "0.24"),
        (0.031, "0.03"),
        (0.0041, "0.004"),
        (0.0009, "< 0.001"),
        (1.0, "1.00"),
        (0.0504, "0.05"),
        (0.0496, "0.0496"),
        (0.0468, "0.047"),
        (0.04996, "0.04996"),
        (0.0532, "0.05"),
    ],
)
def test_p_values_show_on_which_side_of_the_level_they_lie(p: float, said: str) -> None:
    assert p_text(p) == said


def test_counts_that_differ_are_a_span() -> None:
    assert (span_text((3, 3)), span_text((3, 1, 2))) == ("3", "1 to 3")


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (
            made_pair((0.021, 0.01, 0.03)),
            "a is 2.1 points behind b (95 %: 1.0 to 3.0; p = 0.001; 1 image): more than noise",
        ),
        (
            made_pair((0.0004, -0.0004, 0.01)),
            "a is level with b (95 %: 0.0 to 1.0; p = 0.60; 1 image): within noise",
        ),
        (
            made_pair((0.021, 0.01, 0.03), 0.03, adjusted=0.09, tests=6),
            "a is 2.1 points behind b (95 %: 1.0 to 3.0; p = 0.09 among 6 pairs; 1 image): within noise, once "
            "corrected for so many",
        ),
    ],
)
def test_a_standing_is_a_sentence(pair: Pair, said: str) -> None:
    assert standing("a", "b", pair, 1) == said

"""Counts and figures as people read them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.metrics import spread
from pipeline.wording import counted, distance_text, interval_text, points_text, spread_text, standing

SHARES = st.floats(-1, 1)


def test_counts_and_figures() -> None:
    assert [counted(count, "run") for count in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert spread_text(spread([0.5])) == "0.5000"
    assert spread_text(spread([0.5, 0.7])) == "0.6000 ± 0.1414"
    assert interval_text((0.8704, 0.93)) == "0.870 to 0.930"
    assert points_text((0.091, 0.0104, -1e-9)) == "9.1 points (95 %: 1.0 to 0.0)"


@given(SHARES, SHARES, SHARES)
@example(-0.0, 0.0, 0.0)
@example(-0.0004, -0.0004, 0.0004)
@example(-0.15, -0.3, -1e-17)  # what a bootstrap makes of an interval that ends at 0
def test_distances_are_in_points_and_noise_is_what_may_be_none(difference: float, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    points, interval, meaning = distance_text((difference, low, high))
    assert float(points) == pytest.approx(-100 * difference, abs=0.051)
    ends = [float(end) for end in interval.split(" to ")]
    assert ends == pytest.approx([-100 * high, -100 * low], abs=0.051)
    assert (meaning == "within noise") == (ends[0] <= 0 <= ends[1])
    if abs(low) > 0.0005 and abs(high) > 0.0005:
        assert (meaning == "within noise") == (low <= 0 <= high)
    assert "-0.0" not in f"{points} {interval} "


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        ((-0.021, -0.03, -0.01), "a is 2.1 points behind b (95 %: 1.0 to 3.0; 1 image): more than noise"),
        ((-0.0004, -0.01, 0.0004), "a is level with b (95 %: 0.0 to 1.0; 1 image): within noise"),
    ],
)
def test_a_standing_is_a_sentence(behind: tuple[float, float, float], said: str) -> None:
    assert standing("a", "b", behind, 1) == said

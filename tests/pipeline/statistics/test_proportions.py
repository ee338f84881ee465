"""Shares against reference implementations and published figures."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from pipeline.statistics import paired_proportions, proportion
from pipeline.statistics.proportions import power

Correct = npt.NDArray[np.bool_]


@settings(deadline=None)
@given(images=st.integers(1, 5000), part=st.floats(0, 1))
def test_the_interval_of_a_share_is_wilsons(images: int, part: float) -> None:
    correct = round(part * images)
    found = proportion(correct, images)
    low, high = proportion_confint(correct, images, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.low <= found.value <= found.high


def table(both: int, only: int, other: int, neither: int) -> tuple[Correct, Correct]:
    first = np.repeat([True, True, False, False], (both, only, other, neither))
    return first, np.repeat([True, False, True, False], (both, only, other, neither))


COUNTS = st.integers(0, 60)


@settings(deadline=None)
@given(both=COUNTS, only=COUNTS, other=COUNTS, neither=COUNTS)
def test_one_run_each_is_mcnemars_exact_test(both: int, only: int, other: int, neither: int) -> None:
    if both + only + other + neither == 0:
        return
    first, second = table(both, only, other, neither)
    found = paired_proportions(first, second)
    reference = mcnemar([[both, only], [other, neither]], exact=True)
    assert found.p == pytest.approx(min(reference.pvalue, 1))
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.clear == (not found.low <= 0 <= found.high)
    turned, back = paired_proportions(second, first), found.turned()
    assert (*turned.triple, turned.p) == pytest.approx((*back.triple, back.p))
    assert turned.detectable(3) == pytest.approx(found.detectable(3))


# Three tables of Newcombe's Table II, with his limits of method 10.
@pytest.mark.parametrize(
    ("counts", "limits"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((54, 0, 0, 0), (-0.0664, 0.0664)),
        ((0, 30, 0, 0), (0.8395, 1.0)),
    ],
)
def test_newcombes_own_figures(counts: tuple[int, int, int, int], limits: tuple[float, float]) -> None:
    found = paired_proportions(*table(*counts))
    assert (found.low, found.high) == pytest.approx(limits, abs=6e-5)


def test_an_interval_reaches_to_0_where_the_test_sees_nothing() -> None:
    found = paired_proportions(*table(14, 16, 6, 14))
    assert 0.05 < found.p < 0.06
    assert found.low == 0  # Newcombe's own would begin at 0.018


@pytest.mark.parametrize("counts", [(9743, 6, 0, 251), (9743, 0, 6, 251), (994978, 8, 1, 5013)])
def test_of_very_many_images_test_and_interval_say_the_same(counts: tuple[int, int, int, int]) -> None:
    found = paired_proportions(*table(*counts))
    assert found.clear
    assert not found.low <= 0 <= found.high


@pytest.mark.parametrize(("level", "one", "other"), [(0.05, 0.08, 0.02), (0.05, 0.05, 0.0), (0.01, 0.3, 0.2)])
def test_power_is_how_often_the_test_sees_it(level: float, one: float, other: float) -> None:
    generator, images, rounds = np.random.default_rng(0), 120, 4000
    drawn = generator.multinomial(images, [one, other, 1 - one - other], rounds)
    seen = [bool(a + b) and binomtest(int(a), int(a + b)).pvalue < level for a, b, _ in drawn]
    assert power(images, one, other, level) == pytest.approx(np.mean(seen), abs=0.02)


@pytest.mark.parametrize("counts", [(200, 3, 1, 6), (150, 20, 15, 25), (210, 0, 0, 0)])
@pytest.mark.parametrize("tests", [1, 6])
def test_what_is_detectable_is_detected_four_times_in_five(counts: tuple[int, int, int, int], tests: int) -> None:
    found = paired_proportions(*table(*counts))
    needed, fewer = found.detectable(tests), min(counts[1:3]) / 210
    assert needed is not None
    assert power(210, fewer + needed, fewer, 0.05 / tests) == pytest.approx(0.8, abs=0.005)


def test_of_few_images_none_is_enough() -> None:
    assert paired_proportions(*table(5, 0, 0, 0)).detectable() is None  # five of five: p = 0.06
    assert paired_proportions(*table(20, 0, 0, 0)).detectable() == pytest.approx(0.38, abs=0.02)  # six are needed

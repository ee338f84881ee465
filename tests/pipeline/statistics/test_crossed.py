"""Runs on the same images: how often the test is wrong where the truth is known, and how its parts are made."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.false_alarms import easiness, named
from pipeline.difference import accuracy_difference, accuracy_of
from pipeline.statistics import crossed, crossed_difference, crossed_mean, proportion

Correct = npt.NDArray[np.bool_]


def share(outcomes: npt.NDArray[np.generic], counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    weighted: npt.NDArray[np.float64] = counts @ outcomes.T / counts.sum(1, keepdims=True)
    return weighted


@pytest.mark.parametrize(
    ("seeds", "own", "training", "images"),
    [
        ((1, 1), 0.5, 0.0, 210),
        ((2, 2), 0.5, 0.15, 210),
        ((3, 3), 1.5, 0.0, 210),
        ((3, 3), 0.5, 0.1, 12),
        ((10, 10), 0.5, 0.15, 210),
        ((10, 3), 0.2, 0.4, 210),
        ((1, 10), 0.5, 0.15, 210),
        ((3, 1), 0.2, 0.4, 210),
    ],
)
def test_at_most_one_difference_in_twenty_is_seen_where_there_is_none(
    seeds: tuple[int, int], own: float, training: float, images: int
) -> None:
    generator = np.random.default_rng(0)
    rounds, seen = 1000, 0
    for _ in range(rounds):
        easy = easiness(generator, images)
        first, second = (named(generator, easy, count, own, training) for count in seeds)
        seen += accuracy_difference(first, second).clear
    assert seen / rounds <= 0.055
    assert seen / rounds > (0.005 if images > 100 else 0)  # a test that never sees anything would pass above


def test_ten_seeds_see_what_one_does_not() -> None:
    generator, seen = np.random.default_rng(0), {1: 0, 10: 0}
    for _ in range(200):
        easy = easiness(generator, 210)
        for seeds in seen:
            better, worse = named(generator, easy + 0.245, seeds, 0.5, 0.0), named(generator, easy, seeds, 0.5, 0.0)
            seen[seeds] += accuracy_difference(better, worse).clear  # three points, in truth
    assert seen[10] / 200 > 0.55 > 0.25 > seen[1] / 200 > 0.08


def test_no_test_on_few_images_says_more_than_that_all_speak_for_one() -> None:
    for images in range(1, 12):
        right, wrong = np.ones((2, images), bool), np.zeros((2, images), bool)
        for first, second in ((right, wrong), (right[:1], wrong)):
            found = accuracy_difference(first, second)
            assert found.p >= 2 * 0.5**images - 1e-12
            assert found.clear == (not found.low <= 0 <= found.high)
    four = np.arange(20) < 4
    assert accuracy_difference(np.stack([four, four]), np.zeros((2, 20), bool)).p == pytest.approx(0.125)
    few = accuracy_difference(np.ones((2, 5), bool), np.zeros((2, 5), bool))
    assert few.detectable() is None  # five images never give a p-value below 0.06
    losses = np.array([[3.0]]), np.array([[1.0]])
    assert crossed_difference(*losses, bounded=False).p == 1


def test_a_single_run_is_taken_to_vary_as_those_it_is_compared_with() -> None:
    generator = np.random.default_rng(3)
    easy = easiness(generator, 210)
    several, single = named(generator, easy, 10, 0.2, 0.4), named(generator, easy, 1, 0.2, 0.4)
    fixed = crossed_difference(single, several, seeded=(False, True))
    drawn = crossed_difference(single, several, seeded=(True, True))
    assert drawn.error**2 - fixed.error**2 == pytest.approx(several.mean(1).var(ddof=1), rel=0.4)
    assert drawn.p > fixed.p


def test_a_mean_needs_no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossed, "DRAWS", 40_000)
    generator = np.random.default_rng(4)
    easy = easiness(generator, 60)
    sides = named(generator, easy, 3, 0.5, 0.3), named(generator, easy, 5, 0.5, 0.3)
    known, drawn = crossed_difference(*sides), crossed_difference(*sides, share)
    assert known.value == pytest.approx(drawn.value)
    assert known.error == pytest.approx(drawn.error, rel=0.02)
    assert known.freedom == pytest.approx(drawn.freedom, rel=0.05)
    one, other = crossed_mean(sides[1]), crossed_mean(sides[1], share)
    assert one.triple == pytest.approx(other.triple, abs=0.003)


def test_a_difference_that_is_detectable_is_detected_four_times_in_five() -> None:
    generator = np.random.default_rng(1)
    gap, seen, detectable = 0.42, 0, []
    truth = []
    for _ in range(150):
        images = easiness(generator, 210)
        first, second = named(generator, images + gap, 5, 0.5, 0.1), named(generator, images, 5, 0.5, 0.1)
        found = accuracy_difference(first, second)
        seen += found.clear
        detectable.append(found.detectable() or 1.0)
        truth.append(found.value)
    expected = np.mean(truth) / np.mean(detectable)
    assert 0.85 < expected < 1.2  # the gap is about what is detectable
    assert 0.7 < seen / 150 < 0.95


@pytest.mark.parametrize(("runs", "images"), [(1, 210), (1, 60), (4, 120)])
def test_95_percent_are_about_95_percent(runs: int, images: int) -> None:
    generator = np.random.default_rng(3)
    held = 0
    truth = float(np.mean(named(generator, easiness(generator, 10**6), 1, 0.5, 0.0)))
    for _ in range(300):
        found = accuracy_of(named(generator, easiness(generator, images), runs, 0.5, 0.0))
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 300 <= 0.985


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), runs=st.integers(1, 4), images=st.integers(2, 80))
def test_an_interval_holds_its_mean_whatever_the_order(seed: int, runs: int, images: int) -> None:
    generator = np.random.default_rng(seed)
    correct = named(generator, easiness(generator, images), runs, 0.5, 0.1)
    found = accuracy_of(correct)
    assert 0 <= found.low <= found.value <= found.high <= 1
    turned = accuracy_of(correct[:, generator.permutation(images)])
    assert turned.triple == pytest.approx(found.triple)
    wrong = accuracy_of(~correct)
    assert (1 - wrong.high, 1 - wrong.low) == pytest.approx((found.low, found.high), abs=0.02)


def test_one_run_of_many_is_as_one_run_alone() -> None:
    correct = np.arange(1000)[None] < 900
    resampled, exact = crossed_mean(correct, share), proportion(900, 1000)
    assert (resampled.low, resampled.high) == pytest.approx((exact.low, exact.high), abs=0.002)


def test_where_all_is_right_the_interval_is_no_point() -> None:
    for shape in ((1, 6), (5, 6)):
        found = accuracy_of(np.ones(shape, dtype=bool))
        assert found.high == 1
        assert found.low < 0.7
    same = accuracy_difference(np.ones((3, 50), dtype=bool), np.ones((3, 50), dtype=bool))
    assert same.p == 1
    assert same.low < -0.02 < 0.02 < same.high


def test_more_images_narrow_a_difference_and_noisy_seeds_widen_it() -> None:
    generator = np.random.default_rng(0)

    def width(images: int, training: float) -> float:
        ease = easiness(generator, images)
        one, other = (named(generator, ease, 6, 0.5, training) for _ in range(2))
        found = accuracy_difference(one, other)
        return found.high - found.low

    assert width(3200, 0.0) < width(800, 0.0) < width(200, 0.0)
    assert width(800, 0.6) > 1.5 * width(800, 0.0)


def test_what_is_hard_for_both_cancels_out() -> None:
    generator = np.random.default_rng(1)
    ease = easiness(generator, 300)
    first, second = (named(generator, ease, 5, 0.0, 0.0) for _ in range(2))
    apart, alone = accuracy_difference(first, second), accuracy_of(first)
    assert apart.high - apart.low < alone.high - alone.low


def test_a_difference_is_the_same_from_both_sides() -> None:
    generator = np.random.default_rng(2)
    ease = easiness(generator, 150)
    first, second = named(generator, ease, 3, 0.5, 0.1), named(generator, ease + 0.3, 4, 0.5, 0.1)
    one, other = crossed_difference(first, second, share), crossed_difference(second, first, share)
    assert one.value == pytest.approx(-other.value)
    assert one.error == pytest.approx(other.error, rel=0.05)
    assert one.p == pytest.approx(other.p, abs=0.02)

"""Intervals and tests against reference implementations, and how often they are wrong where the truth is known."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from benchmarks.false_alarms import easiness, named
from pipeline import statistics
from pipeline.difference import accuracy_difference, accuracy_of, share
from pipeline.statistics import (
    components,
    corrected_resampled,
    difference_of,
    holm,
    mean_of,
    paired_proportions,
    proportion,
)

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
    turned = paired_proportions(second, first)
    assert (turned.value, turned.low, turned.high, turned.p) == pytest.approx(
        (-found.value, -found.high, -found.low, found.p)
    )


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


@settings(deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holms_correction(values: list[float]) -> None:
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist())


def test_without_an_overlap_the_corrected_test_is_the_plain_one() -> None:
    figures = [0.01, 0.03, -0.01, 0.02, 0.025]
    found, plain = corrected_resampled(figures, train=10**12, test=1), ttest_1samp(figures, 0)
    assert found.p == pytest.approx(plain.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(plain.confidence_interval(0.95)))
    overlapping = corrected_resampled(figures, train=1680, test=210)
    assert overlapping.error == pytest.approx(found.error * math.sqrt(1 + 5 * 210 / 1680))
    assert overlapping.p > found.p


def test_equal_figures_on_every_split_are_no_difference() -> None:
    assert corrected_resampled([0.0, 0.0, 0.0], 80, 10).p == 1
    assert corrected_resampled([0.1, 0.1, 0.1], 80, 10).p < 1e-9


@pytest.mark.parametrize(
    ("seeds", "own", "training"),
    [((1, 1), 0.5, 0.0), ((2, 2), 0.5, 0.15), ((3, 3), 1.5, 0.0), ((10, 10), 0.5, 0.15), ((10, 3), 0.2, 0.4)],
)
def test_at_most_one_difference_in_twenty_is_seen_where_there_is_none(
    seeds: tuple[int, int], own: float, training: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "DRAWS", 800)
    generator = np.random.default_rng(0)
    rounds, seen = 1000, 0
    for _ in range(rounds):
        images = easiness(generator, 210)
        found = accuracy_difference(*(named(generator, images, count, own, training) for count in seeds))
        seen += found.p < 0.05
    print(seen / rounds)
    assert seen / rounds <= 0.055


def test_a_difference_that_is_detectable_is_detected_four_times_in_five() -> None:
    generator = np.random.default_rng(1)
    gap, seen, detectable = 0.42, 0, []
    truth = []
    for _ in range(150):
        images = easiness(generator, 210)
        first, second = named(generator, images + gap, 5, 0.5, 0.1), named(generator, images, 5, 0.5, 0.1)
        found = accuracy_difference(first, second)
        seen += found.p < 0.05
        detectable.append(found.detectable())
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
    resampled, exact = mean_of(correct, share), proportion(900, 1000)
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
        found = accuracy_difference(*(named(generator, ease, 6, 0.5, training) for _ in range(2)))
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
    one, other = difference_of(first, second, share), difference_of(second, first, share)
    assert one.value == pytest.approx(-other.value)
    assert one.error == pytest.approx(other.error, rel=0.05)
    assert one.p == pytest.approx(other.p, abs=0.02)


def test_components_are_those_that_were_drawn() -> None:
    generator = np.random.default_rng(4)
    figures = generator.normal(0.9, 0.03, (400, 1)) + generator.normal(0, 0.01, (400, 10))
    found = components(figures.tolist())
    assert found.splits == pytest.approx(0.03, rel=0.1)
    assert found.seeds == pytest.approx(0.01, rel=0.05)
    assert components([[0.9]]) == statistics.Components(None, None)
    assert components([[0.9], [0.8]]).seeds is None
    alone = components([[0.9, 0.92]])
    assert alone.splits is None
    assert alone.seeds == pytest.approx(np.std([0.9, 0.92], ddof=1))


def test_the_corrected_test_is_honest_where_training_sets_overlap() -> None:
    """Two classifiers of equal worth on splits of one set: the plain t-test sees what is not there, this one not."""
    generator = np.random.default_rng(5)
    plain = corrected = 0
    rounds, images, splits, held = 300, 120, 10, 24
    for _ in range(rounds):
        labels = np.arange(images) % 2
        # Each looks at features of its own, which are drawn alike: neither is better.
        features = generator.normal(0.35 * labels[:, None], 1, (2, images, 8))
        figures = []
        for _ in range(splits):
            order = generator.permutation(images)
            test, train = order[:held], order[held:]
            right = []
            for own in features:
                centres = [own[train][labels[train] == code].mean(0) for code in (0, 1)]
                far = [((own[test] - centre) ** 2).sum(1) for centre in centres]
                right.append(np.mean((far[1] < far[0]) == labels[test]))
            figures.append(float(right[0] - right[1]))
        plain += ttest_1samp(figures, 0).pvalue < 0.05
        corrected += corrected_resampled(figures, images - held, held).p < 0.05
    assert plain / rounds > 0.12
    assert corrected / rounds <= 0.055

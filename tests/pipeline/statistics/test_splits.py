"""Repeated splits: agreement with the plain t-test, and honesty where training parts overlap."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from pipeline.statistics import Components, components, resampled_difference, resampled_mean


def test_without_an_overlap_the_corrected_test_is_the_plain_one() -> None:
    figures = [0.01, 0.03, -0.01, 0.02, 0.025]
    found = resampled_difference(figures, train=10**12, test=1000)
    plain = ttest_1samp(figures, 0)
    assert found.p == pytest.approx(plain.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(plain.confidence_interval(0.95)))
    overlapping = resampled_difference(figures, train=1680, test=210)
    assert overlapping.error == pytest.approx(found.error * math.sqrt(1 + 5 * 210 / 1680))
    assert overlapping.p > found.p


@settings(deadline=None)
@given(figures=st.lists(st.floats(-1, 1), min_size=2, max_size=12), test=st.integers(1, 300))
def test_an_interval_leaves_out_0_just_where_the_test_sees_a_difference(figures: list[float], test: int) -> None:
    found = resampled_difference(figures, 8 * test, test)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.clear == (not found.low <= 0 <= found.high)
    turned = resampled_difference([-one for one in figures], 8 * test, test)
    assert turned.triple == pytest.approx(found.turned().triple)


def test_figures_that_happen_to_be_equal_on_few_splits_are_no_certainty() -> None:
    assert resampled_difference([0.0, 0.0, 0.0], 80, 10).p == 1
    two = resampled_difference([0.05, 0.05], 160, 20)
    assert two.p > 0.4
    assert two.detectable() is not None
    assert resampled_difference([0.3, 0.3], 80, 10).detectable() is None
    assert resampled_difference([0.1] * 10, 1680, 210).p < 1e-6
    perfect = resampled_mean([1.0] * 10, 1680, 210)
    assert (perfect.value, perfect.high) == (1, 1)
    assert 0.99 < perfect.low < 1
    assert resampled_difference([0.7, 0.7], 80, 10, bounded=False).p == 1  # where nothing varies, nothing is known


def test_components_are_those_that_were_drawn() -> None:
    generator = np.random.default_rng(4)
    figures = generator.normal(0.9, 0.03, (400, 1)) + generator.normal(0, 0.01, (400, 10))
    found = components(figures.tolist())
    assert found.splits == pytest.approx(0.03, rel=0.1)
    assert found.seeds == pytest.approx(0.01, rel=0.05)
    assert components([[0.9]]) == Components(None, None)
    assert components([[0.9], [0.8]]).seeds is None
    alone = components([[0.9, 0.92]])
    assert alone.splits is None
    assert alone.seeds == pytest.approx(np.std([0.9, 0.92], ddof=1))


@pytest.mark.filterwarnings("ignore:Precision loss")
@pytest.mark.parametrize(("splits", "held", "plainly"), [(2, 10, 0.05), (3, 24, 0.04), (10, 24, 0.12)])
def test_the_corrected_test_is_honest_where_training_sets_overlap(splits: int, held: int, plainly: float) -> None:
    """Two classifiers of equal worth on splits of one set: the plain t-test sees what is not there, this one not."""
    generator = np.random.default_rng(5)
    plain = corrected = better = 0
    rounds, images = 300, 5 * held
    for _ in range(rounds):
        labels = np.arange(images) % 2
        # Each looks at features of its own, which are drawn alike: neither is better. A third one is.
        features = generator.normal(0.35 * labels[:, None], 1, (3, images, 8))
        features[2] += 0.75 * labels[:, None]
        figures = []
        for _ in range(splits):
            order = generator.permutation(images)
            test, train = order[:held], order[held:]
            right = []
            for own in features:
                centres = [own[train][labels[train] == code].mean(0) for code in (0, 1)]
                far = [((own[test] - centre) ** 2).sum(1) for centre in centres]
                right.append(np.mean((far[1] < far[0]) == labels[test]))
            figures.append(right)
        equal, unequal = ([float(one[other] - one[1]) for one in figures] for other in (0, 2))
        plain += bool(ttest_1samp(equal, 0).pvalue < 0.05)
        corrected += resampled_difference(equal, images - held, held).clear
        better += resampled_difference(unequal, images - held, held).clear
    assert plain / rounds > plainly
    assert corrected / rounds <= 0.055
    if splits == 10:  # of two or three, none can tell
        assert better / rounds > 0.8

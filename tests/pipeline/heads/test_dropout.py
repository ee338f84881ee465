"""The law of the masks: the rate that was asked for, each feature, row and step by itself, from the seed alone."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.heads.dropout import Dropout

RATES = (0.5, 0.25, 0.3, 0.9)  # one random bit a feature, eight, and sixteen


def dropout(rate: float, seed: int = 0) -> Dropout:
    return Dropout(rate, np.random.SeedSequence(seed))


def masks(rate: float, seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    return dropout(rate, seed).keep(int(np.prod(shape))).reshape(shape)


@given(rate=st.floats(0, 0.999), seed=st.integers(0, 2**31), n=st.integers(60_000, 60_100))
@settings(max_examples=40, deadline=None)
def test_the_rate_is_kept_and_the_sum_is_expected_to_stay(rate: float, seed: int, n: int) -> None:
    some = dropout(rate, seed)
    keep = some.keep(n)
    assert keep.shape == (n,)
    assert set(np.unique(keep)) <= {0, 1}
    # Six standard deviations: one false alarm in 500 million. And the rate's own step.
    deviation = (rate * (1 - rate) / n) ** 0.5
    assert abs((1 - keep.mean()) - rate) < 6 * deviation + 2**-16
    assert some.scale * (1 - some.dropped / 2**16) == pytest.approx(1)


@pytest.mark.parametrize("rate", RATES)
def test_features_rows_and_steps_are_dropped_apart_from_each_other(rate: float) -> None:
    steps, rows, features = 200, 8, 512
    some = dropout(rate)
    kept = np.stack([some.keep(rows * features).reshape(rows, features) for _ in range(steps)])
    deviations = (kept - (1 - rate)) / (rate * (1 - rate)) ** 0.5
    n = kept.size
    for axis in range(3):
        for lag in (1, 2, 7, 8, 16, 32, 64):
            if lag < kept.shape[axis] / 2:
                pairs = (deviations * np.roll(deviations, lag, axis)).mean()
                assert abs(pairs) < 6 / n**0.5  # the mean of n products of two independent deviations
    # Every feature, row and step has its share: 512 + 8 + 200 binomials within 6 deviations.
    for axes in ((0, 1), (0, 2), (1, 2)):
        shares = deviations.mean(axis=axes)
        assert np.abs(shares).max() < 6 / (n / shares.size) ** 0.5
        assert shares.std() > 0.7 / (n / shares.size) ** 0.5 or shares.size < 20  # drawn, not dealt out


@pytest.mark.parametrize("rate", RATES)
def test_the_seed_alone_decides(rate: float) -> None:
    shape = (3, 1001)
    first = masks(rate, 1, shape)
    np.random.default_rng().random()
    assert np.array_equal(masks(rate, 1, shape), first)
    assert not np.array_equal(masks(rate, 2, shape), first)


@pytest.mark.parametrize("rate", [0.0, 1 - 2**-20])
def test_the_ends_of_the_range(rate: float) -> None:
    keep = masks(rate, 0, (100_000,))
    assert keep.all() if rate == 0 else keep.sum() < 20
    assert np.isfinite(dropout(rate).scale)

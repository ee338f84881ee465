"""Many p-values at once, against a reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from pipeline.statistics import against_best, holm

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@settings(deadline=None, max_examples=25)  # the reference takes its time
@given(values=VALUES)
def test_holms_correction(values: list[float]) -> None:
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist())


@pytest.mark.parametrize("names", [2, 6, 24])
def test_of_equals_one_is_called_worse_than_the_best_at_most_once_in_twenty(names: int) -> None:
    generator, wrong, rounds = np.random.default_rng(1), 0, 10_000
    for _ in range(rounds):
        figures = generator.normal(size=names)
        best = int(figures.argmax())
        values = 2 * norm.sf((figures[best] - np.delete(figures, best)) / np.sqrt(2))
        wrong += min(against_best(values.tolist())) < 0.05
    assert 0.02 < wrong / rounds <= 0.055

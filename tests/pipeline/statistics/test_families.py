"""Many p-values at once, against a reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from pipeline.statistics import against_best, holm

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@settings(deadline=None, max_examples=25)  # the reference takes its time
@given(values=VALUES)
def test_holms_correction(values: list[float]) -> None:
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist())


@given(values=VALUES)
def test_comparisons_with_the_best_count_each_other(values: list[float]) -> None:
    assert against_best(values) == pytest.approx(multipletests(values, method="bonferroni")[1].tolist())


def test_the_truly_best_is_called_worse_at_most_once_in_twenty() -> None:
    """Also where the one that comes out best is not known beforehand, and all are equally good."""
    from scipy.stats import norm

    generator, wrong, rounds, names = np.random.default_rng(0), 0, 4000, 6
    for _ in range(rounds):
        figures = generator.normal(size=names)
        best, truly = int(figures.argmax()), 0
        values = [2 * float(norm.sf(abs(figures[best] - one) / np.sqrt(2))) for one in np.delete(figures, best)]
        adjusted = dict(zip(np.delete(np.arange(names), best).tolist(), against_best(values), strict=True))
        wrong += adjusted.get(truly, 1.0) < 0.05
    assert 0.001 < wrong / rounds <= 0.05

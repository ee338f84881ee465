"""What many tests at once do to their p-values."""

from collections.abc import Sequence

import numpy as np


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values for how many they are: the chance of any false one below a level is then at most that level.

    Args:
        values: p-values of all tests that were done.

    Source: S. Holm, Scandinavian Journal of Statistics 6, 65-70, 1979.
    """
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(values, np.float64)[order] * factors), 1)
    return [float(p) for p in adjusted]


def against_best(values: Sequence[float]) -> list[float]:
    """Adjust p-values of comparisons with whichever came out best.

    Which one that is, the same figures decided: so all pairs count, also those that were not tested.

    Args:
        values: p-values of all but the best.
    """
    pairs = len(values) * (len(values) + 1) // 2
    return [min(pairs * p, 1.0) for p in values]

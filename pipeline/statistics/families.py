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

    Only one claim "this one is not the best" can be false, that about the one which truly is; it is made if any other
    seems better than that one. So it is enough to count the others, although the best was not known beforehand.

    Args:
        values: p-values of all but the best.

    Source: J. C. Hsu, "Simultaneous Confidence Intervals for all Distances from the 'Best'", Annals of Statistics 9,
    1026-1034, 1981.
    """
    return [min(len(values) * p, 1.0) for p in values]

"""Shares of images: one, and two on the same images."""

import math
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.statistics.estimate import LEVEL, POWER, Difference, Estimate, Floats

RARE = 1e-9  # counts of images that are rarer are left out of sums


def proportion(correct: int, images: int) -> Estimate:
    """Return a share with the interval of Wilson, which holds also near 0 and 1.

    Args:
        correct: How many are.
        images: Of how many.

    Source: E. B. Wilson, Journal of the American Statistical Association 22, 209-212, 1927.
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, images).proportion_ci(1 - LEVEL, method="wilson")
    share = correct / images
    return Estimate(share, float(interval.low), float(interval.high), math.sqrt(share * (1 - share) / images))


@dataclass(frozen=True)
class PairedDifference(Difference):
    """The difference of two shares of the same images.

    Attributes:
        images: How many there are.
        fewer: Images that speak for the side for which fewer speak.
    """

    images: int = 0
    fewer: int = 0

    def detectable(self, tests: int = 1) -> float | None:
        """Return the smallest true difference for which the exact test would see it four times in five.

        As many images as here speak for the worse side.

        Args:
            tests: How many p-values are corrected together.
        """
        from scipy.optimize import brentq

        against = self.fewer / self.images

        def lacking(difference: float) -> float:
            return power(self.images, against + difference, against, LEVEL / tests) - POWER

        most = 1 - 2 * against
        return float(brentq(lacking, 0, most, xtol=1e-5)) if lacking(most) > 0 > lacking(0) else None


def paired_proportions(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> PairedDifference:
    """Compare two classifiers on the same images: difference of their accuracies, exact McNemar test.

    The test asks of the images that one of them alone named rightly, whether they fall to both equally. The interval
    is Newcombe's, from the Wilson intervals of both accuracies and their correlation; it reaches to 0 where the test
    sees no difference.

    Args:
        first: (N,) whether it named an image rightly.
        second: (N,) the same of the other, whose accuracy is taken off.

    Source: Q. McNemar, Psychometrika 12, 153-157, 1947; R. G. Newcombe, Statistics in Medicine 17, 2635-2650, 1998,
    method 10, with its correction for continuity.
    """
    from scipy.stats import binomtest

    n = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only, other = int((first & ~second).sum()), int((~first & second).sum())
    p = float(binomtest(only, only + other).pvalue) if only + other else 1.0
    one, two = proportion(both + only, n), proportion(both + other, n)
    marginals = (both + only) * (other + neither) * (both + other) * (only + neither)
    product: float = both * neither - only * other
    product = max(product - n / 2, 0) if product > 0 else product
    phi = product / math.sqrt(marginals) if marginals else 0.0

    def reach(one_side: float, other_side: float) -> float:
        return math.sqrt(max(one_side**2 - 2 * phi * one_side * other_side + other_side**2, 0.0))

    value = (only - other) / n
    low = value - reach(one.value - one.low, two.high - two.value)
    high = value + reach(one.high - one.value, two.value - two.low)
    if p >= LEVEL:
        low, high = min(low, 0.0), max(high, 0.0)
    elif value > 0:  # of very many images, that of the interval may be the more cautious one
        low = max(low, sys.float_info.min)
    else:
        high = min(high, -sys.float_info.min)
    error = math.sqrt(max(only + other - (only - other) ** 2 / n, 1)) / n
    return PairedDifference(value, low, high, error, p=p, images=n, fewer=min(only, other))


def power(images: int, one: float, other: float, level: float) -> float:
    """Return the probability that the exact test sees a difference.

    Args:
        images: How many there are.
        one: Share of them that the first side alone names rightly.
        other: Share of them that the second alone does.
        level: Of the test.
    """
    from scipy.stats import binom

    apart = one + other
    if not apart:
        return 0.0
    least, most = (int(end) for end in binom.ppf((RARE, 1 - RARE), images, apart))
    counts = np.arange(least, most + 1)
    # The most images for the lesser side at which the test still sees a difference; -1 if it never does.
    allowed = binom.ppf(level / 2, counts, 0.5) - 1
    seen: Floats = binom.cdf(allowed, counts, other / apart) + binom.cdf(allowed, counts, one / apart)
    return float((binom.pmf(counts, images, apart) * seen).sum())

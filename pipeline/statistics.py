"""Intervals and tests: which difference of two figures is more than noise, and how large one must be to be seen.

What is tested, why so, and what was measured about it is told in docs/statistics.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

DRAWS = 4000  # bootstrap draws; an interval's ends then move by less than 0.1 points from seed to seed
BLOCK = 2**20  # numbers that one step of the bootstrap holds
LEVEL = 0.05  # of tests; intervals hold the rest
POWER = 0.8  # with which a detectable difference is detected

Floats: TypeAlias = "npt.NDArray[np.float64]"
Measure: TypeAlias = "Callable[[npt.NDArray[Any], Floats], Floats]"
"""Makes figures (D, S) of what S runs did with N images, (S, N), each of which counts so often in a draw, (D, N)."""


@dataclass(frozen=True)
class Estimate:
    """A figure, or the difference of two, and what is known of its noise.

    Attributes:
        value: The figure.
        low: Lower end of its 95 % interval.
        high: Upper end.
        error: Standard error.
        freedom: Degrees of freedom of Student's distribution that it belongs to; None for the normal one.
        p: Two-sided p-value of the hypothesis that it is 0; 1 for what is no difference.
    """

    value: float
    low: float
    high: float
    error: float
    freedom: float | None = None
    p: float = 1.0

    @property
    def triple(self) -> tuple[float, float, float]:
        """The figure and both ends."""
        return self.value, self.low, self.high

    def detectable(self, tests: int = 1) -> float:
        """Return the smallest true difference that would be seen four times in five, with noise as it is here.

        Args:
            tests: How many p-values are corrected together.
        """
        return (_quantile(self.freedom, LEVEL / tests / 2) + _quantile(self.freedom, 1 - POWER)) * self.error


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


def paired_proportions(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Estimate:
    """Compare two classifiers on the same images: difference of their accuracies, exact McNemar test.

    The test asks of the images that one of them alone named rightly, whether they fall to both equally. The interval
    is Newcombe's, from the Wilson intervals of both accuracies and their correlation.

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
    return Estimate(value, low, high, math.sqrt(max(only + other - (only - other) ** 2 / n, 1)) / n, p=p)


def mean_of(outcomes: npt.NDArray[Any], measure: Measure, *, bounded: bool = True, seed: int = 0) -> Estimate:
    """Return the mean figure of several runs on the same images, with its interval over both.

    The interval of a share is Wilson's for as many images as would leave one run with the same error.

    Args:
        outcomes: (S, N): what run s did with image n.
        measure: Makes figures of it.
        bounded: Whether figures lie between 0 and 1.
        seed: Of the draws; see `difference_of`.
    """
    value, error, freedom = _crossed([outcomes], measure, bounded, seed)
    reach = _quantile(freedom, LEVEL / 2)
    if not bounded:
        return Estimate(value, max(value - reach * error, 0.0), value + reach * error, error, freedom)
    images = min(max(value * (1 - value), 0.0) / error**2 or outcomes.shape[1], outcomes.size)
    weight = 1 / (1 + reach**2 / images)
    centre = weight * value + (1 - weight) / 2
    half = reach * weight * math.sqrt(max(value * (1 - value), 0.0) / images + reach**2 / (4 * images**2))
    low, high = (round(end, 12) for end in (centre - half, centre + half))  # that 1 is 1
    return Estimate(value, max(low, 0.0), min(high, 1.0), error, freedom)


def difference_of(
    first: npt.NDArray[Any], second: npt.NDArray[Any], measure: Measure, *, bounded: bool = True, seed: int = 0
) -> Estimate:
    """Compare the mean figures of two sets of runs on the same images.

    Images are drawn anew, with replacement, the same for both sides: what makes an image hard for both cancels out.
    Runs are a sample too; what varies between them adds to the error, once. The test is Student's, with as many degrees
    of freedom as few images and few runs leave.

    Args:
        first: (S, N): what run s did with image n.
        second: (T, N): the same of the other runs, whose mean is taken off.
        measure: Makes figures of it.
        bounded: Whether figures lie between 0 and 1.
        seed: Of the draws.

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, for images; the variance of two crossed
    factors as in B. D. Gallas, "One-shot estimate of MRMC variance: AUC", Academic Radiology 13, 353-362, 2006; F. E.
    Satterthwaite, Biometrics Bulletin 2, 110-114, 1946, for the degrees of freedom.
    """
    from scipy.stats import t

    value, error, freedom = _crossed([first, second], measure, bounded, seed)
    reach = _quantile(freedom, LEVEL / 2) * error
    p = 2 * float(t.sf(abs(value) / error, freedom or math.inf)) if error else float(value == 0)
    return Estimate(value, value - reach, value + reach, error, freedom, p)


def _quantile(freedom: float | None, above: float) -> float:
    from scipy.stats import t

    return float(t.isf(above, freedom or math.inf))


def _crossed(
    sides: Sequence[npt.NDArray[Any]], measure: Measure, bounded: bool, seed: int
) -> tuple[float, float, float | None]:
    """Return a mean figure of one side, or the difference of two, its standard error and its degrees of freedom."""
    n = sides[0].shape[1]
    plain = [measure(side, np.ones((1, n)))[0] for side in sides]
    value = float(plain[0].mean() - (plain[1].mean() if len(plain) > 1 else 0))
    drawn = _drawn(sides, measure, seed)
    images = float(np.subtract(*(some.mean(1) for some in drawn)).var() if len(drawn) > 1 else drawn[0].mean(1).var())
    several = [(figures, some) for figures, some in zip(plain, drawn, strict=True) if len(figures) > 1]
    runs = [float(figures.var(ddof=1)) / len(figures) for figures, _ in several]
    # How runs differ in which images are hard for them is noise of both kinds, and counted in both: once is enough.
    twice = sum(float((some - figures).var(1, ddof=1).mean()) / len(figures) for figures, some in several)
    # An error of less than one image cannot be told from so many.
    variance = max(images + sum(runs) - twice, images, *runs, bounded / n**2)
    # With unequal numbers of runs, the smaller one tells how well noise of training is known: that is the cautious way.
    fewest = min((len(figures) for figures, _ in several), default=2) - 1
    loose = (images**2 / (n - 1) if n > 1 else 0.0) + sum(runs) ** 2 / fewest
    return value, math.sqrt(variance), max(variance**2 / loose, 1.0) if loose else None


def _drawn(sides: Sequence[npt.NDArray[Any]], measure: Measure, seed: int) -> list[Floats]:
    """Draw images anew; return for each side the figure of each run in each draw, (DRAWS, S)."""
    generator = np.random.default_rng(seed)
    # Images that all runs treat alike are one pattern: drawing how often each pattern occurs is drawing images, and
    # neither time nor memory grows with images that are all easy or all hopeless.
    patterns, occurring = np.unique(np.vstack(sides), axis=1, return_counts=True)
    n = int(occurring.sum())
    step = max(1, BLOCK // len(occurring))
    drawn: list[list[Floats]] = [[] for _ in sides]
    for start in range(0, DRAWS, step):
        counts = generator.multinomial(n, occurring / n, min(step, DRAWS - start)).astype(np.float64)
        for some, side in zip(drawn, np.split(patterns, np.cumsum([len(side) for side in sides])[:-1]), strict=True):
            some.append(measure(side, counts))
    return [np.concatenate(some) for some in drawn]


def corrected_resampled(figures: Sequence[float], train: int, test: int) -> Estimate:
    """Return a mean over repeated splits, with the corrected resampled t-test of its being 0.

    Training sets of repeated splits overlap, so that the figures are no independent draws and the plain t-test finds
    differences that are not there. The correction widens the variance by the ratio of test to training images.

    Args:
        figures: (K,) one for each split, such as the difference of two heads.
        train: Training images of a split.
        test: Its test images.

    Source: C. Nadeau, Y. Bengio, "Inference for the Generalization Error", Machine Learning 52, 239-281, 2003.
    """
    from scipy.stats import t

    k = len(figures)
    value = float(np.mean(figures))
    error = math.sqrt((1 / k + test / train) * float(np.var(figures, ddof=1)))
    reach = _quantile(k - 1, LEVEL / 2) * error
    p = 2 * float(t.sf(abs(value) / error, k - 1)) if error else float(value == 0)
    return Estimate(value, value - reach, value + reach, error, k - 1, p)


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values for how many they are: of all that are then below a level, one is likely false at that level.

    Args:
        values: p-values of all tests that were done.

    Source: S. Holm, Scandinavian Journal of Statistics 6, 65-70, 1979.
    """
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(values, np.float64)[order] * factors), 1)
    return [float(p) for p in adjusted]


@dataclass(frozen=True)
class Components:
    """What varies between the figures of one name that was fitted on several splits with several seeds.

    Attributes:
        splits: Standard deviation between splits, once the seeds' part is taken off; None with one split.
        seeds: Standard deviation between seeds on one split; None with one seed each.
    """

    splits: float | None
    seeds: float | None


def components(figures: Sequence[Sequence[float]]) -> Components:
    """Tell noise of the data from noise of training, by a one-way analysis of variance.

    Args:
        figures: K splits, the figures of each one's seeds.
    """
    within = None if min(map(len, figures)) < 2 else float(np.mean([np.var(some, ddof=1) for some in figures]))
    between = None
    if len(figures) > 1:
        noise = (within or 0.0) * float(np.mean([1 / len(some) for some in figures]))
        between = max(float(np.var([np.mean(some) for some in figures], ddof=1)) - noise, 0.0)
    return Components(*(None if variance is None else math.sqrt(variance) for variance in (between, within)))

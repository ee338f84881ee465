"""Figures of several splits of the same images, whose training parts overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.statistics.estimate import LEVEL, Difference, Estimate, quantile, t_test


def resampled_mean(figures: Sequence[float], train: int, test: int, *, bounded: bool = True) -> Estimate:
    """Return a mean over repeated splits with its interval.

    Args:
        figures: (K,) one for each split.
        train: Training images of a split.
        test: Its test images.
        bounded: Whether figures lie between 0 and 1.

    Source: see `resampled_difference`.
    """
    value, error, freedom = _corrected(figures, train, test, bounded)
    reach = quantile(freedom, LEVEL / 2) * error
    return Estimate(value, max(value - reach, 0.0), min(value + reach, 1.0 if bounded else math.inf), error, freedom)


def resampled_difference(figures: Sequence[float], train: int, test: int, *, bounded: bool = True) -> Difference:
    """Return the mean difference of two names over repeated splits, with the corrected resampled t-test.

    Training parts of repeated splits overlap, so that the figures are no independent draws and the plain t-test finds
    differences that are not there. The correction widens the variance by the ratio of test to training images.

    Args:
        figures: (K,) the difference on each split.
        train: Training images of a split.
        test: Its test images.
        bounded: See `Difference`.

    Source: C. Nadeau, Y. Bengio, "Inference for the Generalization Error", Machine Learning 52, 239-281, 2003.
    """
    value, error, freedom = _corrected(figures, train, test, bounded)
    return t_test(value, error, freedom, bounded=bounded)


def _corrected(figures: Sequence[float], train: int, test: int, bounded: bool) -> tuple[float, float, int]:
    k = len(figures)
    # Of few splits, several may come out alike by chance: a deviation of less than one image cannot be told from them.
    variance = max(float(np.var(figures, ddof=1)), bounded / test**2)
    return float(np.mean(figures)), math.sqrt((1 / k + test / train) * variance), k - 1


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

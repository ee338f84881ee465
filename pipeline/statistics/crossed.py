"""Figures of runs on the same images: other images would give others, and so would other seeds.

Images and runs are two crossed factors: every run sees every image. The variance of a mean figure is what images bring
and what runs bring; that other images are hard for other runs stands in both, and is counted once.

Source: B. D. Gallas, "One-shot estimate of MRMC variance: AUC", Academic Radiology 13, 353-362, 2006, for the variance;
F. E. Satterthwaite, Biometrics Bulletin 2, 110-114, 1946, for the degrees of freedom; B. Efron, R. Tibshirani, "An
Introduction to the Bootstrap", 1993, for figures that are no means.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.statistics.estimate import LEVEL, Difference, Estimate, Floats, quantile, t_test

DRAWS = 4000  # bootstrap draws; an interval's ends then move by less than 0.1 points from seed to seed
TRUSTED = 6  # degrees of freedom that the runs of one side must give to be trusted alone
BLOCK = 2**20  # numbers that one step of the bootstrap holds

Measure: TypeAlias = Callable[[npt.NDArray[Any], npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Makes figures (D, S) of what S runs did with N images, (S, N), each of which counts so often in a draw, (D, N)."""


@dataclass(frozen=True)
class _Side:
    """What is known of the runs of one side.

    Attributes:
        figures: (S,) of each run.
        drift: How much the figures of single runs part from one another with other images: a variance.
    """

    figures: Floats
    drift: float

    @property
    def spread(self) -> float:
        """Variance between runs."""
        return float(self.figures.var(ddof=1))

    @property
    def freedom(self) -> int:
        """Degrees of freedom with which the spread is known."""
        return len(self.figures) - 1


def crossed_mean(
    outcomes: npt.NDArray[Any], measure: Measure | None = None, *, bounded: bool = True, seed: int = 0
) -> Estimate:
    """Return the mean figure of several runs on the same images, with its interval over both.

    The interval of a share is Wilson's for as many images as would leave one run with the same error.

    Args:
        outcomes: (S, N): what run s did with image n.
        measure: Makes figures of it; the mean if not given.
        bounded: Whether figures lie between 0 and 1.
        seed: Of the bootstrap's draws, which a mean does not need.
    """
    value, error, freedom = _noise([outcomes], measure, bounded, (True,), seed)
    reach = quantile(freedom, LEVEL / 2)
    if not bounded:
        return Estimate(value, max(value - reach * error, 0.0), value + reach * error, error, freedom)
    images = min(max(value * (1 - value), 0.0) / error**2 or outcomes.shape[1], outcomes.size)
    weight = 1 / (1 + reach**2 / images)
    centre = weight * value + (1 - weight) / 2
    half = reach * weight * math.sqrt(max(value * (1 - value), 0.0) / images + reach**2 / (4 * images**2))
    low, high = (round(end, 12) for end in (centre - half, centre + half))  # that 1 is 1
    return Estimate(value, max(low, 0.0), min(high, 1.0), error, freedom)


def crossed_difference(
    first: npt.NDArray[Any],
    second: npt.NDArray[Any],
    measure: Measure | None = None,
    *,
    bounded: bool = True,
    seeded: tuple[bool, bool] = (True, True),
    seed: int = 0,
) -> Difference:
    """Compare the mean figures of two sets of runs on the same images.

    What makes an image hard for both cancels out. A single run whose seed matters is taken to vary as those do that it
    is compared with. The test is Student's, with as many degrees of freedom as few images and few runs leave; p is
    never below that of the sign test in which all images that tell the sides apart speak for the same one.

    Args:
        first: (S, N): what run s did with image n.
        second: (T, N): the same of the other runs, whose mean is taken off.
        measure: Makes figures of it; the mean if not given.
        bounded: Whether figures lie between 0 and 1.
        seeded: Of each side, whether another seed gives another run.
        seed: Of the bootstrap's draws, which a mean does not need.
    """
    sides = [first, second]
    value, error, freedom = _noise(sides, measure, bounded, seeded, seed)
    if measure is None:
        telling = np.abs(first.mean(0) - second.mean(0)) > np.finfo(np.float32).eps
    else:
        telling = (np.vstack(sides) != first[0]).any(0)
    images, apart = float(first.shape[1]), float(telling.sum())
    return t_test(value, error, freedom, bounded=bounded, telling=apart, images=images)


def _noise(
    sides: Sequence[npt.NDArray[Any]], measure: Measure | None, bounded: bool, seeded: Sequence[bool], seed: int
) -> tuple[float, float, float | None]:
    """Return a mean figure of one side, or the difference of two, its standard error and its degrees of freedom."""
    n = sides[0].shape[1]
    of_images, known = _of_means(sides) if measure is None else _of_draws(sides, measure, seed)
    value = float(known[0].figures.mean() - (known[1].figures.mean() if len(known) > 1 else 0))
    vary: list[tuple[_Side, int]] = []  # whose runs tell how much those of a side vary, and how many runs it has
    for side, matters in zip(known, seeded, strict=True):
        # A single run says nothing of its like: what the other side's runs say is the best that is known of it.
        model = next((one for one in (side, *known) if len(one.figures) > 1), None)
        if model is side or (model is not None and matters):
            vary.append((model, len(side.figures)))
    of_runs = [side.spread / runs for side, runs in vary]
    twice = sum(side.drift / runs for side, runs in vary)
    # An error of less than one image cannot be told from so many.
    variance = max(of_images + sum(of_runs) - twice, of_images, *of_runs, bounded / n**2)
    # With unequal numbers of runs, the smaller one tells how well noise of training is known: that is the cautious way.
    fewest = min((side.freedom for side, _ in vary), default=1)
    loose = (of_images**2 / (n - 1) if n > 1 else 0.0) + sum(of_runs) ** 2 / fewest
    freedom = variance**2 / loose if loose else math.inf
    if len(sides) == 2 and len({id(side) for side, _ in vary}) == 1:
        # Two or three runs may come out alike by chance, which makes both the error and this freedom look good. Where
        # they also speak for the single run of the other side, that counts twice.
        trusted = 2 * fewest // len(vary)
        freedom = min(freedom, trusted) if trusted < TRUSTED else freedom
    return value, math.sqrt(variance), max(min(freedom, n - 1), 1.0)


def _of_means(sides: Sequence[npt.NDArray[Any]]) -> tuple[float, list[_Side]]:
    """Return the variance that images bring, and what is known of each side, for means: no draws are needed."""
    outcomes = [side.astype(np.float64) for side in sides]
    n = outcomes[0].shape[1]

    def of_images(rows: Floats) -> Floats:
        return rows.var(-1, ddof=1) / n if n > 1 else np.zeros(rows.shape[:-1])

    means = [rows.mean(0) for rows in outcomes]
    known = [
        _Side(rows.mean(1), float(of_images(rows - mean).sum()) / max(len(rows) - 1, 1))
        for rows, mean in zip(outcomes, means, strict=True)
    ]
    return float(of_images(means[0] - means[1] if len(means) > 1 else means[0])), known


def _of_draws(sides: Sequence[npt.NDArray[Any]], measure: Measure, seed: int) -> tuple[float, list[_Side]]:
    """Return the same for any figure, by drawing images anew, with replacement, the same for all runs."""
    n = sides[0].shape[1]
    drawn = _drawn(sides, measure, seed)
    unbiased = n / (n - 1) if n > 1 else 1.0
    of_images = np.subtract(*(some.mean(1) for some in drawn)) if len(drawn) > 1 else drawn[0].mean(1)
    known = []
    for side, some in zip(sides, drawn, strict=True):
        figures = measure(side, np.ones((1, n)))[0]
        drift = float((some - figures).var(1, ddof=1).mean()) * unbiased if len(figures) > 1 else 0.0
        known.append(_Side(figures, drift))
    return float(of_images.var()) * unbiased, known


def _drawn(sides: Sequence[npt.NDArray[Any]], measure: Measure, seed: int) -> list[Floats]:
    """Draw images anew; return for each side the figure of each run in each draw, (DRAWS, S)."""
    generator = np.random.default_rng(seed)
    # Images that all runs treat alike are one pattern: drawing how often each pattern occurs is drawing images.
    patterns, occurring = np.unique(np.vstack(sides), axis=1, return_counts=True)
    n = int(occurring.sum())
    step = max(1, BLOCK // len(occurring))
    drawn: list[list[Floats]] = [[] for _ in sides]
    for start in range(0, DRAWS, step):
        counts = generator.multinomial(n, occurring / n, min(step, DRAWS - start)).astype(np.float64)
        for some, side in zip(drawn, np.split(patterns, np.cumsum([len(side) for side in sides])[:-1]), strict=True):
            some.append(measure(side, counts))
    return [np.concatenate(some) for some in drawn]

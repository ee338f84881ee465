"""Figures of names, and differences of two, with the noise that belongs to how they were fitted.

On one split, images and seeds are what another time would be others: a bootstrap over both, or, with one run each, an
exact test on the images. On several splits, the splits are: the corrected resampled t-test.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pipeline.outcomes import Outcome, Trial
from pipeline.statistics import (
    Estimate,
    Floats,
    Measure,
    corrected_resampled,
    difference_of,
    mean_of,
    paired_proportions,
    proportion,
)

RESPLITS = "corrected resampled t-test over splits"
MCNEMAR = "exact McNemar test over images"
BOOTSTRAP = "paired bootstrap over images, with the variance between seeds"
IMAGES_ALONE = "paired bootstrap over images"


def share(outcomes: npt.NDArray[Any], counts: Floats) -> Floats:
    """Return the mean outcome of each run; see `pipeline.statistics.Measure`."""
    weighted: Floats = counts @ outcomes.T / counts.sum(1, keepdims=True)
    return weighted


def accuracy_of(correct: npt.NDArray[np.bool_]) -> Estimate:
    """Return the mean accuracy of S runs that named N images rightly or not, (S, N)."""
    return proportion(int(correct.sum()), correct.size) if len(correct) == 1 else mean_of(correct, share)


def accuracy_difference(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Estimate:
    """Return how much larger the mean accuracy of the first runs is, (S, N) and (T, N) on the same images."""
    if len(first) == len(second) == 1:
        return paired_proportions(first[0], second[0])
    return difference_of(first, second, share)


def figure_of(outcome: Outcome, metric: str) -> Estimate:
    """Return a name's mean figure with its interval.

    Args:
        outcome: What its runs did.
        metric: `accuracy`, `balanced_accuracy`, `macro_f1` or `log_loss`.
    """
    first = outcome.trials[0]
    if len(outcome.trials) > 1:
        found = corrected_resampled([float(np.mean(some)) for some in outcome.figures(metric)], *_sizes(first))
        ends = (found.low, found.high) if metric == "log_loss" else (max(found.low, 0.0), min(found.high, 1.0))
        return replace(found, low=ends[0], high=ends[1], p=1.0)
    if metric == "accuracy":
        return accuracy_of(first.correct)
    return mean_of(*_per_image(first, metric), bounded=metric != "log_loss")


def difference(first: Outcome, second: Outcome, metric: str) -> tuple[Estimate, str]:
    """Return how much larger one name's figure is than another's, and the test that says what of it is noise.

    Both must have been evaluated on the same images, in the same splits.

    Args:
        first: One name.
        second: The other, whose figure is taken off.
        metric: See `figure_of`.
    """
    if len(first.trials) > 1:
        others = {trial.digest: figures for trial, figures in zip(second.trials, second.figures(metric), strict=True)}
        apart = [
            float(np.mean(figures) - np.mean(others[trial.digest]))
            for trial, figures in zip(first.trials, first.figures(metric), strict=True)
        ]
        return corrected_resampled(apart, *_sizes(first.trials[0])), RESPLITS
    (one,), (other,) = first.trials, second.trials
    alone = len(one.runs) == len(other.runs) == 1
    if metric == "accuracy":
        return accuracy_difference(one.correct, other.correct), MCNEMAR if alone else BOOTSTRAP
    (outcomes, measure), (against, _) = _per_image(one, metric), _per_image(other, metric)
    bounded = metric != "log_loss"
    return difference_of(outcomes, against, measure, bounded=bounded), IMAGES_ALONE if alone else BOOTSTRAP


def _sizes(trial: Trial) -> tuple[int, int]:
    return len(trial.runs[0].images["train"]), len(trial.labels)


def _per_image(trial: Trial, metric: str) -> tuple[npt.NDArray[Any], Measure]:
    """Return what each run did with each image, as far as a metric depends on it, and how the metric is made of it."""
    if metric == "log_loss":
        return trial.losses, share
    classes = len(trial.runs[0].classes)
    codes = trial.labels * np.int64(classes) + trial.predicted
    return codes, _by_class(classes, OF_CLASSES[metric])


def _recall(hits: Floats, named: Floats, held: Floats) -> Floats:
    return hits / np.maximum(held, 1)


def _f1(hits: Floats, named: Floats, held: Floats) -> Floats:
    return 2 * hits / np.maximum(named + held, 1)


# Metric -> what it is a mean of over the classes that occur, from (D, C) images that were named so rightly, that were
# named so at all, and that are so.
OF_CLASSES: Mapping[str, Callable[[Floats, Floats, Floats], Floats]] = {"balanced_accuracy": _recall, "macro_f1": _f1}


def _by_class(classes: int, each: Callable[[Floats, Floats, Floats], Floats]) -> Measure:
    def measure(outcomes: npt.NDArray[Any], counts: Floats) -> Floats:
        return np.stack([of_run(codes, counts) for codes in outcomes], axis=1)

    def of_run(codes: npt.NDArray[Any], counts: Floats) -> Floats:
        labels, predicted = np.divmod(codes, classes)
        right = labels == predicted
        hits, named, held = (
            counts[:, kept] @ sparse.csr_array((np.ones(len(ofs)), (np.arange(len(ofs)), ofs)), (len(ofs), classes))
            for kept, ofs in ((right, labels[right]), (slice(None), predicted), (slice(None), labels))
        )
        means: Floats = (each(hits, named, held) * (held > 0)).sum(1) / (held > 0).sum(1)
        return means

    return measure

"""Figures of names, and differences of two, with the noise that belongs to how they were fitted.

On one split, images and seeds are what another time would be others: both are factors of the test, or, with one run
each, an exact test on the images. On several splits, the splits are: the corrected resampled t-test.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pipeline.outcomes import LOSSES, Outcome, Trial
from pipeline.resplits import DRAWN, FEWER
from pipeline.statistics import (
    Difference,
    Estimate,
    Floats,
    Measure,
    crossed_difference,
    crossed_mean,
    paired_proportions,
    proportion,
    resampled_difference,
    resampled_mean,
)

RESPLITS = "corrected resampled t-test over splits"
MCNEMAR = "exact McNemar test over images"
CROSSED = "paired t-test over images and seeds"
IMAGES_ALONE = "paired t-test over images"


def accuracy_of(correct: npt.NDArray[np.bool_]) -> Estimate:
    """Return the mean accuracy of S runs that named N images rightly or not, (S, N)."""
    return proportion(int(correct.sum()), correct.size) if len(correct) == 1 else crossed_mean(correct)


def accuracy_difference(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], seeded: tuple[bool, bool] = (True, True)
) -> Difference:
    """Return how much larger the mean accuracy of the first runs is than that of the second, on the same images.

    Args:
        first: (S, N): whether run s named image n rightly.
        second: (T, N): the same of the other runs.
        seeded: Of each side, whether another seed gives another run.
    """
    if len(first) == len(second) == 1:
        return paired_proportions(first[0], second[0])
    return crossed_difference(first, second, seeded=seeded)


def figure_of(outcome: Outcome, metric: str) -> Estimate:
    """Return a name's mean figure with its interval.

    Args:
        outcome: What its runs did.
        metric: `accuracy`, `balanced_accuracy`, `macro_f1` or `log_loss`.
    """
    first, bounded = outcome.trials[0], metric not in LOSSES
    if len(outcome.trials) > 1:
        means = [float(np.mean(some)) for some in outcome.figures(metric)]
        return resampled_mean(means, _trained(outcome), outcome.images, bounded=bounded)
    if metric == "accuracy":
        return accuracy_of(first.correct)
    return crossed_mean(*_per_image(first, metric), bounded=bounded)


def difference(first: Outcome, second: Outcome, metric: str) -> tuple[Difference, str]:
    """Return how much better one name's figure is than another's, and the test that says what of it is noise.

    Both must have been evaluated on the same images, in the same splits.

    Args:
        first: One name.
        second: The other, whose figure is taken off; or, of a loss, from which the first one's is.
        metric: See `figure_of`.
    """
    bounded = metric not in LOSSES
    found, method = _difference(first, second, metric, bounded)
    return found if bounded else found.turned(), method


def _difference(first: Outcome, second: Outcome, metric: str, bounded: bool) -> tuple[Difference, str]:
    if len(first.trials) > 1:
        others = {trial.digest: figures for trial, figures in zip(second.trials, second.figures(metric), strict=True)}
        apart = [
            float(np.mean(figures) - np.mean(others[trial.digest]))
            for trial, figures in zip(first.trials, first.figures(metric), strict=True)
        ]
        trained = min(_trained(first), _trained(second))
        return resampled_difference(apart, trained, first.images, bounded=bounded), RESPLITS
    (one,), (other,) = first.trials, second.trials
    alone, seeded = len(one.runs) == len(other.runs) == 1, (one.runs[0].seeded, other.runs[0].seeded)
    if metric == "accuracy":
        return accuracy_difference(one.correct, other.correct, seeded), MCNEMAR if alone else CROSSED
    (outcomes, measure), (against, _) = _per_image(one, metric), _per_image(other, metric)
    found = crossed_difference(outcomes, against, measure, bounded=bounded, seeded=seeded)
    return found, IMAGES_ALONE if alone else CROSSED


def _trained(outcome: Outcome) -> int:
    """Return how many images a split could train on; with fewer of each class, parts of two splits overlap less."""
    run = outcome.runs[0]
    few = FEWER.fullmatch(run.split)
    drawn = DRAWN.fullmatch(few["split"]) if few else None
    if drawn is None:
        return len(run.images["train"])
    train, val, test = (float(share) for share in drawn["shares"].split("/"))
    return round((len(run.images["val"]) + len(run.images["test"])) * train / (val + test))


def _per_image(trial: Trial, metric: str) -> tuple[npt.NDArray[Any], Measure | None]:
    """Return what each run did with each image, as far as a metric depends on it, and how the metric is made of it."""
    if metric == "log_loss":
        return trial.losses, None
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

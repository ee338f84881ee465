"""Figures computed from predictions: correct divided by total, never a mean of batch means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS = 4000  # bootstrap draws; the interval's ends then move by less than 0.1 points from seed to seed
BLOCK = 2**20  # numbers that one step of the bootstrap holds


@dataclass(frozen=True)
class Metrics:
    """What one run achieved on one part of the split.

    Attributes:
        images: Images in the part.
        correct: How many of them were named rightly.
        accuracy: correct / images.
        balanced_accuracy: Mean recall over the classes that occur.
        macro_f1: Mean F1 over the classes that occur.
        log_loss: Mean negative natural logarithm of the true class's probability.
        per_class: Class -> precision, recall, f1, support.
        confusion: Counts; rows are true classes, columns predicted ones, in the order of `classes`.
        classes: The run's classes.
    """

    images: int
    correct: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    per_class: Mapping[str, Mapping[str, float]]
    confusion: Sequence[Sequence[int]]
    classes: Sequence[str]


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of one name: mean, standard deviation (None for one seed), smallest, largest."""

    mean: float
    deviation: float | None
    smallest: float
    largest: float


def measure(
    labels: Sequence[str],
    predicted: Sequence[str],
    probabilities: npt.NDArray[np.float64],
    classes: Sequence[str],
) -> Metrics:
    """Compute every metric of one run with scikit-learn.

    Args:
        labels: True class of each image, (N,).
        predicted: Predicted class of each image, (N,).
        probabilities: (N, C), columns in the order of `classes`.
        classes: The run's classes, (C,).
    """
    from sklearn import metrics

    present = sorted(set(labels))
    names = list(classes)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=0.0
    )
    confusion = metrics.confusion_matrix(labels, predicted, labels=names)
    correct = int(np.trace(confusion))
    number = {name: position for position, name in enumerate(names)}
    truth = [number[label] for label in labels]
    return Metrics(
        images=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        # Over the classes that occur: scikit-learn's own would warn about predicted ones that do not.
        balanced_accuracy=float(metrics.recall_score(labels, predicted, labels=present, average="macro")),
        macro_f1=float(metrics.f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0)),
        log_loss=float(metrics.log_loss(truth, probabilities, labels=range(len(names)))),
        per_class={
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(names, precision, recall, f1, support, strict=True)
        },
        confusion=confusion.tolist(),
        classes=names,
    )


def spread(values: Sequence[float]) -> Spread:
    """Summarise a metric over seeds; the deviation is the sample's (n - 1)."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, float(np.min(values)), float(np.max(values)))


def bootstrap_interval(
    correct: npt.NDArray[Any], other: npt.NDArray[Any] | None = None, seed: int = 0
) -> tuple[float, float]:
    """Return a 95 % interval of mean accuracy, or of the difference of two, over both seeds and images.

    Seeds and images are drawn anew, with replacement and independently of each other, so that the interval holds
    what training noise and the choice of test images do to the mean (Owen, "The pigeonhole bootstrap", Annals of
    Applied Statistics 1(2), 2007, for two crossed factors). In a difference both sides get the same images: what
    makes an image hard for both cancels out.

    Args:
        correct: (S, N): whether run s named image n rightly.
        other: (T, N): the same of other runs on the same images, whose mean is taken off.
        seed: Of the draws.

    Returns:
        The 2.5 % and 97.5 % quantiles of the mean.
    """
    generator = np.random.default_rng(seed)
    sides = [correct] if other is None else [correct, other]
    # Images that all runs treat alike are one pattern: drawing how often each pattern occurs is drawing images, and
    # neither time nor memory grows with images that are all easy or all hopeless.
    patterns, occurring = np.unique(np.vstack(sides).astype(np.float64), axis=1, return_counts=True)
    images = int(occurring.sum())
    runs = np.hstack([sign * _draws(generator, len(side)) for sign, side in zip((1, -1), sides, strict=False)])
    means = np.empty(DRAWS)
    step = max(1, BLOCK // len(occurring))
    for start in range(0, DRAWS, step):
        drawn = runs[start : start + step]
        counts = generator.multinomial(images, occurring / images, size=len(drawn))
        means[start : start + step] = np.einsum("dn,dn->d", drawn @ patterns, counts / images)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _draws(generator: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Draw `count` of `count` runs with replacement: (DRAWS, count) shares."""
    shares: npt.NDArray[np.float64] = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
    return shares

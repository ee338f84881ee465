"""Figures computed from predictions: correct divided by total, never a mean of batch means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.calibration import reliability


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
        calibration_error: Expected calibration error, see `pipeline.calibration`.
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
    calibration_error: float
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
    named = np.array([number[name] for name in predicted])
    sure = probabilities[np.arange(len(named)), named]
    return Metrics(
        images=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        # Over the classes that occur: scikit-learn's own would warn about predicted ones that do not.
        balanced_accuracy=float(metrics.recall_score(labels, predicted, labels=present, average="macro")),
        macro_f1=float(metrics.f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0)),
        log_loss=float(metrics.log_loss(truth, probabilities, labels=range(len(names)))),
        calibration_error=reliability(sure, named == np.array(truth)).error,
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

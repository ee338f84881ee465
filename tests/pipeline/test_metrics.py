"""Metrics against scikit-learn's own, and what an interval must obey whatever the data are."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from pipeline.metrics import measure, spread

Correct = npt.NDArray[np.bool_]


def drawn(seed: int, images: int, classes: int) -> tuple[list[str], list[str], npt.NDArray[np.float64], list[str]]:
    """Draw true and predicted classes and probabilities; the last class never occurs."""
    generator = np.random.default_rng(seed)
    names = [f"class {number}" for number in range(classes)]
    labels = [names[number] for number in generator.integers(0, classes - 1, images)]
    probabilities = generator.dirichlet(np.ones(classes), images)
    return labels, [names[number] for number in probabilities.argmax(axis=1)], probabilities, names


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 60), classes=st.integers(2, 6))
def test_metrics_are_scikit_learns(seed: int, images: int, classes: int) -> None:
    labels, predicted, probabilities, names = drawn(seed, images, classes)
    found = measure(labels, predicted, probabilities, names)
    present = sorted(set(labels))
    assert found.images == images
    assert found.correct == sum(one == other for one, other in zip(labels, predicted, strict=True))
    assert found.accuracy == found.correct / images == pytest.approx(reference.accuracy_score(labels, predicted))
    recall = reference.recall_score(labels, predicted, labels=present, average="macro")
    assert found.balanced_accuracy == pytest.approx(recall)
    f1 = reference.f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(f1)
    truth = [names.index(label) for label in labels]
    assert found.log_loss == pytest.approx(float(-np.log(probabilities[np.arange(images), truth]).mean()))
    confusion = np.array(found.confusion)
    assert confusion.sum() == images
    assert np.trace(confusion) == found.correct
    for number, name in enumerate(names):
        row = found.per_class[name]
        assert row["support"] == confusion[number].sum() == labels.count(name)
        assert row["recall"] == pytest.approx(confusion[number, number] / max(1, confusion[number].sum()))
        assert row["precision"] == pytest.approx(confusion[number, number] / max(1, confusion[:, number].sum()))
        both = row["precision"] + row["recall"]
        assert row["f1"] == pytest.approx(2 * row["precision"] * row["recall"] / both if both else 0)


def test_a_sure_error_costs_a_finite_loss() -> None:
    found = measure(["a"], ["b"], np.array([[0.0, 1.0]]), ["a", "b"])
    assert found.log_loss == pytest.approx(-math.log(np.finfo(np.float64).eps))


def test_spread() -> None:
    assert spread([0.5]).deviation is None
    found = spread([0.1, 0.2, 0.6])
    assert (found.mean, found.smallest, found.largest) == pytest.approx((0.3, 0.1, 0.6))
    assert found.deviation == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))

"""Metrics against scikit-learn's own, and what an interval must obey whatever the data are."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from pipeline.metrics import bootstrap_interval, measure, spread

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


def world(generator: np.random.Generator, runs: int, images: int) -> tuple[Correct, float]:
    """Draw runs on images of which a few are hard for all of them, as real test sets are; return the true mean too."""
    chances = np.where(generator.random(images) < 0.85, 0.985, 0.25)
    return generator.random((runs, images)) < chances, 0.85 * 0.985 + 0.15 * 0.25


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), runs=st.integers(1, 4), images=st.integers(2, 80))
def test_the_interval_holds_the_mean_and_does_not_depend_on_order(seed: int, runs: int, images: int) -> None:
    generator = np.random.default_rng(seed)
    correct, _ = world(generator, runs, images)
    low, high = bootstrap_interval(correct)
    assert 0 <= low <= correct.mean() <= high <= 1
    assert bootstrap_interval(correct[:, generator.permutation(images)]) == (low, high)
    # Other draws may move an end to a neighbouring value of the mean, and few images have few values.
    near = 0.02 + 1 / images
    assert bootstrap_interval(correct[::-1]) == pytest.approx((low, high), abs=near)
    wrong = bootstrap_interval(~correct)
    assert (1 - wrong[1], 1 - wrong[0]) == pytest.approx((low, high), abs=near)


def test_more_images_narrow_the_interval() -> None:
    generator = np.random.default_rng(0)
    widths = []
    for images in (50, 200, 800, 3200):
        low, high = bootstrap_interval(world(generator, 3, images)[0])
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[1] / widths[3] == pytest.approx(4, rel=0.35)


def test_one_run_gives_the_binomial_width() -> None:
    correct = np.arange(1000)[None] < 900
    low, high = bootstrap_interval(correct)
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(0.9 * 0.1 / 1000), rel=0.05)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (5, 1), (5, 20)])
def test_where_nothing_varies_the_interval_is_a_point(shape: tuple[int, int]) -> None:
    assert bootstrap_interval(np.ones(shape, dtype=bool)) == (1, 1)
    assert bootstrap_interval(np.zeros(shape, dtype=bool)) == (0, 0)
    assert bootstrap_interval(np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)) == (1, 1)


@pytest.mark.parametrize(("runs", "images"), [(1, 210), (1, 60), (4, 120)])
def test_95_percent_are_about_95_percent(runs: int, images: int) -> None:
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        correct, truth = world(generator, runs, images)
        low, high = bootstrap_interval(correct)
        held += low <= truth <= high
    assert 0.90 <= held / 200 <= 0.98


def test_differences() -> None:
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(150):
        # Both sides meet the same hard images, and the second is 3 points worse.
        easy = generator.random(150) < 0.85
        first = generator.random((3, 150)) < np.where(easy, 0.98, 0.2)
        second = generator.random((2, 150)) < np.where(easy, 0.95, 0.17)
        low, high = bootstrap_interval(second, first)
        assert low <= second.mean() - first.mean() <= high
        held += low <= -0.03 <= high
    assert held / 150 >= 0.90
    turned = bootstrap_interval(first, second)
    assert (-turned[1], -turned[0]) == pytest.approx((low, high), abs=0.02)


def test_a_difference_of_twins_is_narrower_than_either() -> None:
    correct, _ = world(np.random.default_rng(1), 1, 300)
    twin = correct.copy()
    twin[0, :3] = ~twin[0, :3]
    low, high = bootstrap_interval(twin, correct)
    alone = bootstrap_interval(correct)
    assert high - low < (alone[1] - alone[0]) / 2


def test_training_noise_widens_a_difference() -> None:
    steady = np.tile(np.arange(200) < 180, (4, 1))
    # The same images on average, but two of the four runs fail where the others do not.
    noisy = steady.copy()
    noisy[:2, 100:140] = False
    other = np.tile(noisy.mean(axis=0) > 0.4, (4, 1))
    low, high = bootstrap_interval(noisy, other)
    assert low < -0.15
    assert high > -0.05

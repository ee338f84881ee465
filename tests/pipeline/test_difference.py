"""Figures from resampled images are those that scikit-learn computes on the same images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from pipeline.difference import CROSSED, IMAGES_ALONE, MCNEMAR, OF_CLASSES, _by_class, difference, figure_of
from pipeline.outcomes import METRICS, Outcome, read_outcomes
from pipeline.progress import SILENT
from pipeline.statistics import paired_proportions, proportion


@pytest.fixture
def outcomes(runs: Path) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in read_outcomes([runs], "test", None, None, SILENT)}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 40), classes=st.integers(2, 5))
def test_balanced_accuracy_and_macro_f1_of_drawn_images(seed: int, images: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    labels, predicted = generator.integers(0, classes, images), generator.integers(0, classes, (2, images))
    counts = generator.multinomial(images, np.full(images, 1 / images), 3).astype(float)
    expected = {
        "balanced_accuracy": lambda truth, named: reference.recall_score(
            truth, named, labels=np.unique(truth), average="macro", zero_division=0
        ),
        "macro_f1": lambda truth, named: reference.f1_score(
            truth, named, labels=np.unique(truth), average="macro", zero_division=0
        ),
    }
    for metric, each in OF_CLASSES.items():
        found = _by_class(classes, each)(labels * classes + predicted, counts)
        for draw, row in zip(counts.astype(int), found, strict=True):
            which = np.repeat(np.arange(images), draw)
            assert row == pytest.approx([expected[metric](labels[which], names[which]) for names in predicted])


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_an_interval_around_its_mean(outcomes: dict[str, Outcome], metric: str) -> None:
    for outcome in outcomes.values():
        found = figure_of(outcome, metric)
        assert found.value == pytest.approx(outcome.mean(metric), abs=1e-6)
        assert found.low <= found.value <= found.high
        assert found.error > 0
    first, second = outcomes["mlp"], outcomes["knn"]
    there, method = difference(first, second, metric)
    back, _ = difference(second, first, metric)
    assert method == CROSSED
    apart = first.mean(metric) - second.mean(metric)
    assert there.value == pytest.approx(-apart if metric == "log_loss" else apart, abs=1e-6)  # how much better it is
    assert there.triple == pytest.approx(back.turned().triple, abs=0.02)
    assert there.low <= there.value <= there.high
    assert there.clear == (not there.low <= 0 <= there.high)


def test_single_runs_are_compared_exactly(outcomes: dict[str, Outcome]) -> None:
    knn, trial = outcomes["knn"], outcomes["mlp"].trials[0]
    single = replace(
        outcomes["mlp"],
        trials=(
            replace(
                trial,
                runs=trial.runs[:1],
                metrics=trial.metrics[:1],
                predicted=trial.predicted[:1],
                losses=trial.losses[:1],
                confidence=trial.confidence[:1],
            ),
        ),
    )
    found, method = difference(single, knn, "accuracy")
    assert method == MCNEMAR
    assert found == paired_proportions(single.trials[0].correct[0], knn.trials[0].correct[0])
    assert difference(single, knn, "macro_f1")[1] == IMAGES_ALONE
    right = knn.trials[0].correct
    assert figure_of(knn, "accuracy") == proportion(int(right.sum()), right.size)

"""Temperatures mend what is too sure or not sure enough, and change no class; bins count every image once."""

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import log_loss

from pipeline.calibration import BINS, at_temperature, fitted_temperature, reliability
from pipeline.errors import HeadError, RunError
from pipeline.evaluation import evaluate
from pipeline.fitting import fit_head
from pipeline.prediction import predict
from pipeline.run import Run
from pipeline.stored_predictions import stored_predictions
from pipeline.tables import show_evaluation, show_fitting

Floats = npt.NDArray[np.float64]


def drawn(seed: int, images: int = 4000, classes: int = 4, sharp: float = 2.0) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Draw probabilities that mean what they say, and true classes by them."""
    generator = np.random.default_rng(seed)
    scores = np.exp(sharp * generator.normal(size=(images, classes)))
    probabilities = scores / scores.sum(1, keepdims=True)
    codes = (probabilities.cumsum(1) < generator.random((images, 1))).sum(1)
    return probabilities, np.minimum(codes, classes - 1)


@pytest.mark.parametrize("heat", [0.3, 0.7, 1.0, 2.5, 6.0])
def test_what_was_sharpened_is_found(heat: float) -> None:
    probabilities, codes = drawn(1)
    spoilt = at_temperature(probabilities, 1 / heat)
    assert fitted_temperature(spoilt, codes) == pytest.approx(heat, rel=0.07)
    mended = at_temperature(spoilt, fitted_temperature(spoilt, codes))
    assert log_loss(codes, mended) <= log_loss(codes, spoilt) + 1e-9
    sure, right = mended.max(1), mended.argmax(1) == codes
    assert reliability(sure, right).error < 0.03


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), heat=st.floats(0.05, 20), other=st.floats(0.05, 20))
def test_scaling_keeps_the_order_and_composes(seed: int, heat: float, other: float) -> None:
    probabilities, _ = drawn(seed, images=20)
    scaled = at_temperature(probabilities, heat)
    np.testing.assert_allclose(scaled.sum(1), 1)
    assert (scaled.argmax(1) == probabilities.argmax(1)).all()
    if heat > 0.5 and other > 0.5:
        np.testing.assert_allclose(
            at_temperature(scaled, other), at_temperature(probabilities, heat * other), rtol=1e-6
        )
    assert at_temperature(probabilities, 1.0) is probabilities


def test_zeros_stay_zeros_and_extremes_are_numbers() -> None:
    votes = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [1e-300, 1e-308, 1.0]])
    for heat in (0.05, 20.0):
        scaled = at_temperature(votes, heat)
        assert np.isfinite(scaled).all()
        assert (scaled[:2][votes[:2] == 0] == 0).all()
    assert 0.05 <= fitted_temperature(votes, np.array([2, 0, 2])) <= 20


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 300))
def test_every_image_is_in_one_bin(seed: int, images: int) -> None:
    generator = np.random.default_rng(seed)
    sure, right = generator.random(images), generator.random(images) < 0.5
    found = reliability(sure, right)
    assert found.images.sum() == images
    assert len(found.images) == BINS
    assert 0 <= found.error <= 1
    expected = 0.0
    for number in range(BINS):
        inside = (sure > number / BINS) & (sure <= (number + 1) / BINS)
        if inside.any():
            expected += abs(sure[inside].mean() - right[inside].mean()) * inside.sum() / images
    assert found.error == pytest.approx(expected)


def test_sure_and_right_is_no_error_sure_and_wrong_is_all() -> None:
    ones = np.ones(10)
    assert reliability(ones, np.ones(10, dtype=bool)).error == 0
    assert reliability(ones, np.zeros(10, dtype=bool)).error == 1


def test_a_calibrated_run_names_the_same_classes_with_other_probabilities(extracted: Path, tmp_path: Path) -> None:
    asked = {"head": "logistic", "split": "40/30/30", "jobs": 1}
    fit_head(extracted, tmp_path, **asked)  # type: ignore[arg-type]
    fitting = fit_head(extracted, tmp_path, name="scaled", calibrate=True, **asked)  # type: ignore[arg-type]
    run, plain = fitting.runs[0], Run.read(tmp_path / "logistic" / "seed-0000")
    assert run.calibrated
    assert run.temperature != 1
    assert (plain.calibrated, plain.temperature) == (False, 1.0)
    result = evaluate(tmp_path)
    one, other = (stored_predictions(each, "test") for each in (plain, run))
    assert one is not None
    assert other is not None
    assert one.predicted == other.predicted
    np.testing.assert_allclose(other.probabilities, at_temperature(one.probabilities, run.temperature), atol=1e-6)
    assert result.runs["logistic/seed-0000"].calibration_error == pytest.approx(
        reliability(one.probabilities.max(1), one.correct).error
    )
    on_val = evaluate(tmp_path, on="val").runs
    assert on_val["scaled/seed-0000"].log_loss <= on_val["logistic/seed-0000"].log_loss
    image = Path(run.image_set) / run.images["test"][0]
    top = dict(predict(run.path, image).images[0].top)
    assert top[other.predicted[0]] == pytest.approx(other.probabilities[0].max(), abs=1e-4)
    file = io.StringIO()
    show_fitting(fitting, Console(file=file, width=200))
    assert "temperatures, fitted on" in file.getvalue()
    show_evaluation(result, Console(file=file, width=200))
    assert f"{result.names[0].metrics['calibration_error'].mean:.4f}" in file.getvalue()


def test_a_temperature_needs_a_validation_part(extracted: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="no validation part, on which a temperature is fitted"):
        fit_head(extracted, tmp_path, head="knn", split="80/0/20", calibrate=True, jobs=1)


def test_calibrated_and_plain_runs_do_not_share_a_name(extracted: Path, runs: Path) -> None:
    with pytest.raises(RunError, match="calibrate is False, asked True"):
        fit_head(extracted, runs, head="knn", split="60/20/20", calibrate=True, jobs=1)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), "1", None])
def test_a_made_up_temperature_is_refused(runs: Path, value: object) -> None:
    path = runs / "knn" / "seed-0000" / "run.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, "temperature": value}), encoding="utf-8")
    with pytest.raises(RunError, match=r"run\.json"):
        Run.read(path.parent)

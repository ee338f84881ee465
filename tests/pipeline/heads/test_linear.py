"""Linear heads: equal to scikit-learn's own on the same problem, with and without the rotation."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from pipeline.heads import HeadValueError
from pipeline.heads.linear import LogisticHead, SquaredHinge, Standardised, SVMHead

Arrays = tuple[NDArray[Any], NDArray[Any]]


def clouds(n: int, d: int, classes: int, seed: int = 0) -> Arrays:
    """Sparse, uneven features, as behind a ReLU, with a constant one among them."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = rng.normal(size=(classes, d))
    X = np.maximum(centres[y] + 1.5 * rng.normal(size=(n, d)), 0) * rng.gamma(1, size=d)
    X[:, 0] = 3.0
    return X.astype(np.float32), np.array([f"class {code}" for code in y])


@parametrize_with_checks([LogisticHead(), SVMHead()])  # type: ignore[untyped-decorator,unused-ignore]
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_accepts_them(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("d", [20, 300])
def test_logistic_is_scikit_learns_with_fewer_and_with_more_features_than_rows(d: int, classes: int) -> None:
    X, y = clouds(80, d, classes)
    direct = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000))
    direct.fit(X[:60].astype(np.float64), y[:60])
    head = LogisticHead(0.1).fit(X[:60], y[:60])
    assert head.coef_.shape == (1 if classes == 2 else classes, d)
    np.testing.assert_allclose(head.predict_proba(X), direct.predict_proba(X.astype(np.float64)), atol=1e-4)
    assert head.C_ == 0.1
    assert head.validation_scores_ == {}


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("d", [20, 300])
def test_svm_is_scikit_learns_linear_svc_at_the_temperature_of_held_out_rows(d: int, classes: int) -> None:
    X, y = clouds(80, d, classes)
    scaler = StandardScaler().fit(X[:60].astype(np.float64))
    rows = scaler.transform(X.astype(np.float64))
    svc = LinearSVC(C=1e-2, tol=1e-8, max_iter=100_000, random_state=0)
    held_out = cross_val_predict(svc, rows[:60], y[:60], cv=5, method="decision_function")
    direct, head = svc.fit(rows[:60], y[:60]), SVMHead(1e-2).fit(X[:60], y[:60])
    assert head.predict(X).tolist() == direct.predict(rows).tolist()

    def probabilities(values: NDArray[Any], temperature: float) -> NDArray[Any]:
        both = np.column_stack((np.zeros(len(values)), values)) if values.ndim == 1 else values
        return np.asarray(softmax(both / temperature, axis=1))

    expected = probabilities(direct.decision_function(rows), head.temperature_)
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=2e-3)
    losses = [log_loss(y[:60], probabilities(held_out, head.temperature_ * factor)) for factor in (0.9, 1.0, 1.1)]
    assert losses[1] < min(losses) + 0.02  # on rows that are all told apart, no temperature is too low: see below


def test_nobody_is_surer_than_so_many_rows_allow() -> None:
    X, y = clouds(60, 300, 3)
    found = SVMHead().fit(X, y).predict_proba(X)
    assert (found.argmax(1) == np.searchsorted(np.unique(y), y)).all()
    assert 0.9 < found.max(1).mean() < 0.999


def test_what_moves_all_classes_alike_moves_no_probability() -> None:
    """Features that share one strong direction, as those of a base with random weights: brightness, say."""
    generator = np.random.default_rng(0)
    y = np.arange(240) % 6
    X = generator.normal(0, 1, (240, 400)) + 2.0 * np.eye(6)[y] @ generator.normal(0, 1, (6, 400))
    X += 40 * generator.standard_t(2, (240, 1)) * generator.normal(1, 0.02, (1, 400))
    head = SVMHead(1e-3).fit(X[:180], y[:180])
    machine = SquaredHinge(1e-3)
    train = Standardised.of(X[:180])
    machine.fit(train.rows, y[:180])
    coef, intercept = train.unrotate(machine.coef_, machine.intercept_)
    named = (X[180:] @ coef.T + intercept).argmax(1)
    assert head.predict(X[180:]).tolist() == named.tolist()
    assert (named == y[180:]).mean() > 0.5
    assert log_loss(y[180:], head.predict_proba(X[180:])) < np.log(6)


def test_the_hinge_solver_finds_a_lower_minimum_than_liblinear() -> None:
    X, y = load_digits(return_X_y=True)
    X, y = StandardScaler().fit_transform(X[:300]), y[:300]

    def objective(coef: NDArray[Any], intercept: NDArray[Any]) -> float:
        short = np.maximum(1 - np.where(y[:, None] == np.arange(10), 1, -1) * (X @ coef.T + intercept), 0)
        return float((coef**2).sum() / 2 + (intercept**2).sum() / 2 + 0.01 * (short**2).sum())

    own = SquaredHinge(0.01).fit(X, y)
    liblinear = LinearSVC(C=0.01, dual=False).fit(X, y)
    ours, theirs = objective(own.coef_, own.intercept_), objective(liblinear.coef_, liblinear.intercept_)
    assert ours <= theirs * (1 + 1e-6)
    np.testing.assert_allclose(own.decision_function(X), liblinear.decision_function(X), atol=1e-2)


@given(n=st.integers(2, 25), d=st.integers(1, 60), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_rotation_keeps_angles_and_comes_back(n: int, d: int, seed: int) -> None:
    X, _ = clouds(n, d, 2, seed)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    train = Standardised.of(X)
    assert train.rows.shape[1] <= max(1, min(n, d))
    np.testing.assert_allclose(train.rows @ train.rows.T, Z @ Z.T, atol=1e-8 * n * d)
    coef = np.random.default_rng(seed).normal(size=(3, train.rows.shape[1]))
    intercept = np.arange(3.0)
    raw_coef, raw_intercept = train.unrotate(coef, intercept)
    np.testing.assert_allclose(X @ raw_coef.T + raw_intercept, train.rows @ coef.T + intercept, atol=1e-6 * n)


def test_the_strength_is_the_one_of_the_lowest_validation_log_loss() -> None:
    X, y = clouds(200, 300, 4)
    strengths = (1e-4, 1e-2, 1.0)
    head = LogisticHead(strengths=strengths[::-1]).fit(X[:100], y[:100], X[100:], y[100:])
    assert tuple(head.validation_scores_) == strengths
    assert min(strengths, key=lambda strength: head.validation_scores_[strength]) == head.C_
    for strength in strengths:
        alone = LogisticHead(strength).fit(X[:100], y[:100])
        expected = log_loss(y[100:], alone.predict_proba(X[100:]))
        assert head.validation_scores_[strength] == pytest.approx(expected, rel=1e-3)
        if strength == head.C_:
            np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-4)


def test_without_validation_the_strength_is_one() -> None:
    X, y = clouds(40, 10, 3)
    assert LogisticHead().fit(X, y).C_ == 1.0


def test_real_digits_are_recognised() -> None:
    X, y = load_digits(return_X_y=True)
    for head in (LogisticHead(), SVMHead(0.1)):
        assert head.fit(X[:1000], y[:1000], X[1000:1400], y[1000:1400]).score(X[1400:], y[1400:]) > 0.88


def test_rows_that_are_all_alike_still_fit() -> None:
    X, y = np.ones((6, 20), np.float32), ["a", "b"] * 3
    for head in (LogisticHead(), SVMHead()):
        np.testing.assert_allclose(head.fit(X, y).predict_proba(X), 0.5, atol=1e-6)


def test_what_cannot_be_fitted_is_explained() -> None:
    X, y = clouds(9, 5, 4)
    with pytest.raises(HeadValueError, match="single image: class 1, class 2, class 3"):
        SVMHead().fit(X[:5], y[:5])
    with pytest.raises(HeadValueError, match="two classes"):
        LogisticHead().fit(X[:1], y[:1])
    with pytest.raises(HeadValueError, match="without a training image: class 3"):
        LogisticHead().fit(X[:3], y[:3], X[3:4], y[3:4])
    with pytest.raises(ValueError, match="inconsistent"):
        LogisticHead().fit(X, y, X, y[:3])

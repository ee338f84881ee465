"""Linear heads on standardised features: logistic regression and a support vector machine.

Both have an L2 penalty, so their weights lie in the span of the training rows. With more features than rows the
problem is therefore rotated, exactly, into as many dimensions as there are rows, solved there, and rotated back.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from pipeline.calibration import fitted_temperature
from pipeline.heads import Allowed, HeadValueError, check_parameters, learn_classes, number, read_validation

# Numbers that one step holds at once in double precision: 32 MB.
CHUNK = 2**22


@dataclass(frozen=True)
class Standardised:
    """Training rows with mean 0 and deviation 1 per feature, rotated into their own span if that is smaller.

    Args:
        X: (N, D) the rows as they came.
        mean: (D,) of the features.
        scale: (D,) deviation of the features, 1 for constant ones.
        rows: (N, R) coordinates of the standardised rows; distances and angles are those in D dimensions.
        rotation: (N, R) which combinations of standardised rows the R axes are; None if nothing was rotated.
    """

    X: NDArray[Any]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    rows: NDArray[np.float64]
    rotation: NDArray[np.float64] | None

    @classmethod
    def of(cls, X: NDArray[Any]) -> Standardised:
        """Standardise rows X (N, D); beyond X itself this holds N * min(N, D) numbers."""
        (n, d), wide = X.shape, X.shape[1] > X.shape[0]
        mean, scale = np.empty(d), np.empty(d)
        rows = np.zeros((n, n if wide else d))
        for block in _blocks(d, n):
            scaler = StandardScaler()
            standard = scaler.fit_transform(X[:, block].astype(np.float64))
            mean[block], scale[block] = scaler.mean_, scaler.scale_
            if wide:
                rows += standard @ standard.T
            else:
                rows[:, block] = standard
        if not wide:
            return cls(X, mean, scale, rows, None)
        squares, axes = np.linalg.eigh(rows)
        real = squares > squares[-1] * n * np.finfo(np.float64).eps
        # Rows that are all alike span nothing; one axis of zeros keeps the solvers going.
        real[-1] = True
        lengths = np.sqrt(np.maximum(squares[real], np.finfo(np.float64).tiny))
        return cls(X, mean, scale, axes[:, real] * lengths, axes[:, real] / lengths)

    def unrotate(
        self, coef: NDArray[np.float64], intercept: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Turn weights (K, R) and intercepts (K,) over `rows` into weights (K, D) and intercepts (K,) over X."""
        if self.rotation is not None:
            mix = coef @ self.rotation.T
            coef = np.empty((len(mix), len(self.mean)))
            for block in _blocks(len(self.mean), len(self.X)):
                coef[:, block] = mix @ ((self.X[:, block] - self.mean[block]) / self.scale[block])
        coef = coef / self.scale
        return coef, intercept - coef @ self.mean


class _LinearHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Weights over the features as they came: `coef_` (K, D) and `intercept_` (K,), with K = 1 for two classes."""

    def _learn(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[np.intp]]:
        check_parameters(self)
        rows, labels = validate_data(self, X, y, dtype=[np.float32, np.float64])
        return rows, learn_classes(self, labels)

    def _read(self, X: ArrayLike) -> NDArray[Any]:
        return np.asarray(validate_data(self, X, dtype=[np.float32, np.float64], reset=False))

    def _scores(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return the decision values (N, K)."""
        return np.concatenate([rows[block] @ self.coef_.T + self.intercept_ for block in _blocks(*rows.shape)])

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of every class (N, C) for features X (N, D)."""
        raise NotImplementedError

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest class (N,) for features X (N, D)."""
        codes = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[codes])


class LogisticHead(_LinearHead):
    """Multinomial logistic regression on standardised features, with an L2 penalty.

    The strength is chosen by the log loss on the validation part, not by accuracy: accuracy is a staircase with many
    ties on a few hundred images, and the log loss also judges the probabilities, which are what a run stores. The
    head is trained on the training part only, whichever strength is chosen.

    Args:
        C: inverse strength of the penalty; None chooses it from `strengths`, or takes 1.0 without a validation part.
        strengths: what to choose from; the smaller one, which is the stronger penalty, wins a tie.

    Attributes:
        classes_: (C,) labels, sorted.
        n_features_in_: D.
        C_: the strength used.
        validation_scores_: log loss on the validation part by strength; empty if there was nothing to choose.
        coef_: weights over the features as they came, (C, D), or (1, D) for two classes.
        intercept_: (C,) or (1,).
    """

    allowed: ClassVar[dict[str, Allowed]] = {
        "C": number(0, least_too=False).or_none("a choice by the validation part"),
        "strengths": Allowed(
            "a sequence of one or more numbers above 0",
            lambda values: (
                isinstance(values, (tuple, list))
                and len(values) > 0
                and all(number(0, least_too=False).test(value) for value in values)
            ),
        ),
    }

    def __init__(
        self, C: float | None = None, *, strengths: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    ) -> None:
        self.C = C
        self.strengths = strengths

    def fit(
        self, X: ArrayLike, y: ArrayLike, X_val: ArrayLike | None = None, y_val: ArrayLike | None = None
    ) -> LogisticHead:
        """Train on features X (N, D) with labels y (N,).

        Args:
            X: features.
            y: labels of any kind.
            X_val: features of the validation part (M, D), which only chooses the strength.
            y_val: their labels (M,).

        Returns:
            The head itself.

        Raises:
            HeadValueError: parameters or data that can't be used.
        """
        rows, codes = self._learn(X, y)
        val = read_validation(self, X_val, y_val, self._read)
        choosing = self.C is None and val is not None
        strengths = sorted(set(self.strengths)) if choosing else [1.0 if self.C is None else self.C]
        # From strong to weak penalty every solution is a good start for the next.
        train = Standardised.of(rows)
        model = LogisticRegression(tol=1e-6, max_iter=10_000, warm_start=True)
        self.validation_scores_: dict[float, float] = {}
        best: tuple[Any, ...] | None = None
        for strength in strengths:
            # OpenMP threads gain nothing on a loss this small, and on busy cores they wait for each other.
            with threadpool_limits(1, user_api="openmp"):
                model.set_params(C=float(strength)).fit(train.rows, codes)
            self.coef_, self.intercept_ = train.unrotate(model.coef_, model.intercept_)
            if choosing and val is not None:
                loss = self._log_loss(*val)
                self.validation_scores_[float(strength)] = loss
                if best is None or loss < best[0]:
                    best = loss, strength, self.coef_, self.intercept_
        if best is not None:
            _, strength, self.coef_, self.intercept_ = best
        self.C_ = float(strength)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of every class (N, C) for features X (N, D)."""
        check_is_fitted(self)
        return np.asarray(softmax(_both(self._scores(self._read(X))), axis=1))

    def _log_loss(self, X: NDArray[Any], codes: NDArray[np.intp]) -> float:
        return float(-log_softmax(_both(self._scores(X)), axis=1)[np.arange(len(codes)), codes].mean())


class SVMHead(_LinearHead):
    """Linear support vector machine, one class against the rest, on standardised features.

    Its probabilities are the softmax of its decision values, divided by a temperature that is fitted to the values
    that cross-validation within the training part gives. So `predict` names the class that the machine itself names.
    With Platt's sigmoids, one a class, it would not: what moves all values of an image alike, such as brightness, moves
    them too.

    Args:
        C: inverse strength of the penalty.

    Attributes:
        classes_: (C,) labels, sorted.
        n_features_in_: D.
        coef_: weights over the features as they came, (C, D), or (1, D) for two classes.
        intercept_: (C,) or (1,).
        temperature_: what decision values are divided by.
    """

    allowed: ClassVar[dict[str, Allowed]] = {"C": number(0, least_too=False)}

    def __init__(self, C: float = 1e-3) -> None:
        self.C = C

    def fit(
        self, X: ArrayLike, y: ArrayLike, X_val: ArrayLike | None = None, y_val: ArrayLike | None = None
    ) -> SVMHead:
        """Train on features X (N, D) with labels y (N,); a validation part is not used.

        Raises:
            HeadValueError: parameters that can't be used, or a class with a single image.
        """
        rows, codes = self._learn(X, y)
        counts = np.bincount(codes)
        if counts.min() < 2:
            alone = ", ".join(map(str, self.classes_[counts < 2]))
            raise HeadValueError(
                "SVMHead needs two training images or more of every class to calibrate its probabilities; "
                f"there is one class or several with a single image: {alone}. Add images, leave the class out, or use "
                "the head 'logistic'."
            )
        train = Standardised.of(rows)
        machine = SquaredHinge(float(self.C))
        folds = StratifiedKFold(min(5, int(counts.min())))
        held_out = cross_val_predict(machine, train.rows, codes, cv=folds, method="decision_function")
        held_out = _both(held_out.reshape(len(codes), -1))
        unit = float(held_out.std()) or 1.0
        self.temperature_ = unit * fitted_temperature(softmax(held_out / unit, axis=1), codes)
        # Where all are told apart, no temperature is too low; that they are so many is what limits how sure one can be.
        surest = (len(codes) + 1) / (len(codes) + 2)
        while softmax(held_out / self.temperature_, axis=1).max(axis=1).mean() > surest:
            self.temperature_ *= 1.05
        machine.fit(train.rows, codes)
        self.coef_, self.intercept_ = train.unrotate(machine.coef_, machine.intercept_)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of every class (N, C) for features X (N, D)."""
        check_is_fitted(self)
        return np.asarray(softmax(_both(self._scores(self._read(X))) / self.temperature_, axis=1))


class SquaredHinge(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """The problem of scikit-learn's LinearSVC, solved for all classes at once with dense matrix products.

    liblinear goes through one class after the other, number by number; with some thousand dense features this is
    about eight times as fast, and needs no random numbers.

    Args:
        C: inverse strength of the penalty, which includes the intercept, as in LinearSVC.
    """

    def __init__(self, C: float = 1.0) -> None:
        self.C = C

    def fit(self, X: NDArray[np.float64], y: NDArray[np.intp]) -> SquaredHinge:
        """Fit to rows X (N, R) of classes y (N,)."""
        self.classes_ = np.unique(y)
        sides = np.where(y[:, None] == self.classes_, 1.0, -1.0)
        sides = sides[:, 1:] if len(self.classes_) == 2 else sides
        rows = np.hstack((X, np.ones((len(X), 1))))

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights = flat.reshape(sides.shape[1], -1)
            short = sides * np.maximum(1 - sides * (rows @ weights.T), 0)
            return flat @ flat / 2 + self.C * (short**2).sum(), (weights - 2 * self.C * short.T @ rows).ravel()

        start = np.zeros(sides.shape[1] * rows.shape[1])
        flattest = 1e-5 * np.abs(objective(start)[1]).max()
        options = {"maxiter": 10_000, "maxfun": 20_000, "gtol": flattest, "ftol": 64 * np.finfo(np.float64).eps}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        if found.status == 1:
            warnings.warn(f"SVMHead: C={self.C:g} did not converge; use a lower C.", ConvergenceWarning, stacklevel=2)
        weights = found.x.reshape(sides.shape[1], -1)
        self.coef_, self.intercept_ = weights[:, :-1], weights[:, -1]
        return self

    def decision_function(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the decision values (N, C), or (N,) for two classes."""
        values = X @ self.coef_.T + self.intercept_
        return np.asarray(values[:, 0] if values.shape[1] == 1 else values)

    def predict(self, X: NDArray[np.float64]) -> NDArray[Any]:
        """Return the class (N,) with the highest decision value."""
        values = self.decision_function(X)
        return np.asarray(self.classes_[(values > 0).astype(int) if values.ndim == 1 else values.argmax(axis=1)])


def _both(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the first of two classes its score, 0, where scikit-learn keeps only the second's."""
    return np.hstack((np.zeros_like(scores), scores)) if scores.shape[1] == 1 else scores


def _blocks(length: int, width: int) -> Iterator[slice]:
    blocks: Iterator[slice] = gen_batches(length, max(1, CHUNK // width))
    return blocks

"""The head that trains nothing: the nearest training images vote."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.heads import Allowed, check_parameters, learn_classes, whole


class KNNHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """The k nearest training rows vote; a class's probability is its share of the votes.

    Features are compared as they are: a StandardScaler makes noise as loud as signal and costs many points.

    Args:
        n_neighbors: k; all rows vote if there are fewer.
        metric: `cosine`, which compares directions, or `euclidean`, which compares lengths too.

    Attributes:
        classes_: (C,) labels, sorted.
        n_features_in_: D.
        features_: (N, D) the training rows, which prediction reads; not a copy if X was float32.
        codes_: (N,) their classes, as indices into `classes_`.
    """

    allowed: ClassVar[dict[str, Allowed]] = {
        "n_neighbors": whole(1),
        "metric": Allowed("'cosine' or 'euclidean'", lambda name: name in ("cosine", "euclidean")),
    }

    def __init__(self, n_neighbors: int = 5, *, metric: str = "cosine") -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric

    def fit(
        self, X: ArrayLike, y: ArrayLike, X_val: ArrayLike | None = None, y_val: ArrayLike | None = None
    ) -> KNNHead:
        """Remember features X (N, D) and labels y (N,); a validation part is not used.

        Raises:
            HeadValueError: parameters that can't be used, or a single class.
        """
        check_parameters(self)
        self.features_, labels = validate_data(self, X, y, dtype=[np.float32, np.float64])
        self.codes_ = learn_classes(self, labels)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return every class's share of the votes (N, C) for features X (N, D)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        k = min(int(self.n_neighbors), len(self.features_))
        with config_context(assume_finite=True):
            index = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=self.metric).fit(self.features_)
            nearest = index.kneighbors(rows, return_distance=False)
        votes = np.zeros((len(rows), len(self.classes_)))
        np.add.at(votes, (np.arange(len(rows))[:, None], self.codes_[nearest]), 1 / k)
        return votes

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class with the most votes (N,) for features X (N, D); the first in order wins a tie."""
        codes = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[codes])

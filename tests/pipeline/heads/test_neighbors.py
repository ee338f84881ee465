"""The head of nearest neighbours."""

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from pipeline.heads import HeadValueError
from pipeline.heads.neighbors import KNNHead


@parametrize_with_checks([KNNHead(), KNNHead(metric="euclidean")])  # type: ignore[untyped-decorator,unused-ignore]
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_accepts_it(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_it_votes_as_scikit_learns_classifier(metric: str) -> None:
    X, y = load_digits(return_X_y=True)
    names = np.array([f"digit {label}" for label in y])
    head = KNNHead(metric=metric).fit(X[:1000], names[:1000])
    direct = KNeighborsClassifier(5, metric=metric, algorithm="brute").fit(X[:1000].astype(np.float32), names[:1000])
    np.testing.assert_allclose(head.predict_proba(X[1000:]), direct.predict_proba(X[1000:].astype(np.float32)))
    assert head.score(X[1000:], names[1000:]) > 0.9


def test_cosine_ignores_the_length_of_a_row() -> None:
    X, y = load_digits(return_X_y=True)
    head = KNNHead().fit(X[:500], y[:500])
    assert np.array_equal(head.predict(X[500:]), head.predict(X[500:] * 64))


def test_fewer_rows_than_neighbours_all_vote() -> None:
    head = KNNHead(n_neighbors=50).fit([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], ["a", "a", "b"])
    np.testing.assert_allclose(head.predict_proba([[0.0, 1.0]]), [[2 / 3, 1 / 3]])


def test_features_are_kept_without_a_copy() -> None:
    X = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    X.flags.writeable = False
    assert np.shares_memory(KNNHead().fit(X, np.arange(10) % 2).features_, X)


def test_a_single_class_is_explained() -> None:
    with pytest.raises(HeadValueError, match="two classes"):
        KNNHead().fit([[1.0], [2.0]], ["a", "a"])

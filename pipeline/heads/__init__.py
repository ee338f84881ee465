"""Heads: classifiers over cached features, each of them a scikit-learn estimator known under one name.

Adding a head means adding one estimator and one line to `HEADS`. This module imports nothing heavy,
so that naming a head costs nothing; `HeadSpec.load` imports the one that is meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pipeline.errors import HeadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BASELINES",
    "COPIES",
    "HEADS",
    "Allowed",
    "Diverged",
    "Head",
    "HeadSpec",
    "HeadValueError",
    "Part",
    "check_parameters",
    "head_parameters",
    "head_spec",
    "learn_classes",
    "make_head",
    "number",
    "read_validation",
    "whole",
]


Part: TypeAlias = "tuple[NDArray[Any], NDArray[np.intp]]"
"""Features (N, D) and, per row, the index of its class (N,)."""


# Copies of its weights that a network holds while it is trained on the CPU, at most: those of the head and of its
# layers, gradients, Adam's two averages, and the best epoch's.
COPIES = 6


class HeadValueError(HeadError, ValueError):
    """A hyper-parameter or data that a head can't be fitted with; a ValueError too, as scikit-learn's contract asks."""


class Diverged(HeadValueError):
    """The training loss of one of several heads is no longer finite.

    Attributes:
        number: Which head it is, from 0 on.
    """

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class Head(Protocol):
    """What every head offers: scikit-learn's classifier with an optional validation part."""

    classes_: NDArray[Any]
    n_features_in_: int

    def fit(self, X: ArrayLike, y: ArrayLike, X_val: ArrayLike | None = None, y_val: ArrayLike | None = None) -> Any:
        """Fit to features X (N, D) and labels y (N,)."""

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Name the likeliest class of every row."""

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give one probability per row and class, columns in the order of `classes_`."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Give the hyper-parameters."""


@dataclass(frozen=True)
class HeadSpec:
    """Where a head is found and what must be known of it before it is imported.

    Args:
        path: `module:Class` of a scikit-learn classifier that has defaults for all its parameters.
        seeded: whether the seed changes the fit; such an estimator has a parameter `random_state`.
        about: one line for lists and help texts.
    """

    path: str
    seeded: bool
    about: str

    def load(self) -> type[Any]:
        """Import the estimator's class."""
        module, _, name = self.path.partition(":")
        loaded: type[Any] = getattr(import_module(module), name)
        return loaded


HEADS: dict[str, HeadSpec] = {
    "mlp": HeadSpec("pipeline.heads.mlp:MLPHead", True, "the paper's head: dropout and four linear layers, Adam"),
    "logistic": HeadSpec("pipeline.heads.linear:LogisticHead", False, "standardised multinomial logistic regression"),
    "svm": HeadSpec("pipeline.heads.linear:SVMHead", False, "standardised linear SVM with calibrated probabilities"),
    "knn": HeadSpec("pipeline.heads.neighbors:KNNHead", False, "votes of the nearest training images"),
}

# The paper's other two models, over pixels instead of features; stages of their own train them.
BASELINES: dict[str, HeadSpec] = {
    "scratch": HeadSpec("pipeline.heads.vgg:VGGNetwork", True, "VGG16 with the paper's head, trained from scratch"),
    "pixel-mlp": HeadSpec("pipeline.heads.mlp:MLPHead", True, "the paper's head and recipe on raw pixels"),
}


def head_spec(name: str) -> HeadSpec:
    """Look a head or a baseline up by name.

    Raises:
        HeadError: the head is unknown.
    """
    try:
        return (HEADS | BASELINES)[name]
    except KeyError:
        raise HeadError(f"There is no head {name!r}{_meant(name, HEADS)}: the heads are {', '.join(HEADS)}.") from None


def make_head(name: str, *, seed: int = 0, **parameters: Any) -> Any:
    """Build an unfitted head from its name.

    Args:
        name: a key of `HEADS`.
        seed: governs all that is random in a seeded head; the others are the same for every seed.
        parameters: hyper-parameters that differ from their defaults.

    Returns:
        The estimator, which has the methods of `Head`.

    Raises:
        HeadError: the head or one of its parameters is unknown.
        HeadValueError: a value, or the seed, has the wrong type or lies outside its range.
    """
    spec = head_spec(name)
    known = head_parameters(name)
    for unknown in parameters.keys() - known.keys():
        hint = "the seed is given as seed" if unknown == "random_state" else f"it has {', '.join(sorted(known))}"
        raise HeadError(f"The head {name!r} has no parameter {unknown!r}{_meant(unknown, known)}: {hint}.")
    if not whole(0).test(seed):
        raise HeadValueError(f"The seed of a head must be {whole(0).words}; it is {seed!r}.")
    head = spec.load()(**parameters, **({"random_state": seed} if spec.seeded else {}))
    check_parameters(head)
    return head


def head_parameters(name: str) -> dict[str, Any]:
    """Give a head's hyper-parameters with their defaults, without the seed.

    Raises:
        HeadError: the head is unknown.
    """
    parameters = signature(head_spec(name).load()).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "random_state"}


@dataclass(frozen=True)
class Allowed:
    """The values that a hyper-parameter may have, in words and as a test."""

    words: str
    test: Callable[[Any], bool]

    def or_none(self, meaning: str) -> Allowed:
        """Allow None as well, which stands for `meaning`."""
        return Allowed(f"{self.words}, or None for {meaning}", lambda value: value is None or self.test(value))


def whole(least: int) -> Allowed:
    """Allow whole numbers from `least` on."""
    return Allowed(
        f"a whole number from {least} on",
        lambda value: not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least,
    )


def number(least: float, below: float = math.inf, *, least_too: bool = True) -> Allowed:
    """Allow finite numbers from `least` (or above it, without `least_too`) to below `below`."""

    def test(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            return False
        return (float(value) > least or (least_too and float(value) == least)) and float(value) < below

    top = "" if below == math.inf else f" and below {below:g}"
    return Allowed(f"a number {'from' if least_too else 'above'} {least:g}{' on' if least_too else ''}{top}", test)


def check_parameters(head: Any) -> None:
    """Compare an estimator's hyper-parameters with the mapping `allowed` of its class, if it has one.

    Raises:
        HeadValueError: a value has the wrong type or lies outside its range.
    """
    allowed: Mapping[str, Allowed] = getattr(type(head), "allowed", {})
    for name, rule in allowed.items():
        value = getattr(head, name)
        if not rule.test(value):
            raise HeadValueError(f"{type(head).__name__}: {name} must be {rule.words}; it is {value!r}.")


def learn_classes(head: Any, y: NDArray[Any]) -> NDArray[np.intp]:
    """Set `classes_` of a head to the sorted labels in y (N,) and return every row's index into them.

    Raises:
        ValueError: y holds no class labels (scikit-learn's check).
        HeadValueError: fewer than two classes.
    """
    import numpy as np
    from sklearn.utils.multiclass import check_classification_targets

    check_classification_targets(y)
    head.classes_, codes = np.unique(y, return_inverse=True)
    if len(head.classes_) < 2:
        raise HeadValueError(
            f"{type(head).__name__} needs images of two classes or more; all {len(y)} training images are of one "
            f"class, {head.classes_[0]}. Use a split whose training part has several."
        )
    return codes.reshape(-1)


def read_validation(
    head: Any, X_val: ArrayLike | None, y_val: ArrayLike | None, read: Callable[[ArrayLike], NDArray[Any]]
) -> Part | None:
    """Check a validation part against a head that has learnt its classes.

    Args:
        head: the head that is being fitted.
        X_val: features (M, D), or None.
        y_val: labels (M,), or None.
        read: checks features as the head's `predict` does.

    Returns:
        Features and indices into `classes_`; None if there is no validation part.

    Raises:
        HeadValueError: only one of the two is given, or a class has no training image, so that no probability can be
            given for it.
    """
    import numpy as np
    from sklearn.utils.validation import check_consistent_length, column_or_1d

    if X_val is None and y_val is None:
        return None
    if X_val is None or y_val is None:
        raise HeadValueError("A validation part is X_val and y_val together; only one of them is given.")
    rows, y = read(X_val), column_or_1d(y_val)
    check_consistent_length(rows, y)
    unseen = np.setdiff1d(y, head.classes_)
    if len(unseen):
        raise HeadValueError(
            f"{type(head).__name__}: the validation part has classes without a training image: "
            f"{', '.join(map(str, unseen))}. Use a split with every class in its training part."
        )
    return rows, np.searchsorted(head.classes_, y)


def _meant(name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, known, n=2)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""

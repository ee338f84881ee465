"""Features as a head reads them: checked and computed with in pieces, never copied whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import assert_all_finite, gen_batches
from sklearn.utils.validation import validate_data
from torch import Tensor

from pipeline.heads import HeadValueError, learn_classes

# Numbers that one step of checking or predicting holds at once: 32 MB in double precision.
CHUNK = 2**22


# scikit-learn looks for NaN in all rows at once, which costs N * D bytes for float16; `_finite` looks in pieces.
AS_THEY_ARE: dict[str, Any] = {"dtype": [np.float32, np.float16], "order": "C", "ensure_all_finite": False}


def read_rows(head: Any, X: ArrayLike) -> NDArray[Any]:
    """Check features (N, D) for a fitted head; float32 and float16 arrays stay where they lie."""
    return _finite(validate_data(head, X, reset=False, **AS_THEY_ARE))


def learn_rows(head: Any, X: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Check features (N, D) and labels (N,), and learn from them what features and classes there are.

    Returns:
        The features and, per row, the index of its class.
    """
    rows, labels = validate_data(head, X, y, **AS_THEY_ARE)
    codes = learn_classes(head, labels)
    return _finite(rows), codes


def stack_views(views: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """Return all views (V * N, D), view by view, of which the rows (N, D) are the first.

    Raises:
        HeadValueError: They have another shape or type, or begin otherwise.
    """
    if views.ndim != 3 or views.shape[1:] != rows.shape or views.dtype not in (np.float32, np.float16):
        raise HeadValueError(
            f"views must be float32 or float16 numbers of shape (V, {rows.shape[0]}, {rows.shape[1]}), V views of "
            f"each row of X; they are {views.dtype} of shape {views.shape}."
        )
    if not len(views) or not all(np.array_equal(views[0][chunk], rows[chunk]) for chunk in chunks(rows)):
        raise HeadValueError("The first of the views must be X itself.")
    return _finite(views.reshape(-1, rows.shape[1]))


def as_tensor(rows: NDArray[Any]) -> Tensor:
    """Return the same memory as a tensor, which nobody writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(rows)


def chunks(rows: NDArray[Any] | Tensor) -> Iterator[slice]:
    """Cut rows into pieces whose memory is bounded."""
    found: Iterator[slice] = gen_batches(len(rows), max(1, CHUNK // rows.shape[1]))
    return found


def _finite(rows: NDArray[Any]) -> NDArray[Any]:
    for chunk in chunks(rows):
        assert_all_finite(rows[chunk], input_name="X")
    # A misaligned array would be copied whole at every step.
    return np.require(rows, requirements=["C", "A"])

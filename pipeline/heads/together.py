"""Fitting heads: what each of them starts with, and how several are trained on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from pipeline.heads import HeadValueError, check_parameters, read_validation
from pipeline.heads.batched import Batched
from pipeline.heads.batches import Batches
from pipeline.heads.course import Figures, Trainer, train
from pipeline.heads.descent import Descent, Pool, Start
from pipeline.heads.rows import as_tensor, chunks, learn_rows, read_rows, stack_views
from pipeline.memory import enough_memory
from pipeline.threads import one_thread

if TYPE_CHECKING:
    from pipeline.heads.mlp import MLPHead


def fit_together(
    heads: Sequence[MLPHead],
    X: ArrayLike,
    y: ArrayLike,
    X_val: ArrayLike | None = None,
    y_val: ArrayLike | None = None,
    on_epoch: Callable[[int, dict[str, Any]], None] | None = None,
    views: NDArray[Any] | None = None,
    threads: int | None = None,
    on_end: Callable[[int], None] | None = None,
) -> None:
    """Fit several heads on the same rows: on a GPU as one model, on the CPU epoch by epoch in turn.

    Args:
        heads: of one device; on a GPU of one `hidden` and `batch_size` too.
        X: features (N, D), see `MLPHead.fit`, as for all that follows.
        y: labels (N,).
        X_val: features of the validation part (M, D).
        y_val: their labels (M,).
        on_epoch: called with a head's number in `heads` and every new entry of its `history_`.
        views: several views of each row (V, N, D).
        threads: how many compute on the CPU.
        on_end: called with a head's number when it is fitted.

    Raises:
        HeadValueError: as `MLPHead.fit` raises it.
    """
    first, before = heads[0], torch.get_num_threads()
    for head in heads:
        check_parameters(head)
    device = torch.device(first.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise HeadValueError(
            f"device={first.device!r}: torch finds {torch.cuda.device_count()} CUDA devices here. Use device='cpu'."
        )
    rows, codes = learn_rows(first, X, y)
    if views is not None:
        rows = stack_views(views, rows)
    val = read_validation(first, X_val, y_val, partial(read_rows, first))
    for head in heads:
        head.n_features_in_, head.classes_ = first.n_features_in_, first.classes_
        if head.patience is not None and val is None:
            raise HeadValueError(f"patience={head.patience} needs a validation part: give X_val and y_val.")
    n = len(codes)
    parts = as_tensor(rows), torch.from_numpy(codes), val and (as_tensor(val[0]), torch.from_numpy(val[1]))
    with enough_memory(first.no_room(n)), one_thread(), Pool(threads or before) as pool:
        starts = [head.begin() for head in heads]
        orders = [Batches(n, len(rows) // n, min(start.size, n), start.generator) for start in starts]
        trainer: Trainer
        if device.type == "cpu":
            trainer = InTurn(starts, orders, *parts, pool)
        else:
            trainer = Batched(starts, orders, *parts, device)
        train(heads, trainer, on_epoch, on_end)


class InTurn:
    """Trains heads on the CPU, an epoch of each in turn; see `Trainer`.

    Args:
        starts: where each head starts.
        orders: each head's batches.
        rows: (V * N, D) features, of float32 or float16.
        codes: (N,) classes.
        val: features (M, D) and classes (M,) of the validation part, or None.
        pool: the threads that compute.
    """

    def __init__(
        self,
        starts: Sequence[Start],
        orders: Sequence[Batches],
        rows: Tensor,
        codes: Tensor,
        val: tuple[Tensor, Tensor] | None,
        pool: Pool,
    ) -> None:
        self.descents = [Descent(start, order.size, pool) for start, order in zip(starts, orders, strict=True)]
        self.orders, self.rows, self.codes, self.val = list(orders), rows, codes, val

    def epoch(self, active: Sequence[int]) -> list[Figures]:
        """Pass once over the rows."""
        found = []
        for number in active:
            order = self.orders[number]
            loss, right = self.descents[number].train(
                ([(self.rows, places)], self.codes[images]) for places, images in order
            )
            found.append(Figures(loss / order.n, right / order.n))
        return found

    def validate(self, active: Sequence[int]) -> list[Figures] | None:
        """Return the figures of the validation part."""
        return self.val and [figures(self.module(number), [self.val]) for number in active]

    def module(self, number: int) -> nn.Sequential:
        """Return a head's network with its weights as they are now."""
        return self.descents[number].module()


def figures(module: nn.Sequential, parts: Iterable[tuple[Tensor, Tensor]]) -> Figures:
    """Return a network's mean loss and accuracy, without dropout, on pieces (M, D) of rows and their classes (M,)."""
    module.eval()
    loss, right, n = 0.0, 0, 0
    with torch.inference_mode():
        for rows, codes in parts:
            for chunk in chunks(rows):
                scores, classes = module(rows[chunk].float()), codes[chunk]
                loss -= float(scores.gather(1, classes[:, None]).double().sum())
                right += int((scores.argmax(1) == classes).sum())
            n += len(codes)
    return Figures(loss / n, right / n)

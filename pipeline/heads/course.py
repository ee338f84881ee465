"""The course of a training: epoch after epoch, for several heads at once, each until its own end."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from torch import nn

from pipeline.heads import Diverged

if TYPE_CHECKING:
    from pipeline.heads.mlp import MLPHead


class Figures(NamedTuple):
    """Mean loss and accuracy on some rows."""

    loss: float
    accuracy: float


class Trainer(Protocol):
    """Trains the networks of several heads, which are known by their numbers from 0 on."""

    def epoch(self, active: Sequence[int]) -> list[Figures]:
        """Pass once over the rows with the heads that still train; return what the passing batches showed."""

    def validate(self, active: Sequence[int]) -> list[Figures] | None:
        """Return the figures of the validation part, without dropout; None if there is none."""

    def module(self, number: int) -> nn.Sequential:
        """Return a head's network with its weights as they are now."""


def train(
    heads: Sequence[MLPHead],
    trainer: Trainer,
    on_epoch: Callable[[int, dict[str, Any]], None] | None = None,
    on_end: Callable[[int], None] | None = None,
) -> None:
    """Run the epochs of all heads side by side, and set all that fitting learns.

    A head that diverges ends alone: the others are trained to their end.

    Args:
        heads: what is fitted; each has its own epochs and patience.
        trainer: trains their networks.
        on_epoch: called with a head's number and every new entry of its `history_`.
        on_end: called with a head's number when it is fitted.

    Raises:
        Diverged: the loss of a head is no longer finite; the first such head, when all others are fitted.
    """
    courses = [_Course(head) for head in heads]
    failed: Diverged | None = None
    active = list(range(len(heads)))
    for epoch in count(1):
        start = perf_counter()
        trained = trainer.epoch(active)
        watched: Sequence[Figures | None] = trainer.validate(active) or [None] * len(active)
        seconds = perf_counter() - start
        for number, passed, seen in zip(active, trained, watched, strict=True):
            course = courses[number]
            if not np.isfinite(passed.loss):
                course.over, failed = True, failed or course.diverged(epoch, passed, number)
                continue
            entry = course.add(epoch, passed, seen, seconds)
            if on_epoch is not None:
                on_epoch(number, dict(entry))
            course.keep(seen, trainer, number)
            if course.over and on_end is not None:
                on_end(number)
        active = [number for number in active if not courses[number].over]
        if not active:
            break
    if failed is not None:
        raise failed


class _Course:
    """One head's epochs so far, and the weights of the best of them where it may stop early."""

    def __init__(self, head: MLPHead) -> None:
        self.head, self.over = head, False
        self.best_loss = np.inf
        self.best: dict[str, Any] | None = None
        head.history_ = []

    def add(self, epoch: int, passed: Figures, seen: Figures | None, seconds: float) -> dict[str, Any]:
        entry = {
            "epoch": epoch,
            "train_loss": passed.loss,
            "train_accuracy": passed.accuracy,
            "val_loss": seen and seen.loss,
            "val_accuracy": seen and seen.accuracy,
            "seconds": seconds,
        }
        self.head.history_.append(entry)
        return entry

    def diverged(self, epoch: int, passed: Figures, number: int) -> Diverged:
        return Diverged(
            f"The training loss is {passed.loss} in epoch {epoch} at lr={self.head.lr:g} and "
            f"random_state={self.head.random_state}: the training diverged. Use a lower lr.",
            number,
        )

    def keep(self, seen: Figures | None, trainer: Trainer, number: int) -> None:
        """Decide whether this epoch is the best one so far, and whether it was the last one."""
        head, epoch = self.head, len(self.head.history_)
        self.over = epoch == int(head.epochs)
        if head.patience is None or seen is None:
            head.best_epoch_ = epoch
        elif self.best is None or seen.loss < self.best_loss:
            head.best_epoch_, self.best_loss = epoch, seen.loss
            self.best = copy.deepcopy(trainer.module(number).state_dict())
        elif epoch - head.best_epoch_ >= head.patience:
            self.over = True
        if self.over:
            head.module_ = trainer.module(number).eval()
            if self.best is not None:
                head.module_.load_state_dict(self.best)
            head.n_epochs_ = epoch

"""The course of several heads: each to its own end, and one that diverges takes none with it."""

from collections.abc import Sequence

import pytest
from torch import nn

from pipeline.heads import Diverged
from pipeline.heads.course import Figures, train
from pipeline.heads.mlp import MLPHead


class Trained:
    """A trainer whose losses are made up: of each head, epoch by epoch."""

    def __init__(self, losses: Sequence[Sequence[float]]) -> None:
        self.losses = [list(some) for some in losses]
        self.shown: list[list[int]] = []

    def epoch(self, active: Sequence[int]) -> list[Figures]:
        self.shown.append(list(active))
        return [Figures(self.losses[number].pop(0), 0.5) for number in active]

    def validate(self, active: Sequence[int]) -> list[Figures] | None:
        return None

    def module(self, number: int) -> nn.Sequential:
        return nn.Sequential()


def test_a_head_that_diverges_ends_alone_and_is_told_of_in_the_end() -> None:
    nan, inf = float("nan"), float("inf")
    heads = [MLPHead(epochs=epochs, lr=lr) for epochs, lr in ((3, 0.1), (3, 0.2), (1, 0.3), (2, 0.4))]
    trainer = Trained([(1, 1, inf), (1, nan), (1,), (1, 1)])
    ended: list[int] = []
    told: list[int] = []
    with pytest.raises(Diverged, match=r"nan in epoch 2 at lr=0\.2") as caught:
        train(heads, trainer, lambda number, entry: told.append(number), ended.append)
    assert caught.value.number == 1
    assert trainer.shown == [[0, 1, 2, 3], [0, 1, 3], [0]]
    assert ended == [2, 3]
    assert told == [0, 1, 2, 3, 0, 3]
    assert [hasattr(head, "module_") for head in heads] == [False, False, True, True]


def test_heads_that_train_end_without_a_word() -> None:
    heads = [MLPHead(epochs=2), MLPHead(epochs=1)]
    trainer = Trained([(1, 1), (1,)])
    train(heads, trainer)
    assert [head.n_epochs_ for head in heads] == [2, 1]

"""Batches: every row once an epoch, in a new order, in one view of it."""

import numpy as np
import pytest
import torch

from pipeline.heads.batches import Batches


def batches(views: int, rows: int, size: int = 16, seed: int = 0) -> Batches:
    return Batches(rows, views, size, torch.Generator().manual_seed(seed))


def epoch(some: Batches) -> tuple[list[int], list[int]]:
    """Return where the rows of an epoch stand, and which they are."""
    places, rows = zip(*[(places.tolist(), rows.tolist()) for places, rows in some], strict=True)
    return [place for batch in places for place in batch], [row for batch in rows for row in batch]


@pytest.mark.parametrize("views", [1, 4])
def test_every_epoch_visits_every_row_once_in_a_new_order(views: int) -> None:
    some = batches(views, 50)
    assert [len(rows) for _, rows in some] == [16, 16, 16, 2]
    epochs = [epoch(some) for _ in range(3)]
    for shown, codes in epochs:
        assert [number % 50 for number in shown] == codes
        assert sorted(codes) == list(range(50))
    assert epochs[0][1] != epochs[1][1] != epochs[2][1]


def test_every_view_of_every_row_is_drawn_about_equally_often() -> None:
    views, rows, epochs = 5, 40, 400
    some = batches(views, rows)
    drawn = np.zeros((views, rows), int)
    for _ in range(epochs):
        shown, _ = epoch(some)
        drawn.reshape(-1)[shown] += 1
    expected = epochs / views
    # Each count is binomial; five standard deviations for 200 of them, and for the sum of a view.
    deviation = (expected * (1 - 1 / views)) ** 0.5
    assert np.abs(drawn - expected).max() < 5 * deviation
    assert np.abs(drawn.sum(axis=1) - rows * expected).max() < 5 * deviation * rows**0.5
    assert drawn.std() > deviation / 2  # drawn, not dealt out in turn


def test_the_rows_of_an_epoch_are_drawn_apart_from_each_other() -> None:
    shown, _ = epoch(batches(3, 90))
    counts = np.bincount(np.array(shown) // 90, minlength=3)
    assert counts.min() > 10


def test_the_seed_alone_decides() -> None:
    one, same, other = (batches(3, 20, 8, seed) for seed in (1, 1, 2))
    torch.rand(3)  # the global generator takes no part
    for _ in range(2):
        first, second, third = (epoch(some) for some in (one, same, other))
        assert first == second != third


def test_with_one_view_nothing_but_the_order_is_drawn() -> None:
    some, generator = batches(1, 30, seed=5), torch.Generator().manual_seed(5)
    for _ in range(2):
        assert epoch(some)[1] == torch.randperm(30, generator=generator).tolist()

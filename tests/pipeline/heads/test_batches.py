"""Batches: every row once an epoch, in one view of it, with features dropped at the rate that was asked for."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.heads.batches import Batches

CPU = torch.device("cpu")


def batches(X: npt.NDArray[Any], rows: int, size: int = 16, dropout: float = 0.0, seed: int = 0) -> Batches:
    generator = torch.Generator()
    generator.manual_seed(seed)
    return Batches(X, np.arange(rows), size, dropout, generator, CPU)


def numbered(views: int, rows: int) -> npt.NDArray[np.float32]:
    """Return (V * N, 1) numbers: row n of view v is v * N + n."""
    return np.arange(views * rows, dtype=np.float32)[:, None]


def epoch(some: Batches) -> tuple[list[int], list[int]]:
    """Return the numbers that an epoch showed and the rows' classes, in their order."""
    shown, codes = zip(*[(inputs.flatten().tolist(), codes.tolist()) for inputs, codes in some], strict=True)
    return [int(number) for batch in shown for number in batch], [code for batch in codes for code in batch]


@given(rate=st.floats(0, 0.95), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_dropout_keeps_its_rate_and_the_expected_sum(rate: float, seed: int) -> None:
    ones, n = np.ones((16, 4001), np.float32), 16 * 4001
    ((inputs, _),) = batches(ones, 16, dropout=rate, seed=seed)
    dropped = float((inputs == 0).double().mean())
    # Six standard deviations, and the rate's own step.
    assert abs(dropped - rate) < 6 * (rate * (1 - rate) / n) ** 0.5 + 2**-16
    kept = inputs[inputs != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - rate)), rtol=1e-3)


@pytest.mark.parametrize("views", [1, 4])
def test_every_epoch_visits_every_row_once_in_a_new_order(views: int) -> None:
    some = batches(numbered(views, 50), 50)
    assert len(some) == 50
    assert [len(codes) for _, codes in some] == [16, 16, 16, 2]
    epochs = [epoch(some) for _ in range(3)]
    for shown, codes in epochs:
        assert [number % 50 for number in shown] == codes
        assert sorted(codes) == list(range(50))
    assert epochs[0][1] != epochs[1][1] != epochs[2][1]


def test_every_view_of_every_row_is_drawn_about_equally_often() -> None:
    views, rows, epochs = 5, 40, 400
    some = batches(numbered(views, rows), rows)
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
    shown, _ = epoch(batches(numbered(3, 90), 90))
    counts = np.bincount(np.array(shown) // 90, minlength=3)
    assert counts.min() > 10


def test_the_seed_alone_decides() -> None:
    X = np.random.default_rng(0).normal(size=(3 * 20, 7)).astype(np.float32)
    one, same, other = (batches(X, 20, 8, 0.5, seed) for seed in (1, 1, 2))
    torch.rand(3)  # the global generator takes no part
    for _ in range(2):
        shown = [[inputs.numpy().tobytes() for inputs, _ in some] for some in (one, same, other)]
        assert shown[0] == shown[1] != shown[2]


def test_with_one_view_nothing_but_the_order_is_drawn() -> None:
    some, generator = batches(numbered(1, 30), 30, seed=5), torch.Generator()
    generator.manual_seed(5)
    torch.randint(2**62, (), generator=generator)  # seeds what is dropped
    for _ in range(2):
        assert epoch(some)[1] == torch.randperm(30, generator=generator).tolist()


def test_half_precision_rows_come_as_the_same_numbers() -> None:
    X = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float16)
    for inputs, codes in batches(X, 10, 4):
        assert inputs.dtype == torch.float32
        assert np.array_equal(inputs.numpy(), X[codes.numpy()].astype(np.float32))

"""Many heads as one model: each of them as if it were alone, and as the written-out step trains it."""

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.heads.batched import Batched, head_bytes
from pipeline.heads.batches import Batches
from pipeline.heads.course import train
from pipeline.heads.mlp import MLPHead, layer_sizes

CPU = torch.device("cpu")
N, D, C = 90, 40, 4


@pytest.fixture(scope="module")
def data() -> tuple[NDArray[np.float32], NDArray[Any]]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, C, N + 30)
    X = rng.normal(size=(N + 30, D)) + 2 * rng.normal(size=(C, D))[y]
    return X.astype(np.float32), y


def together(heads: list[MLPHead], X: NDArray[np.float32], y: NDArray[Any], views: int = 1) -> list[MLPHead]:
    for head in heads:
        head.classes_, head.n_features_in_ = np.arange(C), D
    starts = [head.begin() for head in heads]
    orders = [Batches(N, views, start.size, start.generator) for start in starts]
    val = torch.from_numpy(X[-30:]), torch.from_numpy(y[-30:])
    rows = torch.from_numpy(X[:-30])
    train(heads, Batched(starts, orders, rows, torch.from_numpy(y[:N]), val, CPU))
    return heads


def weights(head: MLPHead) -> dict[str, Tensor]:
    return dict(head.module_.state_dict())


def options() -> list[dict[str, Any]]:
    return [
        {"random_state": 3, "lr": 1e-2},
        {"random_state": 4, "lr": 1e-2, "dropout": 0.2},
        {"random_state": 3, "lr": 3e-3, "dropout": 0.0},
        {"random_state": 9, "lr": 3e-3, "weight_decay": 0.1},
        {"random_state": 9, "lr": 1e-2},
    ]


def test_each_head_is_what_it_would_be_alone(data: Any) -> None:
    many = together([MLPHead(epochs=3, **one) for one in options()], *data)
    for head, one in zip(many, options(), strict=True):
        (alone,) = together([MLPHead(epochs=3, **one)], *data)
        torch.testing.assert_close(weights(head), weights(alone), rtol=1e-4, atol=1e-6)
        assert np.array_equal(head.predict(data[0]), alone.predict(data[0]))
        for mine, theirs in zip(head.history_, alone.history_, strict=True):
            assert {**mine, "seconds": 0} == pytest.approx({**theirs, "seconds": 0}, rel=1e-5)
    assert len({float(weights(head)["inputs.weight"].sum()) for head in many}) == len(many)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("hidden", [None, ()])
def test_without_dropout_it_is_the_step_of_the_processor(data: Any, hidden: Any, weight_decay: float) -> None:
    X, y = data
    asked: dict[str, Any] = {"epochs": 3, "lr": 1e-2, "dropout": 0.0, "weight_decay": weight_decay}
    many = together([MLPHead(hidden, random_state=seed, **asked) for seed in (1, 2)], X, y)
    for seed, head in zip((1, 2), many, strict=True):
        alone = MLPHead(hidden, random_state=seed, **asked).fit(X[:N], y[:N], X[N:], y[N:])
        torch.testing.assert_close(weights(head), weights(alone), rtol=1e-3, atol=1e-5)
        assert np.array_equal(head.predict(X), alone.predict(X))
        for mine, theirs in zip(head.history_, alone.history_, strict=True):
            assert {**mine, "seconds": 0} == pytest.approx({**theirs, "seconds": 0}, rel=1e-4)


def test_views_are_drawn_as_the_processor_draws_them(data: Any) -> None:
    X, y = data
    views = np.stack([X[:N], X[:N] * 2, X[:N] - 1])
    stacked = np.concatenate([views.reshape(-1, D), X[N:]])
    (mine,) = together([MLPHead(epochs=2, lr=1e-2, dropout=0.0)], stacked, y, views=3)
    alone = MLPHead(epochs=2, lr=1e-2, dropout=0.0).fit(X[:N], y[:N], views=views)
    torch.testing.assert_close(weights(mine), weights(alone), rtol=1e-3, atol=1e-5)


def most_held(count: int, rows: Tensor, classes: int, size: int) -> int:
    """Return the most bytes that torch's allocator gave out at once while heads were trained for two epochs."""
    heads = [MLPHead(epochs=2, batch_size=size, random_state=seed) for seed in range(count)]
    for head in heads:
        head.classes_, head.n_features_in_ = np.arange(classes), rows.shape[1]
    starts = [head.begin() for head in heads]
    orders = [Batches(len(rows), 1, size, start.generator) for start in starts]
    codes = torch.arange(len(rows)) % classes
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        trainer = Batched(starts, orders, rows, codes, (rows[:50], codes[:50]), CPU)
        for _ in range(2):
            trainer.epoch(range(count))
            trainer.validate(range(count))
    assert watched.profiler is not None
    events = watched.profiler.kineto_results.events()
    return max(accumulate(int(event.nbytes()) for event in events if event.name() == "[memory]"))


@pytest.mark.parametrize(
    ("n", "wide", "classes", "size"), [(200, 6000, 20, 8), (200, 6000, 2, 64), (1500, 64, 4, 16), (300, 64, 60, 128)]
)
def test_what_each_head_takes_is_no_more_than_foretold_and_not_much_less(
    n: int, wide: int, classes: int, size: int
) -> None:
    rows = torch.rand(n, wide).half()
    # Two more heads: what all share does not count. Here the orders as they were drawn lie in the same memory.
    each = (most_held(5, rows, classes, size) - most_held(3, rows, classes, size)) / 2
    assert 0.7 < each / head_bytes(layer_sizes(wide, classes, None), size, n) < 1.05


def test_a_head_that_stops_early_keeps_its_best_epoch(data: Any) -> None:
    X, y = data
    long, short = together([MLPHead(epochs=40, lr=3e-2, patience=patience) for patience in (40, 2)], X, y)
    losses = [entry["val_loss"] for entry in short.history_]
    assert short.n_epochs_ == len(losses) < long.n_epochs_ == 40
    assert short.best_epoch_ == int(np.argmin(losses)) + 1 == short.n_epochs_ - 2
    assert [entry["val_loss"] for entry in long.history_[: len(losses)]] == losses
    probabilities = short.predict_proba(X[N:])
    assert -np.log(probabilities[np.arange(30), y[N:]]).mean() == pytest.approx(min(losses), abs=1e-6)


@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_dropout_has_its_rate_and_no_two_heads_share_their_masks(rate: float) -> None:
    heads = [MLPHead((), dropout=rate, batch_size=64, random_state=seed) for seed in (1, 2)]
    for head in heads:
        head.classes_, head.n_features_in_ = np.arange(2), 1000
    starts = [head.begin() for head in heads]
    orders = [Batches(64, 1, 64, start.generator) for start in starts]
    some = Batched(starts, orders, torch.ones(64, 1000), torch.zeros(64, dtype=torch.int64), None, CPU)
    some._draw()
    keep = some._bits() >= some.least[:, None]
    n = keep[0].numel()
    # Six standard deviations, of the rate and of the share of features that both heads keep.
    for share, expected in ((keep[0], 1 - rate), (keep[1], 1 - rate), (keep[0] & keep[1], (1 - rate) ** 2)):
        deviation = (expected * (1 - expected) / n) ** 0.5
        assert abs(float(share.double().mean()) - expected) < 6 * deviation + 2**-16
    assert float(some.scale[0]) == pytest.approx(1 / (1 - rate), rel=1e-4)

"""The written-out training step: torch's own gradients and Adam, to the same bits whatever the number of threads."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.heads import descent
from pipeline.heads.descent import Descent, Pieces, Pool, Start, blocks_of
from pipeline.heads.mlp import head_network
from pipeline.threads import one_thread


def start(n_features: int, hidden: tuple[int, ...] | None, *, rate: float = 0.0, **options: Any) -> Start:
    torch.manual_seed(5)
    module = head_network(n_features, 7, hidden=hidden, dropout=rate)
    asked = {"size": 16, "lr": 1e-2, "weight_decay": 0.0, "masks": 3, "generator": torch.Generator(), **options}
    return Start(module, rate=rate, **asked)


def rows(n: int, n_features: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(n)
    return torch.from_numpy(rng.random((n, n_features), np.float32)), torch.from_numpy(rng.integers(0, 7, n))


def in_batches(X: Tensor, codes: Tensor, size: int = 16) -> list[tuple[Pieces, Tensor]]:
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(1))
    return [([(X, some)], codes[some]) for some in torch.split(order, size)]


def weights(descent: Descent) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in descent.module().state_dict().items()}


@pytest.mark.parametrize("hidden", [None, (), (12,), (9, 8, 7, 6)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_autograd_and_torchs_adam(
    monkeypatch: pytest.MonkeyPatch, hidden: tuple[int, ...] | None, weight_decay: float
) -> None:
    monkeypatch.setattr(descent, "WIDEST", 32)
    X, codes = rows(40, 100)
    mine = Descent(start(100, hidden, weight_decay=weight_decay), 16, Pool(1))
    assert len(mine.blocks) == 4
    network = start(100, hidden).module.double()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=weight_decay)
    for _ in range(2):
        batches = in_batches(X, codes)
        assert [len(some) for _, some in batches] == [16, 16, 8]
        total, right = mine.train(batches)
        expected, correct = 0.0, 0
        for [(_, some)], theirs in batches:
            optimizer.zero_grad()
            scores = network(X[some].double())
            loss = nn.functional.nll_loss(scores, theirs)
            torch.autograd.backward(loss)
            optimizer.step()
            expected += loss.item() * len(theirs)
            correct += int((scores.argmax(1) == theirs).sum())
        assert total == pytest.approx(expected, rel=1e-5)
        assert right == correct
        expected_weights = {name: tensor.float() for name, tensor in network.state_dict().items()}
        torch.testing.assert_close(weights(mine), expected_weights, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_the_number_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    monkeypatch.setattr(descent, "WIDEST", 512)
    X, codes = rows(100, 3000)
    found = []
    for threads in (1, 2, 3, 11):
        with one_thread(), Pool(threads) as pool:
            some = Descent(start(3000, None, rate=rate), 16, pool)
            figures = [some.train(in_batches(X, codes)) for _ in range(2)]
            found.append((figures, [tensor.numpy().tobytes() for tensor in weights(some).values()]))
    assert len(some.blocks) == 8
    assert found[0] == found[1] == found[2] == found[3]


def test_the_features_that_are_kept_are_scaled_up_in_scores_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "WIDEST", 64)
    X, codes = rows(16, 200)
    with Pool(4) as pool:  # so that each block has a gradient of its own
        some = Descent(start(200, (), rate=0.3), 16, pool)
        before = weights(some)
        some.train([([(X, torch.arange(16))], codes)])
    dropped = torch.cat([block.inputs for block in some.blocks], 1)
    assert torch.equal(dropped[dropped != 0], X[dropped != 0])
    assert 0.2 < float((dropped == 0).double().mean()) < 0.4
    weight = before["inputs.weight"].requires_grad_()
    scaled = dropped / (1 - round(0.3 * 2**16) / 2**16)
    scores = nn.functional.log_softmax(nn.functional.linear(scaled, weight, before["inputs.bias"]), 1)
    torch.autograd.backward(nn.functional.nll_loss(scores, codes))
    gradient = torch.cat([block.adam.gradients[0] for block in some.blocks], 1)
    torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-6)


def test_a_block_draws_other_masks_than_its_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "WIDEST", 64)
    one, other = Descent(start(128, None, rate=0.5), 16, Pool(1)).blocks
    assert not np.array_equal(one.dropout.keep(1000), other.dropout.keep(1000))


def test_a_batch_may_come_in_pieces_and_in_half_precision() -> None:
    X, codes = rows(30, 50)
    half = X.half()
    whole, pieces = (Descent(start(50, None, rate=0.5), 16, Pool(1)) for _ in range(2))
    for rows_of in (torch.arange(16), torch.arange(14, 30)):
        whole.train([([(half.float(), rows_of)], codes[rows_of])])
        pieces.train([([(half[:20], rows_of[:4]), (half, rows_of[4:])], codes[rows_of])])
    assert all(map(torch.equal, weights(whole).values(), weights(pieces).values()))


@pytest.mark.parametrize("n_features", [1, 15, 512, 1280, 8192, 8193, 25088, 150_528])
def test_blocks_are_every_column_once_and_lie_alike(n_features: int) -> None:
    blocks = blocks_of(n_features)
    assert [column for cut in blocks for column in range(n_features)[cut]] == list(range(n_features))
    assert all(cut.stop - cut.start <= 8192 and cut.start % 16 == 0 for cut in blocks)


def test_what_goes_wrong_in_a_thread_is_raised() -> None:
    X, codes = rows(10, 20_000)
    with one_thread(), Pool(2) as pool:
        some = Descent(start(20_000, None), 16, pool)
        for blocks in (some.blocks, some.blocks[::-1]):
            some.blocks = blocks
            some.blocks[1].adam.step = None  # type: ignore[method-assign,assignment]
            with pytest.raises(TypeError, match="not callable"):
                some.train([([(X, torch.arange(10))], codes)])

"""Gradient descent for the paper's head on the CPU: its forward and backward pass written out, in reused memory.

What a step costs is the first layer, whose weights and Adam's two averages pass through memory once. It is cut into
blocks of columns, always the same ones for the same number of features: each block draws its own masks and holds its
own weights, and the blocks' products are added in one order. So several threads give the same bits as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.heads.dropout import Dropout

# Columns of a block, at most, and what their number is a multiple of: 64 bytes, so that all blocks lie alike.
WIDEST = 8192
ALIGNED = 16

Pieces: TypeAlias = "Sequence[tuple[Tensor, Tensor]]"
"""Where the rows of a batch are: arrays (N, D) of float32 or float16, each with the numbers of the rows in it."""


@dataclass(frozen=True)
class Start:
    """Where the training of a head starts, and how it goes on.

    Attributes:
        module: the network, as `head_network` gave it; `Descent.module` writes the trained weights into it.
        size: rows of a batch, at most.
        lr: learning rate of Adam.
        weight_decay: L2 penalty of Adam.
        rate: share of the features that are dropped.
        masks: seed of which are.
        generator: draws the order of the rows, and views.
    """

    module: nn.Sequential
    size: int
    lr: float
    weight_decay: float
    rate: float
    masks: int
    generator: torch.Generator

    @property
    def layers(self) -> list[nn.Linear]:
        """The layers that have weights."""
        return [layer for layer in self.module if isinstance(layer, nn.Linear)]


class Adam:
    """Adam as torch computes it, for tensors whose gradients lie in memory that is used again."""

    def __init__(self, weights: list[Tensor], start: Start, gradients: list[Tensor] | None = None) -> None:
        self.weights, self.lr, self.weight_decay = weights, start.lr, start.weight_decay
        self.gradients = gradients or [torch.empty_like(weight) for weight in weights]
        self.means = [torch.zeros_like(weight) for weight in weights]
        self.squares = [torch.zeros_like(weight) for weight in weights]
        self.steps = [torch.zeros(()) for _ in weights]

    def step(self) -> None:
        """Move the weights by what the gradients say."""
        # What `torch.optim.Adam(fused=True)` calls, without the checks that take longer than a small layer's step.
        for steps in self.steps:
            steps.add_(1)
        torch._fused_adam_(
            self.weights,
            self.gradients,
            self.means,
            self.squares,
            [],
            self.steps,
            lr=self.lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class Block:
    """Some columns of the first layer, and the features of one batch in them."""

    def __init__(self, columns: slice, scores: Tensor, dropout: Dropout, start: Start, scratch: Tensor) -> None:
        self.columns, self.scores, self.dropout = columns, scores, dropout
        weight = start.layers[0].weight.detach()[:, columns]
        self.weight = weight.clone(memory_format=torch.contiguous_format)
        self.adam = Adam([self.weight], start, [scratch[: self.weight.numel()].view(self.weight.shape)])
        self.inputs = torch.empty(len(scores), self.weight.shape[1])

    def read(self, pieces: Pieces) -> None:
        """Fetch the features of a batch, drop some of them, and multiply them with the weights."""
        end = 0
        for source, rows in pieces:
            start, end = end, end + len(rows)
            part, found = self.inputs[start:end], source[:, self.columns]
            if source.dtype == part.dtype:
                torch.index_select(found, 0, rows, out=part)
            else:
                part.copy_(found.index_select(0, rows))
        inputs = self.inputs[:end]
        if self.dropout.dropped:
            inputs.mul_(torch.from_numpy(self.dropout.keep(inputs.numel())).view(inputs.shape))
        torch.mm(inputs, self.weight.T, out=self.scores[:end])

    def learn(self, delta: Tensor) -> None:
        """Take the step that delta, the loss's slope in the scores, asks for on the batch that was read last."""
        # By NumPy: for this shape its product is a tenth quicker than torch's.
        np.matmul(delta.numpy().T, self.inputs[: len(delta)].numpy(), out=self.adam.gradients[0].numpy())
        self.adam.step()


class Small:
    """All but the first layer's weights: so few that what counts are calls, which cost less in NumPy than in torch."""

    def __init__(self, start: Start) -> None:
        self.shapes = [layer.weight.shape for layer in start.layers[1:]]
        parts = [parameter.detach().flatten() for parameter in self._parameters(start.layers)]
        self.ends = np.cumsum([len(part) for part in parts])[:-1].tolist()
        everything = torch.cat(parts)
        self.adam = Adam([everything], start)
        self.bias, self.rest = self._cut(everything)
        self.bias_gradient, self.gradients = self._cut(self.adam.gradients[0])

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # a training that diverges is told by its loss
    def learn(self, scores: NDArray[np.float32], codes: NDArray[np.int64]) -> tuple[float, int, NDArray[np.float32]]:
        """Take a step on what the first layer's weights made of a batch, (B, n), whose classes are (B,) codes.

        Returns:
            The mean loss, how many were right, and the loss's slope in the scores.
        """
        rows = np.arange(len(codes))
        hidden = [scores + self.bias]
        for weight, bias in self.rest:
            np.maximum(hidden[-1], 0, out=hidden[-1])
            hidden.append(hidden[-1] @ weight.T + bias)
        logs = hidden.pop()
        logs -= logs.max(1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(1, keepdims=True))
        loss, right = -float(logs[rows, codes].mean()), int((logs.argmax(1) == codes).sum())
        delta = np.exp(logs)
        delta[rows, codes] -= 1
        delta /= len(codes)
        for inputs, (weight, _), (of_weight, of_bias) in zip(
            reversed(hidden), reversed(self.rest), reversed(self.gradients), strict=True
        ):
            np.matmul(delta.T, inputs, out=of_weight)
            delta.sum(0, out=of_bias)
            delta = (delta @ weight) * (inputs > 0)
        delta.sum(0, out=self.bias_gradient)
        self.adam.step()
        return loss, right, delta

    def write(self, layers: Sequence[nn.Linear]) -> None:
        """Write the weights into a network's layers."""
        weights = [self.bias, *(one for pair in self.rest for one in pair)]
        for parameter, weight in zip(self._parameters(layers), weights, strict=True):
            parameter.copy_(torch.from_numpy(weight))

    @staticmethod
    def _parameters(layers: Sequence[nn.Linear]) -> list[Tensor]:
        return [layers[0].bias, *(one for layer in layers[1:] for one in (layer.weight, layer.bias))]

    def _cut(
        self, everything: Tensor
    ) -> tuple[NDArray[np.float32], list[tuple[NDArray[np.float32], NDArray[np.float32]]]]:
        """Return the first layer's bias, then weights and bias of each other layer, as parts of one array."""
        bias, *rest = np.split(everything.numpy(), self.ends)
        return bias, [(w.reshape(shape), b) for w, b, shape in zip(rest[::2], rest[1::2], self.shapes, strict=True)]


class Descent:
    """The training of one head on the CPU.

    Args:
        start: where it starts.
        size: rows of a batch, at most.
        pool: threads that compute; their number changes nothing but the time.
    """

    def __init__(self, start: Start, size: int, pool: Pool) -> None:
        self.start, self.pool = start, pool
        first = start.layers[0]
        wide, narrow = first.in_features, first.out_features
        columns = blocks_of(wide)
        self.scores = torch.empty(len(columns), size, narrow)
        seeds = np.random.SeedSequence(start.masks).spawn(len(columns))
        # A gradient lives only until its step is taken: one piece of memory a thread, which stays in its cache.
        widest = columns[0].stop - columns[0].start
        scratch = torch.empty(pool.threads, narrow * widest)
        self.blocks = [
            Block(cut, scores, Dropout(start.rate, seed), start, scratch[number % pool.threads])
            for number, (cut, scores, seed) in enumerate(zip(columns, self.scores, seeds, strict=True))
        ]
        self.scale = self.blocks[0].dropout.scale
        self.small = Small(start)

    def train(self, batches: Iterable[tuple[Pieces, Tensor]]) -> tuple[float, int]:
        """Take a step for each batch of rows and their classes; return the sum of losses and how many were right."""
        total, correct = 0.0, 0
        delta: Tensor | None = None

        def turn(block: Block) -> None:
            if delta is not None:
                block.learn(delta)
            block.read(pieces)

        for pieces, codes in batches:  # noqa: B007 - `turn` reads them
            self.pool.map(turn, self.blocks)
            scores = self.scores[:, : len(codes)].sum(0).mul_(self.scale)
            loss, right, slope = self.small.learn(scores.numpy(), codes.numpy())
            total, correct, delta = total + loss * len(codes), correct + right, torch.from_numpy(slope).mul_(self.scale)
        if delta is not None:
            last = delta
            self.pool.map(lambda block: block.learn(last), self.blocks)
        return total, correct

    def module(self) -> nn.Sequential:
        """Return the network with its weights as they are now."""
        with torch.no_grad():
            for block in self.blocks:
                self.start.layers[0].weight[:, block.columns] = block.weight
            self.small.write(self.start.layers)
        return self.start.module


class Pool:
    """Threads that share work, this one among them; a context that ends them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._others = ThreadPoolExecutor(threads - 1) if threads > 1 else None

    def map(self, work: Callable[[Block], None], blocks: Sequence[Block]) -> None:
        """Do the work for every block, and wait until all is done."""

        def share(number: int) -> None:
            for block in blocks[number :: self.threads]:
                work(block)

        others = min(self.threads, len(blocks)) - 1
        promised = [self._others.submit(share, number + 1) for number in range(others)] if self._others else []
        try:
            share(0)
        finally:
            for promise in promised:
                promise.result()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._others:
            self._others.shutdown()


def blocks_of(n_features: int) -> list[slice]:
    """Cut columns into the blocks that are computed apart: a power of two of them, equally wide but for the last."""
    count = 1
    while n_features > count * WIDEST:
        count *= 2
    width = -(-n_features // count)
    width += -width % ALIGNED
    return [slice(start, min(start + width, n_features)) for start in range(0, n_features, width)]

"""Many heads as one: the networks of several seeds trained together on one device, a step of all in one product."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor, nn

from pipeline.heads.batches import Batches
from pipeline.heads.course import Figures
from pipeline.heads.descent import Start
from pipeline.heads.dropout import STEPS, dropped_of

# Steps whose masks a head draws at once: one launch for all of them.
AHEAD = 16
# Numbers of the validation part, and of what any layer of all heads makes of it, that are held at once.
CHUNK = 2**24


class Batched:
    """Trains networks of one shape together: weights (S, in, out), one step of all S heads at once.

    Every head draws what it would draw alone, from generators of its own: its rows and its masks do not depend on which
    heads are trained beside it. Nothing waits for the device within an epoch.

    Args:
        starts: where each of the S heads starts; their networks are of one shape.
        orders: S heads' batches; of one number of rows and one size.
        rows: (V * N, D) features, of float32 or float16; moved to the device once.
        codes: (N,) classes.
        val: features (M, D) and classes (M,) of the validation part, or None.
        device: where to train.
    """

    def __init__(
        self,
        starts: Sequence[Start],
        orders: Sequence[Batches],
        rows: Tensor,
        codes: Tensor,
        val: tuple[Tensor, Tensor] | None,
        device: torch.device,
    ) -> None:
        self.starts, self.orders, self.device = list(starts), list(orders), device
        self.rows, self.codes = rows.to(device), codes.to(device)
        self.val = val and (val[0].to(device), val[1].to(device))
        linear = [start.layers for start in starts]
        self.weights = [
            _stack([layer.weight.detach().T for layer in depth], device) for depth in zip(*linear, strict=True)
        ]
        self.biases = [
            _stack([layer.bias.detach()[None] for layer in depth], device) for depth in zip(*linear, strict=True)
        ]
        kinds = [(start.lr, start.weight_decay) for start in starts]
        self.optimizer = _adam([*self.weights, *self.biases], kinds)
        dropped = torch.tensor([dropped_of(start.rate) for start in starts], device=device)[:, None, None]
        self.least = (dropped - STEPS // 2).to(torch.int16)
        self.scale = STEPS / (STEPS - dropped.float())
        self.drops = bool(any(dropped_of(start.rate) for start in starts))
        self.generators = [torch.Generator(device).manual_seed(start.masks) for start in starts]
        # Four of a mask's 16 bits in each: one piece of memory, drawn into again and again.
        count = AHEAD * orders[0].size * self.rows.shape[1] // 4 if self.drops else 0
        self.drawn = torch.empty(len(self.starts), count, dtype=torch.int64, device=device)

    def epoch(self, active: Sequence[int]) -> list[Figures]:
        """Pass once over the rows with all heads; see `Trainer`."""
        drawn = zip(*(order.order() for order in self.orders), strict=True)
        places, images = (torch.stack(one).to(self.device) for one in drawn)
        size, n = self.orders[0].size, self.orders[0].n
        losses = torch.zeros(len(self.starts), dtype=torch.float64, device=self.device)
        correct = torch.zeros(len(self.starts), dtype=torch.int64, device=self.device)
        for number, (rows, order) in enumerate(
            zip(torch.split(places, size, 1), torch.split(images, size, 1), strict=True)
        ):
            if self.drops and number % AHEAD == 0:
                self._draw()
            loss, right = self._step(rows, self.codes[order], number % AHEAD)
            losses += loss
            correct += right
        means, shares = (losses / n).tolist(), (correct.double() / n).tolist()
        return [Figures(means[number], shares[number]) for number in active]

    def validate(self, active: Sequence[int]) -> list[Figures] | None:
        """Return the figures of the validation part; see `Trainer`."""
        if self.val is None:
            return None
        rows, codes = self.val
        losses = torch.zeros(len(self.starts), dtype=torch.float64, device=self.device)
        correct = torch.zeros(len(self.starts), dtype=torch.int64, device=self.device)
        with torch.no_grad():
            widest = max(weights.shape[2] for weights in self.weights)
            chunk = max(1, CHUNK // max(rows.shape[1], len(self.starts) * widest))
            for some, theirs in zip(torch.split(rows, chunk), torch.split(codes, chunk), strict=True):
                logs = self._scores(some.float().expand(len(self.starts), -1, -1))
                losses -= logs.gather(2, theirs.expand(len(logs), -1)[:, :, None]).double().sum((1, 2))
                correct += (logs.argmax(2) == theirs).sum(1)
        means, shares = (losses / len(codes)).tolist(), (correct.double() / len(codes)).tolist()
        return [Figures(means[number], shares[number]) for number in active]

    def module(self, number: int) -> nn.Sequential:
        """Return a head's network, on the CPU; see `Trainer`."""
        start = self.starts[number]
        with torch.no_grad():
            for layer, weights, biases in zip(start.layers, self.weights, self.biases, strict=True):
                layer.weight.copy_(weights[number].T)
                layer.bias.copy_(biases[number, 0])
        return start.module

    def _step(self, rows: Tensor, codes: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Take a step on the rows (S, n) and their classes; return each head's sum of losses and how many were right.

        Args:
            rows: where they stand among all.
            codes: their classes, (S, n).
            number: which of the masks that were drawn is theirs.
        """
        inputs = self.rows[rows].float()
        if self.drops:
            dropped = self._bits()[:, number, : rows.shape[1]] < self.least
            inputs.masked_fill_(dropped, 0).mul_(self.scale)
        logs = self._scores(inputs)
        picked = logs.gather(2, codes[:, :, None])[:, :, 0]
        # The heads' losses add up: none has a slope in another one's weights.
        torch.autograd.backward(-picked.mean(1).sum())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return -picked.detach().double().sum(1), (logs.detach().argmax(2) == codes).sum(1)

    def _scores(self, inputs: Tensor) -> Tensor:
        """Return the logarithms of the probabilities (S, n, C) for every head's features (S, n, D)."""
        last = len(self.weights) - 1
        for depth, (weights, biases) in enumerate(zip(self.weights, self.biases, strict=True)):
            inputs = torch.baddbmm(biases, inputs, weights)
            if depth < last:
                inputs = inputs.relu()
        return inputs.log_softmax(2)

    def _draw(self) -> None:
        """Draw the random bits of the next steps, from each head's own generator."""
        for drawn, generator in zip(self.drawn, self.generators, strict=True):
            drawn.random_(-(2**63), None, generator=generator)

    def _bits(self) -> Tensor:
        """Return 16 random bits for each feature of the next steps, (S, AHEAD, size, D)."""
        return self.drawn.view(torch.int16).view(len(self.starts), AHEAD, -1, self.rows.shape[1])


def head_bytes(sizes: Sequence[int], batch_size: int, n: int) -> int:
    """Return about how much memory of the device a head takes while it is trained with others.

    Args:
        sizes: D, the widths of the hidden layers, and C.
        batch_size: rows of a batch.
        n: rows of an epoch.
    """
    weights = sum((wide + 1) * narrow for wide, narrow in pairwise(sizes))
    # Weights, their gradients, Adam's two averages, and a gradient before it is added. Bits for the masks; features,
    # as they are stored too. What the layers make of them, and its slopes. The places of an epoch's rows.
    batch = sizes[0] * (2 * AHEAD + 4 + 2) + 3 * 4 * sum(sizes[1:])
    return 5 * 4 * weights + batch_size * batch + 2 * 8 * n


def _adam(tensors: Sequence[Tensor], kinds: Sequence[tuple[float, float]]) -> torch.optim.Adam:
    """Make one fused update of tensors (S, …): one group for each stretch of heads of one rate and weight decay."""
    for tensor in tensors:
        tensor.requires_grad_().grad = torch.zeros_like(tensor)
    groups, start = [], 0
    for (lr, weight_decay), stretch in groupby(kinds):
        end = start + len(list(stretch))
        parts = [tensor.detach()[start:end] for tensor in tensors]
        for part, tensor in zip(parts, tensors, strict=True):
            assert tensor.grad is not None
            part.grad = tensor.grad[start:end]
        groups.append({"params": parts, "lr": lr, "weight_decay": weight_decay})
        start = end
    return torch.optim.Adam(groups, fused=True)


def _stack(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.stack(list(tensors)).to(device)

"""Batches of rows for the training of a head: shuffled, with a view of each row drawn and features dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from torch import Tensor


class Batches:
    """Batches of one epoch, in a new order each time, with features dropped, in buffers that are used again.

    Args:
        X: (V * N, D): V views of N rows, view by view; every epoch draws one view of each row.
        codes: (N,) the rows' classes.
        size: rows a batch; the last one of an epoch has what is left.
        dropout: rate at which features are dropped, in steps of 1/65536.
        generator: draws orders and views; its stream also seeds that of the dropped features.
        device: where the batches are.
    """

    def __init__(
        self,
        X: NDArray[Any],
        codes: NDArray[np.intp],
        size: int,
        dropout: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        size = min(int(size), len(codes))
        self.X, self.codes, self.size, self.order = X, torch.from_numpy(codes).to(device), size, generator
        self.read = np.empty((size, X.shape[1]), X.dtype)
        self.inputs = torch.empty(self.read.shape, device=device)
        self.keep = torch.empty_like(self.inputs)
        # 16 random bits a feature: nn.Dropout draws a float for each and takes most of a step on the CPU.
        self.bits = torch.empty(-(-self.keep.numel() // 4), dtype=torch.int64, device=device)
        self.dropped = min(round(dropout * 2**16), 2**16 - 1)
        self.masks = torch.Generator(device)
        self.masks.manual_seed(int(torch.randint(2**62, (), generator=generator)))

    def __len__(self) -> int:
        """Rows of an epoch, N."""
        return len(self.codes)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self), generator=self.order)
        views = len(self.X) // len(self)
        # With one view nothing is drawn: the stream is that of a head which knows no views.
        drawn = torch.randint(views, (len(self),), generator=self.order) if views > 1 else torch.zeros_like(order)
        for batch in gen_batches(len(order), self.size):
            rows = order[batch]
            read, inputs = self.read[: len(rows)], self.inputs[: len(rows)]
            np.take(self.X, (drawn[rows] * len(self) + rows).numpy(), axis=0, out=read, mode="clip")
            inputs.copy_(torch.from_numpy(read))
            yield self._drop(inputs), self.codes[rows.to(self.codes.device)]

    def _drop(self, inputs: Tensor) -> Tensor:
        """Drop features in place and scale the others up, so that the sum over features is expected to stay."""
        if not self.dropped:
            return inputs
        self.bits.random_(-(2**63), None, generator=self.masks)
        bits = self.bits.view(torch.int16)[: inputs.numel()].view(inputs.shape)
        keep = torch.ge(bits, self.dropped - 2**15, out=self.keep[: len(inputs)])
        return inputs.mul_(keep).div_(1 - self.dropped / 2**16)

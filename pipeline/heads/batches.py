"""Batches of rows for the training of a head: shuffled, with a view of each row drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batches:
    """The rows of an epoch's batches, in a new order each time.

    Attributes:
        n: rows of the training part, N.
        views: views of each row, V; every epoch draws one for each row.
        size: rows a batch; the last one of an epoch has what is left.
        generator: draws orders and views.
    """

    n: int
    views: int
    size: int
    generator: torch.Generator

    def order(self) -> tuple[Tensor, Tensor]:
        """Draw an epoch: where its rows stand among V * N, view by view, and which of the N rows they are."""
        order = torch.randperm(self.n, generator=self.generator)
        if self.views == 1:
            # Nothing is drawn: the stream is that of a head which knows no views.
            return order, order
        return torch.randint(self.views, (self.n,), generator=self.generator)[order] * self.n + order, order

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw an epoch, batch by batch."""
        return zip(*(torch.split(rows, self.size) for rows in self.order()), strict=True)

"""Training from a file: its rows pass through a buffer, in which every head shuffles them for itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache import CacheError, Entry, FeatureCache
from cache.atomic import require_room
from pipeline.heads.course import Figures
from pipeline.heads.descent import Descent, Pieces, Pool, Start
from pipeline.heads.together import figures

Rows: TypeAlias = "tuple[Tensor, Tensor]"
"""Features (n, D) and classes (n,)."""

# Rows that are read at once, and stay beside each other in every epoch until they are in the buffer.
PIECE = 128


class Part:
    """One part of a split, copied out of the shards into a file, as it is stored there and in an order of chance.

    Shards hold images in the image set's order, class by class: however the shards are shuffled, a buffer of some of
    them has few classes. The copy has all classes everywhere, and its order depends on nothing but the number of rows.

    Args:
        path: The file, which is made.
        cache: Holds the features.
        entries: The part's images.
        classes: Class names, sorted.
        advance: Told how many more rows are copied.

    Raises:
        CacheError: The cache lacks a feature, or is damaged.
        NoRoom: The disk is full.
    """

    def __init__(
        self,
        path: Path,
        cache: FeatureCache,
        entries: Sequence[Entry],
        classes: Sequence[str],
        advance: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.path, self.rows = path, len(entries)
        self.dimension, self.storage = cache.recipe.dimension, cache.recipe.storage
        place = np.random.default_rng(0).permutation(self.rows)
        self.codes = np.empty(self.rows, np.intp)
        self.codes[place] = np.searchsorted(classes, [entry.label for entry in entries])
        require_room(path.parent, self.nbytes, "the shuffled copy of the features")
        with path.open("wb", buffering=0) as file:
            # A whole shard at a time is all that is in memory; the cache asks no more of an array than this does.
            out = cast("NDArray[Any]", _Scattered(file.fileno(), place, self.storage))
            cache.read([entry.digest for entry in entries], out, advance)

    @property
    def nbytes(self) -> int:
        """Bytes that its rows take as they are stored."""
        return self.rows * self.dimension * np.dtype(self.storage).itemsize

    @property
    def pieces(self) -> int:
        """How many pieces of `PIECE` rows there are; the last one has what is left."""
        return -(-self.rows // PIECE)

    def read(self, order: Sequence[int] | None = None) -> Iterator[Rows]:
        """Read the pieces in some order, each while the one before it is used; a piece is good until the next one."""
        order = range(self.pieces) if order is None else order
        memory = torch.empty(2, PIECE, self.dimension, dtype=getattr(torch, self.storage))

        with self.path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as reader:

            def fetch(turn: int) -> Rows:
                start = order[turn] * PIECE
                codes = torch.from_numpy(self.codes[start : start + PIECE])
                rows = memory[turn % 2, : len(codes)]
                file.seek(start * self.dimension * rows.element_size())
                into = memoryview(rows.numpy().data).cast("B")
                while into:
                    found = file.readinto(into)
                    if not found:
                        raise CacheError(
                            f"{self.path} was cut short while it was read: it should hold {self.nbytes} bytes, and has "
                            f"{os.fstat(file.fileno()).st_size}. Run the same command again, which copies the features "
                            "anew."
                        )
                    into = into[found:]
                return rows, codes

            coming = [reader.submit(fetch, 0)] if len(order) else []
            for turn in range(len(order)):
                piece = coming.pop().result()
                if turn + 1 < len(order):
                    coming.append(reader.submit(fetch, turn + 1))
                yield piece


class _Scattered:
    """Rows of a file, each in a place of its own, that are set as an array's rows are."""

    def __init__(self, file: int, place: NDArray[np.intp], storage: str) -> None:
        self.file, self.place, self.storage = file, place, storage

    def __setitem__(self, numbers: Sequence[int], rows: NDArray[Any]) -> None:
        for row, there in zip(rows.astype(self.storage, copy=False), self.place[numbers].tolist(), strict=True):
            at, left = there * row.nbytes, memoryview(row.view(np.uint8))
            while left:
                written = os.pwrite(self.file, left, at)
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                at, left = at + written, left[written:]


class Streamed:
    """Trains heads on the CPU from a file, an epoch of all of them in one pass; see `pipeline.heads.course.Trainer`.

    Args:
        starts: Where each head starts.
        train: The training part.
        val: The validation part, which may be empty.
        buffer: Rows that are shuffled together.
        pool: The threads that compute.
        advance: Told how many more rows a head has been trained on, and, when the buffer is filled for the first time,
            how many more are in it.
    """

    def __init__(
        self,
        starts: Sequence[Start],
        train: Part,
        val: Part,
        buffer: int,
        pool: Pool,
        advance: Callable[[int], None],
    ) -> None:
        self.starts, self.train, self.val, self.advance = list(starts), train, val, advance
        self.descents = [Descent(start, start.size, pool) for start in starts]
        self.memory = torch.empty(min(buffer, train.rows), train.dimension, dtype=getattr(torch, train.storage))
        self.passed = 0

    def epoch(self, active: Sequence[int]) -> list[Figures]:
        """Pass once over the file."""
        self.passed += 1
        losses, right = dict.fromkeys(active, 0.0), dict.fromkeys(active, 0)
        waiting: dict[int, Rows] = {}
        for rows, codes, last in self._buffers():
            for number in active:
                order = torch.randperm(len(rows), generator=self.starts[number].generator)
                batches = self._batches(number, waiting, (rows, codes), order, last)
                loss, correct = self.descents[number].train(batches)
                losses[number], right[number] = losses[number] + loss, right[number] + correct
        return [Figures(losses[number] / self.train.rows, right[number] / self.train.rows) for number in active]

    def validate(self, active: Sequence[int]) -> list[Figures] | None:
        """Return the figures of the validation part, which is read once for all heads."""
        if not self.val.rows:
            return None
        sums = {number: [0.0, 0.0] for number in active}
        modules = {number: self.module(number) for number in active}
        for part in self.val.read():
            for number in active:
                loss, accuracy = figures(modules[number], [part])
                sums[number][0] += loss * len(part[0])
                sums[number][1] += accuracy * len(part[0])
        return [Figures(*(total / self.val.rows for total in sums[number])) for number in active]

    def module(self, number: int) -> nn.Sequential:
        """Return a head's network with its weights as they are now."""
        return self.descents[number].module()

    def _buffers(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Fill the buffer from the pieces in this epoch's order; give rows, classes, and whether they are the last."""
        order = np.random.default_rng(self.passed).permutation(self.train.pieces)
        codes = torch.empty(len(self.memory), dtype=torch.int64)
        filled, seen = 0, 0
        for rows, theirs in self.train.read(order.tolist()):
            start = 0
            while start < len(rows):
                end = min(len(rows), start + len(self.memory) - filled)
                self.memory[filled : filled + end - start] = rows[start:end]
                codes[filled : filled + end - start] = theirs[start:end]
                if self.passed == 1 and seen < len(self.memory):
                    self.advance(end - start)
                filled, seen, start = filled + end - start, seen + end - start, end
                if filled == len(self.memory) or seen == self.train.rows:
                    yield self.memory[:filled], codes[:filled], seen == self.train.rows
                    filled = 0

    def _batches(
        self, number: int, waiting: dict[int, Rows], buffer: Rows, order: Tensor, last: bool
    ) -> Iterator[tuple[Pieces, Tensor]]:
        """Cut a head's order of the buffer into batches; what waited comes first, and what is left over waits."""
        rows, codes = buffer
        size = self.starts[number].size
        held = waiting.pop(number, (rows[:0], codes[:0]))
        while len(order):
            chosen, order = order[: size - len(held[0])], order[size - len(held[0]) :]
            together = torch.cat([held[1], codes[chosen]])
            if len(together) < size and not last:
                waiting[number] = torch.cat([held[0], rows[chosen]]), together
                return
            yield [(held[0], torch.arange(len(held[0]))), (rows, chosen)], together
            self.advance(len(together))
            held = rows[:0], codes[:0]

"""Passes of many batches through a base: on a GPU, copying there and back is hidden behind computing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from pipeline.memory import enough_memory
from pipeline.transform import no_room

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from pipeline.base import Base
    from pipeline.decoder import Pixels

Tag = TypeVar("Tag")
UNDER_WAY = 2  # batches on a GPU: one computes while the next is copied there, and the last one's features come back


def passes(base: Base, batches: Iterable[tuple[Tag, Pixels]]) -> Iterator[tuple[Tag, npt.NDArray[np.float32]]]:
    """Yield the features of batch after batch, in order, each with whatever it was tagged with.

    Args:
        base: The base.
        batches: Tag and pixels (B, S, S, 3) of each; B may be 0. On a GPU they are taken ahead.

    Yields:
        The tag, and float32 features (B, D).

    Raises:
        BaseError: As `Base.features`.
    """
    yield from (_on_gpu if base.on_gpu else _on_cpu)(base, batches)


def _on_cpu(base: Base, batches: Iterable[tuple[Tag, Pixels]]) -> Iterator[tuple[Tag, npt.NDArray[np.float32]]]:
    for tag, pixels in batches:
        yield tag, base.features(base.transform.normalise(pixels)) if len(pixels) else _none(base)


def _on_gpu(base: Base, batches: Iterable[tuple[Tag, Pixels]]) -> Iterator[tuple[Tag, npt.NDArray[np.float32]]]:
    passing = _Passing(base)
    waiting: deque[tuple[Tag, _UnderWay | None]] = deque()

    def finished() -> tuple[Tag, npt.NDArray[np.float32]]:
        tag, under_way = waiting.popleft()
        return tag, under_way.wait() if under_way else _none(base)

    for tag, pixels in batches:
        waiting.append((tag, passing.start(pixels) if len(pixels) else None))
        if len(waiting) > UNDER_WAY:
            yield finished()
    while waiting:
        yield finished()


class _UnderWay(NamedTuple):
    """Features that a GPU is computing: where they will be, and when."""

    features: Tensor
    done: torch.cuda.Event

    def wait(self) -> npt.NDArray[np.float32]:
        self.done.synchronize()
        features: npt.NDArray[np.float32] = self.features.numpy()
        return features


class _Passing:
    """Three streams of a GPU, side by side: pixels on their way there, the base, features on their way back.

    Each waits for the one before it batch by batch, so that while one batch is computed the next is copied there.
    """

    def __init__(self, base: Base) -> None:
        import torch

        self.base = base
        with torch.cuda.device(base.device):
            self.there = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self.computing = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self.back = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # The weights are copied and laid out in the stream that is current.
        self.computing.wait_stream(torch.cuda.current_stream(base.device))

    def start(self, pixels: Pixels) -> _UnderWay:
        """Send pixels (B, S, S, 3) on their way; nothing is waited for."""
        import torch

        with enough_memory(no_room(self.base.device, len(pixels))):
            # Pinned memory, so that the copies need no processor and do not hold up whoever asks for them.
            staged = torch.from_numpy(pixels).pin_memory()
            with torch.cuda.stream(self.there):
                arrived = staged.to(self.base.device, non_blocking=True)
            self.computing.wait_stream(self.there)
            with torch.cuda.stream(self.computing):
                features = self.base.compute(self.base.transform.normalise_there(arrived))
            self.back.wait_stream(self.computing)
            with torch.cuda.stream(self.back):
                kept = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
                kept.copy_(features, non_blocking=True)
                done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                done.record()
            # Their memory must not be given to something else before the other stream is done with it.
            arrived.record_stream(self.computing)
            features.record_stream(self.back)
            return _UnderWay(kept, done)


def _none(base: Base) -> npt.NDArray[np.float32]:
    return np.empty((0, base.dimension), np.float32)

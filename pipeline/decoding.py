"""Decoding ahead of whoever needs the pixels, in order, in processes of its own.

A decoder is C code that reads bytes from anywhere. Where it crashes, or takes more memory than there is, it takes along
the process that it runs in: here one that does nothing else and is replaced at once, while its image is named and all
others go on. The threads here only wait for these processes. (joblib's executor ends all of its processes when one
dies, and cannot say which of them had which image.)
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.decoder import Death, Decoder, Pixels
from pipeline.environment import decoders
from pipeline.errors import UnreadableImages
from pipeline.printable import printable
from pipeline.transform import Transform

# The processes here share the processors with torch's threads. These wait for one another by spinning for so long that,
# where others need the processors too, most of the time goes into that; libgomp itself spins no more than this once it
# has more threads than processors. It reads this when torch is imported: whoever did that before has what libgomp does.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

VIEWS_AT_ONCE = 16  # of one image in one answer, so that answers stay small
IMAGES_A_WORKER = 4  # that make it worth while to start one more
IDLE_SECONDS = 10.0  # that a process waits for the next call
DEATHS_IN_A_ROW = 5  # after which it is the machine that is to blame


class Wanted(NamedTuple):
    """Views of one image that are to be made.

    Attributes:
        path: The file.
        digest: SHA-256 that its bytes must have; None takes any.
        views: Numbers of the views, at most `VIEWS_AT_ONCE`.
    """

    path: Path
    digest: str | None = None
    views: Sequence[int] = (0,)


class Decoded(NamedTuple):
    """What became of them: `pixels` (n, S, S, 3) of the n views, or None and the reason."""

    wanted: Wanted
    pixels: Pixels | None
    reason: str


def enough_workers(images: int, workers: int | None = None) -> int:
    """Return in how many processes to decode so many images: a few are done before a second one has started.

    Args:
        images: Number of images, or of views where an image has several.
        workers: The most that may be used; as many as processors, at most 16, if not given.
    """
    return max(1, min(workers or decoders(), images // IMAGES_A_WORKER))


def prepare(workers: int) -> None:
    """Start the processes of a call that will soon be made; they get ready while the caller does something else.

    Args:
        workers: How many it will use.

    Raises:
        UnreadableImages: No process can be started.
    """
    for _ in range(workers - len(_idle)):
        _put_back(Decoder())
    _retire_later()


@contextmanager
def decoding(
    wanted: Iterable[Wanted], transform: Transform, workers: int, ahead: int = 64
) -> Iterator[Iterator[Decoded]]:
    """Give an iterator over images in their order, which are decoded ahead; left early, it kills what is under way.

    Args:
        wanted: The images, taken one by one as they are needed.
        transform: Makes the pixels.
        workers: Processes that decode.
        ahead: Views that may lie ready, so that memory stays flat; but two images a worker are always begun.

    Raises:
        UnreadableImages: No process can be started, or one after the other dies.
    """
    crew = _Crew(transform, workers)
    try:
        yield crew.decoded(wanted, ahead)
    except KeyboardInterrupt:
        crew.end()
        _end_idle()
        raise
    finally:
        crew.end()
        _retire_later()


class _Crew:
    """The processes that are busy for one call, and the threads that wait for them."""

    def __init__(self, transform: Transform, workers: int) -> None:
        self._transform, self._workers = transform, workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._lock = threading.Lock()
        self._busy: set[Decoder] = set()
        self._ended = False

    def decoded(self, wanted: Iterable[Wanted], ahead: int) -> Iterator[Decoded]:
        left, ready = iter(wanted), 0
        waiting: deque[tuple[Wanted, Future[Pixels | str | Death]]] = deque()
        deaths: dict[Path, str] = {}
        while True:
            while (ready < ahead or len(waiting) < 2 * self._workers) and (one := next(left, None)):
                waiting.append((one, self._threads.submit(self._decode, one)))
                ready += len(one.views)
            if not waiting:
                return
            one, future = waiting.popleft()
            ready -= len(one.views)
            found = future.result()
            if isinstance(found, Death):
                # Once more and alone, for it may have been the memory that all of them took together.
                wait([future for _, future in waiting])
                found = self._threads.submit(self._decode, one).result()
            if isinstance(found, Death):
                deaths[one.path] = found.reason
                _require_few(deaths)
                found = found.reason
            else:
                deaths.clear()
            yield Decoded(one, None, found) if isinstance(found, str) else Decoded(one, found, "")

    def end(self) -> None:
        """Kill the processes that are busy, and wait for the threads, which see that at once."""
        with self._lock:
            self._ended = True
            for decoder in self._busy:
                decoder.kill()
        self._threads.shutdown(cancel_futures=True)

    def _decode(self, one: Wanted) -> Pixels | str | Death:
        with self._lock:
            if self._ended:
                raise CancelledError
            decoder = _take()
            self._busy.add(decoder)
        try:
            found = decoder.decode(*one, self._transform)
        finally:
            with self._lock:
                self._busy.remove(decoder)
        if not isinstance(found, Death):
            _put_back(decoder)
        return found


def _require_few(deaths: dict[Path, str]) -> None:
    if len(deaths) < DEATHS_IN_A_ROW:
        return
    listed = "\n".join(f"  {printable(str(path))}: {reason}" for path, reason in deaths.items())
    raise UnreadableImages(
        f"{len(deaths)} images in a row ended the process that decoded them, each of them twice. Most likely memory is "
        "short: close other programs, or ask for fewer --workers, then run the same command again. If it is these "
        f"images, move them away:\n{listed}"
    )


# Processes without work, and since when. The next call takes them if it comes soon, the last one first.
_idle: list[tuple[float, Decoder]] = []
_timer: threading.Timer | None = None
os.register_at_fork(after_in_child=_idle.clear)  # they answer to one process only


def _take() -> Decoder:
    with suppress(IndexError):
        while True:
            _, decoder = _idle.pop()
            if decoder.lives:
                return decoder
            decoder.end()
    return Decoder()


def _put_back(decoder: Decoder) -> None:
    _idle.append((time.monotonic(), decoder))


def _retire_later() -> None:
    """End those that nobody takes for a while."""
    global _timer
    if _timer is not None:
        _timer.cancel()
    if sys.is_finalizing():  # an iterator that was never closed: a thread would not start any more
        return
    _timer = threading.Timer(IDLE_SECONDS, _end_idle, (time.monotonic(),))
    _timer.daemon = True
    _timer.start()


@atexit.register
def _end_idle(before: float = float("inf")) -> None:
    """End those that have been without work since then."""
    with suppress(IndexError):
        while _idle[0][0] <= before:
            _idle.pop(0)[1].end()

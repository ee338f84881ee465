"""A process that decodes: both of its ends, and what it does.

It is asked on its standard input, for one image at a time, and answers on its standard output, so that it is known
which image it has in hand. It needs Pillow and NumPy and no torch, starts in a tenth of a second, and ends when whoever
started it is gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.augmentation import view_pixels
from pipeline.decode import decode, require_file_size
from pipeline.errors import UnreadableImage, UnreadableImages
from pipeline.reading import open_regular
from pipeline.transform import Transform

Pixels = npt.NDArray[np.uint8]

_CHANGED = "it was changed since it was listed"
_NO_MEMORY = "there is not enough memory to decode it"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # NumPy would start more
_LENGTH = struct.Struct("<I")  # begins an answer: that of the reason that follows, or 0 if it is pixels that follow


class _Question(NamedTuple):
    """One line of JSON; what is not UTF-8 in a path is escaped in it."""

    path: str
    digest: str | None
    views: Sequence[int]
    transform: dict[str, Any]
    most_pixels: int | None


class Death(NamedTuple):
    """How a process ended while it decoded an image, as a reason."""

    reason: str


class Decoder:
    """A process that decodes, as its parent sees it: asked by one thread at a time, and killed by any.

    Raises:
        UnreadableImages: It cannot be started.
    """

    def __init__(self) -> None:
        # What is imported relative to the working directory need not be found there any more.
        path = [str(Path(place).absolute()) for place in [*sys.path, str(Path(__file__).parents[1])] if place]
        code = f"import sys; sys.path[:] = {path!a}; from pipeline.decoder import serve; serve()"
        # Ctrl-C is the parent's to answer, also while this one is just starting: what is blocked here is blocked there.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **_ONE_THREAD, "PYTHONUTF8": str(sys.flags.utf8_mode)},  # names mean the same there
            )
        except OSError as error:
            raise UnreadableImages(
                f"No image can be read, for no process that decodes can be started: {error}. Close other programs, or "
                "ask for fewer --workers, then run the same command again."
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert isinstance(self._process.stdin, BufferedWriter)
        assert isinstance(self._process.stdout, BufferedReader)
        self._questions, self._answers = self._process.stdin, self._process.stdout

    @property
    def lives(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def decode(
        self, path: Path, digest: str | None, views: Sequence[int], transform: Transform
    ) -> Pixels | str | Death:
        """Decode an image once and make views of it.

        Args:
            path: The file.
            digest: SHA-256 that its bytes must have; None takes any.
            views: Numbers of the views, (n,).
            transform: Makes the pixels.

        Returns:
            The pixels (n, crop_size, crop_size, 3), or why there are none; or that this process is no more.
        """
        pixels = np.empty((len(views), transform.crop_size, transform.crop_size, 3), np.uint8)
        question = _Question(str(path.absolute()), digest, list(views), transform.as_dict(), Image.MAX_IMAGE_PIXELS)
        with suppress(BrokenPipeError):
            self._questions.write(json.dumps(question).encode() + b"\n")
            self._questions.flush()
            head = self._answers.read(_LENGTH.size)
            if len(head) == _LENGTH.size:
                (length,) = _LENGTH.unpack(head)
                if length and len(reason := self._answers.read(length)) == length:
                    return reason.decode()
                if not length and self._answers.readinto(pixels.data.cast("B")) == pixels.nbytes:
                    return pixels
        return Death(f"the process that decoded it {self._end()}")

    def kill(self) -> None:
        """End it at once: a thread that waits for its answer is told of its death."""
        self._process.kill()

    def end(self) -> None:
        """End it at once, and wait until it is gone."""
        self.kill()
        self._end()

    def _end(self) -> str:
        status = self._process.wait()
        for pipe in (self._questions, self._answers):
            with suppress(BrokenPipeError):
                pipe.close()
        if status >= 0:
            return f"ended with status {status}"
        with suppress(ValueError):
            return f"was killed ({signal.Signals(-status).name})"
        return f"was killed (signal {-status})"


def serve() -> None:
    """Answer questions on standard input until that ends: what the process runs."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    with suppress(OSError):  # where memory is short, Linux is to take this process and not its parent
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what a C library prints is no answer,
    os.dup2(nowhere, 2)  # and its complaints are not for the user
    questions: SimpleQueue[_Question] = SimpleQueue()
    threading.Thread(target=_listen, args=(questions,), daemon=True).start()
    try:
        while True:
            found = _answer(questions.get())
            reason = found.encode(errors="backslashreplace") if isinstance(found, str) else b""
            answers.write(_LENGTH.pack(len(reason)))
            answers.write(reason if isinstance(found, str) else found.data.cast("B"))
            answers.flush()
    finally:
        os._exit(1)


def _listen(questions: SimpleQueue[_Question]) -> None:
    """Take questions; their end means that the parent is gone, and nobody waits for what is being decoded."""
    try:
        for line in sys.stdin.buffer:
            questions.put(_Question(*json.loads(line)))
    finally:
        os._exit(0)


def _answer(question: _Question) -> Pixels | str:
    Image.MAX_IMAGE_PIXELS = question.most_pixels
    transform = Transform.from_dict(question.transform)

    def views(image: Image.Image, digest: str) -> Pixels:
        return np.stack([view_pixels(image, digest, number, transform) for number in question.views])

    return pixels_of(Path(question.path), question.digest, views)


def pixels_of(path: Path, digest: str | None, make: Callable[[Image.Image, str], Pixels]) -> Pixels | str:
    """Read and decode an image file, in this process, and make pixels of it; or say why that cannot be.

    Args:
        path: The file.
        digest: SHA-256 that its bytes must have; None takes any.
        make: Makes pixels of the image, which is RGB, and of its digest.

    Returns:
        The pixels, or the reason.
    """
    try:
        data = _read(path)
        found = hashlib.sha256(data).hexdigest()
        return _CHANGED if digest not in (None, found) else make(decode(data), found)
    except UnreadableImage as error:
        return _NO_MEMORY if isinstance(error.__cause__, MemoryError) else str(error)
    except MemoryError:
        return _NO_MEMORY
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # no file can have this name, or it is a pipe or a device
        return str(error)


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        require_file_size(size)
        return file.read(size)

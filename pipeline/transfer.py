"""One file from the network: resumed where it broke off, checked by its hash, under its name only when it is whole."""

import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from io import FileIO
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from cache.atomic import human_size, require_room
from cache.errors import NoRoom
from cache.lock import alone
from pipeline.errors import DownloadError
from pipeline.progress import SILENT, Progress

MEGABYTE = 10**6
BLOCK = 1 << 18  # bytes read at once, at most
SECONDS = 10.0  # without an answer, or without a byte
PAUSES = (1.0, 2.0, 4.0)  # seconds before each new try
_PASSING = {408, 429, 500, 502, 503, 504}  # what a server answers that may do better in a moment


@dataclass(frozen=True)
class Checksum:
    """What the bytes of a file must hash to.

    Args:
        algorithm: The hash.
        start: Its hexadecimal digits, or the first of them; at least one.
    """

    algorithm: Literal["md5", "sha256"]
    start: str

    def difference(self, found: str) -> str:
        """Say in words how the digits of a file differ; empty if they do not."""
        if found.startswith(self.start):
            return ""
        name = {"md5": "MD5", "sha256": "SHA-256"}[self.algorithm]
        should = "should be" if len(found) == len(self.start) else "should start with"
        return f"invalid hash value: the {name} is {found} and {should} {self.start}"


def fetch(
    url: str,
    path: Path,
    checksum: Checksum | None,
    progress: Progress = SILENT,
    *,
    name: str | None = None,
    largest: int | None = None,
    timeout: float = SECONDS,
    pauses: Sequence[float] = PAUSES,
) -> None:
    """Download a file, unless it is there; what an earlier call left, even a killed one, is not fetched again.

    What has come lies in `partial_of(path)`, which one process at a time writes to. The checksum says whether it is
    whole, not the server: content networks change ETags or send none, so none is asked for, and a file that was
    resumed and turns out wrong is fetched once more from its start.

    Args:
        url: Address, http or https; redirects are followed.
        path: Where the file goes.
        checksum: What it must hash to. Without one, the server says when it is whole, and no later call resumes it.
        progress: Told name and size, every megabyte, and what breaks.
        name: What to call the file; its own name if not given.
        largest: Bytes that it has at most.
        timeout: Seconds without an answer or a byte after which the connection counts as broken.
        pauses: Seconds before each new try after a connection broke; they begin anew whenever a megabyte has come.

    Raises:
        DownloadError: There is no answer, it is no file, the connection keeps breaking, or the file is a wrong one; the
            message is the reason, without the address.
        NoRoom: The disk cannot hold it, or the folder cannot be written to.
    """
    name = name or path.name
    if not url.lower().startswith(("http://", "https://")):
        raise DownloadError("an address begins with http:// or https://")
    partial = partial_of(path)
    with alone(
        partial, lambda: f"another process is downloading {name}: waiting until it is done", progress.note
    ) as file:
        if path.exists():
            _require(path, checksum)
            return
        arrived = _Arrived(file, partial, checksum, largest)
        if not checksum:
            arrived.clear()
        try:
            _Transfer(url, name, arrived, progress, timeout).run(pauses)
        except DownloadError as error:
            if isinstance(error, _WrongFile) or not checksum:
                arrived.clear()
            raise
        arrived.sync()
        partial.replace(path)


def partial_of(path: Path) -> Path:
    """Return where the bytes of a file lie until it is whole."""
    return path.with_name(f"{path.name}.partial")


def _require(path: Path, checksum: Checksum | None) -> None:
    with path.open("rb", buffering=0) as file:
        if difference := _Arrived(file, path, checksum, None).difference():
            raise DownloadError(f"{path} is there already, but is damaged or another file ({difference}): remove it")


class _WrongFile(DownloadError):
    """A file has come that is not the one that was asked for, and is not kept."""


class _Arrived:
    """What has come so far of a file, and its hash."""

    def __init__(self, file: FileIO, path: Path, checksum: Checksum | None, largest: int | None) -> None:
        self.file, self.path, self.checksum, self.largest = file, path, checksum, largest
        self._begin()
        file.seek(0)
        while block := file.read(BLOCK):
            self.digest.update(block)
            self.size += len(block)

    def _begin(self) -> None:
        self.size = 0
        self.digest = hashlib.new(self.checksum.algorithm if self.checksum else "md5", usedforsecurity=False)

    def clear(self) -> None:
        """Drop it all."""
        self.file.truncate(0)
        self._begin()

    def append(self, block: bytes) -> None:
        """Take what has come.

        Raises:
            NoRoom: The disk is full.
            _WrongFile: It is more than the file has.
        """
        if self.largest is not None and self.size + len(block) > self.largest:
            raise _WrongFile(f"more than {human_size(self.largest)} came, so it is another file; it was not kept")
        left = memoryview(block)
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise self._no_room(error) from error
        self.digest.update(block)
        self.size += len(block)

    def sync(self) -> None:
        """Return when it is on the disk.

        Raises:
            NoRoom: The disk is full, as some network file systems find out only now.
        """
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise self._no_room(error) from error

    def _no_room(self, error: OSError) -> NoRoom:
        return NoRoom(
            f"{self.path} could not be written: {error.strerror}. Make room, then run the same command again; what has "
            "come so far is kept."
        )

    def difference(self) -> str:
        """Say how its hash differs from what it should be."""
        return self.checksum.difference(self.digest.hexdigest()) if self.checksum else ""

    def fits(self) -> bool:
        """Whether the hash says that it is whole."""
        return self.checksum is not None and not self.difference()


class _Transfer:
    """One file on its way, over as many connections as it takes."""

    def __init__(self, url: str, name: str, arrived: _Arrived, progress: Progress, timeout: float) -> None:
        self.url, self.name, self.arrived, self.progress, self.timeout = url, name, arrived, progress, timeout
        self.answered = self.resumed = self.again = False
        self.total: int | None = None

    def run(self, pauses: Sequence[float]) -> None:
        """Return when the file is whole."""
        farthest, left = self.arrived.size, list(pauses)
        while not self.arrived.fits():
            broken = self._connect()
            if self.arrived.fits() or not (broken or self.arrived.checksum):
                return
            if not broken:
                self._begin_again()
                continue
            if self.arrived.size >= farthest + MEGABYTE:
                farthest, left = self.arrived.size, list(pauses)
            if not left:
                raise DownloadError(f"{broken}, and {len(pauses)} more tries were no better{self._kept()}")
            self.progress.note(f"{broken}: trying again in {left[0]:g} s")
            time.sleep(left.pop(0))

    def _begin_again(self) -> None:
        """Drop a wrong file, and refuse it unless it came in parts that may not belong together."""
        difference = self.arrived.difference()
        if self.total is None:
            difference += " (its size was not told, so perhaps the end is missing)"
        if self.again or not self.resumed:
            raise _WrongFile(f"{difference}; it was not kept")
        self.again = True
        self.progress.note(f"{difference}; its parts may not belong together: downloading it from its start")
        self.arrived.clear()

    def _connect(self) -> str:
        """Take what one connection brings; say why it broke, or nothing if the server sent all it has."""
        try:
            answer, start, self.total = _ask(self.url, self.arrived.size, self.timeout)
        except HTTPError as error:
            said = f"the server answered {error.code} {' '.join(str(error.reason).split())}"
            if error.code not in _PASSING:
                raise DownloadError(f"{said}{self._kept()}") from error
            return said
        except (OSError, HTTPException, ValueError) as error:
            said = f"there was no answer ({getattr(error, 'reason', None) or error})"
            if not self.answered:
                raise DownloadError(f"{said}{self._kept()}") from error
            return said
        self.answered = True
        with answer:
            self._tell(start)
            if not start and self.arrived.size:
                self.arrived.clear()
            self.resumed = start > 0
            if self.total is not None:
                require_room(self.arrived.path.parent, self.total - start, self.name)
            return self._receive(answer)

    def _tell(self, start: int) -> None:
        size = "size unknown" if self.total is None else f"{_megabytes(self.total)} MB"
        if start:
            self.progress.note(f"going on with {self.name} after {human_size(start)} of {size}")
            return
        if self.arrived.size:
            self.progress.note(f"the server does not send the rest alone: {self.name} is downloaded from its start")
        self.progress.note(f"downloading {self.name}, {size}, to {self.arrived.path.parent}")

    def _receive(self, answer: HTTPResponse) -> str:
        arrived, reason = self.arrived, ""
        megabytes = _megabytes(self.total or 0) - _megabytes(arrived.size)
        # Nobody can watch how much of an unknown size is done.
        watched = self.progress if megabytes > 0 else SILENT
        with watched.steps(f"downloading {self.name}", megabytes, "MB") as advance:
            try:
                for block in _blocks(answer):
                    before = arrived.size
                    arrived.append(block)
                    advance(_megabytes(arrived.size) - _megabytes(before))
            except (OSError, HTTPException) as error:
                reason = f" ({error})"
        if not reason and (self.total is None or arrived.size >= self.total):
            return ""
        of = "" if self.total is None else f" of {human_size(self.total)}"
        return f"the connection broke after {human_size(arrived.size)}{of}{reason}"

    def _kept(self) -> str:
        if not (self.arrived.size and self.arrived.checksum):
            return ""
        return f"; the {human_size(self.arrived.size)} that came are kept, and the same command goes on after them"


def _ask(url: str, start: int, timeout: float) -> tuple[HTTPResponse, int, int | None]:
    """Ask for a file from byte `start` on; return the answer, the byte it begins at, and the file's size if told."""
    headers = {"User-Agent": "manyheads"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if start and error.code < 500 and error.code not in _PASSING:
            return _ask(url, 0, timeout)  # such as 416: the file has no more bytes than have come already
        raise
    if not isinstance(answer, HTTPResponse):
        raise HTTPException("it leads to an address that is not http or https")
    if answer.status != 206:
        return answer, 0, answer.length
    part = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if part and int(part[1]) == start:
        return answer, start, int(part[2]) + 1 if part[3] == "*" else int(part[3])
    answer.close()
    if not start:
        raise HTTPException("a part of the file came that was not asked for")
    return _ask(url, 0, timeout)


def _blocks(answer: HTTPResponse) -> Iterator[bytes]:
    """Yield the bytes of an answer as they come, and none beyond the length that it tells."""
    left = answer.length
    while left is None or left > 0:
        # read1 returns what there is, so that a connection that breaks takes nothing with it.
        block = answer.read1(BLOCK if left is None else min(BLOCK, left))
        if not block:
            return
        left = None if left is None else left - len(block)
        yield block


def _megabytes(size: int) -> int:
    return -(-size // MEGABYTE)

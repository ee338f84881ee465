"""The files of a cache as they lie on disk, and what can be wrong with one of them."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from cache.errors import CacheError


class FileError(CacheError):
    """A file of a cache cannot be used.

    Attributes:
        path: The file.
        what: What is wrong with it, as the rest of a sentence: `is damaged (…)`.
        mend: What to do, in whole sentences.
    """

    def __init__(self, path: Path, what: str, mend: str) -> None:
        super().__init__(path, what, mend)  # all three, so that a worker can send it to the process that started it
        self.path, self.what, self.mend = path, what, mend

    def __str__(self) -> str:
        return f"{self.path} {self.what}. {self.mend}"


class Missing(FileError):
    """The file is not there."""


class Unopened(FileError):
    """The file cannot be opened or read. It may be whole, so it is not called damaged and never removed."""


class Damaged(FileError):
    """The file does not hold what it should."""


class Foreign(Damaged):
    """The file is whole, but belongs to another cache."""


@contextmanager
def opened_file(path: Path, mend: str) -> Iterator[FileIO]:
    """Open a regular file for reading: no link is followed, and nobody waited for who writes into a pipe.

    Args:
        path: The file.
        mend: What to do if it is missing or no file.

    Raises:
        FileError: It is missing, cannot be opened, or is no file.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise Missing(path, "is missing", mend) from error
        if error.errno in (errno.ELOOP, errno.ENXIO):  # ENXIO: a socket
            raise Damaged(path, "is no file of its own but a link or a socket", mend) from error
        raise unopened(path, error) from error
    kind = os.fstat(number).st_mode
    if not stat.S_ISREG(kind):
        os.close(number)
        if stat.S_ISDIR(kind):
            move = "Move it out of the cache, then run the same command again."
            raise Unopened(path, "cannot be opened: it is a folder", move)
        raise Damaged(path, "is a pipe or a device, not a file", mend)
    with FileIO(number, "r") as file:
        yield file


def read_file(path: Path, mend: str, largest: int) -> bytes:
    """Read a small file whole.

    Args:
        path: The file.
        mend: What to do if it is missing or damaged.
        largest: Bytes that it may have.

    Raises:
        FileError: It is missing, cannot be opened or read, is no file, or is larger.
    """
    with opened_file(path, mend) as file:
        if os.fstat(file.fileno()).st_size > largest:
            raise Damaged(path, f"is damaged (it is larger than {largest} bytes)", mend)
        try:
            return file.read()
        except OSError as error:
            raise unopened(path, error) from error


def unopened(path: Path, error: OSError) -> Unopened:
    """Word that the system does not let a file be read."""
    return Unopened(
        path,
        f"cannot be opened: {os.strerror(error.errno or errno.EIO)}",
        "Mend its permissions or the disk, then run the same command again.",
    )


def damaged(file: FileIO, path: Path, reason: object, mend: str) -> FileError:
    """Word that a file does not hold what it should, unless a program that writes to it explains that.

    HDF5 marks a file that it may write to, and locks it meanwhile.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        close = "Close the program that has it open for writing, then run the same command again."
        return Unopened(path, "cannot be opened: another program may be writing to it", close)
    except OSError:
        pass  # a file system that cannot lock
    return Damaged(path, f"is damaged ({reason})", mend)

"""One process at a time: a file that others wait for."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from cache.errors import NoRoom
from pipeline.progress import SILENT, Progress


@contextmanager
def alone(path: Path, waiting: str, progress: Progress = SILENT) -> Iterator[FileIO]:
    """Open a file for reading and appending while no one else has it open so; remove it in the end if it is empty.

    A process that is killed holds nothing any longer. Inside the block, the file may be renamed or removed.

    Args:
        path: The file; it and its folder are made if need be.
        waiting: What to tell if another process has it, which is waited for.
        progress: Is told that.

    Raises:
        NoRoom: The file cannot be made or written to.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b", buffering=0)
        except OSError as error:
            raise NoRoom(
                f"{path} could not be opened for writing: {error.strerror}. Make room, mend the permissions or choose "
                "another folder, then run the same command again."
            ) from error
        with file:
            _lock(file, waiting, progress)
            if not _is_at(file, path):
                continue  # whoever had it has renamed or removed it
            try:
                yield file
            finally:
                if _is_at(file, path) and os.fstat(file.fileno()).st_size == 0:
                    path.unlink()
            return


def _lock(file: FileIO, waiting: str, progress: Progress) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.note(waiting)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        pass  # some network file systems have no locks; checksums still tell what two at once would spoil


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False

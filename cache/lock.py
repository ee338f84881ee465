"""One process at a time: a file that others wait for, which says who has it.

The kernel holds the lock, and gives it free when its process dies, however it dies; so it does on network file systems
with locks. Where a file system has none, the file is the lock. Nothing depends on locks but that no work is done
twice: everything is written whole or not at all. Readers never lock.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from io import FileIO
from pathlib import Path

from cache.atomic import make_folder
from cache.errors import NoRoom
from cache.process import host, is_alive

LOCK = ".lock"
PAUSE = 0.5  # seconds between two looks at a lock that the kernel does not hold
LONGEST = 1000  # bytes that are read of what should be a short line
_KINDS = {"host": str, "process": int, "since": str}


@dataclass(frozen=True)
class Holder:
    """Who has a lock: a process of a machine, and since when (local time, to the second)."""

    host: str
    process: int
    since: str

    @classmethod
    def here(cls) -> "Holder":
        """Return this process, now."""
        return cls(host(), os.getpid(), datetime.now().isoformat(" ", "seconds"))

    @classmethod
    def named_in(cls, content: bytes) -> "Holder | None":
        """Read what `line` gave; None from anything else."""
        with suppress(ValueError, RecursionError):
            found = json.loads(content)
            if isinstance(found, dict) and {name: type(value) for name, value in found.items()} == _KINDS:
                holder = cls(**found)
                # It is shown to whoever waits.
                if holder.process > 0 and str(holder).isprintable():
                    return holder
        return None

    @property
    def line(self) -> bytes:
        """The holder as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @property
    def is_gone(self) -> bool:
        """Whether it is certain that the process has ended: it was one of this machine."""
        return self.host == host() and not is_alive(self.process)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"


@contextmanager
def writing(cache: Path, tell: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Be the one process that writes into a feature cache; wait for another one that does.

    Args:
        cache: The cache's folder; made if need be.
        tell: Told who is waited for.

    Raises:
        NoRoom: The folder cannot be written to.
    """
    with locked(cache / LOCK, f"{cache} is being written", tell):
        yield


def holder(cache: Path) -> Holder | None:
    """Return who is writing into a feature cache, as far as can be told by reading; None if it is nobody."""
    return next((found for path in _claims(cache / LOCK) if (found := _read(path)) and not found.is_gone), None)


@contextmanager
def locked(path: Path, what: str, tell: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold a lock file for the time of the block, with this process's name in it; wait for whoever has it.

    Args:
        path: The file; it and its folder are made, and it is removed in the end.
        what: What is going on while it is held, such as `runs is being written`.
        tell: Told who is waited for.

    Raises:
        NoRoom: The file cannot be made.
    """

    def waiting() -> str:
        return _waiting(what, _read(path))

    with alone(path, waiting, tell) as file, _claimed(file, path, what, tell):
        os.truncate(file.fileno(), 0)  # what a killed process left
        with suppress(OSError):  # on a full disk nobody can say who it is
            file.write(Holder.here().line)
        try:
            yield
        finally:
            os.truncate(file.fileno(), 0)


@contextmanager
def alone(path: Path, waiting: Callable[[], str], tell: Callable[[str], None] = lambda text: None) -> Iterator[FileIO]:
    """Open a file for reading and appending while no one else has it open so; remove it in the end if it is empty.

    A process that is killed holds nothing any longer. Inside the block, the file may be renamed or removed. Where the
    file system has no locks, two may have it open: use `locked` where that matters.

    Args:
        path: The file; it and its folder are made if need be.
        waiting: Says what to tell if another process has it, which is waited for.
        tell: Told that.

    Raises:
        NoRoom: The file cannot be made or written to.
    """
    while True:
        try:
            make_folder(path.parent)
            file = path.open("a+b", buffering=0)
        except OSError as error:
            raise _refused(path, error) from error
        with file:
            _lock(file, waiting, tell)
            if not _is_at(file, path):
                continue  # whoever had it has renamed or removed it
            try:
                yield file
            finally:
                if _is_at(file, path) and os.fstat(file.fileno()).st_size == 0:
                    path.unlink()
            return


def _lock(file: FileIO, waiting: Callable[[], str], tell: Callable[[str], None]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell(waiting())
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        pass  # some network file systems have no locks


@contextmanager
def _claimed(file: FileIO, path: Path, what: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Where the kernel holds no lock, hold one by having made a file that was not there."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # granted at once to whoever has it
    except OSError:
        claim = _claims(path)[1]
    else:
        yield
        return
    told = False
    while not _make(claim):
        found = _read(claim)
        if found and found.is_gone:
            _take_away(claim, found)
            continue
        if not told:
            tell(f"{_waiting(what, found)}. If that process is no more, remove {claim}")
            told = True
        time.sleep(PAUSE)
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)


def _make(claim: Path) -> bool:
    try:
        with claim.open("xb", buffering=0) as file, suppress(OSError):
            file.write(Holder.here().line)
    except FileExistsError:
        return False
    except OSError as error:
        raise _refused(claim, error) from error
    return True


def _take_away(claim: Path, gone: Holder) -> None:
    """Remove the claim of a process that is gone, and no other that has come meanwhile."""
    mine = claim.with_name(f"{claim.name}.{host()}.{os.getpid()}")
    with suppress(FileNotFoundError):
        claim.rename(mine)
        if _read(mine) != gone:
            with suppress(FileExistsError):
                os.link(mine, claim)
        mine.unlink()


def _claims(path: Path) -> tuple[Path, Path]:
    """Return the file that names a lock's holder, and the one that does where the file system has no locks."""
    return path, path.with_name(f"{path.name}.claim")


def _read(path: Path) -> Holder | None:
    try:
        with path.open("rb") as file:
            return Holder.named_in(file.read(LONGEST))
    except OSError:
        return None


def _waiting(what: str, found: Holder | None) -> str:
    return f"{what} by {found or 'another process'}: waiting until it is done"


def _refused(path: Path, error: OSError) -> NoRoom:
    return NoRoom(
        f"{path} could not be opened for writing: {error.strerror}. Make room, mend the permissions or choose another "
        "folder, then run the same command again."
    )


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False

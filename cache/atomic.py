"""Files and folders that appear under their final name whole, or not at all."""

import errno
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.errors import NoRoom

SYNCS_AT_ONCE = 32
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG}
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP}
_LEFTOVER = re.compile(r"^\..*\.(?P<host>[^.]+)\.(?P<process>\d{1,9})-\d+\.tmp$")


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`.

    Args:
        path: The final name. Its folder is made if need be; a file of that name is replaced in one step.

    Raises:
        NoRoom: The disk is full or the folder cannot be written to. Nothing is left behind.
    """
    temporary = _temporary(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success all in it is synced and it is renamed to `path`.

    Args:
        path: The final name, which must not exist, or be an empty folder.

    Raises:
        NoRoom: The disk is full or the parent folder cannot be written to. Nothing is left behind.
    """
    temporary = _temporary(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A restarted container has its host name and process number back, and finds what it left when it was killed.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            _sync_all(temporary)
            temporary.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """Yield an empty folder inside `place` for the time of the block; `remove_leftovers` knows it after a kill.

    Raises:
        NoRoom: The disk fills up inside the block, or `place` cannot be written to.
    """
    temporary = _temporary(place / "scratch")
    with _explained(temporary):
        shutil.rmtree(temporary, ignore_errors=True)  # as in `writing_folder`
        temporary.mkdir(parents=True)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically, as UTF-8."""
    with writing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> int:
    """Remove what killed processes of this machine left unfinished in a folder; say how many there were.

    The names hold host and process: what another machine or a living process is writing stays.
    """
    removed = 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        found = _LEFTOVER.match(entry.name)
        if found is None or found["host"] != _host() or _is_alive(int(found["process"])):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        removed += 1
    return removed


def require_room(folder: Path, needed: int, what: str) -> int:
    """Return the bytes that are free where `folder` is or will be, at least `needed`.

    Raises:
        NoRoom: Less is free than `what` needs.
    """
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise NoRoom(
            f"{what} needs {human_size(needed)} in {folder}, but only {human_size(free)} are free there. "
            "Make room, or choose a folder on another disk."
        )
    return free


def human_size(count: float) -> str:
    """Write a number of bytes as a person reads it: 512 B, 12.8 MB, 201 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5:  # from here on three digits round to the next unit
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "localhost"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}-{threading.get_native_id()}.tmp")


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:  # as some network file systems say of folders
            raise
    finally:
        os.close(handle)


def _sync_all(folder: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor  # late: `manyheads --help` never writes

    # A file system commits together what waits for it together: thousands of files take seconds, not a minute.
    with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:
        for _ in pool.map(_sync, folder.rglob("*")):
            pass  # to hear of what failed
    _sync(folder)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            mend = "make room or mend the permissions, then run the same command again"
        elif error.errno in _IN_THE_WAY:
            mend = "remove what is in its way, or choose another name"
        else:
            raise
        raise NoRoom(
            f"{path} could not be written: {os.strerror(error.errno)}. All that was complete before is kept; {mend}."
        ) from error

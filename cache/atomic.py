"""Files and folders that appear under their final name whole, or not at all, whatever is killed or loses power.

Of the file system no more is asked than POSIX promises: a file's content outlives a loss of power once the file is
synced, and an entry (that something is there, under this name or not at all) once its folder is.
"""

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.errors import NoRoom
from cache.process import host, is_alive

SYNCS_AT_ONCE = 32
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG}
_BROKEN = {errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE}
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP}
_LEFTOVER = re.compile(r"^\..*\.(?P<host>[^.]+)\.(?P<process>\d{1,9})-\d+\.tmp$")


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`.

    When the block is left, the file is on the disk and so is its name.

    Args:
        path: The final name. Its folder is made if need be; a file of that name is replaced in one step.

    Raises:
        NoRoom: The disk is full or fails, or the folder cannot be written to. Nothing half is left behind.
    """
    temporary = _temporary(path)
    with _explained(path):
        _make_folder(path.parent)
        try:
            yield temporary
            _sync(temporary)
            _name(temporary, path)
        finally:
            with suppress(OSError):  # which would hide the first one
                temporary.unlink(missing_ok=True)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success all in it is synced and it is renamed to `path`.

    When the block is left, the folder with all that is in it is on the disk.

    Args:
        path: The final name, which must not exist, or be an empty folder.

    Raises:
        NoRoom: The disk is full or fails, or the parent folder cannot be written to. Nothing half is left behind.
    """
    temporary = _temporary(path)
    with _explained(path):
        _make_folder(path.parent)
        # A restarted container has its host name and process number back, and finds what it left when it was killed.
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            yield temporary
            _sync_all(temporary)
            _name(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """Yield an empty folder inside `place` for the time of the block; `remove_leftovers` knows it after a kill.

    Raises:
        NoRoom: The disk fills up or fails inside the block, or `place` cannot be written to.
    """
    temporary = _temporary(place / "scratch")
    with _explained(temporary):
        _make_folder(place)  # it stays when the scratch is gone, and others will build on it
        shutil.rmtree(temporary, ignore_errors=True)  # as in `writing_folder`
        try:
            temporary.mkdir()
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically, as UTF-8."""
    with writing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, if need be; then it is on the disk.

    Raises:
        NoRoom: The disk is full or fails, or the folder above cannot be written to.
    """
    with _explained(path):
        _make_folder(path)


def remove_file(path: Path) -> None:
    """Remove a file if it is there; not even a loss of power brings it back.

    For what must be gone before something else is written: a removal alone may reach the disk after it.

    Raises:
        NoRoom: The folder cannot be written to, or the disk fails.
    """
    with _explained(path, "removed"), suppress(FileNotFoundError):  # not even the folder is there
        if os.path.lexists(path):  # a read-only file system refuses to remove even what is not there
            path.unlink(missing_ok=True)
        _sync(path.parent)


def remove_leftovers(folder: Path) -> int:
    """Remove what killed processes of this machine left unfinished in a folder; say how many there were.

    The names hold host and process: what another machine or a living process is writing stays, and so does what cannot
    be removed, as in a read-only folder.
    """
    removed = 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        found = _LEFTOVER.match(entry.name)
        if found is None or found["host"] != host() or is_alive(int(found["process"])):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.unlink()
        removed += not entry.exists()
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


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{host()}.{os.getpid()}-{threading.get_native_id()}.tmp")


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
    # Also where it was there: its maker may have been killed before this, or be on the way to it.
    with suppress(PermissionError):  # a folder of others that one may pass through and not list
        _sync(path.parent)


def _name(temporary: Path, path: Path) -> None:
    """Rename to the final name, and see that this is on the disk."""
    new = not os.path.lexists(path)
    temporary.replace(path)
    try:
        _sync(path.parent)
    except OSError:
        if new:  # else the old one is gone: better this one, which is whole, than none
            path.rename(temporary)
        raise


def _sync(path: Path) -> None:
    """Return when what is there is on the disk.

    Where that fails, nobody may try again: the system forgets what it could not write, and would say that all is well.
    """
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
def _explained(path: Path, done: str = "written") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            mend = "make room or mend the permissions, then run the same command again"
        elif error.errno in _IN_THE_WAY:
            mend = "remove what is in its way, or choose another name"
        elif error.errno in _BROKEN:
            mend = (
                "the disk, or the connection to it, fails: see the system's log, then run the same command again, or "
                "choose a folder on another disk"
            )
        else:
            raise
        raise NoRoom(
            f"{path} could not be {done}: {os.strerror(error.errno)}. All that was complete before is kept; {mend}."
        ) from error

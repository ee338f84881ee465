"""A file of a cache is a file of its own, and what is wrong with it is told apart."""

import gc
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cache.errors import CacheError
from cache.files import Missing, Unopened, opened_file, read_file
from cache.hdf5 import opened, unsealed

MEND = "Do this."


@pytest.fixture
def patience() -> Iterator[None]:
    """Let what waits for ever fail."""

    def end(number: int, frame: object) -> None:
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_file_is_read_whole_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert read_file(path, MEND, 7) == b"content"
    with pytest.raises(CacheError, match=rf"{path} is damaged \(it is larger than 6 bytes\)\. Do this\."):
        read_file(path, MEND, 6)


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def own_link(path: Path) -> None:
    path.symlink_to(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def descriptors() -> set[tuple[str, str]]:
    """Return what is open in this process: numbers, and what they stand for."""
    found = set()
    for number in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one by which the folder was listed
            found.add((number.name, str(number.readlink())))
    return found


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (folder, "cannot be opened: it is a folder. Move it out"),
        (pipe, "is a pipe or a device, not a file. Do this."),
        (link, "is no file of its own but a link or a socket. Do this."),
        (own_link, "is no file of its own but a link or a socket. Do this."),
        (device, "is no file of its own but a link or a socket. Do this."),
        (lambda path: None, "is missing. Do this."),
    ],
)
def test_what_is_no_file_is_neither_followed_nor_waited_for(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "file.h5"
    make(path)
    before = descriptors()
    for read in (opened_file(path, MEND), opened(path, MEND)):
        with pytest.raises(CacheError) as refused, read:
            pytest.fail("it was opened")
        assert str(refused.value).startswith(f"{path} {said}")
        del refused
    gc.collect()
    assert descriptors() <= before  # fewer where the collector closes what an earlier test left


def test_what_the_system_does_not_let_one_read_is_not_called_damaged() -> None:
    path = Path("/proc/self/mem")  # a file that opens, but has nothing to read at its beginning
    for read in (opened(path, MEND), unsealed(path, "shard", MEND)):
        with pytest.raises(Unopened, match=rf"^{path} cannot be opened: .*\. Mend its permissions or the disk"), read:
            pytest.fail("it was opened")


def test_an_error_reaches_the_process_that_started_a_worker(tmp_path: Path) -> None:
    with pytest.raises(Missing) as refused, opened(tmp_path / "file.h5", MEND):
        pytest.fail("it was opened")
    again = pickle.loads(pickle.dumps(refused.value))
    assert (type(again), str(again), again.path) == (Missing, str(refused.value), tmp_path / "file.h5")

"""What is written is there whole or not at all, whatever happens meanwhile."""

import errno
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.atomic import (
    human_size,
    make_folder,
    remove_file,
    remove_leftovers,
    require_room,
    scratch_folder,
    write_text,
    writing_file,
    writing_folder,
)
from cache.errors import NoRoom

KILLED = """
import os, signal, sys
from pathlib import Path
from cache.atomic import writing_file, writing_folder
with writing_file(Path(sys.argv[1]) / "file") as file, writing_folder(Path(sys.argv[1]) / "folder") as folder:
    file.write_text("half")
    (folder / "half").write_text("half")
    print("written", flush=True)
    signal.raise_signal(signal.SIGKILL) if sys.argv[2] == "killed" else sys.stdin.read()
"""


def writer(folder: Path, fate: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", KILLED, str(folder), fate]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with writing_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename is one step only within a file system
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert path.read_text() == "whole"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fail() -> None:
        with writing_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_no_folder(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with writing_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    with writing_folder(tmp_path / "runs" / "folder") as temporary:
        (temporary / "file").write_text("whole")
        assert not (tmp_path / "runs" / "folder").exists()
    assert (tmp_path / "runs" / "folder" / "file").read_text() == "whole"
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["folder"]


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")))
def test_text_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "text"
    write_text(path, text)
    assert path.read_text(encoding="utf-8") == text


def test_threads_that_write_the_same_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = [str(number) * 50_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_text(path, text), texts))
    assert path.read_text() in texts
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("limit", [0, 100, 99_999])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path: Path, limit: int, old: str | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        write_text(path, old)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(NoRoom, match=r"file could not be written: File too large\. .* make room"):
            write_text(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if old is None else ["file"])
    assert old is None or path.read_text() == old


class FailingSync:
    """`os.fsync` of a disk that gives in at the n-th call, as one with a quota or a broken one does.

    Attributes:
        calls: What was synced so far: F for a file, D for a folder.
    """

    def __init__(self, fails_at: int, number: int) -> None:
        self.fails_at, self.number, self.calls, self.sync = fails_at, number, "", os.fsync
        self.one_by_one = threading.Lock()

    def __call__(self, handle: int) -> None:
        with self.one_by_one:
            self.calls += "D" if stat.S_ISDIR(os.fstat(handle).st_mode) else "F"
            if len(self.calls) == self.fails_at:
                raise OSError(self.number, os.strerror(self.number))
            self.sync(handle)


SAID = {
    errno.EIO: "Input/output error.*; the disk, or the connection to it, fails: see the system's log, then run",
    errno.EDQUOT: "quota exceeded.*make room",
    errno.ENOSPC: "No space left on device.*make room",
}


@pytest.mark.parametrize("number", SAID)
@pytest.mark.parametrize("old", [None, "old"])
def test_a_sync_that_fails_is_explained_and_leaves_the_old_file_or_the_whole_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, old: str | None
) -> None:
    path = tmp_path / "file"
    for fails_at in (1, 2, 3):
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_text(old)
        with monkeypatch.context() as patched:
            sync = FailingSync(fails_at, number)
            patched.setattr(os, "fsync", sync)
            with pytest.raises(NoRoom, match=f"file could not be written: .*{SAID[number]}"):
                write_text(path, "new")
        assert sync.calls == "DFD"[:fails_at]  # what failed is not tried again: it would seem to succeed
        # Where the folder's sync failed, the old one is replaced already; but a new one is not named.
        assert (path.read_text() if path.exists() else None) == ("new" if old and fails_at == 3 else old)
        assert {entry.name for entry in tmp_path.iterdir()} <= {"file"}
    write_text(path, "newer")
    assert path.read_text() == "newer"


@pytest.mark.parametrize("number", SAID)
def test_a_folder_whose_syncs_fail_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def write() -> None:
        with writing_folder(tmp_path / "runs" / "folder") as temporary:
            (temporary / "below").mkdir()
            for name in ("one", "below/two"):
                (temporary / name).write_text("whole")

    # Where the new folder above is, before and after it is made; both files and both folders in it; at last its name.
    for fails_at in range(1, 8):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", FailingSync(fails_at, number))
            with pytest.raises(NoRoom, match=SAID[number]):
                write()
        assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    write()
    assert (tmp_path / "runs" / "folder" / "below" / "two").read_text() == "whole"


def test_what_cannot_be_synced_at_all_is_written_nevertheless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")  # as some network file systems say of folders

    monkeypatch.setattr(os, "fsync", refuse)
    write_text(tmp_path / "new" / "file", "whole")
    assert (tmp_path / "new" / "file").read_text() == "whole"


def test_folders_are_made_with_those_above(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "a" / "b" / "c")
        assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NoRoom, match=r"file/a could not be written: File exists\. .* remove what is in its way"):
        make_folder(tmp_path / "file" / "a")


def test_a_file_is_removed_and_one_that_is_not_there_is_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    (tmp_path / "link").symlink_to("nowhere")
    for gone in (path, path, tmp_path / "link", tmp_path / "missing" / "file"):
        remove_file(gone)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NoRoom, match=r"could not be removed: Is a directory\."):
        remove_file(tmp_path)


def test_a_scratch_folder_is_empty_and_gone_in_the_end(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "runs") as folder:
        assert list(folder.iterdir()) == []
        assert folder.parent == tmp_path / "runs"
        (folder / "below").mkdir()
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_is_in_the_way_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    for path in ("file/below", "file/below/that", "folder", "n" * 300):
        with pytest.raises(NoRoom, match="remove what is in its way, or choose another name"):
            write_text(tmp_path / path, "new")
    with pytest.raises(NoRoom, match="remove what is in its way"), writing_folder(tmp_path / "folder"):
        pass
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder"}
    assert (tmp_path / "folder" / "file").read_text() == "mine"


def test_leftovers_of_a_killed_process_are_removed_and_a_living_ones_kept(tmp_path: Path) -> None:
    killed, living = tmp_path / "killed", tmp_path / "living"
    writer(killed, "killed").communicate()
    alive = writer(living, "living")
    try:
        assert len(list(killed.iterdir())) == len(list(living.iterdir())) == 2
        assert remove_leftovers(killed) == 2
        assert remove_leftovers(living) == 0
        assert list(killed.iterdir()) == []
    finally:
        alive.communicate("")
    assert {entry.name for entry in living.iterdir()} == {"file", "folder"}


def test_leftovers_of_others_and_other_files_are_kept(tmp_path: Path) -> None:
    writer(tmp_path, "killed").communicate()
    dead = next(entry.name for entry in tmp_path.iterdir() if entry.is_file())
    found = re.fullmatch(r"\.file\.(.+)\.(\d+)-(\d+)\.tmp", dead)
    assert found is not None
    host, process, thread = found.groups()
    others = {
        f".file.another-{host}.{process}-{thread}.tmp",  # another machine on the same network file system
        f".file.{host}.{os.getpid()}-1.tmp",  # this very process
        f".file.{host}.{'9' * 30}-1.tmp",  # no process number at all
        f"file.{host}.{process}-{thread}.tmp",
        f".file.{process}.tmp",
        ".hidden",
        "file",
    }
    for name in others:
        (tmp_path / name).write_text("theirs")
    assert remove_leftovers(tmp_path) == 2
    assert {entry.name for entry in tmp_path.iterdir()} == others


def test_a_folder_without_leftovers_has_none(tmp_path: Path) -> None:
    assert remove_leftovers(tmp_path) == 0
    assert remove_leftovers(tmp_path / "missing") == 0


def test_a_restarted_container_gets_past_what_it_left(tmp_path: Path) -> None:
    # Host name, process and thread are all as they were before the kill.
    with writing_folder(tmp_path / "folder") as temporary:
        name = temporary.name
    (tmp_path / "folder").rmdir()
    (tmp_path / name).mkdir()
    (tmp_path / name / "half").write_text("half")
    with writing_folder(tmp_path / "folder") as temporary:
        assert temporary.name == name
        (temporary / "file").write_text("whole")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]


def test_room_is_required_before_the_work_starts(tmp_path: Path) -> None:
    free = require_room(tmp_path / "not" / "yet", 1, "a feature")
    assert free > 0
    with pytest.raises(NoRoom, match=rf"^2100 features needs 1e\+03 PB in {tmp_path}.* only .* are free"):
        require_room(tmp_path, 10**18, "2100 features")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (512, "512 B"), (999, "999 B"), (1000, "1 kB"), (999_999, "1 MB"), (12_845_056, "12.8 MB")],
)
def test_sizes_as_a_person_reads_them(count: int, text: str) -> None:
    assert human_size(count) == text


@given(st.integers(min_value=0, max_value=10**18 - 10**16))
def test_a_size_is_within_half_a_percent_and_never_in_exponents(count: int) -> None:
    number, unit = human_size(count).split()
    read = float(number) * 1000 ** ["B", "kB", "MB", "GB", "TB", "PB"].index(unit)
    assert "e" not in number
    assert abs(read - count) <= 0.005 * count


@contextmanager
def powerless() -> Iterator[None]:
    """Be somebody other than root, who may do everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_folder_that_cannot_be_written_to_is_explained(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with powerless():
            with pytest.raises(NoRoom, match=r"Permission denied\. .* mend the permissions"):
                write_text(tmp_path / "file", "new")
            with pytest.raises(NoRoom, match="Permission denied"), writing_folder(tmp_path / "folder"):
                pass
            with pytest.raises(NoRoom, match="Permission denied"):
                make_folder(tmp_path / "folder")
    finally:
        tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_is_explained_and_leftovers_are_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer(tmp_path, "killed").communicate()
    before = {entry.name for entry in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)  # which somebody else may be in, and not reach by its whole path
    tmp_path.chmod(0o555)
    try:
        with powerless():
            assert remove_leftovers(Path()) == 0
            with pytest.raises(NoRoom, match=r"could not be removed: Permission denied\. .* mend the permissions"):
                remove_file(Path(before.pop()))
            remove_file(Path("missing"))
    finally:
        tmp_path.chmod(0o700)
    assert remove_leftovers(tmp_path) == 2


def test_a_folder_of_others_that_may_not_be_listed_is_passed_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(0o777)
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o311)
    try:
        with powerless():
            write_text(Path("mine/file"), "new")
    finally:
        tmp_path.chmod(0o700)
    assert (tmp_path / "mine" / "file").read_text() == "new"

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import NoRoom
from cache.lock import Holder, alone, holder, locked, writing
from cache.process import host

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from cache.lock import writing
with writing(Path(sys.argv[1]), lambda text: print(text, flush=True)):
    print("held", flush=True)
    sys.stdin.readline()
"""
# As on a file system without locks.
WITHOUT = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""

Process = subprocess.Popen[str]


def start(cache: Path, before: str = "") -> Process:
    return subprocess.Popen(
        [sys.executable, "-c", before + HOLD, str(cache)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def line(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["", WITHOUT], ids=["kernel", "none"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    """Another process that writes into `tmp_path / cache`, on a file system with locks or without."""
    process = start(tmp_path / "cache", request.param)
    assert line(process) == "held\n"
    yield process
    process.kill()
    process.communicate()


def rival(request: pytest.FixtureRequest, cache: Path) -> Process:
    """Start a second one, on the same file system."""
    return start(cache, request.node.callspec.params["other"])


def test_the_file_is_there_only_while_it_is_held(tmp_path: Path) -> None:
    with writing(tmp_path / "cache"):
        assert names(tmp_path / "cache") == [".lock"]
    assert names(tmp_path / "cache") == []


def test_the_next_one_waits_and_hears_of_whom(other: Process, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cache = tmp_path / "cache"
    second = rival(request, cache)
    said = line(second)
    assert said.startswith(f"{cache} is being written by process {other.pid} on {host()} since 20")
    assert ": waiting until it is done" in said
    other.communicate("\n")
    assert line(second) == "held\n"
    second.communicate("\n")
    assert names(cache) == []


def test_what_a_killed_process_had_is_free_at_once(
    other: Process, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cache = tmp_path / "cache"
    other.kill()
    other.wait()
    assert holder(cache) is None
    assert names(cache) != []  # its name is still there
    second = rival(request, cache)
    assert line(second) == "held\n"
    second.communicate("\n")
    assert names(cache) == []


def test_one_who_waits_can_be_interrupted(other: Process, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cache = tmp_path / "cache"
    second = rival(request, cache)
    assert "waiting" in line(second)
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=30)
    found = holder(cache)
    assert found is not None
    assert found.process == other.pid


def test_a_reader_learns_who_writes(other: Process, tmp_path: Path) -> None:
    found = holder(tmp_path / "cache")
    assert found is not None
    assert (found.host, found.process) == (host(), other.pid)
    assert abs((datetime.now() - datetime.fromisoformat(found.since)).total_seconds()) < 3600
    assert str(found) == f"process {other.pid} on {host()} since {found.since}"


def test_nobody_writes_where_there_is_no_lock(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    assert holder(tmp_path / "missing") is None


def test_another_machines_claim_is_never_taken_away(tmp_path: Path) -> None:
    there = Holder("elsewhere", 1, "2026-01-01 00:00:00")
    (tmp_path / ".lock.claim").write_bytes(there.line)
    assert holder(tmp_path) == there
    process = start(tmp_path, WITHOUT)
    said = line(process)
    assert said.startswith(f"{tmp_path} is being written by process 1 on elsewhere since 2026-01-01 00:00:00")
    assert said.endswith(f"If that process is no more, remove {tmp_path / '.lock.claim'}\n")
    (tmp_path / ".lock.claim").unlink()
    assert line(process) == "held\n"
    process.communicate("\n")


def test_only_one_at_a_time_holds_it(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with locked(tmp_path / "lock", "it is being written"):
                inside.append(number)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 120
    assert names(tmp_path) == []


def test_an_error_inside_frees_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        1 / 0  # noqa: B018
    assert names(tmp_path) == []


def test_what_is_written_into_a_file_that_is_had_alone_stays(tmp_path: Path) -> None:
    with alone(tmp_path / "file", str) as file:
        file.write(b"kept")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused = pytest.raises(NoRoom, match=r"file could not be .*: File exists\. .*choose another name")
    with refused, writing(tmp_path / "file"):
        pass


def test_a_kernel_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(os.strerror(95))

    monkeypatch.setattr(fcntl, "flock", flock)
    with writing(tmp_path):
        assert names(tmp_path) == [".lock", ".lock.claim"]
        assert holder(tmp_path) == Holder.named_in((tmp_path / ".lock").read_bytes())
    assert names(tmp_path) == []


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_anything_else_in_the_file_names_nobody(content: bytes) -> None:
    assert Holder.named_in(content) is None


@given(
    st.fixed_dictionaries(
        dict.fromkeys(("host", "process", "since"), st.none() | st.booleans() | st.integers() | st.text())
    )
)
def test_whatever_the_file_says_it_can_be_shown(values: dict[str, object]) -> None:
    found = Holder.named_in(json.dumps(values).encode())
    if found:
        assert isinstance(found.is_gone, bool)
        assert str(found).isprintable()

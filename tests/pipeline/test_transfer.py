"""A file from a real web site, however that site behaves: its bytes and no others, or an explained failure."""

import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5, sha256
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.errors import NoRoom
from pipeline.errors import DownloadError
from pipeline.transfer import BLOCK, Checksum, fetch
from tests.cache.test_atomic import powerless
from tests.pipeline.serving import Answer, Listener, Site, serving

ROOT = Path(__file__).parents[2]
CONTENT = Random(0).randbytes(2_600_000)
CHECK = Checksum("md5", md5(CONTENT).hexdigest())
AT_ONCE = (0.0, 0.0, 0.0)  # instead of real pauses


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as served:
        served.content = CONTENT
        yield served


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "file.zip"


def files(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def get(site: Site, path: Path, check: Checksum | None = CHECK, **options: object) -> Listener:
    told = Listener()
    fetch(f"{site.address}/file.zip", path, check, told, pauses=AT_ONCE, **options)  # type: ignore[arg-type]
    return told


def test_a_file_comes_whole_and_is_not_fetched_twice(site: Site, path: Path) -> None:
    told = get(site, path)
    assert path.read_bytes() == CONTENT
    assert files(path) == ["file.zip"]
    assert told.notes == [f"downloading file.zip, 3 MB, to {path.parent}"]
    assert (told.pieces, sum(told.done)) == ([("downloading file.zip", 3, "MB")], 3)
    assert get(site, path).notes == []
    assert site.asked == [""]
    assert site.agents == {"manyheads"}


@pytest.mark.parametrize("check", [Checksum("sha256", sha256(CONTENT).hexdigest()[:8]), None])
def test_a_prefix_of_a_hash_or_none_will_do(site: Site, path: Path, check: Checksum | None) -> None:
    site.answers = [Answer(cut=1000)]
    get(site, path, check)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "bytes=1000-"]


def test_without_a_hash_nothing_is_kept_of_a_broken_transfer(site: Site, path: Path) -> None:
    site.answers = [Answer(cut=10)] * 4
    with pytest.raises(DownloadError) as caught:
        get(site, path, None)
    assert "kept" not in str(caught.value)
    assert files(path) == []


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_broken_connection_goes_on_where_it_broke(site: Site, path: Path, reset: bool) -> None:
    site.answers = [Answer(cut=1_200_000, reset=reset), Answer(cut=300_000, reset=reset)]
    told = get(site, path)
    assert path.read_bytes() == CONTENT
    assert files(path) == ["file.zip"]
    if not reset:  # what a reset throws away is the system's affair
        assert site.asked == ["", "bytes=1200000-", "bytes=1500000-"]
        assert told.notes == [
            f"downloading file.zip, 3 MB, to {path.parent}",
            "the connection broke after 1.2 MB of 2.6 MB: trying again in 0 s",
            "going on with file.zip after 1.2 MB of 3 MB",
            "the connection broke after 1.5 MB of 2.6 MB: trying again in 0 s",
            "going on with file.zip after 1.5 MB of 3 MB",
        ]
        assert [total for _, total, _ in told.pieces] == [3, 1, 1], "the bar shows what is left"


def test_a_site_that_ignores_ranges_begins_anew(site: Site, path: Path) -> None:
    site.answers = [Answer(cut=1000), Answer(ranges=False)]
    told = get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "bytes=1000-"]
    assert "the server does not send the rest alone: file.zip is downloaded from its start" in told.notes


def test_a_connection_that_keeps_breaking_is_given_up_and_the_next_call_goes_on(site: Site, path: Path) -> None:
    site.answers = [Answer(cut=1000)] + [Answer(cut=0)] * 3
    with pytest.raises(DownloadError, match=r"broke after 1 kB of 2\.6 MB, and 3 more tries were no better; the 1 kB"):
        get(site, path)
    assert files(path) == ["file.zip.partial"]
    told = get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=1000-"
    assert told.notes == ["going on with file.zip after 1 kB of 3 MB"]


def test_tries_are_counted_anew_after_a_megabyte(site: Site, path: Path) -> None:
    site.answers = [Answer(cut=0)] * 3 + [Answer(cut=1_100_000)] + [Answer(cut=0)] * 2
    get(site, path)
    assert path.read_bytes() == CONTENT


def leave(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.with_name("file.zip.partial").write_bytes(content)


def test_what_is_complete_already_is_not_asked_for(site: Site, path: Path) -> None:
    leave(path, CONTENT)
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == []


@pytest.mark.parametrize("old", [CONTENT + b"more", b"x" * len(CONTENT)], ids=["longer", "as long"])
def test_a_part_that_reaches_beyond_the_file_begins_anew(site: Site, path: Path, old: bytes) -> None:
    leave(path, old)
    get(site, path)  # answered with 416
    assert path.read_bytes() == CONTENT
    assert site.asked == [f"bytes={len(old)}-", ""]


def test_a_part_of_another_file_is_found_out_and_fetched_anew(site: Site, path: Path) -> None:
    leave(path, b"of last year")
    told = get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["bytes=12-", ""]
    assert "its parts may not belong together: downloading it from its start" in told.notes[1]
    leave(other := path.parent.parent / "other" / "file.zip", b"of last year")
    site.content = b"of this year, and wrong"
    with pytest.raises(DownloadError, match="invalid hash value"):
        get(site, other)
    assert site.asked[2:] == ["bytes=12-", ""], "once more, and only once"
    assert files(other) == []


def test_a_wrong_part_is_not_taken(site: Site, path: Path) -> None:
    site.answers = [Answer(cut=1000), Answer(shift=7)]
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "bytes=1000-", ""]


@pytest.mark.parametrize("answer", [Answer(length=None), Answer(chunked=True)], ids=["closed at the end", "chunked"])
def test_a_length_that_is_not_told_is_not_needed(site: Site, path: Path, answer: Answer) -> None:
    site.answers = [answer]
    told = get(site, path)
    assert path.read_bytes() == CONTENT
    assert told.notes == [f"downloading file.zip, size unknown, to {path.parent}"]
    assert told.pieces == []


def test_a_chunked_answer_that_breaks_goes_on(site: Site, path: Path) -> None:
    site.answers = [Answer(chunked=True, cut=1000)]
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "bytes=1000-"]


def test_an_end_that_cannot_be_told_from_a_break_is_called_that(site: Site, path: Path) -> None:
    site.answers = [Answer(length=None, cut=1000)]
    with pytest.raises(DownloadError, match=r"its size was not told, so perhaps the end is missing.*; it was not kept"):
        get(site, path)
    assert files(path) == []


def test_fewer_bytes_than_told_are_enough_if_the_hash_is_right(site: Site, path: Path) -> None:
    site.answers = [Answer(length=len(CONTENT) + 10)]
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == [""]


def test_more_bytes_than_told_are_not_taken(site: Site, path: Path) -> None:
    site.answers = [Answer(length=1000)]
    wrong = md5(CONTENT[:1000]).hexdigest()
    with pytest.raises(DownloadError, match=f"invalid hash value: the MD5 is {wrong} and should be {CHECK.start}"):
        get(site, path)
    assert files(path) == []


@pytest.mark.parametrize("length", [None, -1])
def test_a_stream_without_end_is_cut_at_the_most_that_can_be(site: Site, path: Path, length: int | None) -> None:
    site.answers = [Answer(length=length)]
    with pytest.raises(DownloadError, match=r"more than 1 MB came, so it is another file; it was not kept"):
        get(site, path, largest=10**6)
    assert files(path) == []


def test_a_wrong_file_is_refused_with_both_hashes(site: Site, path: Path) -> None:
    site.content = b"<html>please log in</html>"
    found = md5(site.content).hexdigest()
    with pytest.raises(DownloadError, match=f"the MD5 is {found} and should be {CHECK.start}; it was not kept"):
        get(site, path)
    assert files(path) == []
    assert site.asked == [""]


def test_a_wrong_file_that_was_put_there_by_hand_stays_and_is_named(site: Site, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(
        DownloadError, match=r"file\.zip is there already, but is damaged or another file .*: remove it"
    ):
        get(site, path)
    assert files(path) == ["file.zip"]
    assert site.asked == []


def test_redirects_are_followed_with_the_range(site: Site, path: Path) -> None:
    with serving() as network:
        network.content = CONTENT
        network.answers = [Answer(cut=1000)]
        site.answers = [Answer(to=f"{network.address}/signed?key=1"), Answer(to=f"{network.address}/signed?key=2")]
        get(site, path)
        assert path.read_bytes() == CONTENT
        assert network.asked == ["", "bytes=1000-"]


def test_a_redirect_in_a_circle_is_explained(site: Site, path: Path) -> None:
    site.answers = [Answer(to=f"{site.address}/again")] * 30
    with pytest.raises(DownloadError, match=r"^the server answered 302 .*infinite loop[^\n]*$"):
        get(site, path)
    assert files(path) == []


def test_what_is_not_there_is_said_and_what_has_come_stays(site: Site, path: Path) -> None:
    site.answers = [Answer(status=404)]
    with pytest.raises(DownloadError, match=r"^the server answered 404 Not Found$"):
        get(site, path)
    assert files(path) == []
    leave(path.parent / "part" / "file.zip", CONTENT[:1000])
    site.answers = [Answer(status=404)] * 2
    with pytest.raises(DownloadError, match="404 Not Found; the 1 kB that came are kept"):
        get(site, path.parent / "part" / "file.zip")
    assert files(path.parent / "part" / "file.zip") == ["file.zip.partial"]


def test_a_site_that_is_busy_is_asked_again(site: Site, path: Path) -> None:
    site.answers = [Answer(status=503), Answer(cut=1000), Answer(status=429)]
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "", "bytes=1000-", "bytes=1000-"]
    site.answers = [Answer(status=503)] * 4
    with pytest.raises(DownloadError, match="the server answered 503 Service Unavailable, and 3 more tries"):
        get(site, path.with_name("other.zip"))


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "never answers"])
def test_no_answer_is_said_at_once(path: Path, silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    started = time.monotonic()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if silent:
            server.listen()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/file.zip"
        with pytest.raises(DownloadError, match=r"there was no answer \((timed out|.*Connection refused)\)$"):
            fetch(address, path, CHECK, timeout=0.2)
    assert time.monotonic() - started < 5, "real pauses would take seven seconds"
    assert files(path) == []


def test_a_connection_that_falls_silent_counts_as_broken(site: Site, path: Path) -> None:
    never = threading.Event()
    site.answers = [Answer(cut=1000, hold=never)]
    told = get(site, path, timeout=0.2)
    never.set()
    assert path.read_bytes() == CONTENT
    assert told.notes[1] == "the connection broke after 1 kB of 2.6 MB (timed out): trying again in 0 s"


@pytest.mark.parametrize("url", ["", "file.zip", "ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x"])
def test_an_address_of_another_kind_is_refused(path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="begins with http:// or https://"):
        fetch(url, path, CHECK)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://", "http://127.0.0.1:x/", "http://127.0.0.1/a b", "http://127.0.0.1/é"]
)
def test_a_broken_address_is_explained(path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError, match="there was no answer"):
        fetch(url, path, CHECK)
    assert files(path) == []


FETCH = f"""
import sys
from pathlib import Path
from pipeline.transfer import Checksum, fetch
fetch(sys.argv[1], Path(sys.argv[2]), Checksum("md5", "{CHECK.start}"))
"""


def test_a_killed_download_goes_on(site: Site, path: Path) -> None:
    hold = threading.Event()
    site.answers = [Answer(cut=2_000_000, hold=hold)]
    process = subprocess.Popen([sys.executable, "-c", FETCH, f"{site.address}/file.zip", str(path)], cwd=ROOT)
    partial = path.with_name("file.zip.partial")
    assert site.held.wait(30)
    while partial.stat().st_size < 2_000_000:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    hold.set()
    assert files(path) == ["file.zip.partial"]
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "bytes=2000000-"]


def test_two_at_once_fetch_it_once(site: Site, path: Path) -> None:
    hold = threading.Event()
    site.answers = [Answer(cut=1_000_000, hold=hold)]
    first = subprocess.Popen([sys.executable, "-c", FETCH, f"{site.address}/file.zip", str(path)], cwd=ROOT)
    assert site.held.wait(30)
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(get, site, path) for _ in range(2)]
        time.sleep(0.2)
        assert not any(other.done() for other in others)
        hold.set()
        told = [note for other in others for note in other.result().notes]
    assert first.wait(30) == 0
    assert set(told) == {"another process is downloading file.zip: waiting until it is done"}
    assert site.asked == ["", "bytes=1000000-"]
    assert path.read_bytes() == CONTENT
    assert files(path) == ["file.zip"]


def test_a_full_disk_is_explained_and_keeps_what_came(site: Site, path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(NoRoom, match=r"file\.zip\.partial could not be written: File too large\. Make room"):
            get(site, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.with_name("file.zip.partial").stat().st_size == 1_000_000
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "bytes=1000000-"]


def test_a_file_that_cannot_fit_is_refused_before_it_comes(site: Site, path: Path) -> None:
    site.answers = [Answer(length=10**18)]
    with pytest.raises(NoRoom, match=r"file\.zip needs 1e\+03 PB"):
        get(site, path)
    assert files(path) == []


def test_a_folder_that_cannot_be_written_to_is_explained(site: Site, path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    try:
        with powerless(), pytest.raises(NoRoom, match=r"could not be written: Permission denied\. .* mend"):
            get(site, path)
    finally:
        path.parent.chmod(0o700)
    assert files(path) == []
    assert site.asked == []


@pytest.fixture(scope="module")
def shared_site() -> Iterator[Site]:
    with serving() as served:
        yield served


breaks = st.builds(
    Answer,
    cut=st.one_of(st.integers(0, 5000), st.integers(BLOCK - 2, BLOCK + 2)),
    ranges=st.booleans(),
    chunked=st.booleans(),
    shift=st.sampled_from([0, 0, 0, 3]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(answers=st.lists(breaks, max_size=6), size=st.sampled_from([1, 4999, BLOCK + 1]), calls=st.booleans())
def test_wherever_it_breaks_the_same_bytes_come(
    shared_site: Site, tmp_path_factory: pytest.TempPathFactory, answers: list[Answer], size: int, calls: bool
) -> None:
    path = tmp_path_factory.mktemp("broken") / "file.zip"
    shared_site.content, shared_site.answers = CONTENT[:size], list(answers)
    check = Checksum("md5", md5(CONTENT[:size]).hexdigest())
    while not path.exists():
        try:
            fetch(f"{shared_site.address}/x", path, check, pauses=() if calls else (0.0,) * len(answers))
        except DownloadError as error:
            reason = str(error)
        else:
            reason = "none"
        assert reason == "none" or (calls and "the connection broke" in reason), reason
    assert path.read_bytes() == CONTENT[:size]
    assert files(path) == ["file.zip"]

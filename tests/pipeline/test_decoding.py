"""Images come decoded in order, whatever becomes of the processes that decode them; and none of these stays behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import decoding as module
from pipeline.augmentation import view_pixels
from pipeline.decode import decode
from pipeline.decoding import DEATHS_IN_A_ROW, VIEWS_AT_ONCE, Decoded, Wanted, decoding, enough_workers, prepare
from pipeline.errors import UnreadableImages
from pipeline.image_set import digest_of
from pipeline.transform import Transform
from tests.pipeline.test_decoder import alive, linux, until

ROOT = Path(__file__).parents[2]
SMALL = Transform(36, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def files(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve images, and after each third one a file that is none."""
    empty = tmp_path_factory.mktemp("files") / "empty.png"
    empty.touch()
    good = sorted(drawn.rglob("*.png"))[:12]
    return [path for number, one in enumerate(good) for path in ([one, empty] if number % 3 == 0 else [one])]


def expected(one: Wanted) -> npt.NDArray[np.uint8] | str:
    data = one.path.read_bytes()
    if not data:
        return "the file is empty"
    image, digest = decode(data), digest_of(data)
    return np.stack([view_pixels(image, digest, number, SMALL) for number in one.views])


def require(found: Decoded, one: Wanted) -> None:
    """What came is what was wanted at this place, and right."""
    assert found.wanted is one
    right = expected(one)
    if isinstance(right, str):
        assert (found.pixels, found.reason) == (None, right)
    else:
        assert found.reason == ""
        assert np.array_equal(found.pixels if found.pixels is not None else 0, right)


def workers() -> list[int]:
    """Return the numbers of all processes that decode for this one."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"pipeline.decoder" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except OSError:  # it has just ended
            continue
    return found


def kill(processes: Iterable[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # it was quicker
            os.kill(process, signal.SIGKILL)


def idle() -> set[int]:
    """Return the numbers of those that wait for the next call."""
    return {one._process.pid for _, one in module._idle}


@settings(max_examples=40)
@given(st.data(), st.integers(1, 4), st.integers(1, 40))
def test_every_image_comes_in_order_and_few_are_begun_before(
    files: list[Path], data: st.DataObject, crew: int, ahead: int
) -> None:
    views = st.lists(st.integers(0, 999), min_size=1, max_size=VIEWS_AT_ONCE)
    some = data.draw(st.lists(st.builds(Wanted, st.sampled_from(files), st.none(), views), max_size=30))
    begun: list[Wanted] = []
    done = 0

    def one_by_one() -> Iterator[Wanted]:
        for one in some:
            begun.append(one)
            yield one
            waiting = begun[done:]
            # Before the last one was begun, there were too few: of views, or of images for the workers.
            assert sum(len(one.views) for one in waiting[:-1]) < ahead or len(waiting) <= 2 * crew

    with decoding(one_by_one(), SMALL, crew, ahead) as decoded:
        for one, found in zip(some, decoded, strict=True):
            require(found, one)
            done += 1
    assert len(idle()) <= 4


def test_a_digest_must_be_that_of_the_file(files: list[Path]) -> None:
    digests = [digest_of(path.read_bytes()) for path in files]
    wrong = {1, 5, len(files) - 1}
    some = [Wanted(path, "0" * 64 if number in wrong else digests[number]) for number, path in enumerate(files)]
    with decoding(some, SMALL, 2) as decoded:
        reasons = [found.reason for found in decoded]
    assert {number for number, reason in enumerate(reasons) if reason == "it was changed since it was listed"} == wrong


def test_processes_wait_for_the_next_call(files: list[Path]) -> None:
    some = [Wanted(path) for path in files]
    with decoding(some, SMALL, 2) as decoded:
        assert len(list(decoded)) == len(some)
    before = idle()
    assert len(before) >= 2
    for crew in (1, 2):
        with decoding(some, SMALL, crew) as decoded:
            list(decoded)
        assert idle() == before
    prepare(2)
    assert idle() == before
    prepare(len(before) + 1)
    assert idle() > before


def test_without_a_next_call_they_end(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)
    with decoding([Wanted(path) for path in files], SMALL, 2) as decoded:
        list(decoded)
    before = idle()
    assert len(before) >= 2
    until(lambda: not idle())
    until(lambda: not any(alive(one) for one in before))


def test_dead_ones_are_not_asked(files: list[Path]) -> None:
    prepare(4)
    killed = idle()
    kill(killed)
    until(lambda: not any(alive(one) for one in killed))
    some = [Wanted(path) for path in files]
    with decoding(some, SMALL, 1, ahead=1) as decoded:
        for one, found in zip(some, decoded, strict=True):
            require(found, one)


@linux
@pytest.mark.parametrize("crew", [1, 3])
@pytest.mark.parametrize("moment", [3, 20, 45])
def test_when_all_processes_are_killed_no_image_is_lost(files: list[Path], crew: int, moment: int) -> None:
    some = [Wanted(path, None, range(number, number + 5)) for number, path in enumerate(files * 3)]

    def killing() -> Iterator[Wanted]:
        for number, one in enumerate(some):
            if number == moment:
                kill(workers())
            yield one

    with decoding(killing(), SMALL, crew, ahead=20) as decoded:
        for one, found in zip(some, decoded, strict=True):
            require(found, one)


KILLERS = """
import json, resource, signal, sys
from pathlib import Path
from pipeline import decoding as module
from pipeline.decoding import Wanted, decoding
from pipeline.transform import Transform
# A process may compute for one second; of this one the signal is caught, of those that it starts it is not.
signal.signal(signal.SIGXCPU, lambda *_: None)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
module.DEATHS_IN_A_ROW = 2
transform = Transform(36, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
wanted = [Wanted(Path(path), None, range(1, 17) if "killer" in path else (0,)) for path in sys.argv[1:]]
with decoding(wanted, transform, 2) as decoded:
    print(json.dumps([[str(one.wanted.path), one.pixels is not None, one.reason] for one in decoded]))
"""


def test_images_that_kill_are_named_and_all_others_go_on(files: list[Path], tmp_path: Path) -> None:
    killers = [str(tmp_path / f"killer{number}.bmp") for number in range(2)]
    for path in killers:
        Image.new("RGB", (5000, 5000)).save(path)  # to turn it sixteen times takes longer than what is granted
    good = [str(path) for path in files if path.stat().st_size]
    order = [*good[:5], killers[0], *good[5:], killers[1], *good]
    command = [sys.executable, "-c", KILLERS, *order]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    reason = "the process that decoded it was killed (SIGXCPU)"
    assert json.loads(done.stdout) == [[path, path not in killers, reason if path in killers else ""] for path in order]


@linux
def test_where_all_die_it_ends_soon(files: list[Path]) -> None:
    good = [path for path in files if path.stat().st_size]
    over = threading.Event()

    def killing() -> None:
        while not over.is_set():
            kill(workers())

    some = [Wanted(path) for path in good * 3]
    thread = threading.Thread(target=killing)
    thread.start()
    try:
        with (
            pytest.raises(UnreadableImages, match=r"images in a row .* memory is short: .* fewer --workers") as raised,
            decoding(some, SMALL, 2) as decoded,
        ):
            list(decoded)
    finally:
        over.set()
        thread.join()
    lines = str(raised.value).splitlines()[1:]
    dead = [f"  {path}: the process that decoded it was killed (SIGKILL)" for path in good * 2]
    first = dead.index(lines[0])  # some may have been decoded before the killing began
    assert lines == dead[first : first + DEATHS_IN_A_ROW]


def test_a_process_that_cannot_be_started(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with decoding([], SMALL, 1):
        module._end_idle()
    monkeypatch.setattr(sys, "executable", "/no/python")
    message = "no process that decodes can be started: .*No such file.*fewer --workers"
    with pytest.raises(UnreadableImages, match=message), decoding([Wanted(files[0])], SMALL, 1) as decoded:
        list(decoded)
    with pytest.raises(UnreadableImages, match=message):
        prepare(1)


class Broken(Exception):
    """Something goes wrong where the pixels are used."""


@linux
@pytest.mark.parametrize("failure", [KeyboardInterrupt, Broken])
def test_left_early_it_kills_what_is_under_way(files: list[Path], tmp_path: Path, failure: type[BaseException]) -> None:
    Image.new("RGB", (5000, 5000)).save(tmp_path / "large.bmp")
    prepare(4)  # of which two will be busy
    slow = [Wanted(tmp_path / "large.bmp", None, range(1, 1000)) for _ in range(4)]
    with suppress(failure), decoding([Wanted(files[0]), *slow], SMALL, 2) as decoded:
        next(decoded)
        started = time.monotonic()
        raise failure
    assert time.monotonic() - started < 20  # of minutes that it would take
    # Those that are left have nothing to do; they may be of earlier calls.
    assert set(workers()) == idle()
    assert (idle() == set()) == (failure is KeyboardInterrupt)


ENDING = """
import sys
from pathlib import Path
from pipeline import decoding as module
from pipeline.decoding import Wanted, decoding
from pipeline.transform import Transform
some = [Wanted(Path(path)) for path in sys.argv[2:]]
context = decoding(some * 20, Transform(36, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), 2)
decoded = context.__enter__()
for _ in range(1 if sys.argv[1] == "midway" else 20 * len(some)):
    next(decoded)
if sys.argv[1] != "midway":
    context.__exit__(None, None, None)
print(*(one._process.pid for _, one in module._idle), flush=True)
if sys.argv[1] == "failed":
    raise RuntimeError("as asked")
if sys.argv[1] == "exit":
    sys.exit(3)
"""


@pytest.mark.parametrize(("how", "status"), [("done", 0), ("failed", 1), ("exit", 3), ("midway", 0)])
def test_the_interpreter_ends_without_them(files: list[Path], how: str, status: int) -> None:
    command = [sys.executable, "-W", "error", "-c", ENDING, how, *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == status
    assert ["RuntimeError: as asked"][: how == "failed"] == done.stderr.splitlines()[-1:]
    assert not any(alive(int(one)) for one in done.stdout.split())
    assert done.stdout.split() or how == "midway"


def test_a_fork_leaves_them_to_its_parent(files: list[Path]) -> None:
    some = [Wanted(path) for path in files]
    with decoding(some, SMALL, 2) as decoded:
        list(decoded)
    before = idle()
    child = os.fork()
    if child == 0:
        found: Sequence[object] = ()
        try:
            inherited = idle()
            with decoding(some, SMALL, 2) as decoded:
                found = [one.reason for one in decoded]
            module._end_idle()
        finally:
            os._exit(0 if not inherited and len(found) == len(some) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert idle() == before
    with decoding(some, SMALL, 2) as decoded:
        for one, result in zip(some, decoded, strict=True):
            require(result, one)
    assert idle() == before


@pytest.mark.parametrize(
    ("images", "asked", "enough"), [(0, 8, 1), (1, 8, 1), (4, 8, 1), (5, 8, 1), (8, 8, 2), (999, 8, 8)]
)
def test_few_images_need_few_processes(images: int, asked: int, enough: int) -> None:
    assert enough_workers(images, asked) == enough
    assert 1 <= enough_workers(images) <= 16


@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "7"}])
def test_torchs_threads_spin_less_unless_the_user_says_how_long(given: dict[str, str]) -> None:
    code = "import os, sys, pipeline.extraction; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    plain = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=plain | given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", given.get("GOMP_SPINCOUNT", "1000")]


def test_calls_side_by_side(files: list[Path]) -> None:
    some = [Wanted(path) for path in files]
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(3):
                with decoding(some, SMALL, 2) as decoded:
                    for one, found in zip(some, decoded, strict=True):
                        require(found, one)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []

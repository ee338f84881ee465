"""A process that decodes: what it answers, what it dies of and how that is told, and that it outlives nobody."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.augmentation import view_pixels
from pipeline.decode import MAX_FILE_BYTES, decode
from pipeline.decoder import Death, Decoder, pixels_of
from pipeline.image_set import digest_of
from pipeline.transform import Transform

ROOT = Path(__file__).parents[2]
SMALL = Transform(36, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """One that is there for all tests that leave it alive."""
    one = Decoder()
    yield one
    assert one.lives
    one.end()


@pytest.fixture(scope="module")
def picture(drawn: Path) -> Path:
    return drawn / "beach" / "beach00.png"


def number(one: Decoder) -> int:
    """Return the process's."""
    return one._process.pid


def answer(decoder: Decoder, path: Path) -> npt.NDArray[np.uint8] | str | Death:
    """Return the answer for the plain view of any file; it must be the one that is given in this process."""
    found = decoder.decode(path, None, (0,), SMALL)
    expected = pixels_of(path, None, lambda image, _: SMALL.pixels(image)[None])
    assert np.array_equal(found, expected) if isinstance(expected, np.ndarray) else found == expected
    return found


def test_views_are_those_that_are_made_here(decoder: Decoder, picture: Path) -> None:
    data = picture.read_bytes()
    digest, numbers = digest_of(data), (0, 3, 0, 999, 1)
    expected = np.stack([view_pixels(decode(data), digest, view, SMALL) for view in numbers])
    for asked in (digest, None):
        assert np.array_equal(decoder.decode(picture, asked, numbers, SMALL), expected)
    large = Transform(256, 224, SMALL.mean, SMALL.std, "bicubic")
    found = decoder.decode(picture, digest, range(1, 17), large)
    assert isinstance(found, np.ndarray)
    assert found.shape == (16, 224, 224, 3)
    assert np.array_equal(found[15], view_pixels(decode(data), digest, 16, large))


def test_what_cannot_be_read_has_a_reason(decoder: Decoder, picture: Path, tmp_path: Path) -> None:
    assert decoder.decode(picture, "0" * 64, (0,), SMALL) == "it was changed since it was listed"
    assert answer(decoder, tmp_path / "gone.png") == "No such file or directory"
    assert answer(decoder, tmp_path) == "Is a directory"
    assert answer(decoder, tmp_path / "a\0b") == "embedded null byte"
    (tmp_path / "loop").symlink_to("loop")
    assert answer(decoder, tmp_path / "loop") == "Too many levels of symbolic links"
    os.mkfifo(tmp_path / "pipe")
    assert answer(decoder, tmp_path / "pipe") == "it is no regular file"
    (tmp_path / "empty").touch()
    assert answer(decoder, tmp_path / "empty") == "the file is empty"
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)  # more than any memory, and nothing on the disk
    assert f"{1 << 40} bytes are more than the {MAX_FILE_BYTES}" in str(answer(decoder, tmp_path / "sparse"))
    Image.new("RGB", (1, 700_000)).save(tmp_path / "long.bmp")
    assert "too elongated" in str(answer(decoder, tmp_path / "long.bmp"))


def test_names_that_are_no_text(decoder: Decoder, picture: Path, tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", "☕\n'\".png".encode()):
        named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        named.write_bytes(picture.read_bytes())
        assert isinstance(answer(decoder, named), np.ndarray)


def test_the_limit_of_pixels_is_the_parents(decoder: Decoder, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "64 x 64 pixels are more than the 100" in str(answer(decoder, picture))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert isinstance(answer(decoder, picture), np.ndarray)


@linux
def test_memory_that_is_not_there_is_a_reason_and_no_death(decoder: Decoder, picture: Path, tmp_path: Path) -> None:
    Image.new("L", (9000, 9000)).save(tmp_path / "large.png", compress_level=1)  # 81 MB, and 324 MB as RGB
    Image.new("RGB", (1, 50_000)).save(tmp_path / "long.bmp")  # 259 MB when its short side is resized to 36
    pages = int(Path(f"/proc/{number(decoder)}/statm").read_text().split()[0])
    before = resource.prlimit(number(decoder), resource.RLIMIT_AS)
    resource.prlimit(number(decoder), resource.RLIMIT_AS, (pages * resource.getpagesize() + 200_000_000, before[1]))
    found = [decoder.decode(tmp_path / name, None, (0,), SMALL) for name in ("large.png", "long.bmp")]
    resource.prlimit(number(decoder), resource.RLIMIT_AS, before)
    assert found == ["there is not enough memory to decode it"] * 2
    assert isinstance(answer(decoder, picture), np.ndarray)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGBUS"])
def test_its_death_is_told_with_the_signal(picture: Path, name: str) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # not what a process would have from its parent
    one = Decoder()
    signal.signal(signal.SIGTERM, before)
    assert isinstance(answer(one, picture), np.ndarray)
    os.kill(number(one), signal.SIGSTOP)  # so that it cannot answer before it is killed
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(one.decode, picture, None, (0,), SMALL)
        os.kill(number(one), getattr(signal, name))
        os.kill(number(one), signal.SIGCONT)
        assert future.result() == Death(f"the process that decoded it was killed ({name})")
    assert not one.lives


def test_its_end_by_itself_is_told_with_the_status(picture: Path) -> None:
    one = Decoder()
    one._questions.write(b"no question")
    assert isinstance(one.decode(picture, None, (0,), SMALL), Death)
    assert not one.lives


def test_an_interrupt_is_the_parents_alone(decoder: Decoder, picture: Path) -> None:
    assert isinstance(answer(decoder, picture), np.ndarray)  # it has started
    os.kill(number(decoder), signal.SIGINT)
    assert isinstance(answer(decoder, picture), np.ndarray)


INTERRUPTED = """
import os, signal, time
from pathlib import Path
from pipeline.decoder import Decoder
some = [Decoder() for _ in range(3)]
try:
    os.killpg(0, signal.SIGINT)  # what a terminal does at Ctrl-C, here when the processes are just starting
    time.sleep(9)
except KeyboardInterrupt:
    print(*(one.lives for one in some))
"""


def test_an_interrupt_from_the_terminal_does_not_reach_it_even_while_it_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert (done.stdout, done.stderr) == ("True True True\n", "")


ELSEWHERE = """
import os, sys
from pathlib import Path
sys.path[:] = [place for place in sys.path if place != os.getcwd()]  # as where it is not installed
from pipeline.decoder import Decoder
from pipeline.transform import Transform
os.chdir("/")
found = Decoder().decode(Path(sys.argv[1]), None, (0,), Transform(36, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
print(found.shape)
"""


def test_the_working_directory_may_change(decoder: Decoder, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(picture.parent)
    assert isinstance(answer(decoder, Path(picture.name)), np.ndarray)
    # This package, imported from the working directory, is not found there any more.
    command = [sys.executable, "-c", ELSEWHERE, str(picture)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 32, 32, 3)\n"


SILENT = """
import sys
from pathlib import Path
from pipeline.decoder import Decoder
from pipeline.transform import Transform
one = Decoder()
for path in sys.argv[1:]:
    print(one.decode(Path(path), None, (0,), Transform(36, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))))
"""


def test_what_libraries_print_and_warn_of_stays_in_it(picture: Path, tmp_path: Path) -> None:
    image = Image.open(picture)
    image.save(tmp_path / "torn.tif", compression="tiff_lzw")
    data = (tmp_path / "torn.tif").read_bytes()
    (tmp_path / "torn.tif").write_bytes(data[:2000] + b"\xff" * 500 + data[2500:])  # of which libtiff complains
    image.save(tmp_path / "exif.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")  # of which Pillow warns
    files = [str(tmp_path / name) for name in ("torn.tif", "exif.jpg")]
    done = subprocess.run([sys.executable, "-c", SILENT, *files], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "not readable as TIFF" in done.stdout
    assert done.stderr == ""


@linux
def test_it_has_no_torch_and_none_of_the_parents_files(decoder: Decoder, picture: Path, tmp_path: Path) -> None:
    assert isinstance(answer(decoder, picture), np.ndarray)
    maps = Path(f"/proc/{number(decoder)}/maps").read_text()
    assert "libjpeg" in maps
    assert "torch" not in maps
    assert "libhdf5" not in maps
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        one = Decoder()
        assert isinstance(answer(one, picture), np.ndarray)
        held = [str(entry.readlink()) for entry in Path(f"/proc/{number(one)}/fd").iterdir()]
        one.end()
    assert not any(str(tmp_path) in path for path in held)
    # Those of its own: two ends of pipes, the second one twice, and where all else goes.
    assert sum(path.startswith("pipe:") for path in held) == 2
    assert {path for path in held if not path.startswith("pipe:")} == {os.devnull}


ORPHANED = """
import sys, time
from pathlib import Path
from pipeline.decoder import Decoder
from pipeline.transform import Transform
one = Decoder()
one.decode(Path(sys.argv[1]), None, (0,), Transform(36, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
print(one._process.pid, flush=True)
if sys.argv[2:]:
    one.decode(Path(sys.argv[2]), None, range(1, 1000), Transform(36, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
time.sleep(60)
"""


def alive(process: int) -> bool:
    """Whether a process that is no child of this one still is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # In a container without an init nobody takes notice of its end.
    status = Path(f"/proc/{process}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come to pass soon."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 20
        time.sleep(0.005)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_parent_is_killed_it_ends(picture: Path, tmp_path: Path, how: signal.Signals, busy: bool) -> None:
    Image.new("RGB", (2000, 2000)).save(tmp_path / "large.bmp")
    more = [str(tmp_path / "large.bmp")] if busy else []
    command = [sys.executable, "-c", ORPHANED, str(picture), *more]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.send_signal(how)
    until(lambda: not alive(worker))

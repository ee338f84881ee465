"""A corpus of bad and odd images, among good ones, through the real extraction: each is read rightly or named."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from cache import FeatureCache
from pipeline.decode import decode
from pipeline.extraction import Extraction, extract
from pipeline.image_set import read_image_set
from pipeline.progress import SILENT, Progress
from tests.conftest import BASE, WEIGHTS
from tests.pipeline.image_files import Array, Odd, array_image, saved
from tests.pipeline.odd_images import corpus, special_files
from tests.pipeline.whole_images import scene

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Pillow warns of damage

HERE = Path(__file__).parents[2]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")  # all but the line feed


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """End what hangs."""

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Extracted(NamedTuple):
    images: Path
    cache: Path
    expected: dict[str, Odd]
    result: Extraction

    def features(self) -> dict[str, Array]:
        """Path -> its row, as plain as a user reads it."""
        cache = FeatureCache.open(self.cache)
        entries = cache.index().entries
        return dict(zip([entry.path for entry in entries], cache.read([one.digest for one in entries]), strict=True))


def extracted_of(images: Path, cache: Path, progress: Progress = SILENT) -> Extraction:
    with at_most(180):
        # One image at a time, so that the arithmetic of a row does not depend on its neighbours.
        options: dict[str, Any] = {"base": BASE, "weights": WEIGHTS, "device": "cpu", "batch_size": 1}
        return extract(images, cache, **options, on_error="skip", progress=progress)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extracted]:
    folder = tmp_path_factory.mktemp("odd")
    images = folder / "images"
    made = special_files(images / "no plain files", folder)
    files = list(corpus())
    for number, kind in enumerate(sorted({odd.kind for odd in made + files})):
        picture = scene(20_000 + number)
        files.append(Odd(kind, "good.png", saved(array_image(picture), "PNG"), picture))
    for odd in files:
        (images / odd.kind).mkdir(exist_ok=True)
        (images / odd.kind / odd.name).write_bytes(odd.data)
    expected = {f"{odd.kind}/{odd.name}": odd for odd in made + files}
    yield Extracted(images, folder / "cache", expected, extracted_of(images, folder / "cache"))
    for path, odd in expected.items():
        if odd.reason.endswith("Permission denied"):
            (images / path).chmod(0o700)  # so that pytest can remove it


def shown(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def test_there_are_enough_of_every_sort() -> None:
    files = corpus()
    assert len(files) >= 600
    assert len({(odd.kind, odd.name) for odd in files}) == len(files)
    good = [odd.picture for odd in files if odd.picture is not None]
    assert len({(picture.shape, picture.tobytes()) for picture in good}) == len(good) >= 250
    assert sum(bool(odd.reason) for odd in files) >= 250


def test_every_bad_image_is_named_once_with_its_reason(extracted: Extracted) -> None:
    skipped = extracted.result.skipped
    assert skipped == tuple(sorted(skipped))
    reasons = dict(skipped)
    assert len(reasons) == len(skipped)
    bad = {shown(path): odd.reason for path, odd in extracted.expected.items() if odd.reason}
    wrong = {path: reasons.get(path) for path, reason in bad.items() if reason not in reasons.get(path, "")}
    assert not wrong
    for path, reason in skipped:
        assert path in bad or extracted.expected[path].picture is None
        assert reason
        assert not CONTROL.search(reason), path
        assert "Traceback" not in reason


def test_rows_and_skipped_are_all_that_there_is(extracted: Extracted) -> None:
    rows = list(extracted.features())
    assert rows == sorted(rows)
    assert sorted(rows + [path for path, _ in extracted.result.skipped]) == sorted(map(shown, extracted.expected))
    assert extracted.result.images == len(rows)
    assert read_image_set(extracted.images).found == len(extracted.expected)


def test_every_good_image_has_the_features_of_its_picture(extracted: Extracted, tmp_path: Path) -> None:
    rows = extracted.features()
    assert not [path for path, odd in extracted.expected.items() if odd.picture is not None and path not in rows]
    named: dict[str, str] = {}
    (tmp_path / "plain" / "all").mkdir(parents=True)
    for number, path in enumerate(rows):
        odd = extracted.expected[path]
        picture = array_image(odd.picture) if odd.picture is not None else decode(odd.data)
        named[f"all/{number:04d}.png"] = path
        picture.save(tmp_path / "plain" / f"all/{number:04d}.png")
    extracted_of(tmp_path / "plain", tmp_path / "cache")
    plain = extracted._replace(cache=tmp_path / "cache").features()
    assert len(plain) == len(rows)
    assert not [path for name, path in named.items() if not np.array_equal(plain[name], rows[path])]
    # Features tell these pictures apart, so that a row that belongs to another would have shown.
    good = {path for path, odd in extracted.expected.items() if odd.picture is not None}
    assert len({rows[path].tobytes() for path in good}) == len(good)


def command(*arguments: str | Path, locale: str = "C.UTF-8") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, HERE / "cli.py", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "LC_ALL": locale},
        cwd=HERE,
    )


EXTRACT = ("--base", BASE, "--weights", WEIGHTS, "--device", "cpu", "--batch-size", "1")


def test_the_command_line_says_the_same(extracted: Extracted, tmp_path: Path) -> None:
    cache = shutil.copytree(extracted.cache, tmp_path / "cache")
    skipping = command("extract", extracted.images, cache, *EXTRACT, "--on-error", "skip", "--json")
    assert skipping.returncode == 0, skipping.stderr
    document = json.loads(skipping.stdout)
    assert tuple(map(tuple, document["skipped"])) == extracted.result.skipped
    assert (document["images"], document["computed"]) == (extracted.result.images, 0)
    failing = command("extract", extracted.images, cache, *EXTRACT)
    assert failing.returncode == 1
    for path, reason in extracted.result.skipped:
        assert f"  {path}: {reason}\n" in failing.stderr or not path.isprintable()
    assert failing.stderr.count("\n  ") == len(extracted.result.skipped)
    for said in (skipping.stdout, skipping.stderr, failing.stdout, failing.stderr):
        assert "Traceback" not in said
        assert not CONTROL.search(said)


DECODE_ALL = """
import json, resource, sys
from pathlib import Path
from pipeline.decode import decode
from pipeline.errors import UnreadableImage

files = {path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (100 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
reasons = {}
for name, data in files.items():
    try:
        reasons[name] = str(decode(data).size)
    except UnreadableImage as refused:
        reasons[name] = str(refused)
print(json.dumps(reasons))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit is not kept, or the size not known")
def test_bombs_are_refused_before_they_take_memory_or_time(tmp_path: Path) -> None:
    expected = {odd.name: odd.reason for odd in corpus() if odd.kind == "bombs"}
    for odd in corpus():
        if odd.kind == "bombs":
            (tmp_path / odd.name).write_bytes(odd.data)
            assert len(odd.data) < 300_000
    # Warnings are errors, because Pillow's own of bombs must not come.
    arguments = [sys.executable, "-W", "error", "-c", DECODE_ALL, str(tmp_path)]
    found = subprocess.run(arguments, capture_output=True, text=True, timeout=60, cwd=HERE)
    assert found.returncode == 0, found.stderr
    reasons = json.loads(found.stdout)
    assert not {name: reason for name, reason in reasons.items() if expected[name] not in reason}
    assert reasons.keys() == expected.keys()


class Meddler:
    """Progress that changes files when all of them have been read, and before the first is decoded."""

    def __init__(self, change: Callable[[], None]) -> None:
        self.change = change

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        yield lambda done: None
        if label == "reading":
            self.change()


def test_files_that_change_between_listing_and_decoding(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "all"
    folder.mkdir(parents=True)
    names = ("changed", "cut", "emptied", "folder", "gone", "good", "pipe", "to itself", "whole")
    good = ("good", "whole")
    for number, name in enumerate(names):
        array_image(scene(number)).save(folder / f"{name}.png")

    def change() -> None:
        shutil.copy(folder / "whole.png", folder / "changed.png")  # a good image, but another one
        os.truncate(folder / "cut.png", 200)
        os.truncate(folder / "emptied.png", 0)
        for name in ("folder", "gone", "pipe", "to itself"):
            (folder / f"{name}.png").unlink()
        (folder / "folder.png").mkdir()
        os.mkfifo(folder / "pipe.png")
        (folder / "to itself.png").symlink_to("to itself.png")

    result = extracted_of(tmp_path / "images", tmp_path / "cache", Meddler(change))
    assert [path for path, _ in result.skipped] == [f"all/{name}.png" for name in names if name not in good]
    reasons = {path[len("all/") : -len(".png")]: reason for path, reason in result.skipped}
    assert all("changed" in reasons[name] for name in ("changed", "cut", "emptied"))
    assert reasons["gone"] == "No such file or directory"
    assert "directory" in reasons["folder"] or "regular file" in reasons["folder"]
    assert "regular file" in reasons["pipe"]
    assert "symbolic links" in reasons["to itself"]
    entries = FeatureCache.open(tmp_path / "cache").index().entries
    assert [entry.path for entry in entries] == [f"all/{name}.png" for name in good]

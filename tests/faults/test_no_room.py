"""Disks that are full, broken or read-only, at every stage: one paragraph, nothing half, the same command goes on."""

import errno
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from joblib.externals.loky import reusable_executor

import cli
from cache import NoRoom
from pipeline.data_set import obtain
from tests.cache.test_atomic import FailingSync
from tests.conftest import BASE, WEIGHTS
from tests.faults.scenarios import files
from tests.faults.small_disk import PRIVATE
from tests.pipeline.serving import serving
from tests.pipeline.test_data_set import PICTURES, archive_of, data_at

ROOT = Path(__file__).parents[2]
SPLIT = ["--split", "60/20/20"]
RECIPE = ["--base", BASE, "--weights", WEIGHTS, "--device", "cpu", "--workers", "1"]
STAGES = ("extract", "fit-head", "fit-mlp", "evaluate", "cache export", "cache prune")
LIMITS = (0, 300, 3000, 20_000, 60_000, 10**6, 10**8)  # bytes a file
ROOM = (4, 16, 64, 120, 260, 60_000)  # kB on a whole disk


@pytest.fixture(scope="module")
def surplus(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the features of images that are no longer in the set; do not write to it."""
    place = tmp_path_factory.mktemp("surplus")
    images = shutil.copytree(drawn, place / "images")
    extract = ["extract", str(images), str(place / "cache"), *RECIPE]
    assert CliRunner().invoke(cli.main, extract).exit_code == 0
    for path in sorted(images.rglob("*0.png")):
        path.unlink()
    assert CliRunner().invoke(cli.main, extract).exit_code == 0
    return place / "cache"


@pytest.fixture
def work(drawn: Path, extracted: Path, fitted: Path, surplus: Path) -> "Work":
    return Work(drawn, extracted, fitted, surplus)


class Work:
    """What each stage begins with, and its command line."""

    def __init__(self, drawn: Path, extracted: Path, fitted: Path, surplus: Path) -> None:
        self.drawn, self.extracted = drawn, extracted
        self.begun = {"evaluate": (fitted, "runs"), "cache prune": (surplus, "cache")}

    def command(self, stage: str, disk: Path) -> list[str]:
        """Return the command line of a stage whose results go to a disk."""
        cache, runs = str(disk / "cache"), str(disk / "runs")
        fit = ["fit-head", str(self.extracted), runs, "--epochs", "1", "--seeds", "0-1", *SPLIT, "--jobs"]
        pixels = ["fit-mlp", str(self.drawn), runs, "--epochs", "1", "--seeds", "0", "--image-size", "8", *SPLIT]
        line = {
            "extract": ["extract", str(self.drawn), cache, *RECIPE],
            "fit-head": [*fit, "1"],
            "fit-head on two processes": [*fit, "2", "--hidden", "600"],
            "fit-mlp": [*pixels, "--jobs", "1"],
            "fit-scratch": [
                "fit-scratch",
                str(self.drawn),
                runs,
                "--epochs",
                "1",
                "--image-size",
                "32",
                "--hidden",
                "8",
                *SPLIT,
            ],
            "evaluate": ["evaluate", runs],
            "cache export": ["cache", "export", str(self.extracted), str(disk / "features.h5"), "--force"],
            "cache prune": ["cache", "prune", cache],
        }[stage]
        return [*line, "--quiet"]

    def assert_sound(self, stage: str, disk: Path) -> None:
        """A cache that is being pruned lacks nothing and has no damage at any time."""
        if stage == "cache prune":
            assert CliRunner().invoke(cli.main, ["cache", "verify", str(disk / "cache")]).exit_code == 0

    def begin(self, stage: str, disk: Path) -> None:
        """Put onto a disk what a stage begins with."""
        if stage in self.begun:
            source, name = self.begun[stage]
            shutil.copytree(source, disk / name)


@contextmanager
def files_of_at_most(limit: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes; workers keep the limit under which they start."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    end_workers()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        end_workers()


def end_workers() -> None:
    """End the processes that joblib keeps for its next call."""
    if reusable_executor._executor is not None:
        reusable_executor._executor.shutdown(wait=True, kill_workers=True)


def assert_explained(status: int, said: str, disk: Path, reason: str = "") -> None:
    """A failure is one line that names a place on the disk, what is wrong there, and a way out."""
    assert status == 1, said
    assert said.startswith("Error: ")
    assert len(said.splitlines()) == 1
    assert str(disk) in said
    assert reason in said
    assert re.search("[Mm]ake room|[Cc]hoose (a|another) folder", said), said


def assert_kept(stage: str, before: Iterable[str], after: Iterable[str]) -> None:
    """What was complete is there, unless it is pruned, and nothing that is not."""
    assert set(before) <= set(after) or stage == "cache prune"
    assert [path for path in after if any(part.startswith(".") for part in path.split("/"))] == []


@pytest.mark.parametrize(
    ("stage", "limits"),
    [
        *((stage, LIMITS) for stage in STAGES),
        # Of the network, whose checkpoint has 240 MB, and of what the two processes share: to be had only in full.
        pytest.param("fit-scratch", (0, 10**8, 10**9), marks=pytest.mark.slow),
        pytest.param("fit-head on two processes", (60_000, 10**8), marks=pytest.mark.slow),
    ],
)
def test_files_that_may_not_grow_are_explained_and_the_same_command_goes_on(
    tmp_path: Path, work: Work, stage: str, limits: Sequence[int]
) -> None:
    work.begin(stage, tmp_path)
    refused = 0
    for limit in limits:
        before = files(tmp_path)
        with files_of_at_most(limit):
            done = CliRunner().invoke(cli.main, work.command(stage, tmp_path))
        if done.exit_code == 0:
            break
        refused += 1
        assert_explained(done.exit_code, done.stderr, tmp_path)
        assert_kept(stage, before, files(tmp_path))
        work.assert_sound(stage, tmp_path)
    assert refused > 0
    assert done.exit_code == 0
    assert_kept(stage, [], files(tmp_path))


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("stage", STAGES)
def test_what_shows_only_when_it_is_synced_is_explained_too(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch, stage: str, number: int
) -> None:
    work.begin(stage, tmp_path)
    for fails_at in itertools.count(1):
        before = files(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", FailingSync(fails_at, number))
            done = CliRunner().invoke(cli.main, work.command(stage, tmp_path))
        if done.exit_code == 0:
            break
        assert_explained(done.exit_code, done.stderr, tmp_path, os.strerror(number))
        assert_kept(stage, before, files(tmp_path))
        work.assert_sound(stage, tmp_path)
    assert fails_at > 3


def test_a_download_goes_on_after_what_came_and_appears_only_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    disk = tmp_path / "disk"
    disk.mkdir()
    with serving() as site:
        site.content = archive_of(tmp_path / "small.zip", PICTURES, {})
        data = data_at(site)
        with files_of_at_most(20_000), pytest.raises(NoRoom, match=r"File too large\. Make room.*what has come so far"):
            obtain(data, disk / "small")
        for fails_at in itertools.count(1):
            with monkeypatch.context() as patched:
                patched.setattr(os, "fsync", FailingSync(fails_at, errno.EDQUOT))
                try:
                    obtain(data, disk / "small")
                    break
                except NoRoom as error:
                    assert_explained(1, f"Error: {error}", disk, os.strerror(errno.EDQUOT))
            assert not (disk / "small").exists()
        assert site.asked == ["", "bytes=20000-"]  # nothing came twice
    assert fails_at > 6
    assert {name: content for name, content in files(disk).items() if content} == {
        f"small/{name}": content for name, content in PICTURES.items()
    }


@pytest.fixture
def disk(tmp_path: Path) -> "SmallDisk":
    if not shutil.which("unshare") or subprocess.run([*PRIVATE, "true"], capture_output=True).returncode:
        pytest.skip("this system lets us mount no disk of our own (unshare --mount --map-root-user)")
    (tmp_path / "disk").mkdir()
    return SmallDisk(tmp_path / "disk")


class SmallDisk:
    """Where a small disk is mounted, for the time of a list of steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Do steps on it; return what came of them."""
        command = [*PRIVATE, sys.executable, "-m", "tests.faults.small_disk", str(self.folder)]
        done = subprocess.run(command, input=json.dumps(steps), capture_output=True, text=True, cwd=ROOT, timeout=300)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


@pytest.mark.slow
def test_on_a_disk_that_is_full_each_stage_says_so_and_goes_on_when_there_is_room(work: Work, disk: SmallDisk) -> None:
    steps: list[dict[str, Any]] = []
    for stage in STAGES:
        begun = work.begun.get(stage)
        steps += [{"copy": str(begun[0]), "to": begun[1]}] if begun else []
        for room in ROOM:
            steps += [{"room": room << 10}, {"run": work.command(stage, disk.folder), "stage": stage}]
        steps.append({"empty": True})
    runs = [
        came | {"stage": wanted["stage"]}
        for wanted, came in zip(steps, disk.run(steps), strict=True)
        if "run" in wanted
    ]
    for _, of_stage in itertools.groupby(runs, lambda run: run["stage"]):
        refused, before = 0, set[str]()
        for run in of_stage:
            if run["status"]:
                refused += 1
                assert_explained(run["status"], run["said"], disk.folder)
            assert_kept(run["stage"], before, run["files"])
            before = set(run["files"])
        assert refused > 0
        assert run["status"] == 0


@pytest.mark.slow
def test_on_a_read_only_disk_all_that_only_reads_works_and_the_rest_says_why_not(
    tmp_path: Path, work: Work, disk: SmallDisk, drawn: Path, fitted: Path
) -> None:
    folder, image = disk.folder, str(next(drawn.rglob("*.png")))
    evaluate = ["evaluate", str(folder / "runs"), "--cache", str(folder / "cache"), "--quiet"]
    predict = ["predict", str(folder / "runs" / "mlp" / "seed-0000"), image, "--quiet"]
    fit = ["fit-head", str(folder / "cache"), str(tmp_path / "runs"), "--head", "knn", *SPLIT, "--quiet"]
    reading = [
        ["extract", str(drawn), str(folder / "cache"), *RECIPE, "--quiet"],
        ["cache", "info", str(folder / "cache"), "--quiet"],
        ["cache", "verify", str(folder / "cache"), "--quiet"],
        ["cache", "prune", str(folder / "cache"), "--quiet"],
        ["cache", "export", str(folder / "cache"), str(tmp_path / "features.npz"), "--quiet"],
        fit,
        evaluate,
        predict,
    ]
    more = shutil.copytree(drawn, tmp_path / "more")
    shutil.copy(image, more / "beach" / "copy.png")
    writing = [
        ["extract", str(more), str(folder / "cache"), *RECIPE, "--quiet"],
        ["extract", str(drawn), str(folder / "another"), *RECIPE, "--quiet"],
        ["fit-head", str(folder / "cache"), str(folder / "runs"), "--head", "svm", *SPLIT, "--quiet"],
        [*evaluate, "--on", "val"],
        ["cache", "export", str(folder / "cache"), str(folder / "features.npz"), "--quiet"],
    ]
    steps: list[dict[str, Any]] = [
        {"copy": str(work.extracted), "to": "cache"},
        {"copy": str(fitted), "to": "runs"},
        {"run": evaluate},
        {"read_only": True},
        *({"run": command} for command in reading + writing),
    ]
    first, *came = [came for wanted, came in zip(steps, disk.run(steps), strict=True) if "run" in wanted]
    for command, one in zip(reading, came, strict=False):
        assert (one["status"], one["said"]) == (0, ""), command
        assert one["files"] == first["files"]
    for one in came[len(reading) :]:
        assert_explained(one["status"], one["said"], folder, "Read-only file system")
        assert one["files"] == first["files"]

"""Whatever a crash leaves is whole and is gone on from; and the harness that says so finds what is not."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from cache.atomic import make_folder, remove_file, write_text, writing_folder
from tests.faults.power_loss import KINDS, Scenario, Step, examine
from tests.faults.recording import Disk, Recording
from tests.faults.scenarios import SCENARIOS, Extractions


class Note:
    """A text that is written over, by a way of writing that is on trial."""

    name = "note"
    texts = ("old " * 300, "new " * 400)

    def __init__(self, write: Callable[[Path, str], object]) -> None:
        self.write = write
        self.steps: Sequence[Step] = [(text[:3], partial(self._write, text)) for text in self.texts]

    def _write(self, text: str, folder: Path) -> None:
        self.write(folder / "notes" / "note", text)

    def prepare(self, step: int, folder: Path) -> None:
        """Nothing is there before."""

    def learn(self, folder: Path) -> None:
        """What is right is known."""

    def problems(self, folder: Path) -> Iterator[str]:
        """It may not be there, or be one of the two."""
        path = folder / "notes" / "note"
        if path.exists() and path.read_text() not in self.texts:
            yield "the note is torn"

    def again(self, step: int, folder: Path) -> Iterator[str]:
        """Write it again."""
        self.steps[step][1](folder)
        yield from ()

    def differences(self, folder: Path, undisturbed: Path) -> Iterator[str]:
        """Compare the text alone: what is left over is not on trial here."""
        if (folder / "notes" / "note").read_text() != (undisturbed / "notes" / "note").read_text():
            yield "the note is another"


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def in_place(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    for synced in (path, path.parent, path.parent.parent):
        sync(synced)


def renamed(path: Path, text: str, order: str) -> None:
    """Write beside the note and rename: F syncs the file, D its folder, U the one above, R renames."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(".note")
    temporary.write_text(text)
    for letter in order:
        if letter == "R":
            temporary.replace(path)
        else:
            file = temporary if temporary.exists() else path
            sync({"F": file, "D": path.parent, "U": path.parent.parent}[letter])


@pytest.mark.parametrize("write", [write_text, lambda path, text: renamed(path, text, "UFRD")], ids=["ours", "by hand"])
def test_what_is_synced_then_named_then_synced_is_never_torn(
    tmp_path: Path, write: Callable[[Path, str], None]
) -> None:
    outcome = examine(Note(write), tmp_path)
    assert outcome.problems == []
    assert set(outcome.crashes) == set(KINDS)
    assert outcome.resumed == outcome.states > 10


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (in_place, "the note is torn"),
        (lambda path, text: renamed(path, text, "URD"), "the note is torn"),  # never synced
        (lambda path, text: renamed(path, text, "URFD"), "the note is torn"),  # named before it is synced
        (lambda path, text: renamed(path, text, "URDF"), "the note is torn"),
        (lambda path, text: renamed(path, text, "UFR"), "notes/note would be lost"),  # its name is not on the disk
        (lambda path, text: renamed(path, text, "UDFR"), "notes/note would be lost"),
        (lambda path, text: renamed(path, text, "FRD"), "notes/note would be lost"),  # its folder's is not
    ],
)
def test_a_careless_way_of_writing_is_found_out(tmp_path: Path, write: Callable[[Path, str], None], found: str) -> None:
    assert any(found in problem for problem in examine(Note(write), tmp_path).problems)


class Carelessly(Extractions):
    """A first extraction on a system whose `fsync` is another."""

    def __init__(self, images: Path, change: Callable[[Callable[[int], None]], Callable[[int], None]]) -> None:
        super().__init__(images)
        name, step = self.steps[0]

        def changed(folder: Path) -> None:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(os, "fsync", change(os.fsync))
                step(folder)

        self.steps = [(name, changed)]


def never(kind: Callable[[int], bool]) -> Callable[[Callable[[int], None]], Callable[[int], None]]:
    """Leave out the syncs of files, or of folders."""
    return lambda sync: lambda handle: None if kind(os.fstat(handle).st_mode) else sync(handle)


def too_late(sync: Callable[[int], None]) -> Callable[[int], None]:
    """Sync a file only when its folder is synced next, and so after it was renamed."""
    waiting: list[int] = []

    def later(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            waiting.append(os.dup(handle))
            return
        while waiting:
            sync(waiting[0])
            os.close(waiting.pop(0))
        sync(handle)

    return later


@pytest.mark.parametrize(
    ("change", "found"),
    [(never(stat.S_ISREG), "is damaged"), (never(stat.S_ISDIR), "would be lost"), (too_late, "is damaged")],
    ids=["files never", "folders never", "files too late"],
)
def test_an_extraction_that_syncs_less_is_found_out(
    tmp_path: Path, change: Callable[[Callable[[int], None]], Callable[[int], None]], found: str
) -> None:
    (tmp_path / "images").mkdir()
    outcome = examine(Carelessly(tmp_path / "images", change), tmp_path, looked_at=40, resumed=0)
    assert any(found in problem for problem in outcome.problems)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCENARIOS)
def test_whatever_a_crash_leaves_is_whole_and_the_same_command_ends_as_undisturbed(
    tmp_path: Path, kind: Callable[[Path], Scenario]
) -> None:
    (tmp_path / "images").mkdir()
    outcome = examine(kind(tmp_path / "images"), tmp_path, looked_at=80, resumed=8)
    assert outcome.problems == []
    assert outcome.states >= 30
    assert outcome.resumed == 8


def test_folders_are_on_the_disk_when_they_are_made_and_files_off_it_when_they_are_removed(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    recording = Recording(tmp_path)
    with recording.running():
        make_folder(tmp_path / "a" / "b")
        recording.end_step()
        remove_file(tmp_path / "old")
        recording.end_step()
        with writing_folder(tmp_path / "a" / "b" / "c") as temporary:
            (temporary / "d").mkdir()
            (temporary / "d" / "file").write_text("whole")
        recording.end_step()
    recording.close()
    disk, left = Disk(recording.moments[0].tree), []
    for moment in recording.moments:
        disk.see(moment.tree)
        if moment.ends:
            left.append(disk.surely())
        if moment.syncs is not None:
            disk.sync(moment.syncs)
    made = {"a": None, "a/b": None}
    assert left == [
        {"old": b"old", **made},
        made,
        {**made, "a/b/c": None, "a/b/c/d": None, "a/b/c/d/file": b"whole"},
    ]

"""Folders as users have them: read in one way only, or refused with the reason."""

import hashlib
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ImageSetError
from pipeline.image_set import digest_of, fingerprint, read_image_set

any_bytes = pytest.mark.skipif(sys.platform == "darwin", reason="its file systems change or refuse some names")


def make(root: Path, *paths: str) -> Path:
    """Write files that hold their own paths."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(os.fsencode(path))
    return root


def listed(root: Path) -> list[tuple[str, str, str]]:
    return [(image.path, image.label, image.part) for image in read_image_set(root).images]


def refusal(root: Path) -> str:
    with pytest.raises(ImageSetError) as caught:
        read_image_set(root)
    return str(caught.value)


def test_class_folders(tmp_path: Path) -> None:
    make(tmp_path, "b/2.jpg", "a/1.png", "b/1.jpg")
    found = read_image_set(str(tmp_path))
    assert found.root == tmp_path
    assert found.classes == ("a", "b")
    assert listed(tmp_path) == [("a/1.png", "a", ""), ("b/1.jpg", "b", ""), ("b/2.jpg", "b", "")]
    assert found.strays == ()


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_a_set_that_comes_split(tmp_path: Path, val: str) -> None:
    make(tmp_path, "train/b/1.jpg", "train/a/1.jpg", f"{val}/a/2.jpg", "test/b/sub/3.jpg")
    assert read_image_set(tmp_path).classes == ("a", "b")
    assert listed(tmp_path) == [
        ("test/b/sub/3.jpg", "b", "test"),
        ("train/a/1.jpg", "a", "train"),
        ("train/b/1.jpg", "b", "train"),
        (f"{val}/a/2.jpg", "a", "val"),
    ]


def test_two_names_for_validation_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.jpg", "val/a/2.jpg", "valid/a/3.jpg")
    assert "has val and valid, which both mean 'val'. Keep one of them." in refusal(tmp_path)


@pytest.mark.parametrize("odd", ["test/1.jpg", "extra/a/1.jpg", "extra/1.jpg"])
def test_what_is_nearly_split_is_refused(tmp_path: Path, odd: str) -> None:
    # Read as classes, the first would make 'train' and 'test' two classes, with a head that tells them apart.
    make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg", odd)
    assert f"no parts with a folder for each class: {odd.split('/')[0]}. Move them away" in refusal(tmp_path)


@pytest.mark.parametrize(
    "paths", [("train/1.jpg", "test/1.jpg"), ("train/1.jpg", "bus/1.jpg"), ("train/a/1.jpg", "bus/1.jpg")]
)
def test_train_may_be_a_class(tmp_path: Path, paths: tuple[str, ...]) -> None:
    make(tmp_path, *paths)
    assert [(label, part) for _, label, part in listed(tmp_path)] == [
        (path.split("/")[0], "") for path in sorted(paths)
    ]


def test_images_at_any_depth_belong_to_the_top_folder(tmp_path: Path) -> None:
    make(tmp_path, "a/2020/05/1.jpg", "a/0.jpg", "b/x/y/z/1.jpg")
    assert [(path, label) for path, label, _ in listed(tmp_path)] == [
        ("a/0.jpg", "a"),
        ("a/2020/05/1.jpg", "a"),
        ("b/x/y/z/1.jpg", "b"),
    ]


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/.1.jpg", "a/._1.jpg", "a/.cache/2.jpg", ".git/a.jpg", ".hidden.jpg", "b/1.jpg")
    assert [path for path, _, _ in listed(tmp_path)] == ["a/1.jpg", "b/1.jpg"]
    assert read_image_set(tmp_path).strays == ()


def test_strays_are_named(tmp_path: Path) -> None:
    make(tmp_path / "plain", "a/1.jpg", "2.jpg", "1.JPG", "readme.txt")
    assert read_image_set(tmp_path / "plain").strays == ("1.JPG", "2.jpg")
    make(tmp_path / "split", "train/a/1.jpg", "train/2.jpg", "test/a/1.jpg", "0.png")
    assert read_image_set(tmp_path / "split").strays == ("0.png", "train/2.jpg")


def test_extensions_in_any_case_and_no_other_files(tmp_path: Path) -> None:
    make(tmp_path, "a/1.JPG", "a/2.TiFf", "a/3.jpg.txt", "a/4", "a/5.heic", "a/jpg", "a/6.jpg/7.png")
    assert [path for path, _, _ in listed(tmp_path)] == ["a/1.JPG", "a/2.TiFf", "a/6.jpg/7.png"]


def test_order_is_by_code_point(tmp_path: Path) -> None:
    names = ["1", "10", "2", "Z", "a", "é", "z", "森", "🌲"]
    make(tmp_path, *(f"{name}/{other}.jpg" for name in names[::-1] for other in names))
    found = read_image_set(tmp_path)
    assert found.classes == tuple(sorted(names))
    assert found.classes[:3] == ("1", "10", "2")
    assert [image.path for image in found.images] == sorted(image.path for image in found.images)
    assert len(found.images) == len(names) ** 2


name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=6).filter(
    lambda text: not text.startswith(".")
)


@any_bytes
@given(st.sets(st.tuples(name, name), min_size=1, max_size=6))
def test_any_unicode_names(tmp_path_factory: pytest.TempPathFactory, names: set[tuple[str, str]]) -> None:
    root = tmp_path_factory.getbasetemp() / "unicode"
    shutil.rmtree(root, ignore_errors=True)
    for label, file in names:
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{file}.png").touch()
    assert [image.path for image in read_image_set(root).images] == sorted(
        f"{label}/{file}.png" for label, file in names
    )


CAFE = os.fsdecode(b"caf\xe9")


@any_bytes
@pytest.mark.parametrize("where", ["a/{}.jpg", "a/{}/1.jpg", "b/{}.jpg"])
def test_a_file_whose_name_is_not_utf8_is_unreadable(tmp_path: Path, where: str) -> None:
    make(tmp_path, "a/1.jpg", where.format(CAFE))
    found = read_image_set(tmp_path)
    assert [image.path for image in found.images] == ["a/1.jpg"]
    assert found.unreadable == ((where.format(r"caf\xe9"), "its name is not UTF-8; rename it"),)
    assert found.found == 2
    prints = fingerprint(found)
    assert [entry.path for entry in prints.entries] == ["a/1.jpg"]
    assert prints.unreadable == found.unreadable


@any_bytes
@pytest.mark.parametrize("where", ["{}.jpg", "train/{}.jpg"])
def test_a_stray_whose_name_is_not_utf8_is_named(tmp_path: Path, where: str) -> None:
    make(tmp_path, "train/a/1.jpg", where.format(CAFE))
    assert read_image_set(tmp_path).strays == (where.format(r"caf\xe9"),)


@any_bytes
@pytest.mark.parametrize("where", ["{}/1.jpg", "train/{}/1.jpg"])
def test_a_class_whose_name_is_not_utf8_is_refused(tmp_path: Path, where: str) -> None:
    make(tmp_path, "train/a/1.jpg", where.format(CAFE))
    assert r"The name b'caf\xe9' is not UTF-8. Rename it" in refusal(tmp_path)
    assert refusal(tmp_path).encode()  # it can be printed


@any_bytes
def test_a_set_below_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path / os.fsdecode(b"caf\xe9"), "a/1.jpg")
    assert r"caf\xe9' is not UTF-8. Rename it" in refusal(root)


def test_folders_that_are_no_image_sets(tmp_path: Path) -> None:
    make(tmp_path, "flat/1.jpg", "file", "empty class/a/1.jpg", "empty class/b/notes.txt", "hidden/.a/1.jpg")
    assert "does not exist" in refusal(tmp_path / "missing")
    assert "is a file" in refusal(tmp_path / "file")
    assert "has no sub-folders, so no classes" in refusal(tmp_path / "flat")
    assert "has no sub-folders, so no classes" in refusal(tmp_path / "hidden")
    assert f"The class folder {tmp_path}/empty class/b holds no image (.bmp, " in refusal(tmp_path / "empty class")


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    make(tmp_path, "store/1.jpg", "set/a/0.jpg")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "store")
    (tmp_path / "set" / "a" / "1.jpg").symlink_to(tmp_path / "store" / "1.jpg")
    assert [path for path, _, _ in listed(tmp_path / "set")] == ["a/0.jpg", "a/1.jpg", "b/1.jpg"]
    entries = fingerprint(read_image_set(tmp_path / "set")).entries
    assert entries[1].digest == entries[2].digest == digest_of(b"store/1.jpg")


@pytest.mark.parametrize("target", [".", "..", "../..", "loop"])
def test_links_that_lead_back_are_not_followed_for_ever(tmp_path: Path, target: str) -> None:
    # Up to the set's own folder: followed, 20 such classes would be 20! paths.
    labels = [f"class{number:02d}" for number in range(20)]
    for label in labels:
        make(tmp_path, f"{label}/deep/1.jpg")
        (tmp_path / label / "deep" / "loop").symlink_to(target)
    assert [path for path, _, _ in listed(tmp_path)] == [f"{label}/deep/1.jpg" for label in labels]


def test_folders_that_link_to_each_other_are_listed_once_each(tmp_path: Path) -> None:
    # Every way through the links would be a path: e x 7! of them.
    names = [f"{number:02d}" for number in range(7)]
    for name in names:
        make(tmp_path, f"class/{name}/1.jpg")
        for other in names:
            (tmp_path / "class" / name / f"to {other}").symlink_to(f"../{other}")
    assert [path for path, _, _ in listed(tmp_path)] == [f"class/{name}/1.jpg" for name in names]


def test_a_folder_goes_by_its_own_name_before_those_of_its_links(tmp_path: Path) -> None:
    make(tmp_path, "set/a/real/deep/1.jpg", "store/2.jpg")
    (tmp_path / "set" / "a" / "before").symlink_to("real/deep")
    for name in ("x", "y"):
        (tmp_path / "set" / "a" / name).symlink_to(tmp_path / "store")
    assert [path for path, _, _ in listed(tmp_path / "set")] == ["a/real/deep/1.jpg", "a/x/2.jpg"]


def test_a_tree_deeper_than_python_recurses(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg")
    depth = sys.getrecursionlimit() + 200
    before = Path.cwd()
    os.chdir(tmp_path / "a")
    try:
        for _ in range(depth):
            Path("d").mkdir()
            os.chdir("d")
        Path("2.jpg").touch()
        os.chdir(tmp_path)  # so that no path is longer than the system takes
        assert [path.count("/") for path, _, _ in listed(Path())] == [1, depth + 1]
    finally:
        os.chdir(before)
        subprocess.run(["rm", "-r", tmp_path / "a"], check=True)  # Python's own removal recurses


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg")
    size = 300 << 20
    os.truncate(tmp_path / "a" / "1.jpg", 0)
    os.truncate(tmp_path / "a" / "1.jpg", size)
    tracemalloc.start()
    (entry,) = fingerprint(read_image_set(tmp_path)).entries
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
    assert entry.digest == digest_of(bytes(size))


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/2.jpg")
    os.truncate(tmp_path / "a" / "1.jpg", 50 << 30)  # takes no room on the disk
    found = fingerprint(read_image_set(tmp_path))
    assert [entry.path for entry in found.entries] == ["a/2.jpg"]
    (reason,) = (reason for _, reason in found.unreadable)
    assert reason.startswith("53687091200 bytes are more than the 1073741824 that an image file may have")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs a file that grows while it is read")
def test_a_file_that_says_it_is_empty_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "maps.jpg").symlink_to("/proc/self/maps")  # a regular file of 0 bytes, and of as many as are read
    assert len(fingerprint(read_image_set(tmp_path)).entries) == 2
    monkeypatch.setattr("pipeline.decode.MAX_FILE_BYTES", 100)
    found = fingerprint(read_image_set(tmp_path))
    assert [path for path, _ in found.unreadable] == ["a/maps.jpg"]


def test_what_cannot_be_read_is_reported_and_keeps_no_row(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "a" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "b" / "device.jpg").symlink_to("/dev/zero")  # endless
    os.mkfifo(tmp_path / "b" / "pipe.jpg")  # nobody writes to it
    found = fingerprint(read_image_set(tmp_path))
    assert [entry.path for entry in found.entries] == ["a/1.jpg", "b/2.jpg"]
    assert dict(found.unreadable) == {
        "a/dangling.jpg": "No such file or directory",
        "a/loop.jpg": "Too many levels of symbolic links",
        "b/device.jpg": "it is no regular file",
        "b/pipe.jpg": "it is no regular file",
    }


@contextmanager
def as_nobody(root: Path, *closed: str) -> Iterator[Path]:
    """Go to the folder, close what is named in it, and be somebody else than root."""
    root.chmod(0o755)
    before = os.geteuid()
    here = os.open(root, os.O_RDONLY)
    modes = {name: (root / name).stat().st_mode for name in closed}
    try:
        os.fchdir(here)  # as somebody else we could not come here through the folders above
        for name in closed:
            Path(name).chmod(0o444 if name.endswith("listed") else 0)
        if before == 0:
            os.seteuid(65534)
        yield Path()
    finally:
        os.seteuid(before)
        for name in sorted(modes):  # the upper folder first
            Path(name).chmod(modes[name])
        os.chdir("/")
        os.close(here)


@pytest.mark.parametrize("label", ["a", "train/a"])
def test_a_class_that_cannot_be_listed_is_refused(tmp_path: Path, label: str) -> None:
    make(tmp_path, f"{label}/1.jpg")
    with as_nobody(tmp_path, label) as root:
        assert f"The folder {label} cannot be listed: Permission denied. Mend its permissions" in refusal(root)


def test_what_is_closed_in_a_class_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "a/0.jpg", "a/1.jpg", "a/closed/2.jpg", "a/listed/3.jpg", "a/listed/deep/4.jpg", "b/closed/5.jpg")
    with as_nobody(tmp_path, "a/1.jpg", "a/closed", "a/listed", "b/closed") as root:
        found = read_image_set(root)
        prints = fingerprint(found)
    assert [entry.path for entry in prints.entries] == ["a/0.jpg"]
    assert dict(prints.unreadable) == {
        "a/1.jpg": "Permission denied",
        "a/closed": "the folder cannot be listed: Permission denied",
        "a/listed/3.jpg": "Permission denied",
        "a/listed/deep": "the folder cannot be listed: Permission denied",
        "b/closed": "the folder cannot be listed: Permission denied",
    }
    assert list(prints.unreadable) == sorted(prints.unreadable)
    assert found.found == 6


def test_a_fingerprint_is_of_the_content_alone(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    shutil.copy2(tmp_path / "a" / "1.jpg", tmp_path / "b" / "again.png")
    first = fingerprint(read_image_set(tmp_path))
    assert [entry.digest for entry in first.entries] == [
        hashlib.sha256(text.encode()).hexdigest() for text in ("a/1.jpg", "b/2.jpg", "a/1.jpg", "c/3.jpg")
    ]
    os.utime(tmp_path / "a" / "1.jpg", (0, 0))
    assert fingerprint(read_image_set(tmp_path)) == first
    (tmp_path / "a" / "1.jpg").rename(tmp_path / "c" / "moved.jpg")
    (tmp_path / "a").rmdir()
    moved = fingerprint(read_image_set(tmp_path))
    assert sorted(entry.digest for entry in moved.entries) == sorted(entry.digest for entry in first.entries)
    times = (tmp_path / "b" / "2.jpg").stat().st_mtime_ns
    (tmp_path / "b" / "2.jpg").write_text("b/3.jpg")  # of the same size
    os.utime(tmp_path / "b" / "2.jpg", ns=(times, times))
    changed = fingerprint(read_image_set(tmp_path))
    assert [one.path for one, two in zip(changed.entries, moved.entries, strict=True) if one != two] == ["b/2.jpg"]


@pytest.mark.parametrize("workers", [1, 2, 8, None])
def test_a_fingerprint_keeps_the_sets_order_and_parts(tmp_path: Path, workers: int | None) -> None:
    make(
        tmp_path,
        *(f"{part}/{label}/{number}.jpg" for part in ("train", "val") for label in "ab" for number in range(20)),
    )
    found = read_image_set(tmp_path)
    entries = fingerprint(found, workers).entries
    assert [(entry.path, entry.label, entry.part) for entry in entries] == listed(tmp_path)
    assert all(entry.digest == digest_of(entry.path.encode()) for entry in entries)


class Watcher:
    """Progress that calls a function whenever a file is done."""

    def __init__(self, advanced: Callable[[int], None]) -> None:
        self.advanced = advanced
        self.opened: tuple[str, int, str] | None = None

    def note(self, text: str) -> None:
        raise AssertionError(text)

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        self.opened = (label, total, unit)
        yield self.advanced


def test_progress_counts_every_file(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg")
    (tmp_path / "a" / "dangling.jpg").symlink_to("nowhere")
    done: list[int] = []
    watcher = Watcher(done.append)
    fingerprint(read_image_set(tmp_path), progress=watcher)
    assert watcher.opened == ("reading", 4, "images")
    assert sum(done) == 4


def test_a_cache_is_not_taken_for_an_image_set(cache: Path) -> None:
    with pytest.raises(ImageSetError, match="is a feature cache, not an image set"):
        read_image_set(cache)


@pytest.mark.real
def test_uc_merced(real_data: Path) -> None:
    found = read_image_set(real_data / "ucmerced")
    assert len(found.classes) == 21
    assert len(found.images) == 2100
    prints = fingerprint(found)
    assert prints.unreadable == ()
    assert prints.entries[0].path == "agricultural/agricultural00.jpg"

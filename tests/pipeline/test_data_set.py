"""`download` against a real web site on this machine: a whole image set, or an explained failure and nothing else."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import pytest

import pipeline
from cache.errors import NoRoom
from pipeline.data_set import DATA_SETS, DataSet, download, obtain
from pipeline.errors import DownloadError
from pipeline.image_set import read_image_set
from tests.cache.test_atomic import powerless
from tests.pipeline.serving import Answer, Listener, Site, serving

ROOT = Path(__file__).parents[2]
UCMERCED = DATA_SETS["ucmerced"]
INSIDE = "Small/Images/"
PICTURES = {f"{label}/{label}{number}.tif": os.urandom(9000) for label in ("beach", "forest") for number in range(3)}
LEFT_OUT = {
    "Small/readme.txt": b"who made it",
    f"{INSIDE}beach/Thumbs.db": b"",
    f"{INSIDE}beach/.DS_Store": b"",
    f"{INSIDE}beach/._beach0.tif": b"",
    f"__MACOSX/{INSIDE}beach/._beach0.tif": b"",
}


def archive_of(path: Path, pictures: Mapping[str, bytes], others: Mapping[str, bytes], inside: str = INSIDE) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in others.items():
            archive.writestr(name, content)
        for name, content in pictures.items():
            archive.writestr(inside + name, content)
    return path.read_bytes()


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as served:
        served.content = archive_of(tmp_path_factory.mktemp("site") / "small.zip", PICTURES, LEFT_OUT)
        yield served


def data_at(site: Site) -> DataSet:
    """A data set whose archive is what the site serves now."""
    return DataSet(
        name="small",
        url=f"{site.address}/small.zip",
        archive="small.zip",
        md5=md5(site.content).hexdigest(),
        size=len(site.content),
        unpacked=100_000,
        inside=INSIDE,
        suffix=".tif",
        classes=("beach", "forest"),
        images=6,
        source="drawn by chance",
    )


def found_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a link to an empty folder"])
def test_the_folder_is_the_image_set_and_nothing_else_is_left(site: Site, tmp_path: Path, before: str) -> None:
    folder = tmp_path / "sets" / "small"
    if before != "nothing":
        (tmp_path / "sets").mkdir()
        (tmp_path / "far").mkdir()
        folder.symlink_to(tmp_path / "far") if "link" in before else folder.mkdir()
    told = Listener()
    result = obtain(data_at(site), folder, progress=told)
    assert found_in(folder) == PICTURES
    assert names(tmp_path / "sets") == ["small"]
    assert (result.folder, result.images, result.classes, result.size) == (folder, 6, 2, 54_000)
    assert (result.kept, result.source) == (False, "drawn by chance")
    assert told.notes == [f"downloading small.zip, 1 MB, to {folder.resolve().parent}"]
    assert told.pieces == [("downloading small.zip", 1, "MB"), ("unpacking", 6, "images")]
    assert len(read_image_set(folder).images) == 6


def test_what_is_there_is_kept_and_nothing_is_asked_for(site: Site, tmp_path: Path) -> None:
    folder, data = tmp_path / "small", data_at(site)
    obtain(data, folder)
    (folder / "notes.txt").write_text("mine")
    (tmp_path / ".small.small.zip").write_bytes(site.content)  # as a kill before the last step leaves it
    result = obtain(data, folder)
    assert (result.kept, result.images, result.size) == (True, 6, 54_000)
    assert site.asked == [""]
    assert names(tmp_path) == ["small"]
    assert (folder / "notes.txt").read_text() == "mine"


def spoil(folder: Path, how: str) -> None:
    beach = folder / "beach"
    if how == "an image less":
        (beach / "beach1.tif").unlink()
    elif how == "a class less":
        shutil.rmtree(beach)
    elif how == "a class more":
        (folder / "mine").mkdir()
    elif how == "an image of another kind":
        (beach / "beach1.tif").rename(beach / "1.jpg")
    elif how == "an empty class":
        shutil.rmtree(beach)
        beach.mkdir()
    elif how == "a file":
        shutil.rmtree(folder)
        folder.write_text("mine")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("an image less", "it has 5 images, not 6"),
        ("a class less", "its class beach is missing"),
        ("a class more", "mine is no class of small"),
        ("an image of another kind", "beach/1.jpg is no image of small"),
        ("an empty class", "beach holds no image"),
        ("a file", "it is a file"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_not_touched(
    site: Site, tmp_path: Path, how: str, reason: str
) -> None:
    folder, data = tmp_path / "small", data_at(site)
    obtain(data, folder)
    spoil(folder, how)
    before = found_in(tmp_path)
    with pytest.raises(DownloadError, match=f"small is there already, and is not small: .*{reason}.*Name another"):
        obtain(data, folder)
    assert found_in(tmp_path) == before
    assert names(tmp_path) == ["small"]
    assert site.asked == [""]


def test_the_folder_that_one_is_in_is_not_replaced(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DownloadError, match="is the folder that you are in"):
        obtain(data_at(site), ".")
    assert names(tmp_path) == ["here"]


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no data set 'eurosat' to download; there is ucmerced"):
        download("eurosat", tmp_path / "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("others", "pictures", "reason"),
    [
        ({"../evil": b"evil"}, PICTURES, r"holds '../evil', which is no plain path"),
        ({f"{INSIDE}beach/../../../evil": b"evil"}, PICTURES, "which is no plain path"),
        ({"/tmp/evil": b"evil"}, PICTURES, "holds '/tmp/evil'"),
        ({"bomb": bytes(200_000)}, PICTURES, "unpacks to 254 kB, and 100 kB are the most"),
        ({}, {**PICTURES, "beach/beach9.tif": b""}, "it has 7 images, not 6"),
        ({}, {**PICTURES, "evil/evil.tif": b""}, "evil is no class of small"),
        ({}, {**PICTURES, "beach/more/evil.tif": b""}, "beach/more/evil.tif is no image of small"),
        ({}, {}, "its class beach is missing"),
    ],
)
def test_an_archive_of_something_else_is_refused_before_a_byte_is_written(
    site: Site, tmp_path: Path, others: dict[str, bytes], pictures: dict[str, bytes], reason: str
) -> None:
    site.content = archive_of(tmp_path / "made.zip", pictures, others)
    (tmp_path / "made.zip").unlink()
    (tmp_path / "a" / "b").mkdir(parents=True)
    told = Listener()
    with pytest.raises(DownloadError, match=f"{reason}.*The archive from {site.address}/small.zip was removed"):
        obtain(data_at(site), tmp_path / "a" / "b" / "small", progress=told)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]
    assert ("unpacking", 6, "images") not in told.pieces


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_an_archive_that_was_published_damaged_leaves_nothing(site: Site, tmp_path: Path, damage: str) -> None:
    content = bytearray(site.content)
    content[len(content) // 2] ^= 1
    site.content = bytes(content) if damage == "flipped" else site.content[:-30]
    with pytest.raises(DownloadError, match=r"is no complete zip archive .*nothing was unpacked"):
        obtain(data_at(site), tmp_path / "small")
    assert names(tmp_path) == []


def test_without_an_answer_it_says_what_to_do_and_that_works(site: Site, tmp_path: Path) -> None:
    data = data_at(site)
    site.answers = [Answer(status=404)]
    with pytest.raises(DownloadError) as caught:
        obtain(data, tmp_path / "small")
    copy = tmp_path / ".small.small.zip"
    assert str(caught.value) == (
        f"small.zip could not be downloaded from {data.url}: the server answered 404 Not Found. Name another address "
        f"of it with --url, or copy the file to {copy} and run the same command again (the copy is removed once it is "
        "unpacked)."
    )
    assert names(tmp_path) == []
    copy.write_bytes(site.content)
    obtain(data, tmp_path / "small")
    assert found_in(tmp_path / "small") == PICTURES
    assert site.asked == [""]
    assert names(tmp_path) == ["small"]


def test_another_address_must_serve_the_same_archive(site: Site, tmp_path: Path) -> None:
    data = replace(data_at(site), url="http://127.0.0.1:1/")
    content, site.content = site.content, b"another file"
    with pytest.raises(DownloadError, match=rf"from {site.address}/mirror: invalid hash value: .*should be {data.md5}"):
        obtain(data, tmp_path / "small", url=f"{site.address}/mirror")
    assert names(tmp_path) == []
    site.content = content
    assert obtain(data, tmp_path / "small", url=f"{site.address}/mirror").images == 6


def test_a_disk_without_room_is_said_first(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match=r"^small, packed and unpacked, needs 1e\+03 PB"):
        obtain(replace(data_at(site), unpacked=10**18), tmp_path / "small")
    assert names(tmp_path) == []
    assert site.asked == []


def test_a_folder_that_cannot_be_written_to_is_explained(site: Site, tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets").chmod(0o555)
    try:
        with powerless(), pytest.raises(NoRoom, match="could not be written: Permission denied"):
            obtain(data_at(site), tmp_path / "sets" / "small")
    finally:
        (tmp_path / "sets").chmod(0o700)
    assert names(tmp_path / "sets") == []
    assert site.asked == []


OBTAIN = """
import sys
from pathlib import Path
from pipeline.data_set import DataSet, obtain
from tests.pipeline.serving import Listener
class Told(Listener):
    def note(self, text):
        print(text, flush=True)
data = {data!r}
print("kept" if obtain(data, sys.argv[1], progress=Told()).kept else "new", flush=True)
"""


def start(data: DataSet, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", OBTAIN.format(data=data), str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_download_goes_on(site: Site, tmp_path: Path) -> None:
    data, hold, folder = data_at(site), threading.Event(), tmp_path / "small"
    site.answers = [Answer(cut=30_000, hold=hold)]
    process = start(data, folder)
    assert site.held.wait(30)
    partial = tmp_path / ".small.small.zip.partial"
    while partial.stat().st_size < 30_000:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hold.set()
    assert names(tmp_path) == [".small.lock", ".small.small.zip.partial"]
    # As a kill while it unpacks leaves it: that process is dead, and its half of an image set is of no use.
    shutil.copytree(Path(__file__).parent, tmp_path / f".small.{os.uname().nodename}.{process.pid}-1.tmp")
    obtain(data, folder)
    assert site.asked == ["", "bytes=30000-"]
    assert found_in(folder) == PICTURES
    assert names(tmp_path) == ["small"]


def test_two_at_once_make_it_once(site: Site, tmp_path: Path) -> None:
    data, hold, folder = data_at(site), threading.Event(), tmp_path / "small"
    site.answers = [Answer(cut=30_000, hold=hold)]
    first = start(data, folder)
    assert site.held.wait(30)
    second = start(data, folder)
    assert second.stdout is not None
    said = second.stdout.readline()
    assert said.startswith(f"{folder} is being downloaded by process {first.pid} on ")
    assert said.endswith(": waiting until it is done\n")
    hold.set()
    assert first.communicate(timeout=30)[0].endswith("new\n")
    assert second.communicate(timeout=30)[0] == "kept\n"
    assert site.asked == ["", "bytes=30000-"]
    assert found_in(folder) == PICTURES
    assert names(tmp_path) == ["small"]


def manyheads(*arguments: str | Path, status: int = 0) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "cli.py"), "download", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_command_refuses_a_wrong_file_in_one_paragraph(site: Site, tmp_path: Path) -> None:
    failed = manyheads("ucmerced", tmp_path / "ucmerced", "--url", f"{site.address}/small.zip", status=1)
    last = failed.stderr.splitlines()[-1]
    assert last.startswith(
        f"Error: UCMerced_LandUse.zip could not be downloaded from {site.address}/small.zip: invalid "
    )
    assert f"the MD5 is {md5(site.content).hexdigest()} and should be {UCMERCED.md5}" in last
    assert failed.stdout == ""
    assert names(tmp_path) == []
    manyheads("eurosat", tmp_path / "x", status=2)


def test_an_interrupt_ends_the_command_and_keeps_what_came(site: Site, tmp_path: Path) -> None:
    hold = threading.Event()
    site.answers = [Answer(cut=30_000, hold=hold)]
    typed = ["download", "ucmerced", "ucmerced", "--url", f"{site.address}/x.zip"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "cli.py", *typed], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert site.held.wait(30)
    partial = tmp_path / ".ucmerced.UCMerced_LandUse.zip.partial"
    while partial.stat().st_size < 30_000:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    hold.set()
    assert process.returncode == 130
    assert errors.endswith("Stopped. All complete work is kept; run the same command again to go on.\n")
    assert "Traceback" not in errors
    assert names(tmp_path) == [partial.name]


def test_the_command_keeps_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "ucmerced"
    for label in UCMERCED.classes:
        (folder / label).mkdir(parents=True)
        for number in range(100):
            (folder / label / f"{label}{number:02d}.tif").touch()
    done = manyheads("ucmerced", folder)
    assert f"2100 images of 21 classes in {folder}, 0 B, kept: they were there already" in done.stdout
    assert "Yang and Newsam" in done.stdout
    assert f"next: python {ROOT / 'cli.py'} extract {folder} CACHE" in done.stdout


def test_ucmerced_is_unpacked_as_it_is_packed(site: Site, tmp_path: Path) -> None:
    pictures = {f"{label}/{label}{number:02d}.tif": b"II*\0" for label in UCMERCED.classes for number in range(100)}
    others = {"UCMerced_LandUse/readme.txt": b"", "UCMerced_LandUse/Images/": b""}
    site.content = archive_of(tmp_path / "x.zip", pictures, others, "UCMerced_LandUse/Images/")
    (tmp_path / "x.zip").unlink()
    data = replace(UCMERCED, md5=md5(site.content).hexdigest())
    result = obtain(data, tmp_path / "ucmerced", url=f"{site.address}/x.zip")
    assert (result.images, result.classes) == (2100, 21)
    found = read_image_set(tmp_path / "ucmerced")
    assert (len(found.images), found.classes) == (2100, UCMERCED.classes)


def test_the_stage_is_the_function_also_after_its_module_was_imported() -> None:
    assert pipeline.download is download

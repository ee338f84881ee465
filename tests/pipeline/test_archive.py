"""Archives that would leave their folder, fill the disk or are damaged: refused before a byte is written."""

import stat
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.archive import list_members, unpack
from pipeline.errors import DownloadError

FILES = {"set/a/1.tif": b"one" * 1000, "set/b/2.tif": b"two", "set/readme.txt": b""}
LARGEST = 10**6


def packed(path: Path, files: Mapping[str, bytes] = FILES, **attributes: int) -> Path:
    """Write an archive; the attributes are those of its last member."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/", b"")
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = zipfile.ZIP_DEFLATED
            if name == list(files)[-1]:
                for attribute, value in attributes.items():
                    setattr(member, attribute, value)
            archive.writestr(member, content)
    return path


def test_what_is_packed_comes_out(tmp_path: Path) -> None:
    archive, folder = packed(tmp_path / "x.zip"), tmp_path / "folder"
    folder.mkdir()
    assert list_members(archive, LARGEST) == {name: len(content) for name, content in FILES.items()}
    unpack(archive, folder, {"set/a/1.tif": "a/1.tif", "set/b/2.tif": "b/2.tif"})
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"a/1.tif": FILES["set/a/1.tif"], "b/2.tif": FILES["set/b/2.tif"]}


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "set/../../evil",
        "/evil",
        "//evil",
        "set//evil",
        "./evil",
        "C:/evil",
        "c:evil",
        "set\\evil",
        "set/..",
        "..",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DownloadError, match=r"x\.zip holds '.*', which is no plain path below a folder"):
        list_members(packed(tmp_path / "x.zip", {**FILES, name: b"evil"}), LARGEST)


def test_a_nul_in_a_name_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "x.zip", {"set/1.tif_evil": b"evil"})
    archive.write_bytes(archive.read_bytes().replace(b"1.tif_evil", b"1.tif\0evil"))
    with pytest.raises(DownloadError, match=r"'set/1\.tif\\x00evil', which is no plain path"):
        list_members(archive, LARGEST)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    archive = packed(tmp_path / "x.zip", {"set/l": b"/etc/passwd"}, external_attr=(kind | 0o777) << 16)
    with pytest.raises(DownloadError, match="'set/l', which is a link or a device"):
        list_members(archive, LARGEST)


def test_ordinary_files_of_unix_pass(tmp_path: Path) -> None:
    archive = packed(tmp_path / "x.zip", {"set/l": b"1"}, external_attr=(stat.S_IFREG | 0o644) << 16)
    assert list_members(archive, LARGEST) == {"set/l": 1}


@pytest.mark.parametrize("twin", ["set/a/1.tif", "set/A/1.TIF", "set/a/1.tif/"])
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, twin: str) -> None:
    archive = packed(tmp_path / "x.zip")
    with zipfile.ZipFile(archive, "a") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of a name that it writes twice
        opened.writestr(twin, b"")
    with pytest.raises(DownloadError, match=f"'{twin}', which is there twice"):
        list_members(archive, LARGEST)


def test_what_is_encrypted_or_packed_otherwise_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "x.zip", {"set/1": b"1"})
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DownloadError, match="'set/1', which is encrypted"):
        list_members(archive, LARGEST)
    archive = packed(tmp_path / "y.zip", {"set/1": b"1"}, compress_type=zipfile.ZIP_LZMA)
    with pytest.raises(DownloadError, match="'set/1', which is packed in a way that is not read here"):
        list_members(archive, LARGEST)


def declare(archive: Path, size: int) -> None:
    """Let the directory and the header of the last member tell another unpacked size."""
    content = bytearray(archive.read_bytes())
    struct.pack_into("<I", content, content.rindex(b"PK\1\2") + 24, size)
    struct.pack_into("<I", content, content.rindex(b"PK\3\4") + 22, size)
    archive.write_bytes(content)


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    archive = packed(tmp_path / "x.zip", {"set/1": bytes(2 * LARGEST)})
    assert archive.stat().st_size < 10_000
    with pytest.raises(DownloadError, match=r"says that it unpacks to 2 MB, and 1 MB are the most"):
        list_members(archive, LARGEST)
    declare(archive, 2**32 - 2)
    with pytest.raises(DownloadError, match=r"says that it unpacks to 4\.29 GB"):
        list_members(archive, LARGEST)


@pytest.mark.parametrize("declared", [10, 3 * LARGEST])
def test_a_size_that_is_a_lie_is_found_out_and_never_exceeded(tmp_path: Path, declared: int) -> None:
    archive = packed(tmp_path / "x.zip", {"set/1": bytes(2 * LARGEST)})
    declare(archive, declared)
    assert list_members(archive, 4 * LARGEST) == {"set/1": declared}
    with pytest.raises(DownloadError, match="no complete zip archive"):
        unpack(archive, tmp_path, {"set/1": "1"})
    assert (tmp_path / "1").stat().st_size <= declared


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    whole = packed(tmp_path / "x.zip").read_bytes()
    for length in {*range(0, len(whole), 41), len(whole) - 1}:
        (tmp_path / "x.zip").write_bytes(whole[:length])
        with pytest.raises(DownloadError, match=r"x\.zip is no complete zip archive"):
            list_members(tmp_path / "x.zip", LARGEST)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.data())
def test_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    archive, name = packed(tmp_path / "x.zip"), "set/a/1.tif"
    content = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    archive.write_bytes(content)
    target = tmp_path / "target"
    target.unlink(missing_ok=True)
    try:
        if name not in list_members(archive, LARGEST):
            return  # the name is what was damaged
        unpack(archive, tmp_path, {name: "target"})
    except DownloadError:
        return
    assert target.read_bytes() == FILES[name]

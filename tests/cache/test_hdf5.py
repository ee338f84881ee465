"""What HDF5 can do and a cache does not need is refused before it is done."""

import io
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache.errors import CacheError
from cache.hdf5 import CHECKSUM, PACKED, attribute, composed, composing, dataset, opened, unsealed
from cache.seal import SIZE, seal
from tests.cache.test_files import patience  # noqa: F401 - a fixture

MEND = "Do this."


def sealed_again(path: Path, kind: str) -> None:
    """Give a file that was changed on purpose a seal that fits."""
    body = path.read_bytes()[SIZE:]
    path.write_bytes(seal(kind, body) + body)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file.h5"
    with composed(path, "shard") as file:
        file.attrs["name"] = np.bytes_("value")
        file.create_dataset("data", data=np.arange(6.0).reshape(3, 2), chunks=(1, 2), fletcher32=True)
        file["folder/text"] = np.array([b"a", b"bc"])
        file["alone"] = np.bytes_("one text")
        file["nothing"] = np.empty((0, 4), dtype="f4")
    return path


@pytest.mark.parametrize("read", [lambda path: opened(path, MEND), lambda path: unsealed(path, "shard", MEND)])
def test_what_was_composed_is_read(path: Path, read: Callable[[Path], "h5py.File"]) -> None:
    with read(path) as file:
        np.testing.assert_array_equal(dataset(file, "data")[:], [[0, 1], [2, 3], [4, 5]])
        assert dataset(file, "folder/text")[:].tolist() == [b"a", b"bc"]
        assert dataset(file, "alone")[()] == b"one text"
        assert dataset(file, "nothing").shape == (0, 4)
        assert attribute(file, "name") == "value"
        for name in ("missing", "folder/missing", "missing/text"):
            with pytest.raises(ValueError, match=f"it has no {name}"):
                dataset(file, name)
    with h5py.File(path) as plain:
        np.testing.assert_array_equal(plain["data"][:], [[0, 1], [2, 3], [4, 5]])


def test_the_same_content_is_the_same_bytes(path: Path) -> None:
    images = []
    for _ in range(2):
        image = io.BytesIO()
        with composing(image, "shard") as file:
            file.create_dataset("data", data=np.arange(6.0), chunks=(6,), fletcher32=True)
            file["texts"] = np.array(["a", "ü"], dtype=object)
        images.append(image.getvalue())
    assert images[0] == images[1]


def test_a_composition_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), composed(tmp_path / "file.h5", "shard") as file:
        file["data"] = 1 / 0
    assert list(tmp_path.iterdir()) == []


def soft_link(file: h5py.File, other: Path) -> None:
    file["data"] = h5py.SoftLink("/folder/text")


def external_link(file: h5py.File, other: Path) -> None:
    file["data"] = h5py.ExternalLink(str(other), "data")


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((3, 2), "f8")
    layout[:] = h5py.VirtualSource(str(other), "data", (3, 2))
    file.create_virtual_dataset("data", layout)


def external_storage(file: h5py.File, other: Path) -> None:
    file.create_dataset("data", (3, 2), "f8", external=[(str(other), 0, 48)])


def packed(file: h5py.File, other: Path) -> None:
    file.create_dataset("data", data=np.zeros((3, 2)), compression="gzip")


def packed_a_thousandfold(file: h5py.File, other: Path) -> None:
    file.create_dataset("data", data=np.zeros((2000, 2000)), compression="gzip")


def variable(file: h5py.File, other: Path) -> None:
    file["data"] = np.array(["a", "b"], dtype=object)


def compound(file: h5py.File, other: Path) -> None:
    file["data"] = np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])


def huge(file: h5py.File, other: Path) -> None:
    file.create_dataset("data", (2**40, 2), "f8")


def huge_in_chunks(file: h5py.File, other: Path) -> None:
    file.create_dataset("data", (2**40, 2), "f8", chunks=(1, 2), fletcher32=True)


def huge_chunk(file: h5py.File, other: Path) -> None:
    file.create_dataset("data", (3, 2), "f8", chunks=(2**24, 2), maxshape=(None, 2), fletcher32=True)


def unwritten(file: h5py.File, other: Path) -> None:
    # Read as zeros by HDF5.
    file.create_dataset("data", (3, 2), "f8", chunks=(1, 2), fletcher32=True)[0] = 1


def a_group(file: h5py.File, other: Path) -> None:
    file.create_group("data")


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (soft_link, "data is a link"),
        (external_link, "data is a link"),
        (virtual, "data lies in another file"),
        (external_storage, "data lies in another file"),
        (packed, "data is packed"),
        (packed_a_thousandfold, "data is packed"),
        (variable, "data holds object"),
        (compound, "data holds "),
        (huge, "data claims more than the file holds"),
        (huge_in_chunks, "data claims more than the file holds"),
        (huge_chunk, "data claims more than the file holds"),
        (unwritten, "parts of data were never written"),
        (a_group, ""),
    ],
)
def test_what_is_no_plain_dataset_of_this_file_is_refused(
    path: Path, change: Callable[[h5py.File, Path], None], said: str
) -> None:
    # Whoever opens the other file waits for ever.
    other = path.with_name("pipe")
    os.mkfifo(other)
    with h5py.File(path, "r+") as file:
        del file["data"]
        change(file, other)
    sealed_again(path, "shard")
    for read in (opened(path, MEND), unsealed(path, "shard", MEND)):
        with pytest.raises(CacheError, match=rf"{path} is damaged \(.*{said}.*\)\. Do this\."), read as file:
            dataset(file, "data")[...]


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("link", [h5py.SoftLink("/folder"), h5py.ExternalLink("pipe", "folder")])
def test_a_folder_that_is_a_link_is_refused(path: Path, link: object) -> None:
    os.mkfifo(path.with_name("pipe"))
    with h5py.File(path, "r+") as file:
        file["linked"] = link
    with pytest.raises(CacheError, match="linked/text is a link"), opened(path, MEND) as file:
        dataset(file, "linked/text")


@pytest.mark.parametrize("value", ["of any length", np.array([b"two", b"texts"]), 5, np.bytes_("ä".encode())])
def test_an_attribute_that_is_no_plain_text_is_refused(path: Path, value: object) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["name"] = value
    with pytest.raises(CacheError, match="is damaged"), opened(path, MEND) as file:
        attribute(file, "name")


BOUNDED = """
import resource, sys
from pathlib import Path
from cache.errors import CacheError
from cache.hdf5 import dataset, opened
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with opened(Path(sys.argv[1]), "") as file:
        dataset(file, "data")[...]
except CacheError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("change", [huge, huge_in_chunks, huge_chunk, packed_a_thousandfold])
def test_no_memory_is_taken_for_what_a_header_claims(path: Path, change: Callable[[h5py.File, Path], None]) -> None:
    with h5py.File(path, "r+") as file:
        del file["data"]
        change(file, path)
    done = subprocess.run([sys.executable, "-c", BOUNDED, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000  # kilobytes; each of them claims twice as many or more


ROWS = np.maximum(np.random.default_rng(0).normal(-1, 1, (3, 1000)), 0)


def pack(file: h5py.File, **options: Any) -> h5py.Dataset:
    """Replace `data` by packed rows, or by what is packed in another way."""
    del file["data"]
    options = {"data": ROWS, "chunks": (1, 1000), "fletcher32": True, **PACKED} | options
    return file.create_dataset("data", **options)


def with_a_chunk(data: bytes, mask: int = 0) -> Callable[[h5py.File], None]:
    """Put something else into the place of the second row."""
    return lambda file: pack(file).id.write_direct_chunk((1, 0), data + bytes(CHECKSUM), mask)


def unpacked_too_large(file: h5py.File) -> None:
    del file["data"]
    options = {"chunks": (1, 2**24), "fletcher32": True, "compression": "gzip"}
    file.create_dataset("data", (100, 2**24), "f8", **options)[0, 0] = 1


def row_left_out(file: h5py.File) -> None:
    del file["data"]
    options = {"chunks": (1, 1000), "fletcher32": True, "compression": "gzip"}
    file.create_dataset("data", (3, 1000), "f8", **options)[:2] = ROWS[:2]


PACKED_OTHERWISE: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "shuffled": (lambda file: pack(file, shuffle=True), "data is packed"),
    "without a checksum": (lambda file: pack(file, fletcher32=False), "data is packed"),
    "lzf": (lambda file: pack(file, compression="lzf", compression_opts=None), "data is packed"),
    "rounded": (lambda file: pack(file, scaleoffset=3, fletcher32=False), "data is packed"),
    "two rows a chunk": (lambda file: pack(file, chunks=(2, 1000)), "data is packed in chunks (2, 1000)"),
    "half a row a chunk": (lambda file: pack(file, chunks=(1, 500)), "data is packed in chunks (1, 500)"),
    "more than gzip can make": (unpacked_too_large, "data claims more than the file holds"),
    "a row that is not there": (row_left_out, "parts of data were never written"),
    "no gzip": (with_a_chunk(b"no gzip"), ""),
    "a row that is too long": (with_a_chunk(zlib.compress(bytes(2**24))), "row 1 of data is no packed row"),
    "a row that is too short": (with_a_chunk(zlib.compress(bytes(7999))), "row 1 of data is no packed row"),
    "a row that is cut off": (with_a_chunk(zlib.compress(bytes(8000))[:-1]), "row 1 of data is no packed row"),
    "a row with more behind it": (with_a_chunk(zlib.compress(bytes(8000)) + b"\0"), "row 1 of data is no packed row"),
    "a row that is not packed": (with_a_chunk(bytes(8000), 1), ""),
}


@pytest.mark.parametrize("name", PACKED_OTHERWISE)
def test_only_what_is_packed_as_a_cache_does_is_unpacked(path: Path, name: str) -> None:
    change, said = PACKED_OTHERWISE[name]
    with h5py.File(path, "r+") as file:
        change(file)
    sealed_again(path, "shard")
    with (
        pytest.raises(CacheError, match=rf"{path} is damaged \(.*{re.escape(said)}.*\)\. Do this\."),
        unsealed(path, "shard", MEND) as file,
    ):
        dataset(file, "data", packed=True)[...]


def test_packed_rows_are_read_where_they_may_be_packed(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        pack(file)
    with opened(path, MEND) as file:
        np.testing.assert_array_equal(dataset(file, "data", packed=True)[...], ROWS)
        assert dataset(file, "data", packed=True).packed
        assert not dataset(file, "folder/text", packed=True).packed
    with pytest.raises(CacheError, match="data is packed"), opened(path, MEND) as file:
        dataset(file, "data")


UNPACKED = BOUNDED.replace('"data")', '"data", packed=True)')


def test_a_row_that_unpacks_to_more_than_it_should_takes_no_memory(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        with_a_chunk(zlib.compress(bytes(2**28)))(file)
    done = subprocess.run([sys.executable, "-c", UNPACKED, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000  # kilobytes; it would be 262,144


def test_a_seal_is_checked_before_hdf5_sees_a_byte(path: Path) -> None:
    whole = path.read_bytes()
    for data, kind in ((whole[:-1], "shard"), (whole + b"\0", "shard"), (b"", "shard"), (whole, "index")):
        path.write_bytes(data)
        with pytest.raises(CacheError, match=r"its seal as an? (shard|index) is broken"), unsealed(path, kind, MEND):
            pytest.fail("it was opened")

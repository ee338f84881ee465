"""Reading and writing HDF5 so that whatever goes wrong has a name and a way out."""

import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.atomic import writing_file
from cache.errors import ManyheadsError
from cache.files import damaged, opened_file, unopened
from cache.seal import SIZE, is_sealed, seal

# How a packed dataset is written: gzip at its quickest, a row a chunk. Shuffled, features become larger, not smaller.
PACKED = {"compression": "gzip", "compression_opts": 1}
_PLAIN: tuple[list[int], ...] = ([], [h5py.h5z.FILTER_FLETCHER32])
_PACKED = [h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]
MOST_OUT_OF_ONE = 1032  # bytes that gzip can make of one
CHECKSUM = 4  # bytes behind each chunk


@contextmanager
def composed(path: Path, kind: str) -> Iterator[h5py.File]:
    """Yield a new file that is composed in memory; on success its bytes appear under `path`, sealed and whole.

    Args:
        path: The final name.
        kind: What the seal says that it is: `shard` or `index`.

    Raises:
        NoRoom: The disk is full or the folder cannot be written to. Nothing is left behind.
    """
    image = io.BytesIO()
    with composing(image, kind) as file:
        yield file
    with writing_file(path) as temporary:
        temporary.write_bytes(image.getbuffer())


@contextmanager
def composing(image: io.BytesIO, kind: str) -> Iterator[h5py.File]:
    """Yield a new file; in the end, `image` holds its bytes, sealed as this kind."""
    # In memory, because HDF5 cannot let go of a file that it cannot flush: on a full disk it would fill stderr with
    # tracebacks and crash the process when it ends. (The core driver's file image would do, but before HDF5 2 its
    # superblock has a wrong checksum.) From version 1.10's layout on, HDF5's own structures have checksums, and
    # attributes may be larger than 64 KiB.
    with h5py.File(image, "w", libver=("v110", "latest"), userblock_size=SIZE) as file:
        yield file
    data = image.getbuffer()
    data[:SIZE] = seal(kind, data[SIZE:])


@contextmanager
def opened(path: Path, mend: str) -> Iterator[h5py.File]:
    """Open a file to read a part of it, which HDF5's checksums must guard; see `dataset` and `attribute`.

    Args:
        path: The file.
        mend: What to do if it is missing or damaged.

    Raises:
        FileError: It is missing, cannot be opened, or anything in it turns out damaged inside the block.
    """
    with opened_file(path, mend) as raw, _explained(raw, path, mend), h5py.File(raw, "r") as file:
        yield file


@contextmanager
def unsealed(path: Path, kind: str, mend: str) -> Iterator[h5py.File]:
    """Read a whole file into memory and, if its seal is whole, open it there: HDF5 sees no damaged byte.

    Args:
        path: The file.
        kind: What the seal must say that it is.
        mend: What to do if it is missing or damaged.

    Raises:
        FileError: It is missing, cannot be opened, its seal is broken, or it was never right.
    """
    with opened_file(path, mend) as raw, _explained(raw, path, mend):
        data = raw.read()
        if not is_sealed(kind, data):
            raise ValueError(f"its seal as a{'n' if kind == 'index' else ''} {kind} is broken")
        with h5py.File(io.BytesIO(data), "r") as file:
            yield file


class Dataset:
    """A dataset that `dataset` found fit to be read.

    In place of h5py's own, whose properties ask HDF5 anew each time: a cache has thousands of these.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Format of its numbers or texts.
        packed: Whether its rows are packed, each a chunk.
    """

    def __init__(self, name: str, found: h5py.h5d.DatasetID, packed: bool) -> None:
        self.name, self._found, self.packed = name, found, packed
        self.shape: tuple[int, ...] = found.shape
        self.dtype: np.dtype[Any] = found.dtype

    def read_direct(self, out: npt.NDArray[Any]) -> None:
        """Read all of it into an array of its shape and format."""
        if self.packed:
            for row, place in enumerate(out):
                place[...] = self._unpacked(row)
        else:
            self._found.read(h5py.h5s.ALL, h5py.h5s.ALL, out)

    def _unpacked(self, row: int) -> npt.NDArray[Any]:
        # HDF5 would unpack all that a chunk holds, whatever its size should be.
        mask, chunk = self._found.read_direct_chunk((row, *(0 for _ in self.shape[1:])))
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        unpacking = zlib.decompressobj()
        numbers = unpacking.decompress(chunk[:-CHECKSUM], size + 1)
        whole = mask == 0 and unpacking.eof and not unpacking.unused_data and len(numbers) == size
        _require(whole, "row {} of {} is no packed row", row, self.name)
        return np.frombuffer(numbers, self.dtype).reshape(self.shape[1:])

    def __getitem__(self, where: Any) -> Any:
        out = np.empty(self.shape, self.dtype)
        self.read_direct(out)
        return out[where]


def dataset(file: h5py.File, name: str, *, packed: bool = False) -> Dataset:
    """Return a dataset that stands in this very file, each of its numbers once, as numbers or fixed-length text.

    What else HDF5 can do is refused: to look into other files, to load filters, to run through pointers without a
    checksum, to unpack more than there is, to give zeros for what was never written.

    Args:
        file: The file.
        name: Its name there.
        packed: Whether it may be packed, as `PACKED` says, and a row a chunk.

    Raises:
        ValueError: It is no such dataset.
    """
    place, parts = file.id, name.encode().split(b"/")
    for depth, part in enumerate(parts, start=1):
        _require(place.links.exists(part), "it has no {}", name)
        _require(place.links.get_info(part).type == h5py.h5l.TYPE_HARD, "{} is a link", name)
        place = (h5py.h5d if depth == len(parts) else h5py.h5g).open(place, part)
    plan = place.get_create_plist()
    layout = plan.get_layout()
    _require(layout != h5py.h5d.VIRTUAL and not plan.get_external_count(), "{} lies in another file", name)
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    _require(filters in _PLAIN or (packed and filters == _PACKED), "{} is packed", name)
    found = Dataset(name, place, filters == _PACKED)
    shape, kind = found.shape, found.dtype
    _require(kind.kind in "fiuS", "{} holds {}", name, kind)
    chunks = plan.get_chunk() if layout == h5py.h5d.CHUNKED else ()
    needed, chunk = math.prod(shape) * kind.itemsize, math.prod(chunks) * kind.itemsize if chunks else 0
    held, stored = file.id.get_filesize(), place.get_storage_size()
    if found.packed:
        _require(chunks == (1, *shape[1:]), "{} is packed in chunks {}", name, chunks)
        _require(needed <= stored * MOST_OUT_OF_ONE and stored <= held, "{} claims more than the file holds", name)
        _require(place.get_num_chunks() == shape[0], "parts of {} were never written", name)
    else:
        _require(max(needed, chunk) <= held, "{} claims more than the file holds", name)
        _require(stored >= needed, "parts of {} were never written", name)
    return found


def attribute(file: h5py.File, name: str) -> str:
    """Return an attribute of the file, of fixed-length ASCII text.

    Raises:
        ValueError: It is something else.
        KeyError: It is not there.
    """
    found = h5py.h5a.open(file.id, name.encode())
    kind = found.dtype
    _require(kind.kind == "S" and found.shape == (), "the attribute {} is no text of fixed length", name)
    text = np.empty((), kind)
    found.read(text)
    return bytes(text[()]).decode("ascii")


def writable(text: str) -> str:
    """Write with backslashes what HDF5's texts cannot hold: NUL, and names of files that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _require(condition: bool, otherwise: str, *about: object) -> None:
    if not condition:
        raise ValueError(otherwise.format(*about))  # not before: to write a dtype takes long


@contextmanager
def _explained(raw: FileIO, path: Path, mend: str) -> Iterator[None]:
    try:
        yield
    except (ManyheadsError, MemoryError):
        raise
    except Exception as error:  # a damaged file can break its reader anywhere
        if isinstance(error, OSError) and error.errno:  # the disk's word, not HDF5's
            raise unopened(path, error) from error
        raise damaged(raw, path, error, mend) from error

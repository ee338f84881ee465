"""One file with an array that is too large for the memory: HDF5, or NumPy's `.npz`.

All but that array is composed in memory; its rows are then written to their places with plain I/O.
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

PIECE = 1 << 24  # bytes that are read at once to take a checksum
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Features:
    """The array that is too large for the memory: its name in the file is `features`.

    Attributes:
        rows: N.
        dimension: D.
        kind: Format of its numbers.
    """

    rows: int
    dimension: int
    kind: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dimension * self.kind.itemsize

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.row_bytes


class RowsOfFile:
    """Rows that stand in a file from an offset on, assigned like those of an array.

    Args:
        file: Open for writing.
        offset: Where the first row stands.
        row_bytes: Bytes of one row.
    """

    def __init__(self, file: IO[bytes], offset: int, row_bytes: int) -> None:
        self.file, self.offset, self.row_bytes = file, offset, row_bytes

    def __setitem__(self, positions: Sequence[int], rows: npt.NDArray[np.floating]) -> None:
        breaks = np.flatnonzero(np.diff(positions) != 1) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(positions)]):
            self.file.seek(self.offset + positions[start] * self.row_bytes)
            self.file.write(rows[start:stop].tobytes())


Fill = Callable[[RowsOfFile], None]
Writer = Callable[[IO[bytes], Features, Arrays, Mapping[str, str], Fill], None]


def write_hdf5(file: IO[bytes], features: Features, arrays: Arrays, texts: Mapping[str, str], fill: Fill) -> None:
    """Write HDF5.

    Args:
        file: New, open for reading and writing.
        features: The large array.
        arrays: The others, of numbers or Unicode letters, each a dataset; `labels` and `classes` among them.
        texts: Each an attribute of the file.
        fill: Assigns the rows of the large array.
    """
    # What is large goes past HDF5, which cannot let go of a file on a full disk (see `cache.hdf5.composed`).
    image, letters = io.BytesIO(), h5py.string_dtype()
    with h5py.File(image, "w", libver=("v110", "latest")) as composed:
        composed.attrs.update(texts)
        for name, array in arrays.items():
            if array.dtype.kind == "U":
                composed.create_dataset(name, data=array.astype(object), dtype=letters)
            else:
                composed.create_dataset(name, data=array)
        # As in a cache's index, so that what reads the one reads the other.
        composed["labels"].attrs.create("classes", arrays["classes"].astype(object), dtype=letters)
        offset = _reserve(composed, features)
    file.write(image.getbuffer()[:offset])
    fill(RowsOfFile(file, offset, features.row_bytes))


def _reserve(file: h5py.File, features: Features) -> int:
    """Make the dataset `features` without writing it; return where its rows stand, behind all else in the file."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_obj_track_times(False)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((features.rows, features.dimension))
    made = h5py.h5d.create(file.id, b"features", h5py.h5t.py_create(features.kind), space, settings)
    file.flush()  # so that no version of HDF5 gives anything else a place after it
    if features.rows:  # the first number that is written gives a place to all
        space.select_hyperslab((0, 0), (1, 1))
        made.write(h5py.h5s.create_simple((1, 1)), space, np.zeros((1, 1), features.kind))
    return int(made.get_offset() or file.id.get_filesize())


def write_npz(file: IO[bytes], features: Features, arrays: Arrays, texts: Mapping[str, str], fill: Fill) -> None:
    """Write what `numpy.load` reads: a zip file of arrays, none of them packed or pickled.

    Args:
        file: New, open for reading and writing.
        features: The large array.
        arrays: The others, of numbers or Unicode letters.
        texts: Each an array of one text.
        fill: Assigns the rows of the large array.
    """
    header = io.BytesIO()
    shape, kind = (features.rows, features.dimension), np.lib.format.dtype_to_descr(features.kind)
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    # `zipfile` writes an entry from its beginning to its end, but rows come in the order of the shards. So the first
    # entry is written by hand; its own header holds a checksum of all that follows.
    first = _entry("features")
    first.file_size = first.compress_size = len(header.getvalue()) + features.size
    first.CRC = first.header_offset = 0
    start = len(first.FileHeader(zip64=True))
    file.seek(start)
    file.write(header.getvalue())
    fill(RowsOfFile(file, start + len(header.getvalue()), features.row_bytes))
    first.CRC = _checksum(file, start, start + first.file_size)
    file.seek(0)
    file.write(first.FileHeader(zip64=True))
    file.seek(start + first.file_size)
    with zipfile.ZipFile(file, "w") as archive:
        archive.infolist().append(first)
        for name, array in {**arrays, **{name: np.array(text) for name, text in texts.items()}}.items():
            with archive.open(_entry(name), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(f"{name}.npy")  # of 1980, whenever it is written: the same content is the same bytes
    entry.external_attr = 0o644 << 16
    return entry


def _checksum(file: IO[bytes], start: int, stop: int) -> int:
    file.seek(start)
    checksum = 0
    for position in range(start, stop, PIECE):
        checksum = zlib.crc32(file.read(min(PIECE, stop - position)), checksum)
    return checksum


# Ending of a file's name -> how it is written.
WRITERS: Mapping[str, Writer] = {".h5": write_hdf5, ".hdf5": write_hdf5, ".npz": write_npz}

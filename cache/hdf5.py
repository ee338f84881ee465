"""Reading and writing HDF5 so that whatever goes wrong has a name and a way out."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from cache.atomic import writing_file
from cache.errors import CacheError


@contextmanager
def opened(path: Path, mend: str) -> Iterator[h5py.File]:
    """Open a file for reading; any damage found inside the block becomes a `CacheError` that ends in `mend`."""
    try:
        # best-effort: some network file systems cannot lock, and readers need no lock on files that never change.
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno and path.exists():
            # It may be whole: what `mend` says would throw good work away.
            raise CacheError(
                f"{path} cannot be opened: {os.strerror(error.errno)}. Mend its permissions, or close the program that "
                "has it open for writing, then run the same command again."
            ) from error
        state = "is damaged" if path.exists() else "is missing"
        raise CacheError(f"{path} {state} ({error}). {mend}") from error


@contextmanager
def composed(path: Path) -> Iterator[h5py.File]:
    """Yield a new file that is composed in memory; on success its bytes appear under `path`, whole.

    Raises:
        NoRoom: The disk is full or the folder cannot be written to. Nothing is left behind.
    """
    # In memory, because HDF5 cannot let go of a file that it cannot flush: on a full disk it would fill stderr with
    # tracebacks and crash the process when it ends. (The core driver's file image would do, but before HDF5 2 its
    # superblock has a wrong checksum.) From version 1.10's layout on, HDF5's own structures have checksums, and
    # attributes may be larger than 64 KiB.
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("v110", "latest")) as file:
        yield file
    with writing_file(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def write_strings(file: h5py.File, name: str, values: Sequence[str]) -> None:
    """Write variable-length UTF-8 strings, (n,)."""
    file.create_dataset(name, data=np.array(values, dtype=object), dtype=h5py.string_dtype())


def read_strings(file: h5py.File, name: str) -> list[str]:
    """Read variable-length UTF-8 strings, (n,)."""
    return [str(value) for value in file[name].asstr()[:]]

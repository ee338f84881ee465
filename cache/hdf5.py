"""Reading and writing HDF5 so that whatever goes wrong has a name and a way out."""

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
    # tracebacks and crash the process when it ends. The format of 1.10, which virtual datasets need anyway, has
    # checksums over its own structures too, and room for the names of more than 4,000 classes in an attribute.
    with writing_file(path) as temporary:
        with h5py.File(temporary, "w", driver="core", backing_store=False, libver=("v110", "latest")) as file:
            yield file
            file.flush()
            image = file.id.get_file_image()
        temporary.write_bytes(image)


def write_strings(file: h5py.File, name: str, values: Sequence[str]) -> None:
    """Write variable-length UTF-8 strings, (n,)."""
    file.create_dataset(name, data=np.array(values, dtype=object), dtype=h5py.string_dtype())


def read_strings(file: h5py.File, name: str) -> list[str]:
    """Read variable-length UTF-8 strings, (n,)."""
    return [str(value) for value in file[name].asstr()[:]]

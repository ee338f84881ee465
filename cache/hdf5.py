"""Reading and writing HDF5 so that whatever goes wrong has a name and a way out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from cache.errors import CacheError


@contextmanager
def opened(path: Path, mend: str) -> Iterator[h5py.File]:
    """Open a file for reading; any damage found inside the block becomes a `CacheError` that ends in `mend`."""
    try:
        # best-effort: some network file systems cannot lock, and readers need no lock on files that never change.
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        state = "is damaged" if path.exists() else "is missing"
        raise CacheError(f"{path} {state} ({error}). {mend}") from error


def write_strings(file: h5py.File, name: str, values: Sequence[str]) -> None:
    """Write variable-length UTF-8 strings, (n,)."""
    file.create_dataset(name, data=np.array(values, dtype=object), dtype=h5py.string_dtype())


def read_strings(file: h5py.File, name: str) -> list[str]:
    """Read variable-length UTF-8 strings, (n,)."""
    return [str(value) for value in file[name].asstr()[:]]

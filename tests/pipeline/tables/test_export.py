"""What `cache export` shows in the end, and that what it says to type works."""

import io
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from cache import FeatureCache
from cache.export import Export, export
from pipeline.tables import show_export


def shown(result: Export) -> list[str]:
    file = io.StringIO()
    show_export(result, Console(file=file, width=80))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_what_is_in_the_file_and_what_reads_it(extracted: Path, tmp_path: Path, ending: str) -> None:
    done = export(extracted, tmp_path / f"it's{ending}")
    about, reading = shown(done)
    assert about.startswith(f"30 features of 3 classes, 512 float32 numbers each, in {done.file}, ")
    cache = FeatureCache.open(extracted)
    label, _, expression = reading.partition(": ")
    assert label == "read it"
    read = eval(expression, {"h5py": h5py, "numpy": np})
    np.testing.assert_array_equal(read, cache.read([entry.digest for entry in cache.index().entries]))
    assert "90 features of 30 images of 3 classes, " in shown(replace(done, rows=90))[0]

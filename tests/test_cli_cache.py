"""The commands `manyheads cache …` as a user types them."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache import FeatureCache
from cache.lock import writing
from tests.test_cli import in_process


@pytest.fixture
def shrunk(cache: Path) -> Path:
    """A cache of 30 features, 10 of them of images that are gone."""
    opened = FeatureCache.open(cache)
    index = opened.index()
    entries = tuple(entry for entry in index.entries if entry.label != "forest")
    opened.write_index(type(index)(entries, ("beach", "parkinglot"), (), index.images, index.recipe_digest))
    return cache


def test_info_says_it_in_json_too(shrunk: Path) -> None:
    assert f"manyheads cache prune {shrunk}" in in_process("cache", "info", shrunk).stdout
    with writing(shrunk):
        document = json.loads(in_process("cache", "info", shrunk, "--json").stdout)
    assert (document["images"], document["features"], document["unused"]) == (20, 30, 10)
    assert document["unused_size"] == 10 * 512 * 4
    assert document["recipe"]["base"] == document["made_from"]["base"]
    assert document["writer"].keys() == {"host", "process", "since"}
    assert (document["finished"], document["format_version"]) == (True, document["recipe"]["format_version"])


def test_prune_says_what_it_frees_before_and_after(shrunk: Path) -> None:
    read = FeatureCache.open(shrunk)
    names = [entry.digest for entry in read.index().entries]
    expected = read.read(names)
    dry = json.loads(in_process("cache", "prune", shrunk, "--dry-run", "--json").stdout)
    assert (dry["dry_run"], dry["unused"], dry["features"]) == (True, 10, 20)
    assert "would be freed" in in_process("cache", "prune", shrunk, "--dry-run").stdout
    done = in_process("cache", "prune", shrunk)
    assert "10 of 30 features are needed by no image of the set" in done.stderr
    assert "20 features stay, all of them used" in done.stdout
    np.testing.assert_array_equal(read.read(names), expected)
    again = in_process("cache", "prune", shrunk)
    assert again.stderr == ""
    assert "Nothing to prune" in again.stdout
    assert in_process("cache", "prune", shrunk, "--quiet").output == ""


def test_a_size_that_cannot_be_reached_is_a_failure_after_the_work(shrunk: Path) -> None:
    large = in_process("cache", "prune", shrunk, "--max-size", "1GB")
    assert "10 of them unused" in large.stdout
    failed = in_process("cache", "prune", shrunk, "--max-size", "1 kB", "--json", status=1)
    document = json.loads(failed.stdout)
    assert (document["unused"], document["features"]) == (10, 20)
    assert "all 20 features that are left are in use" in document["error"]
    assert document["error"] in failed.stderr
    shown = in_process("cache", "prune", shrunk, "--max-size", "1 kB", status=1)
    assert "Nothing to prune" in shown.stdout
    refused = in_process("cache", "prune", shrunk, "--max-size", "5 apples", status=2)
    assert "such as 500MB or 1.5GB" in refused.stderr


def test_export_says_how_to_read_it(shrunk: Path, tmp_path: Path) -> None:
    file = tmp_path / "features.h5"
    shown = in_process("cache", "export", shrunk, file).stdout
    assert "20 features of 2 classes, 512 float32 numbers each" in shown
    shutil.rmtree(shrunk / "shards")
    with h5py.File(file) as opened:
        assert opened["features"].shape == (20, 512)
    assert "add --force" in in_process("cache", "export", shrunk, file, status=1).stderr
    assert ".npz for NumPy" in in_process("cache", "export", shrunk, tmp_path / "features.csv", status=1).stderr
    failed = in_process("cache", "export", shrunk, tmp_path / "more.npz", "--json", status=1)
    assert "a shard was removed" in json.loads(failed.stdout)["error"]


def test_export_in_json(shrunk: Path, tmp_path: Path) -> None:
    file = tmp_path / "features.npz"
    document = json.loads(in_process("cache", "export", shrunk, file, "--all-views", "--json").stdout)
    assert document == {
        "cache": str(shrunk),
        "file": str(file),
        "rows": 20,
        "images": 20,
        "classes": 2,
        "dimension": 512,
        "storage": "float32",
        "size": file.stat().st_size,
    }
    with np.load(file) as arrays:
        assert arrays["views"].tolist() == [0] * 20

"""The index is read by this project and by plain h5py, from anywhere, and says the same to both."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CacheError, NoRoom
from cache.feature_cache import FeatureCache
from cache.index import Entry, Index, places, read_index, write_index
from cache.shard import Shard
from tests.cache.test_shard import RECIPE, digest, rows

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
numbers = itertools.count()


def index_of(digests: Sequence[str], labels: Sequence[str], parts: Sequence[str] | None = None) -> Index:
    parts = parts or [""] * len(digests)
    entries = tuple(
        Entry(f"{label}/{number:02d}.jpg", label, one, part)
        for number, (one, label, part) in enumerate(zip(digests, labels, parts, strict=True))
    )
    return Index(entries, tuple(sorted(set(labels))), (), "/data/images", RECIPE.digest)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """Six features in three shards, and an index of five of them, in another order, one of them twice."""
    cache = FeatureCache.create(tmp_path / "cache", RECIPE, {})
    for first in (0, 2, 4):
        cache.add_shard([digest(first), digest(first + 1)], [0, 0], rows(6)[first : first + 2], {})
    order = [digest(n) for n in (3, 0, 1, 2, 5, 0)]
    cache.write_index(index_of(order, ["b", "b", "a", "c", "a", "c"]))
    return cache


ORDER = [3, 0, 1, 2, 5, 0]


def test_plain_h5py_reads_what_was_written(cache: FeatureCache) -> None:
    with h5py.File(cache.path / "index.h5") as file:
        np.testing.assert_array_equal(file["features"][:], rows(6)[ORDER])
        np.testing.assert_array_equal(file["features"][2], rows(6)[1])
        assert file["features"].dtype == np.float32
        assert np.isnan(file["features"].fillvalue)
        classes = file["labels"].attrs["classes"]
        assert list(classes) == ["a", "b", "c"]
        assert np.issubdtype(file["labels"].dtype, np.integer)
        assert [classes[label] for label in file["labels"][:]] == ["b", "b", "a", "c", "a", "c"]
        assert file["paths"].asstr()[:].tolist() == [
            "b/00.jpg", "b/01.jpg", "a/02.jpg", "c/03.jpg", "a/04.jpg", "c/05.jpg"
        ]  # fmt: skip
        assert file["digests"].asstr()[:].tolist() == [digest(n) for n in ORDER]
        for name in ("paths", "digests"):
            kind = h5py.check_string_dtype(file[name].dtype)
            assert (kind.encoding, kind.length) == ("utf-8", None)
        assert "parts" not in file


PLAIN = """
import sys, h5py, numpy
with h5py.File(sys.argv[1]) as file:
    sys.stdout.buffer.write(file["features"][:].tobytes())
"""


@pytest.mark.parametrize("how", ["as it is", "moved", "copied", "by a link", "by a relative name"])
def test_plain_h5py_reads_it_wherever_it_is(cache: FeatureCache, tmp_path: Path, how: str) -> None:
    folder, name = tmp_path / "elsewhere", str(cache.path / "index.h5")
    folder.mkdir()
    if how == "moved":
        name = str(cache.path.rename(folder / "moved") / "index.h5")
    elif how == "copied":
        name = str(shutil.copytree(cache.path, folder / "copied") / "index.h5")
        shutil.rmtree(cache.path)
    elif how == "by a link":
        (folder / "link.h5").symlink_to(name)
        name = "link.h5"
    elif how == "by a relative name":
        name = "../cache/index.h5"
    done = subprocess.run([sys.executable, "-c", PLAIN, name], cwd=folder, capture_output=True, check=True)
    assert done.stdout == rows(6)[ORDER].tobytes()


def test_a_missing_shard_never_passes_for_zeros(cache: FeatureCache) -> None:
    missing = cache.shards()[0]
    missing.path.unlink()
    gone = [digest(n) in missing.digests for n in ORDER]
    with h5py.File(cache.path / "index.h5") as file:
        features = file["features"][:]
    assert np.isnan(features[gone]).all()
    np.testing.assert_array_equal(features[np.invert(gone)], rows(6)[ORDER][np.invert(gone)])
    with pytest.raises(CacheError, match=rf"lacks the features of {sum(gone)} of 6 images: a shard was removed"):
        cache.read([entry.digest for entry in cache.index().entries])


@given(data=st.data())
@settings(max_examples=60)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(numbers))
    recipe = replace(RECIPE, storage=data.draw(st.sampled_from(["float32", "float16"])))
    cache = FeatureCache.create(folder, recipe, {})
    held = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=12, unique=True))
    cut = data.draw(st.integers(0, len(held)))
    features = rows(21)
    for part in (held[:cut], held[cut:]):
        # A view of the same image follows each row, which the index must pass over.
        twice = [n for n in part for _ in range(2)]
        both = np.stack([features[part], -features[part]], axis=1).reshape(-1, recipe.dimension)
        cache.add_shard([digest(n) for n in twice], [0, 7] * len(part), both, {})
    order = data.draw(st.lists(st.sampled_from(held), min_size=1, max_size=20))
    entries = tuple(
        Entry(data.draw(text), data.draw(text), digest(n), data.draw(st.sampled_from(["", "train"]))) for n in order
    )
    index = Index(
        entries,
        tuple(sorted({entry.label for entry in entries})),
        tuple(data.draw(st.lists(st.tuples(text, text), max_size=2))),
        data.draw(text),
        recipe.digest,
    )
    cache.write_index(index)
    assert cache.index() == index
    assert [index.classes[label] for label in index.labels] == [entry.label for entry in entries]
    expected = features[order].astype(recipe.storage)
    with h5py.File(folder / "index.h5") as file:
        np.testing.assert_array_equal(file["features"][:], expected)
        np.testing.assert_array_equal(file["labels"][:], index.labels)
    read = cache.read([entry.digest for entry in entries])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, expected.astype(np.float32))


def test_parts_are_stored_where_the_image_set_came_split(cache: FeatureCache) -> None:
    index = index_of([digest(0), digest(1)], ["a", "b"], ["train", "test"])
    cache.write_index(index)
    assert cache.index() == index
    assert cache.index().has_parts
    with h5py.File(cache.path / "index.h5") as file:
        assert file["parts"].asstr()[:].tolist() == ["train", "test"]


def test_more_classes_than_an_attribute_held_before_hdf5_1_8(tmp_path: Path) -> None:
    count = 5_000
    labels = [f"class {number:05d}" for number in range(count)]
    shard = Shard(tmp_path / "shards" / "one.h5", (digest(0),), (0,), {})
    write_index(tmp_path / "index.h5", index_of([digest(0)] * count, labels), RECIPE, [shard])
    assert read_index(tmp_path / "index.h5").classes == tuple(labels)


def test_a_place_is_that_of_digest_and_view_and_the_first_of_two_equal_ones(tmp_path: Path) -> None:
    shards = [
        Shard(tmp_path / "a.h5", ("x", "y", "y"), (0, 0, 1), {}),
        Shard(tmp_path / "b.h5", ("y", "z", "x"), (0, 1, 2), {}),
    ]
    every = {("x", 0): (0, 0), ("y", 0): (0, 1), ("y", 1): (0, 2), ("z", 1): (1, 1), ("x", 2): (1, 2)}
    assert places(shards, [*every, ("z", 0)]) == every
    assert places(shards, [("y", 0)]) == {("y", 0): (0, 1)}


def test_an_index_of_what_no_shard_holds_is_not_written(cache: FeatureCache) -> None:
    before = cache.index()
    with pytest.raises(CacheError, match="lacks the features of 1 of 2 images"):
        cache.write_index(index_of([digest(0), digest(99)], ["a", "b"]))
    assert cache.index() == before


def test_other_views_are_no_features_of_the_index(cache: FeatureCache) -> None:
    before = cache.index()
    cache.add_shard([digest(99)], [1], rows(1), {})
    with pytest.raises(CacheError, match="lacks the features of 1 of 2 images"):
        cache.write_index(index_of([digest(0), digest(99)], ["a", "b"]))
    assert cache.index() == before


def test_a_flipped_bit_in_what_it_says_of_the_images_is_refused(cache: FeatureCache) -> None:
    path = cache.path / "index.h5"
    whole = path.read_bytes()
    with h5py.File(path) as file:
        labels = file["labels"].id.get_offset()
    places = [labels + 8 * row for row in range(6)]
    places += [whole.index(what.encode()) + 3 for what in ("a/02.jpg", digest(5), "/data/images")]
    for position in places:
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CacheError, match=r"index\.h5 .* it rewrites the index from the shards"):
            cache.index()


def test_a_truncated_index_is_refused(cache: FeatureCache) -> None:
    path = cache.path / "index.h5"
    whole = path.read_bytes()
    for length in range(0, len(whole), 397):
        path.write_bytes(whole[:length])
        with pytest.raises(CacheError, match="is damaged"):
            cache.index()


def test_other_files_are_refused(cache: FeatureCache) -> None:
    path = cache.path / "index.h5"
    shutil.copy(cache.shards()[0].path, path)
    with pytest.raises(CacheError, match="is not the index of a feature cache"):
        cache.index()
    path.unlink()
    with pytest.raises(CacheError, match=r"has no index yet: its extraction did not finish\. Run the same"):
        cache.index()


def test_an_index_of_another_recipe_is_refused(cache: FeatureCache) -> None:
    recipe = replace(RECIPE, precision="bf16")
    other = FeatureCache.create(cache.path.with_name("other"), recipe, {})
    other.add_shard([digest(0)], [0], rows(1), {})
    other.write_index(replace(index_of([digest(0)], ["a"]), recipe_digest=recipe.digest))
    shutil.copy(other.path / "index.h5", cache.path)
    with pytest.raises(CacheError, match=f"belongs to recipe {recipe.digest[:12]}…, but .* is {RECIPE.digest[:12]}…"):
        cache.index()


def test_a_full_disk_keeps_the_old_index(cache: FeatureCache) -> None:
    script = """
import resource, sys
from cache import FeatureCache, NoRoom
from tests.cache.test_index import digest, index_of
cache = FeatureCache.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
try:
    cache.write_index(index_of([digest(0), digest(1)], ["a", "b"]))
except NoRoom as error:
    print(type(error).__name__)
"""
    before = cache.index()
    done = subprocess.run([sys.executable, "-c", script, str(cache.path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{NoRoom.__name__}\n", "")
    assert cache.index() == before
    assert {entry.name for entry in os.scandir(cache.path)} == {"recipe.json", "shards", "index.h5"}

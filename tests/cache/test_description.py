"""`cache info` counts what is there."""

import gc
import os
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from cache.description import describe
from cache.errors import CacheError
from cache.feature_cache import FeatureCache
from cache.index import Entry
from cache.lock import writing
from cache.process import host
from cache.pruning import prune
from tests.cache.test_index import index_of
from tests.cache.test_shard import RECIPE, digest, rows


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    cache = FeatureCache.create(tmp_path / "cache", RECIPE, {"torch": "2.4"})
    cache.add_shard([digest(n) for n in range(4)], [0] * 4, rows(4), {digest(9): "the file is empty"})
    return cache


def test_before_an_extraction_has_finished(cache: FeatureCache) -> None:
    found = describe(cache.path)
    assert not found.finished
    assert (found.images, found.shards, found.features, found.unused, found.source) == (0, 1, 4, 0, "")
    assert found.classes == found.parts == {}
    assert found.views == {}


def test_classes_unused_rows_and_skipped_images(cache: FeatureCache) -> None:
    index = index_of([digest(0), digest(2), digest(0)], ["b", "a", "a"])
    skipped = (("a/broken.jpg", "the file is empty"),)
    cache.write_index(replace(index, skipped=skipped))
    found = describe(str(cache.path))
    assert found.finished
    assert (found.images, found.shards, found.features, found.unused) == (3, 1, 4, 2)
    assert list(found.classes.items()) == [("a", 2), ("b", 1)]
    assert found.parts == {}
    assert found.views == {1: 3}
    assert found.skipped == skipped
    assert found.source == "/data/images"
    assert found.size == sum(path.stat().st_size for path in cache.path.rglob("*.*"))
    assert found.recipe == RECIPE.as_dict()
    assert found.format_version == RECIPE.format_version
    assert found.made_from == {"torch": "2.4"}
    assert found.random_weights


def test_parts_of_a_set_that_came_split(cache: FeatureCache) -> None:
    index = index_of([digest(n) for n in range(4)], ["a", "a", "b", "b"])
    parts = ("train", "test", "train", "val")
    entries = tuple(
        Entry(entry.path, entry.label, entry.digest, part) for entry, part in zip(index.entries, parts, strict=True)
    )
    cache.write_index(replace(index, entries=entries))
    assert describe(cache.path).parts == {"train": 2, "test": 1, "val": 1}


def test_views_are_counted_by_image_and_features_by_row(cache: FeatureCache) -> None:
    # All of image 0; of image 1 the first is missing; image 3 is none of the set any more.
    cache.add_shard([digest(n) for n in (0, 0, 1, 3)], [1, 2, 2, 1], rows(4), {})
    cache.write_index(index_of([digest(0), digest(2), digest(0), digest(1)], ["b", "a", "a", "b"]))
    found = describe(cache.path)
    assert list(found.views.items()) == [(3, 2), (1, 2)]
    assert (found.features, found.unused) == (8, 2)


def test_what_is_unused_is_what_pruning_frees(cache: FeatureCache) -> None:
    cache.add_shard([digest(7), digest(8)], [0, 0], rows(2), {})  # of no image of the set
    cache.add_shard([digest(2)], [0], rows(1), {})  # once more
    cache.write_index(index_of([digest(0), digest(2)], ["a", "b"]))
    found = describe(cache.path)
    done = prune(cache.path)
    assert found.unused == done.unused == 5
    assert 5 * RECIPE.row_bytes < found.unused_size <= done.freed  # two whole files, and rows of one
    after = describe(cache.path)
    assert (after.features, after.unused, after.unused_size) == (2, 0, 0)
    assert after.size == done.size == found.size - done.freed


def test_who_writes_into_it_is_named(cache: FeatureCache) -> None:
    assert describe(cache.path).writer is None
    with writing(cache.path):
        writer = describe(cache.path).writer
        assert writer is not None
        assert (writer.host, writer.process) == (host(), os.getpid())
    assert describe(cache.path).writer is None


def test_no_feature_is_read(cache: FeatureCache) -> None:
    cache.write_index(index_of([digest(0)], ["a"]))
    path = cache.shards()[0].path
    before, data = describe(cache.path), bytearray(path.read_bytes())
    with h5py.File(path) as file:
        data[file["features"].id.get_chunk_info(0).byte_offset] ^= 1
    path.write_bytes(data)
    assert describe(cache.path) == before


def test_a_shard_that_the_index_lists_whole_is_not_opened_while_it_has_its_size(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "cache", RECIPE, {})
    path = cache.add_shard([digest(n) for n in range(4)], [0] * 4, rows(4), {}).path
    cache.write_index(index_of([digest(n) for n in (1, 3, 0, 2)], ["a", "b", "a", "b"]))
    before, size = describe(cache.path), path.stat().st_size
    assert (before.shards, before.features, before.views, before.unused) == (1, 4, {1: 4}, 0)
    path.write_bytes(bytes(size))
    assert describe(cache.path) == before
    path.write_bytes(bytes(size + 1))
    with pytest.raises(CacheError, match="is damaged"):
        describe(cache.path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CacheError, match="is a folder"):
        describe(cache.path)
    path.rmdir()
    gone = describe(cache.path)
    assert (gone.shards, gone.features, gone.views) == (0, 0, {0: 4})


def test_garbage_is_looked_for_again_afterwards(cache: FeatureCache, tmp_path: Path) -> None:
    describe(cache.path)
    assert gc.isenabled()
    gc.disable()
    try:
        describe(cache.path)
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(CacheError):
        describe(tmp_path / "nothing")
    assert gc.isenabled()


def test_damage_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="is not a feature cache"):
        describe(tmp_path)
    cache.shards()[0].path.write_bytes(b"")
    with pytest.raises(CacheError, match="is damaged"):
        describe(cache.path)

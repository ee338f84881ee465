"""`cache info` counts what is there."""

from dataclasses import replace
from pathlib import Path

import pytest

from cache.description import describe
from cache.errors import CacheError
from cache.feature_cache import FeatureCache
from cache.index import Entry
from tests.cache.test_index import index_of
from tests.cache.test_shard import RECIPE, digest, rows


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    cache = FeatureCache.create(tmp_path / "cache", RECIPE, {})
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
    cache.write_index(index_of([digest(0), digest(2), digest(0), digest(1)], ["b", "a", "a", "b"]))
    # All of image 0; of image 1 the first is missing; image 3 is none of the set any more.
    cache.add_shard([digest(n) for n in (0, 0, 1, 3)], [1, 2, 2, 1], rows(4), {})
    found = describe(cache.path)
    assert list(found.views.items()) == [(3, 2), (1, 2)]
    assert (found.features, found.unused) == (8, 2)


def test_damage_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="is not a feature cache"):
        describe(tmp_path)
    cache.shards()[0].path.write_bytes(b"")
    with pytest.raises(CacheError, match="is damaged"):
        describe(cache.path)

"""Packed shards hold the same features: whoever reads them, beside plain ones, sees no difference but the room."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.description import describe
from cache.export import export
from cache.feature_cache import FeatureCache
from cache.pruning import prune
from cache.verification import repair, verify
from pipeline.extraction import extract
from tests.cache.test_index import index_of
from tests.cache.test_shard import RECIPE, digest, rows
from tests.conftest import BASE, WEIGHTS


@pytest.fixture
def mixed(tmp_path: Path) -> FeatureCache:
    """Features 0 to 2 in a packed shard, 3 to 5 in a plain one, and an index of five of them, out of order."""
    cache = FeatureCache.create(tmp_path / "mixed", RECIPE, {})
    cache.compress = True
    cache.add_shard([digest(n) for n in (0, 1, 2)], [0] * 3, rows(6)[:3], {})
    cache.compress = False
    cache.add_shard([digest(n) for n in (3, 4, 5)], [0] * 3, rows(6)[3:], {})
    cache.write_index(index_of([digest(n) for n in ORDER], ["b", "b", "a", "c", "a"]))
    return cache


ORDER = [3, 0, 5, 2, 4]


def plain(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file["features"][:])


def test_plain_h5py_reads_both_kinds_through_the_index(mixed: FeatureCache) -> None:
    np.testing.assert_array_equal(plain(mixed.path / "index.h5"), rows(6)[ORDER])
    with h5py.File(mixed.path / "index.h5") as file:
        np.testing.assert_array_equal(file["features"][1], rows(6)[0])


def test_both_kinds_are_read_verified_described_and_exported(mixed: FeatureCache, tmp_path: Path) -> None:
    np.testing.assert_array_equal(mixed.read([digest(n) for n in ORDER]), rows(6)[ORDER])
    assert verify(mixed.path).sound
    found = describe(mixed.path)
    assert (found.shards, found.packed, found.features) == (2, 1, 6)
    export(mixed.path, tmp_path / "all.h5")
    np.testing.assert_array_equal(plain(tmp_path / "all.h5"), rows(6)[ORDER])


def test_pruning_leaves_each_shard_of_its_kind(mixed: FeatureCache) -> None:
    mixed.write_index(index_of([digest(n) for n in (0, 4)], ["a", "b"]))
    assert prune(mixed.path).rewritten == 2
    assert {shard.digests: shard.packed for shard in mixed.shards()} == {(digest(0),): True, (digest(4),): False}
    np.testing.assert_array_equal(plain(mixed.path / "index.h5"), rows(6)[[0, 4]])


def test_what_pruning_frees_is_foretold_of_packed_rows_as_they_lie(tmp_path: Path) -> None:
    recipe = replace(RECIPE, dimension=5000)
    few = np.where(np.random.default_rng(0).random((40, 5000)) < 0.05, 1.5, 0)  # which pack to a few percent
    cache = FeatureCache.create(tmp_path / "cache", recipe, {})
    cache.compress = True
    names = [digest(n) for n in range(40)]
    cache.add_shard(names, [0] * 40, few, {})
    cache.write_index(replace(index_of(names[:10], ["a"] * 10), recipe_digest=recipe.digest))
    expected, told = prune(cache.path, dry_run=True), describe(cache.path).unused_size
    done = prune(cache.path)
    assert told == expected.freed < cache.recipe.row_bytes * 30 / 5
    assert expected.freed == pytest.approx(done.freed, rel=0.25)


def files(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cache / "shards").iterdir()}


def test_extract_packs_what_it_computes_and_computes_nothing_for_it(images: Path, cache: Path, tmp_path: Path) -> None:
    before, features = files(cache), plain(cache / "index.h5")
    again = extract(images, cache, base=BASE, weights=WEIGHTS, device="cpu", compress=True)
    assert (again.computed, files(cache)) == (0, before)
    extract(images, tmp_path / "packed", base=BASE, weights=WEIGHTS, device="cpu", compress=True)
    assert describe(tmp_path / "packed").packed == describe(tmp_path / "packed").shards > 0
    assert files(tmp_path / "packed").keys() == before.keys()  # named for what they hold
    np.testing.assert_array_equal(plain(tmp_path / "packed" / "index.h5"), features)
    # What is lost is computed again, and stored as that call asks.
    damaged = next((tmp_path / "packed" / "shards").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert repair(tmp_path / "packed", verify(tmp_path / "packed")) == (f"shards/{damaged.name}",)
    assert extract(images, tmp_path / "packed", base=BASE, weights=WEIGHTS, device="cpu").computed > 0
    assert files(tmp_path / "packed")[damaged.name] == before[damaged.name]

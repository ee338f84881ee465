"""A cache gives features by the content of images, and refuses whatever is not of its recipe."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CacheError, RecipeMismatch
from cache.feature_cache import FeatureCache, is_cache
from cache.recipe import RecipeFile
from tests.cache.test_index import index_of
from tests.cache.test_shard import RECIPE, digest, flip, rows


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """Six features in three shards; no index."""
    cache = FeatureCache.create(tmp_path / "cache", RECIPE, {"base": "squeezenet1_1"})
    for first in (0, 2, 4):
        cache.add_shard([digest(first), digest(first + 1)], [0, 0], rows(6)[first : first + 2], {})
    return cache


def test_a_cache_is_read_without_torch() -> None:
    script = "import cache, sys; sys.exit(bool({'torch', 'torchvision', 'sklearn', 'pipeline'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_created_then_opened(tmp_path: Path) -> None:
    path = tmp_path / "a" / "cache"
    assert not is_cache(path)
    created = FeatureCache.create(path, RECIPE, {"base": "squeezenet1_1"})
    opened = FeatureCache.open(str(path))
    assert is_cache(path)
    assert opened.path == created.path == path
    assert opened.recipe == created.recipe == RECIPE
    assert opened.made_from == {"base": "squeezenet1_1"}
    assert opened.shards() == []
    assert not opened.has_index()


def test_a_cache_is_created_again_only_with_its_own_recipe(cache: FeatureCache) -> None:
    shards = cache.shards()
    again = FeatureCache.create(cache.path, RECIPE, {"base": "squeezenet1_1", "pillow": "13.0"})
    assert again.shards() == shards
    assert RecipeFile.read(cache.path).made_from == {"base": "squeezenet1_1", "pillow": "13.0"}
    before = (cache.path / "recipe.json").read_bytes()
    with pytest.raises(RecipeMismatch, match=r"precision is fp32, asked bf16.*extract into another folder"):
        FeatureCache.create(cache.path, replace(RECIPE, precision="bf16"), {})
    assert (cache.path / "recipe.json").read_bytes() == before


def test_a_folder_of_other_things_is_not_made_a_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(CacheError, match="is not a feature cache"):
            FeatureCache.create(path, RECIPE, {})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").write_text("a file browser's")
    FeatureCache.create(tmp_path / "empty", RECIPE, {})


@settings(max_examples=30)
@given(order=st.lists(st.integers(0, 5), max_size=12), kind=st.sampled_from(["float16", "float32", "float64"]))
def test_features_come_in_the_order_asked(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], kind: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "ordered"
    cache = FeatureCache.create(path, RECIPE, {})
    for part in ([5, 1], [0, 4, 2, 3]):
        cache.add_shard([digest(n) for n in part], [0] * len(part), rows(6)[part], {})
    asked = [digest(n) for n in order]
    np.testing.assert_array_equal(cache.read(asked), rows(6)[order])
    out = np.full((len(order), RECIPE.dimension), np.nan, dtype=kind)
    assert cache.read(asked, out) is out
    np.testing.assert_array_equal(out, rows(6)[order].astype(kind))


def test_a_digest_in_two_shards_is_read_once(cache: FeatureCache) -> None:
    # As two machines make it that extract the same images at the same time.
    cache.add_shard([digest(1), digest(9)], [0, 0], np.stack([rows(6)[1], rows(6)[0]]), {})
    np.testing.assert_array_equal(cache.read([digest(9), digest(1)]), rows(6)[[0, 1]])


def test_float16_storage_costs_a_relative_error_of_a_2048th(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "cache", replace(RECIPE, storage="float16"), {})
    features = np.abs(rows(50)) + 0.01
    digests = [digest(n) for n in range(50)]
    cache.add_shard(digests, [0] * 50, features, {})
    read = cache.read(digests)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, features, rtol=2**-11, atol=0)


def keyed(number: int, view: int) -> npt.NDArray[np.float32]:
    return rows(1, seed=1000 * number + view).reshape(-1)


@settings(max_examples=40)
@given(data=st.data())
def test_views_come_in_the_order_asked_however_they_lie_in_shards(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    cache = FeatureCache.create(tmp_path_factory.mktemp("views"), RECIPE, {})
    keys = data.draw(st.permutations([(number, view) for number in range(3) for view in range(4)]))
    for start in range(0, 12, size := data.draw(st.integers(1, 12))):
        part = keys[start : start + size]
        features = np.stack([keyed(number, view) for number, view in part])
        cache.add_shard([digest(number) for number, _ in part], [view for _, view in part], features, {})
    asked = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=20))
    read: list[int] = []
    found = cache.read([digest(number) for number, _ in asked], advance=read.append, views=[view for _, view in asked])
    np.testing.assert_array_equal(found, np.stack([keyed(number, view) for number, view in asked]))
    assert sum(read) == len(asked)
    touched = {keys.index(key) // size for key in asked}
    assert len(read) == len(touched)  # one piece of news a shard: each is read once
    assert cache.views() == {digest(number): 4 for number in range(3)}


def test_view_0_is_read_where_none_is_named(cache: FeatureCache) -> None:
    cache.add_shard([digest(0), digest(0)], [1, 2], rows(2, seed=1), {})
    np.testing.assert_array_equal(cache.read([digest(0), digest(1)]), rows(6)[:2])
    numbers = np.array([2, 0, 1])  # as a generator of random numbers gives them
    expected = np.stack([rows(2, seed=1)[1], rows(6)[0], rows(2, seed=1)[0]])
    np.testing.assert_array_equal(cache.read([digest(0)] * 3, views=numbers), expected)
    with pytest.raises(ValueError, match="shorter"):
        cache.read([digest(0), digest(1)], views=[0])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([(0, 1), (0, 2), (1, 1), (1, 2)], r"lacks view 2 of 1 of 2 images\. Run .*--views 3` .*--split"),
        ([(0, 1), (1, 3), (2, 2), (2, 1)], r"lacks views 1 to 3 of 2 of 3 images\. Run .*--views 4` "),
        ([(2, 9), (1, 2), (0, 0)], r"lacks 2 views between 2 and 9 of 2 of 2 images\. Run .*--views 10` .* is kept"),
        ([(7, 0), (2, 9), (0, 0)], r"lacks the features of 1 of 2 images: a shard was removed"),
    ],
)
def test_views_that_are_not_there_are_refused_with_the_way_to_them(
    cache: FeatureCache, keys: list[tuple[int, int]], said: str
) -> None:
    cache.add_shard([digest(0), digest(0), digest(1)], [1, 2, 1], rows(3), {})
    with pytest.raises(CacheError, match=said) as refused:
        cache.read([digest(number) for number, _ in keys], views=[view for _, view in keys])
    assert str(cache.path) in str(refused.value)


def test_what_is_not_there_is_refused_with_figures(cache: FeatureCache) -> None:
    with pytest.raises(CacheError, match=r"lacks the features of 2 of 3 images.* only the missing ones are computed"):
        cache.read([digest(1), digest(7), digest(8)])


@pytest.mark.parametrize("damage", ["flipped", "truncated", "foreign", "of another recipe"])
def test_a_damaged_or_foreign_shard_is_refused_by_name(cache: FeatureCache, tmp_path: Path, damage: str) -> None:
    path = cache.shards()[1].path
    whole = path.read_bytes()
    if damage == "flipped":
        with h5py.File(path) as file:
            position = file["features"].id.get_chunk_info(1).byte_offset + 5
        flip(path, whole, position)
    elif damage == "truncated":
        path.write_bytes(whole[:-100])
    elif damage == "foreign":
        with h5py.File(path, "w") as file:
            file["features"] = rows(2)
    else:
        other = FeatureCache.create(tmp_path / "other", replace(RECIPE, base="resnet18"), {})
        shutil.copy(other.add_shard([digest(2), digest(3)], [0, 0], rows(2), {}).path, path)
    with pytest.raises(CacheError, match=f"{path} is (damaged|a shard of recipe .*, but the cache's is).* --repair"):
        cache.read([digest(n) for n in range(6)])
    path.unlink()
    np.testing.assert_array_equal(cache.read([]), np.empty((0, RECIPE.dimension)))


def test_what_is_not_a_shard_is_passed_over(cache: FeatureCache) -> None:
    (cache.path / "shards" / ".half.h5").write_text("half")
    (cache.path / "shards" / "notes.txt").write_text("mine")
    assert len(cache.shards()) == 3


def test_leftovers_of_killed_processes_are_cleaned_in_both_folders(cache: FeatureCache) -> None:
    script = """
import signal, sys
from pathlib import Path
from cache.atomic import writing_file
with writing_file(Path(sys.argv[1]) / "index.h5") as one, writing_file(Path(sys.argv[1]) / "shards" / "x.h5") as two:
    one.write_text("half")
    two.write_text("half")
    signal.raise_signal(signal.SIGKILL)
"""
    before = sorted(cache.path.rglob("*"))
    subprocess.run([sys.executable, "-c", script, str(cache.path)], check=False)
    assert len(list(cache.path.rglob("*"))) == len(before) + 2
    assert cache.clean() == 2
    assert sorted(cache.path.rglob("*")) == before


def merged(cache: FeatureCache) -> None:
    """Replace all shards by one, as `cache prune` does it: first the new one is there, then the old ones go."""
    digests = [digest(n) for n in range(6)]
    new = cache.add_shard(digests, [0] * 6, cache.read(digests), {})
    for shard in cache.shards():
        if shard.path != new.path:
            shard.path.unlink()


def test_a_reader_goes_on_while_shards_are_replaced(cache: FeatureCache) -> None:
    read: list[int] = []

    def advance(rows: int) -> None:
        if not read:
            merged(cache)
        read.append(rows)

    order = [5, 0, 3, 1, 0, 4, 2]
    np.testing.assert_array_equal(cache.read([digest(n) for n in order], advance=advance), rows(6)[order])
    assert len(cache.shards()) == 1
    assert sum(read) == len(order)


def test_a_reader_is_told_of_a_shard_that_goes_for_good(cache: FeatureCache) -> None:
    def advance(rows: int) -> None:
        for shard in cache.shards():
            shard.path.unlink()

    with pytest.raises(CacheError, match=r"lacks the features of 4 of 4 images: a shard was removed\. Run the same"):
        cache.read([digest(n) for n in range(6)], advance=advance)


WRITER = """
import select, sys
from itertools import count
from cache import FeatureCache
from tests.cache.test_feature_cache import digest, rows
cache = FeatureCache.open(sys.argv[1])
for turn in count():
    if select.select([sys.stdin], [], [], 0)[0]:
        sys.exit()
    old, new = cache.shards(), set()
    size = 1 + turn % 3
    for first in range(0, 6, size):
        part = list(range(first, min(first + size, 6)))
        new.add(cache.add_shard([digest(n) for n in part], [0] * len(part), rows(6)[part], {}).path)
    for shard in old:
        if shard.path not in new:
            shard.path.unlink()
    print(turn, flush=True)
"""


def test_readers_never_see_a_half_state(cache: FeatureCache) -> None:
    command = [sys.executable, "-c", WRITER, str(cache.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"0\n"
        for _ in range(30):
            np.testing.assert_array_equal(cache.read([digest(n) for n in range(6)]), rows(6))
            assert cache.views() == {digest(n): 1 for n in range(6)}
        writer.communicate()
    assert writer.returncode == 0


@pytest.mark.parametrize("version", [1, 2])
def test_a_cache_of_an_older_format_is_refused_with_the_way_out(cache: FeatureCache, version: int) -> None:
    path = cache.path / "recipe.json"
    path.write_text(path.read_text().replace('"format_version": 3', f'"format_version": {version}'))
    said = rf"{path} has format version {version}; this manyheads reads version 3\. Use the manyheads that wrote it"
    for open_it in (FeatureCache.open, lambda folder: FeatureCache.create(folder, RECIPE, {})):
        with pytest.raises(CacheError, match=said):
            open_it(cache.path)


def test_the_index_is_replaced_whole_under_a_reader(cache: FeatureCache) -> None:
    cache.write_index(index_of([digest(0), digest(1)], ["a", "b"]))
    with h5py.File(cache.path / "index.h5") as old:
        cache.write_index(index_of([digest(5), digest(4), digest(3)], ["a", "b", "b"]))
        np.testing.assert_array_equal(old["features"][:], rows(6)[[0, 1]])
    with h5py.File(cache.path / "index.h5") as new:
        np.testing.assert_array_equal(new["features"][:], rows(6)[[5, 4, 3]])


def test_the_size_is_that_of_all_files(cache: FeatureCache) -> None:
    assert cache.size() == sum(path.stat().st_size for path in cache.path.rglob("*.*"))
    assert cache.size() > 6 * RECIPE.row_bytes

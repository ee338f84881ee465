"""The index is read by this project and by plain h5py, from anywhere, and says the same to both."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CacheError, NoRoom
from cache.feature_cache import FeatureCache
from cache.hdf5 import composed
from cache.index import KIND, Entry, Index, fill, read_index, read_listing, write_index
from cache.shard import write_shard
from cache.verification import verify
from tests.cache.test_hdf5 import sealed_again
from tests.cache.test_shard import RECIPE, digest, rows

# What is not UTF-8 in a name, Python spells with these.
not_utf8 = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"])
text = st.text(st.characters(exclude_categories=["Cs"]) | not_utf8, min_size=1, max_size=8)
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
    shard = write_shard(tmp_path / "shards", RECIPE, [digest(0)], [0], rows(1), {})
    write_index(tmp_path / "index.h5", index_of([digest(0)] * count, labels), RECIPE, [shard])
    assert read_index(tmp_path / "index.h5", RECIPE).classes == tuple(labels)


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


def test_names_that_hdf5_cannot_hold_are_shown_to_others_with_backslashes(cache: FeatureCache) -> None:
    name = "a/caf\udce9\0.jpg"
    entries = (Entry(name, "caf\udce9", digest(0)), Entry("b/ü.jpg", "ü", digest(1)))
    index = Index(entries, ("caf\udce9", "ü"), ((name, "\udcff"),), "/data/caf\udce9", RECIPE.digest)
    cache.write_index(index)
    assert cache.index() == index
    with h5py.File(cache.path / "index.h5") as file:
        assert file["paths"].asstr()[:].tolist() == ["a/caf\\udce9\\0.jpg", "b/ü.jpg"]
        assert list(file["labels"].attrs["classes"]) == ["caf\\udce9", "ü"]
        assert file["skipped/reasons"].asstr()[:].tolist() == ["\\udcff"]
        assert file.attrs["images"] == "/data/caf\\udce9"


def test_the_listing_is_one_text_of_json(cache: FeatureCache) -> None:
    with h5py.File(cache.path / "index.h5") as file:
        listing = json.loads(file["listing"][()])
    assert listing["paths"] == [entry.path for entry in cache.index().entries]
    assert [listing["classes"][label] for label in listing["labels"]] == ["b", "b", "a", "c", "a", "c"]
    held = {shard.path.name: shard.digests for shard in cache.shards()}
    places = zip(listing["shard"], listing["row"], strict=True)
    assert [held[listing["shards"][shard]][row] for shard, row in places] == [digest(n) for n in ORDER]


def listed(path: Path, listing: object) -> None:
    """Exchange what an index lists, and seal it again, as somebody might who means harm."""
    with h5py.File(path, "r+") as file:
        del file["listing"]
        if listing is not None:
            file["listing"] = listing
    sealed_again(path, "index")


@pytest.mark.parametrize(
    "listing",
    [
        None,
        np.bytes_(b""),
        np.bytes_(b"{"),
        np.bytes_(b"null"),
        np.bytes_(b"[]"),
        np.bytes_(b"{}"),
        np.bytes_(b"\xff"),
        np.bytes_(b"[" * 100_000),
        np.bytes_(b'{"labels": 1' + b"0" * 5000 + b"}"),
        "a text of any length",
        np.int64(10**12),
        np.zeros(9),
        np.array([b"{}", b"{}"]),
    ],
    ids=range(13),
)
def test_what_is_no_listing_is_refused(cache: FeatureCache, listing: object) -> None:
    path = cache.path / "index.h5"
    listed(path, listing)
    with pytest.raises(CacheError, match=r"index\.h5 is damaged .* it rewrites the index from the shards"):
        cache.index()


@pytest.mark.parametrize(
    "change",
    [
        {"writer": 5},
        {"recipe": None},
        {"images": ["/data"]},
        {"classes": "abc"},
        {"classes": ["a", "b"]},
        {"classes": ["a", "b", 3]},
        {"skipped": ["a path without a reason"]},
        {"shards": ["../../secret.h5"] * 3},
        {"shards": []},
        {"paths": ["a"]},
        {"digests": None},
        {"digests": [1] * 6},
        {"parts": []},
        {"labels": [0, 1, 2, 0, 1, True]},
        {"labels": [0, 1, 2, 0, 1, 3]},
        {"labels": [0, 1, 2, 0, 1, -1]},
        {"labels": [0, 1, 2, 0, 1, 0.5]},
        {"labels": {}},
        {"shard": [0] * 5},
        {"shard": [0, 0, 0, 0, 0, -1]},
        {"shard": [0, 0, 0, 0, 0, 3]},
        {"row": [0] * 7},
        {"row": [0] * 5, "shard": [0] * 5},
        {"row": ["0"] * 6},
    ],
    ids=str,
)
def test_a_listing_of_other_values_is_refused(cache: FeatureCache, change: dict[str, Any]) -> None:
    path = cache.path / "index.h5"
    with h5py.File(path) as file:
        whole = json.loads(file["listing"][()])
    for values in (whole | change, {name: value for name, value in whole.items() if name not in change}):
        listed(path, np.bytes_(json.dumps(values)))
        with pytest.raises(CacheError, match=r"index\.h5 is damaged .* it rewrites the index from the shards"):
            cache.index()


@pytest.mark.parametrize(
    "change",
    [
        [],
        {"0" * 24 + ".h5": [1, False]},  # not among the shards
        {"NAME": [1]},
        {"NAME": [1, 0]},
        {"NAME": [True, True]},
        {"NAME": ["1", True]},
        {"NAME": {"size": 1}},
        {"NAME": None},
    ],
    ids=str,
)
def test_other_words_on_whole_shards_are_refused(cache: FeatureCache, change: Any) -> None:
    path, name = cache.path / "index.h5", cache.shards()[0].path.name
    with h5py.File(path) as file:
        values = json.loads(file["listing"][()])
    assert name in values["whole"]
    change = {name if key == "NAME" else key: value for key, value in change.items()} if change else change
    listed(path, np.bytes_(json.dumps(values | {"whole": change})))
    with pytest.raises(CacheError, match=r"index\.h5 is damaged .*its whole are not what an index lists"):
        cache.index()


def test_shards_that_hold_nothing_else_are_listed_whole(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "cache", RECIPE, {})
    contents: dict[str, tuple[list[int], list[int], dict[str, str]]] = {
        "whole": ([0, 1], [0, 0], {}),
        "with a row that is not used": ([2, 9], [0, 0], {}),
        "with a view": ([3, 3], [0, 1], {}),
        "with a failure": ([4], [0], {digest(8): "torn"}),
        "a row that stands in a shard before or after": ([0], [0], {}),
    }
    made = {
        what: cache.add_shard([digest(image) for image in images], views, rows(len(images)), failures)
        for what, (images, views, failures) in contents.items()
    }
    cache.write_index(index_of([digest(n) for n in (4, 1, 3, 2, 0, 1)], list("aabbab")))
    listing = read_listing(cache.path / "index.h5", RECIPE)
    (copy, whole) = (made.pop("a row that stands in a shard before or after"), made["whole"])
    expected = {whole.path.name: whole} if whole.path.name < copy.path.name else {copy.path.name: copy}
    assert listing.described(cache.path / "shards") == expected
    assert {name: one.size for name, one in listing.whole.items()} == {
        name: shard.path.stat().st_size for name, shard in expected.items()
    }
    assert cache.shards(listing) == cache.shards()
    assert verify(cache.path).sound


def test_an_index_that_lists_no_shard_whole_is_read_and_sound(cache: FeatureCache) -> None:
    # As the first versions of this format wrote it.
    path, listing = cache.path / "index.h5", read_listing(cache.path / "index.h5", RECIPE)
    assert listing.whole
    old = replace(listing, whole={})
    with composed(path, KIND) as file:
        fill(file, old, RECIPE, cache.shards())
    assert read_listing(path, RECIPE) == old
    assert verify(cache.path).sound
    with h5py.File(path) as file:
        assert "whole" not in json.loads(file["listing"][()])


def test_strings_that_somebody_made_up_are_not_looked_at(cache: FeatureCache) -> None:
    # A hundred thousand rows that all point to one text of a megabyte: HDF5 would make 100 GB of this.
    path = cache.path / "index.h5"
    before = cache.index()
    with h5py.File(path, "r+") as file:
        del file["paths"]
        file["paths"] = np.array(["x" * 10**6, *[""] * 10**5], dtype=object)
    data = bytearray(path.read_bytes())
    # Where the length of the first text stands and no text follows: not in the heap, but in the row.
    place = next(found.start() for found in re.finditer(rb"\x40\x42\x0f\0(?!\0\0\0\0x)", data))
    data[place + 16 : place + 16 * (10**5 + 1)] = data[place : place + 16] * 10**5
    path.write_bytes(data)
    sealed_again(path, "index")
    script = (
        "import resource, sys; from cache import FeatureCache; cache = FeatureCache.open(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # at least that of whoever started this process\n"
        "cache.index(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(cache.path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500_000  # kilobytes
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
    with pytest.raises(CacheError, match=r"index\.h5 is damaged \(its seal as an index is broken\)"):
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

"""Whatever is done to a cache: verification finds it, reading refuses it or is right, and repair mends it."""

import os
import shutil
import socket
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.errors import CacheError
from cache.feature_cache import FeatureCache
from cache.index import write_index
from cache.shard import Shard
from cache.verification import repair, verify
from tests.cache.test_files import patience  # noqa: F401 - a fixture
from tests.cache.test_hdf5 import sealed_again
from tests.cache.test_shard import digest
from tests.cache.test_verification import (
    EXPECTED,
    FEATURES,
    RECIPE,
    files,
    indexed,
    make,
    read,
    said,
    shards,
)


@pytest.fixture
def small(tmp_path: Path) -> FeatureCache:
    return make(tmp_path / "small")


# What was done to a cache: the file that is wrong then, what is said of it, and whether `repair` drops it.
Harm = Callable[[FeatureCache], Path]


def emptied(cache: FeatureCache) -> Path:
    path = shards(cache)[1]
    path.write_bytes(b"")
    return path


def renamed(cache: FeatureCache) -> Path:
    return shards(cache)[1].rename(cache.path / "shards" / f"{'0' * 24}.h5")


def copied_by_hand(cache: FeatureCache) -> Path:
    path = shards(cache)[1]
    return Path(shutil.copy(path, path.with_name(f"{path.stem} (1).h5")))


def foreign(cache: FeatureCache) -> Path:
    other = make(cache.path.with_name("other"), replace(RECIPE, precision="bf16"))
    return Path(shutil.copy(shards(other)[1], cache.path / "shards"))


def of_format_2(cache: FeatureCache) -> Path:
    path = shards(cache)[1]
    whole = path.read_bytes()
    path.write_bytes(whole[512:])  # HDF5 opens it as well
    return path


def folder_of_that_name(cache: FeatureCache) -> Path:
    path = cache.path / "shards" / "of mine.h5"
    path.mkdir()
    return path


def pipe(cache: FeatureCache) -> Path:
    path = shards(cache)[1]
    path.unlink()
    os.mkfifo(path)
    return path


def link_out(cache: FeatureCache) -> Path:
    path = shards(cache)[1]
    path.symlink_to(path.rename(cache.path.with_name("elsewhere.h5")))
    return path


def listening(cache: FeatureCache) -> Path:
    path = cache.path / "shards" / "s.h5"
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        server.bind(path.name)
        os.chdir(before)
    return path


def changed(cache: FeatureCache, change: Callable[[h5py.File], None]) -> Path:
    """Change a shard on purpose, and seal it again."""
    path = shards(cache)[1]
    with h5py.File(path, "r+") as file:
        change(file)
    sealed_again(path, "shard")
    return path


def exchanged(name: str, values: object) -> Harm:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return lambda cache: changed(cache, change)


def not_finite(value: float) -> Harm:
    features = FEATURES[3:].copy()
    features[1, 2] = value
    return exchanged("features", features)


def packed_otherwise(values: np.ndarray, **options: object) -> Harm:
    def change(file: h5py.File) -> None:
        del file["features"]
        options.setdefault("chunks", (1, 3))
        file.create_dataset("features", data=values, compression="gzip", fletcher32=True, **options)

    return lambda cache: changed(cache, change)


def packed_too_large(cache: FeatureCache) -> Path:
    def change(file: h5py.File) -> None:
        del file["features"]
        packed_rows = file.create_dataset("features", (3, 3), "f4", chunks=(1, 3), compression="gzip", fletcher32=True)
        packed_rows[:] = FEATURES[3:]
        packed_rows.id.write_direct_chunk((1, 0), zlib.compress(bytes(2**20)) + bytes(4))

    return changed(cache, change)


def from_another_file(cache: FeatureCache) -> Path:
    def change(file: h5py.File) -> None:
        del file["features"]
        file["features"] = h5py.ExternalLink(str(shards(cache)[0]), "features")

    return changed(cache, change)


def drawn_from_another_file(cache: FeatureCache) -> Path:
    def change(file: h5py.File) -> None:
        del file["features"]
        layout = h5py.VirtualLayout((3, 3), "f4")
        layout[:] = h5py.VirtualSource(str(shards(cache)[0]), "features", (3, 3))
        file.create_virtual_dataset("features", layout)

    return changed(cache, change)


def emptied_index(cache: FeatureCache) -> Path:
    path = cache.path / "index.h5"
    path.write_bytes(b"")
    return path


def piped_index(cache: FeatureCache) -> Path:
    path = cache.path / "index.h5"
    path.unlink()
    os.mkfifo(path)
    return path


def index_of_another_recipe(cache: FeatureCache) -> Path:
    other = make(cache.path.with_name("other"), replace(RECIPE, precision="bf16"))
    return Path(shutil.copy(other.path / "index.h5", cache.path))


def shard_as_index(cache: FeatureCache) -> Path:
    return Path(shutil.copy(shards(cache)[0], cache.path / "index.h5"))


def drawn_wrongly(change: Callable[[Shard], Shard]) -> Harm:
    """Write an index by somebody's wrong idea of what the shards hold."""

    def harm(cache: FeatureCache) -> Path:
        path = cache.path / "index.h5"
        write_index(path, cache.index(), cache.recipe, [change(shard) for shard in cache.shards()])
        return path

    return harm


def reversed_rows(shard: Shard) -> Shard:
    return replace(shard, digests=shard.digests[::-1], views=shard.views[::-1])


def other_view(shard: Shard) -> Shard:
    # Of image 1, the first shard holds view 0 in row 1 and view 1 in row 2.
    return replace(shard, views=(0, 1, 0)) if shard.failures else shard


def beyond_the_end(shard: Shard) -> Shard:
    return replace(shard, digests=(digest(77), *shard.digests), views=(0, *shard.views))


def other_labels_for_others(cache: FeatureCache) -> Path:
    path = cache.path / "index.h5"
    with h5py.File(path, "r+") as file:
        file["labels"][0] = 1 - file["labels"][0]
    sealed_again(path, "index")
    return path


HARMS: dict[str, tuple[Harm, str, bool]] = {
    "a shard of no bytes": (emptied, "is damaged (its seal as a shard is broken)", True),
    "a renamed shard": (renamed, "is damaged (it holds what belongs into ", True),
    "a copy of a shard": (copied_by_hand, "is damaged (it holds what belongs into ", True),
    "a shard of another recipe": (foreign, "is a shard of recipe ", True),
    "a shard without a seal": (of_format_2, "is damaged (its seal as a shard is broken)", True),
    "a folder": (folder_of_that_name, "cannot be opened: it is a folder", False),
    "a pipe": (pipe, "is a pipe or a device, not a file", True),
    "a link": (link_out, "is no file of its own but a link or a socket", True),
    "a socket": (listening, "is no file of its own but a link or a socket", True),
    "a row less": (exchanged("features", FEATURES[3:5]), "is damaged (its features are (2, 3) float32", True),
    "other numbers": (exchanged("features", FEATURES[3:].astype("f8")), "is damaged (its features are ", True),
    "a view less": (exchanged("views", np.zeros(2, "u2")), "is damaged (its views are (2,) uint16", True),
    "another view": (exchanged("views", np.ones(3, "u2")), "is damaged (it holds what belongs into ", True),
    "other digests": (exchanged("digests", np.array([b"x"] * 3)), "is damaged (it holds what belongs into ", True),
    "digests that are none": (exchanged("digests", np.array([b"\xff"] * 3)), "is damaged ('utf-8' codec", True),
    "numbers for digests": (exchanged("digests", np.zeros(3)), "is damaged (digests holds (3,) float64", True),
    "NaN": (not_finite(np.nan), "is damaged (its row 1 is not finite", True),
    "infinity": (not_finite(-np.inf), "is damaged (its row 1 is not finite", True),
    "packed and shuffled": (packed_otherwise(FEATURES[3:], shuffle=True), "is damaged (features is packed", True),
    "packed all in one": (packed_otherwise(FEATURES[3:], chunks=(3, 3)), "is damaged (features is packed in", True),
    "packed rows less": (packed_otherwise(FEATURES[3:5]), "is damaged (its features are (2, 3) float32", True),
    "a packed row that is too large": (packed_too_large, "is damaged (row 1 of features is no packed row", True),
    "features of another file": (from_another_file, "is damaged (features is a link", True),
    "drawn from another file": (drawn_from_another_file, "is damaged (features lies in another file", True),
    "an index of no bytes": (emptied_index, "is damaged (its seal as an index is broken)", True),
    "a pipe as index": (piped_index, "is a pipe or a device", True),
    "an index of another recipe": (index_of_another_recipe, "belongs to recipe ", True),
    "a shard as index": (shard_as_index, "is damaged (its seal as an index is broken)", True),
    "an index of other images": (drawn_wrongly(reversed_rows), "shows features of other images or views in 2 of", True),
    "an index of other views": (drawn_wrongly(other_view), "shows features of other images or views in 1 of", True),
    "an index of other rows": (drawn_wrongly(beyond_the_end), "shows features of other images or views in 4 of", True),
    "other labels for others": (other_labels_for_others, "shows other tools something else than it lists", True),
}


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("name", HARMS)
def test_each_harm_is_found_refused_and_mended(small: FeatureCache, name: str) -> None:
    harm, what, droppable = HARMS[name]
    path = harm(small)
    file = path.relative_to(small.path).as_posix()
    found = verify(small.path)
    (damage,) = [damage for damage in found.damage if "is missing" not in damage.what]
    assert damage.file == file
    assert damage.what.startswith(what)
    assert damage.droppable == droppable
    # Reading refuses it by name, or is right: where an index only shows others something wrong, or a shard is one
    # too many.
    try:
        np.testing.assert_array_equal(read(small), EXPECTED)
    except CacheError as error:
        assert str(error).startswith(f"{path} ") or "lacks the features of 1 of 4 images" in str(error)  # noqa: PT017
        assert "`manyheads extract`" in str(error) or "Move it out" in str(error)  # noqa: PT017
    others = {name: content for name, content in files(small.path).items() if name != file}
    assert repair(small.path, found) == ((file,) if droppable else ())
    assert files(small.path) == others or not droppable
    if not droppable:
        return
    # What `extract` does then.
    assert all("is missing" in text for text in said(verify(small.path)).values())
    small.add_shard([digest(n) for n in (2, 3, 4)], [0, 0, 0], FEATURES[3:], {})
    if not small.has_index():
        small.write_index(indexed())
    assert verify(small.path).sound
    np.testing.assert_array_equal(read(small), EXPECTED)

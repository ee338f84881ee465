"""An exported file says what the cache says, to tools that know nothing of it, and is there whole or not at all."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.atomic import remove_leftovers
from cache.errors import CacheError, NoRoom
from cache.export import ABOUT, ExportError, export
from cache.feature_cache import FeatureCache
from cache.index import Entry
from cache.pruning import prune
from tests.cache.test_index import index_of
from tests.cache.test_shard import RECIPE, digest, rows

ENDINGS = (".h5", ".npz")


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """Six images in three shards, views of two of them, an index of five in another order, one of them twice."""
    cache = FeatureCache.create(tmp_path / "cache", RECIPE, {})
    for first in (0, 2, 4):
        cache.add_shard([digest(first), digest(first + 1)], [0, 0], rows(6)[first : first + 2], {})
    cache.add_shard([digest(1), digest(1), digest(3)], [1, 2, 1], rows(3, seed=1), {})
    cache.write_index(index_of([digest(n) for n in (3, 0, 1, 2, 5, 0)], ["b", "b", "a", "c", "a", "c"]))
    return cache


def read(file: Path) -> dict[str, Any]:
    """Return what a file holds, as h5py or NumPy read it."""
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            found = {name: arrays[name] for name in arrays}
        return {name: array.item() if array.shape == () else array for name, array in found.items()}
    with h5py.File(file) as opened:
        found = {name: opened[name].asstr()[:] if opened[name].dtype == object else opened[name][:] for name in opened}
        assert list(opened["labels"].attrs["classes"]) == list(found["classes"])
        features = opened["features"]
        assert features.size == 0 or features.id.get_offset() + features.nbytes == file.stat().st_size
        assert not any(opened[name].id.get_create_plist().get_obj_track_times() for name in opened)
        return {**found, **opened.attrs}


def listed(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# Names that are no UTF-8 hold lone surrogates.
text = st.text(st.characters(exclude_characters="\0/"), min_size=1, max_size=6) | st.sampled_from(["a\udce9", "é\n"])
image = st.tuples(text, text, st.integers(0, 5))


@settings(max_examples=25)
@given(
    images=st.lists(image, max_size=8),
    counts=st.lists(st.integers(1, 3), min_size=6, max_size=6),
    order=st.permutations(range(18)),
    size=st.integers(1, 18),
    storage=st.sampled_from(["float32", "float16"]),
    ending=st.sampled_from(ENDINGS),
    is_split=st.booleans(),
    all_views=st.booleans(),
)
def test_it_holds_what_the_cache_says(
    tmp_path_factory: pytest.TempPathFactory,
    images: list[tuple[str, str, int]],
    counts: list[int],
    order: list[int],
    size: int,
    storage: str,
    ending: str,
    is_split: bool,
    all_views: bool,
) -> None:
    recipe = replace(RECIPE, storage=storage)
    folder = tmp_path_factory.mktemp("law")
    features = rows(18)
    keys = [(number // 3, number % 3) for number in range(18) if number % 3 < counts[number // 3]]
    entries = tuple(
        Entry(path, label, digest(number), ("train", "test")[number % 2] if is_split else "")
        for path, label, number in images
    )
    index = replace(
        index_of([], []),
        entries=entries,
        classes=tuple(sorted({entry.label for entry in entries})),
        recipe_digest=recipe.digest,
    )
    written = []
    # The same rows, in one shard and in several in another order.
    for name, held in (("one", [keys]), ("many", cut([key for n in order if (key := (n // 3, n % 3)) in keys], size))):
        cache = FeatureCache.create(folder / name, recipe, {})
        for part in held:
            block = np.stack([features[3 * number + view] for number, view in part])
            cache.add_shard([digest(number) for number, _ in part], [view for _, view in part], block, {})
        cache.write_index(index)
        done = export(folder / name, folder / f"{name}{ending}", all_views=all_views)
        written.append(done.file.read_bytes())
        assert done.size == len(written[-1])
    assert written[0] == written[1]

    wanted = [
        (entry, view) for entry, (*_, number) in zip(entries, images, strict=True) for view in range(counts[number])
    ]
    wanted = [(entry, view) for entry, view in wanted if all_views or view == 0]
    assert (done.rows, done.images) == (len(wanted), len(entries))
    found = read(done.file)
    expected = cache.read([entry.digest for entry, _ in wanted], views=[view for _, view in wanted]).astype(storage)
    assert found["features"].dtype == storage
    np.testing.assert_array_equal(found["features"], expected)
    assert [found["classes"][label] for label in found["labels"]] == [written_as(entry.label) for entry, _ in wanted]
    assert list(found["paths"]) == [written_as(entry.path) for entry, _ in wanted]
    assert list(found["digests"]) == [entry.digest for entry, _ in wanted]
    assert list(found.get("parts", [])) == [entry.part for entry, _ in wanted if is_split]
    assert list(found.get("views", [])) == [view for _, view in wanted if all_views]
    assert json.loads(found["recipe"]) == recipe.as_dict()
    assert found["about"] == ABOUT


def cut(keys: list[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def written_as(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


PLAIN = """
import sys
sys.modules["cache"] = sys.modules["pipeline"] = None  # they cannot be imported
if sys.argv[1].endswith(".npz"):
    import numpy
    with numpy.load(sys.argv[1]) as file:
        features, classes, labels, paths = (file[name] for name in ("features", "classes", "labels", "paths"))
else:
    import h5py
    with h5py.File(sys.argv[1]) as file:
        features, labels = file["features"][:], file["labels"][:]
        classes, paths = file["classes"].asstr()[:], file["paths"].asstr()[:]
print([str(classes[label]) for label in labels], *paths)
sys.stdout.flush()
sys.stdout.buffer.write(features.tobytes())
"""


@pytest.mark.parametrize("ending", [*ENDINGS, ".hdf5", ".H5"])
def test_it_opens_without_this_tool_and_without_the_cache(cache: FeatureCache, tmp_path: Path, ending: str) -> None:
    file = export(cache.path, tmp_path / "new" / f"features{ending}").file
    shutil.rmtree(cache.path)
    moved = shutil.move(file, tmp_path / file.name)
    command = [sys.executable, "-c", PLAIN, str(moved)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    said, _, features = done.stdout.partition(b"\n")
    assert said.decode() == str(["b", "b", "a", "c", "a", "c"]) + (
        " b/00.jpg b/01.jpg a/02.jpg c/03.jpg a/04.jpg c/05.jpg"
    )
    assert features == rows(6)[[3, 0, 1, 2, 5, 0]].tobytes()


def test_other_tools_find_no_fault_with_the_zip_file(cache: FeatureCache, tmp_path: Path) -> None:
    with zipfile.ZipFile(export(cache.path, tmp_path / "features.npz").file) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "features.npy"
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        archive.extractall(tmp_path / "extracted")
    features = np.load(tmp_path / "extracted" / "features.npy", mmap_mode="r")
    np.testing.assert_array_equal(features, rows(6)[[3, 0, 1, 2, 5, 0]])


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_shard_that_is_pruned_meanwhile_is_found_again(cache: FeatureCache, tmp_path: Path, ending: str) -> None:
    whole = export(cache.path, tmp_path / f"whole{ending}").file.read_bytes()
    pruned: list[object] = []

    @contextmanager
    def steps(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        assert (label, total, unit) == ("exporting", 6, "features")

        def advance(done: int) -> None:
            pruned.append(prune(cache.path).rewritten if not pruned else done)

        yield advance

    assert export(cache.path, tmp_path / f"other{ending}", steps=steps).file.read_bytes() == whole
    assert pruned[0] == 1


TRACED = """
import sys, tracemalloc
from cache.export import export
tracemalloc.start()
export(sys.argv[1], sys.argv[2])
print(tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_memory_does_not_grow_with_the_features(tmp_path: Path, ending: str) -> None:
    recipe = replace(RECIPE, dimension=8192)
    shards, size = 48, 32
    cache = FeatureCache.create(tmp_path / "cache", recipe, {})
    for number in range(shards):
        block = np.full((size, recipe.dimension), number, dtype=np.float32)
        cache.add_shard([digest(size * number + row) for row in range(size)], [0] * size, block, {})
    names = [digest(n) for n in range(shards * size)]
    cache.write_index(replace(index_of(names, ["a"] * len(names)), recipe_digest=recipe.digest))
    file = tmp_path / f"features{ending}"
    # In a process of its own: what else the suite has allocated or not yet freed by then is not the export's.
    command = [sys.executable, "-c", TRACED, str(cache.path), str(file)]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    shard = size * recipe.row_bytes
    assert file.stat().st_size > shards * shard
    assert peak < 8 * shard + 20_000_000 * (ending == ".npz")  # which takes its checksum in pieces
    with h5py.File(file) if ending == ".h5" else np.load(file) as written:
        np.testing.assert_array_equal(written["features"][:, 0], np.repeat(np.arange(shards), size))


LIMITED = """
import resource, sys
from pathlib import Path
from cache import NoRoom
from cache.export import export
cache, file, *limits = sys.argv[1:]
before = {path: path.read_bytes() for path in Path(file).parent.iterdir()}
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        export(cache, file, force=True)
    except NoRoom as error:
        print(error)
    assert before == {path: path.read_bytes() for path in Path(file).parent.iterdir()}
"""


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk_is_explained_and_leaves_nothing(
    cache: FeatureCache, tmp_path: Path, ending: str, old: bytes | None
) -> None:
    file = tmp_path / "out" / f"features{ending}"
    whole = export(cache.path, file).size
    if old is None:
        file.unlink()
    else:
        file.write_bytes(old)
    limits = map(str, (0, 100, whole // 3, whole - 700, whole - 1))
    command = [sys.executable, "-c", LIMITED, str(cache.path), str(file), *limits]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.count("could not be written: File too large. ") == 5


def test_room_is_required_before_anything_is_written(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=6 * RECIPE.row_bytes))
    with pytest.raises(NoRoom, match=r"features\.h5 with 6 features needs .* only 768 B are free"):
        export(cache.path, tmp_path / "out" / "features.h5")
    assert not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from cache.export import export
def hook(event, arguments):
    if event == "os.rename":
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
export(sys.argv[1], sys.argv[2], force=True)
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_killed_it_leaves_nothing_under_its_name(cache: FeatureCache, tmp_path: Path, ending: str) -> None:
    file = tmp_path / "out" / f"features{ending}"
    command = [sys.executable, "-c", KILLED, str(cache.path), str(file)]
    assert subprocess.run(command, check=False).returncode == -9
    assert not file.exists()
    (left,) = listed(file.parent)
    assert left.endswith(".tmp")
    whole = export(cache.path, file).file.read_bytes()  # it takes away what the killed one left
    assert listed(file.parent) == {file.name}
    file.write_bytes(b"old")
    assert subprocess.run(command, check=False).returncode == -9
    assert file.read_bytes() == b"old"
    assert remove_leftovers(file.parent) == 1
    assert export(cache.path, file, force=True).file.read_bytes() == whole


def test_what_is_there_is_replaced_only_when_asked(cache: FeatureCache, tmp_path: Path) -> None:
    file = tmp_path / "features.h5"
    file.write_text("mine")
    with pytest.raises(ExportError, match=rf"{file} exists\. Name another file, or add --force"):
        export(cache.path, file)
    assert file.read_text() == "mine"
    export(cache.path, file, force=True)
    assert read(file)["features"].shape == (6, RECIPE.dimension)
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(NoRoom, match="remove what is in its way, or choose another name"):
        export(cache.path, tmp_path / "folder.h5", force=True)
    assert listed(tmp_path) == {"cache", "features.h5", "folder.h5"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("features", "has no ending"),
        ("features.csv", r"has the unknown ending \.csv"),
        ("features.h5.gz", r"has the unknown ending \.gz"),
        (".h5", "has no ending"),
    ],
)
def test_other_endings_are_refused_with_those_that_are_known(
    cache: FeatureCache, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(ExportError, match=rf"{said}, .*\.h5 or \.hdf5 for HDF5, or in \.npz for NumPy"):
        export(cache.path, tmp_path / "out" / name)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_the_cache(cache: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(cache.path)
    before = sorted(cache.path.rglob("*"))
    for file in (cache.path / "index.h5", cache.path / "new.npz", tmp_path / "link" / "shards" / "x.h5"):
        with pytest.raises(ExportError, match="would lie inside the cache"):
            export(cache.path, file, force=True)
    assert sorted(cache.path.rglob("*")) == before


def test_what_is_no_whole_cache_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    file = tmp_path / "out" / "features.h5"
    with pytest.raises(CacheError, match="is not a feature cache"):
        export(tmp_path, file)
    path = cache.shards()[0].path
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    with pytest.raises(CacheError, match=f"{path.name} is damaged"):
        export(cache.path, file)
    path.unlink()
    with pytest.raises(CacheError, match="a shard was removed"):
        export(cache.path, file)
    (cache.path / "index.h5").unlink()
    with pytest.raises(CacheError, match="its extraction did not finish"):
        export(cache.path, file)
    assert not file.parent.exists() or listed(file.parent) == set()

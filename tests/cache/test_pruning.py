"""Pruning drops what nothing needs and never anything else: not when killed, on a full disk, or under a reader."""

import itertools
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.description import describe
from cache.errors import CacheError
from cache.feature_cache import FeatureCache
from cache.lock import writing
from cache.pruning import Pruning, StillTooLarge, prune
from pipeline.extraction import extract
from tests.cache.test_index import index_of
from tests.cache.test_shard import RECIPE, digest, rows
from tests.conftest import BASE, WEIGHTS

Keys = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Layout:
    """A cache as it can come about.

    Attributes:
        shards: The (image, view) of each row of each shard, and image -> reason of what could not be read.
        used: The images of the index; the others are gone.
        skipped: Reasons that the index lists.
    """

    shards: Sequence[tuple[Keys, Mapping[int, str]]]
    used: Sequence[int]
    skipped: Sequence[str] = ()

    def write(self, path: Path) -> FeatureCache:
        """Write it; a row that stands in two shards has other bits in each, as two machines may compute it."""
        cache = FeatureCache.create(path, RECIPE, {})
        for seed, (keys, failures) in enumerate(self.shards):
            features = rows(len(keys), seed)
            reasons = {digest(image): why for image, why in failures.items()}
            cache.add_shard([digest(image) for image, _ in keys], [view for _, view in keys], features, reasons)
        index = index_of([digest(image) for image in self.used], ["a"] * len(self.used))
        cache.write_index(replace(index, skipped=tuple((f"a/{why}.jpg", why) for why in self.skipped)))
        return cache


# Shards of which nothing, something and all is used; views; a row in two shards; what could not be read.
EVERYTHING = Layout(
    shards=[
        ([(0, 0), (1, 0), (2, 0), (3, 0)], {10: "empty"}),
        ([(4, 0), (5, 0)], {11: "torn"}),
        ([(0, 1), (0, 2), (4, 1)], {}),
        ([(6, 0), (7, 0)], {}),
        ([(1, 0), (8, 0)], {}),
        ([(9, 0), (5, 1)], {}),
    ],
    used=[6, 0, 1, 8, 7, 0],
    skipped=["empty"],
)


def adverse(scratch: Path) -> Layout:
    """Make the layout in which a copy with other bits would be read, were shards replaced in another order.

    In the order of their names: one with image z; one with images i and z; one with images i and 1; and the one with
    image i alone, by which the second is replaced.
    """
    cache = FeatureCache.create(scratch, RECIPE, {})

    def name(keys: Keys) -> str:
        shard = cache.add_shard([digest(image) for image, _ in keys], [0] * len(keys), rows(len(keys)), {})
        return shard.path.name

    numbers = itertools.count(100)
    z = next(n for n in numbers if name([(n, 0)]) < "4")
    i = next(n for n in numbers if name([(n, 0)]) > "c")
    thirds: Iterator[Keys] = ([(i, 0), (1, 0), (n, 0)] for n in numbers)
    third = next(keys for keys in thirds if "8" < name(keys) < name([(i, 0)]))
    seconds: Iterator[Keys] = ([(i, 0), (z, 0), *((m, 0) for m in range(n, n + 5))] for n in numbers)
    second = next(keys for keys in seconds if name([(z, 0)]) < name(keys) < name(third))
    return Layout([([(z, 0)], {}), (second, {}), (third, {})], used=[i, z, 1])


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    keys = st.tuples(st.integers(0, 6), st.integers(0, 2))
    failures = st.dictionaries(st.integers(5, 8), st.sampled_from(["empty", "torn"]), max_size=2)
    shards = draw(st.lists(st.tuples(st.lists(keys, max_size=5, unique=True), failures), max_size=6))
    plain = sorted({image for held, _ in shards for image, view in held if view == 0})
    used = draw(st.lists(st.sampled_from(plain), max_size=6)) if plain else []
    return Layout(shards, used, draw(st.lists(st.sampled_from(["empty", "torn", "other"]), max_size=2)))


@pytest.fixture
def everything(tmp_path: Path) -> FeatureCache:
    return EVERYTHING.write(tmp_path / "everything")


def files(cache: FeatureCache) -> dict[str, bytes]:
    return {str(path.relative_to(cache.path)): path.read_bytes() for path in cache.path.rglob("*") if path.is_file()}


def shards(cache: FeatureCache) -> dict[str, bytes]:
    return {name: data for name, data in files(cache).items() if name.startswith("shards/")}


def needed(cache: FeatureCache) -> dict[tuple[str, int], bytes]:
    """Return the features of all views of the images of the index, as they are read."""
    used = {entry.digest for entry in cache.index().entries}
    keys = sorted(
        {key for shard in cache.shards() for key in zip(shard.digests, shard.views, strict=True) if key[0] in used}
    )
    read = cache.read([name for name, _ in keys], views=[view for _, view in keys])
    return {key: feature.tobytes() for key, feature in zip(keys, read, strict=True)}


def plain(cache: FeatureCache) -> npt.NDArray[np.floating]:
    """Return what plain h5py reads."""
    with h5py.File(cache.path / "index.h5") as file:
        return np.asarray(file["features"][:])


def held(cache: FeatureCache) -> list[tuple[str, int]]:
    return [key for shard in cache.shards() for key in zip(shard.digests, shard.views, strict=True)]


def failures(cache: FeatureCache) -> list[tuple[str, str]]:
    return [item for shard in cache.shards() for item in shard.failures.items()]


@settings(max_examples=50)
@given(layout=layouts())
def test_what_is_needed_stays_bit_for_bit_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, layout: Layout
) -> None:
    cache = layout.write(tmp_path_factory.mktemp("law") / "cache")
    before, index, size, total = needed(cache), cache.index(), cache.size(), len(held(cache))
    recorded, read = failures(cache), plain(cache)
    expected = prune(cache.path, dry_run=True)
    done = prune(cache.path)
    assert needed(cache) == before
    np.testing.assert_array_equal(plain(cache), read)
    assert cache.index() == index
    assert sorted(held(cache)) == sorted(before)  # no row that is not needed, and none twice
    used = {entry.digest for entry in index.entries}
    of_interest = [(name, why) for name, why in recorded if why in layout.skipped and name not in used]
    assert sorted(failures(cache)) == sorted(dict(reversed(of_interest)).items())
    assert done.size == cache.size() == size - done.freed
    assert (done.unused, done.features, done.unused_left) == (total - len(before), len(before), 0)
    assert 0 <= expected.freed <= done.freed
    assert replace(expected, freed=done.freed, size=done.size, dry_run=False) == done
    after = files(cache)
    assert prune(cache.path) == Pruning(cache.path, False, 0, len(before), 0, 0, 0, 0, cache.size())
    assert files(cache) == after


@settings(max_examples=30)
@given(layout=layouts(), share=st.floats(0, 1.1))
def test_a_size_is_reached_or_all_that_is_left_is_used(
    tmp_path_factory: pytest.TempPathFactory, layout: Layout, share: float
) -> None:
    cache = layout.write(tmp_path_factory.mktemp("size") / "cache")
    before, unpruned, size = needed(cache), files(cache), cache.size()
    max_size = int(size * share)
    try:
        done = prune(cache.path, max_size=max_size)
    except StillTooLarge as error:
        done = error.result
        assert cache.size() > max_size
        assert sorted(held(cache)) == sorted(before)
    else:
        assert cache.size() <= max_size
    assert done.size == cache.size()
    assert done.unused_left == len(held(cache)) - len(before)
    assert needed(cache) == before
    if size <= max_size:
        assert files(cache) == unpruned


def test_the_worst_shards_go_first_and_no_more_than_needed(tmp_path: Path) -> None:
    worst, bad, fair = [(0, 0), *[(n, 0) for n in range(10, 40)]], [(1, 0), (50, 0), (51, 0)], [(2, 0), (60, 0)]
    cache = Layout([(fair, {}), (worst, {}), (bad, {})], used=[0, 1, 2]).write(tmp_path / "cache")
    names = {len(shard.digests): shard.path.name for shard in cache.shards()}
    done = prune(cache.path, max_size=cache.size() - 1)
    left = {shard.path.name for shard in cache.shards()}
    assert names[len(worst)] not in left
    assert {names[len(bad)], names[len(fair)]} <= left
    assert (done.unused, done.unused_left, done.rewritten, done.removed) == (30, 3, 1, 0)
    prune(cache.path, max_size=cache.size() - 1)
    left = {shard.path.name for shard in cache.shards()}
    assert names[len(bad)] not in left
    assert names[len(fair)] in left
    with pytest.raises(StillTooLarge, match=r"takes .* kB, more than the 1 kB asked for: all 3 features .* are in use"):
        prune(cache.path, max_size=1000)
    assert len(held(cache)) == 3


def test_no_copy_steps_into_the_place_of_a_shard_that_is_replaced(tmp_path: Path) -> None:
    cache = adverse(tmp_path / "scratch").write(tmp_path / "cache")
    before = needed(cache)
    while prune(cache.path, max_size=cache.size() - 1).rewritten:
        assert needed(cache) == before
        if len(held(cache)) == len(before):
            return
    pytest.fail("it stopped before all was pruned")


def test_an_index_that_looks_into_a_copy_is_rewritten(tmp_path: Path) -> None:
    cache = Layout([([(0, 0)], {})], used=[0]).write(tmp_path / "cache")
    (shard,) = cache.shards()
    for view in itertools.count(1):  # until one comes before it: another machine wrote it meanwhile
        other = cache.add_shard([digest(0), digest(0)], [0, view], rows(2, seed=view), {})
        if other.path.name < shard.path.name:
            break
        other.path.unlink()
    expected = cache.read([digest(0)])
    assert (prune(cache.path).removed, shard.path.exists()) == (1, False)
    np.testing.assert_array_equal(plain(cache), expected)


def test_what_would_be_done_is_said_and_not_done(everything: FeatureCache) -> None:
    before = files(everything)
    expected = prune(everything.path, dry_run=True)
    assert files(everything) == before
    assert (expected.dry_run, expected.unused, expected.features, expected.unused_left) == (True, 8, 7, 0)
    assert (expected.removed, expected.rewritten) == (2, 3)
    with pytest.raises(StillTooLarge, match="would still take") as refused:
        prune(everything.path, dry_run=True, max_size=1)
    assert refused.value.result == expected
    assert files(everything) == before


def test_what_will_be_freed_is_said_before(everything: FeatureCache) -> None:
    before = files(everything)
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        assert files(everything).items() >= before.items()

    prune(everything.path, tell=tell)
    (text,) = said
    assert "8 of 15 features are needed by no image of the set; shards to remove: 2, to rewrite: 3" in text
    said.clear()
    prune(everything.path, tell=tell)
    assert said == []


def test_it_is_watched_shard_by_shard(everything: FeatureCache) -> None:
    seen: list[object] = []

    @contextmanager
    def steps(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        seen.append((label, total, unit))
        yield seen.append

    prune(everything.path, steps=steps)
    assert seen[0] == ("pruning", 5, "shards")
    assert sum(done for done in seen[1:] if isinstance(done, int)) == 5


KILLED = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from cache.pruning import prune
from tests.cache.test_pruning import EVERYTHING, adverse, files, needed, plain, shards
from cache.feature_cache import FeatureCache

place = Path(sys.argv[1])
layout = EVERYTHING if sys.argv[2] == "everything" else adverse(place / "scratch")
whole = layout.write(place / "whole")
expected, read = needed(whole), plain(whole).tobytes()
ended = FeatureCache.open(shutil.copytree(whole.path, place / "ended"))
prune(ended.path)

def at(moment):
    left = itertools.count(moment, -1)
    def hook(event, arguments):
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in ("os.rename", "os.remove", "os.truncate")) and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return hook

states = set()
for moment in itertools.count():
    cache = FeatureCache.open(shutil.copytree(whole.path, place / str(moment)))
    child = os.fork()
    if not child:
        sys.addaudithook(at(moment))
        prune(cache.path)
        os._exit(0)
    killed = os.waitpid(child, 0)[1] != 0
    states.add(tuple(sorted(files(cache))))
    assert needed(cache) == expected, moment
    assert plain(cache).tobytes() == read, moment
    prune(cache.path)
    # But for the killed one's lock, and the removed shards that the last index knows of.
    assert shards(cache) == shards(ended), moment
    assert cache.index() == ended.index()
    shutil.rmtree(cache.path)
    if not killed:
        break
print(moment, len(states))
"""


@pytest.mark.parametrize(("layout", "most", "different"), [("everything", 20, 12), ("adverse", 10, 5)])
def test_killed_at_any_moment_it_goes_on(tmp_path: Path, layout: str, most: int, different: int) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), layout]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    moments, states = map(int, done.stdout.split())
    assert moments > most
    assert states > different


FULL = """
import resource, sys
from cache import NoRoom
from cache.pruning import prune
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    prune(sys.argv[1])
except NoRoom as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 1000, 3000, 8000])
def test_on_a_full_disk_what_can_be_freed_is_and_nothing_is_lost(
    everything: FeatureCache, tmp_path: Path, limit: int
) -> None:
    ended = FeatureCache.open(shutil.copytree(everything.path, tmp_path / "ended"))
    prune(ended.path)
    before, read, size = needed(everything), plain(everything), everything.size()
    command = [sys.executable, "-c", FULL, str(everything.path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "All that was complete before is kept" in done.stdout
    assert done.stderr == ""
    assert needed(everything) == before
    np.testing.assert_array_equal(plain(everything), read)
    if limit == 0:  # nothing can be written, and yet there is room now
        assert everything.size() < size
    prune(everything.path)
    assert shards(everything) == shards(ended)


def test_a_reader_goes_on_while_its_shards_are_replaced(everything: FeatureCache) -> None:
    names = [entry.digest for entry in everything.index().entries]
    expected = everything.read(names)
    pruned: list[Pruning] = []

    def advance(count: int) -> None:
        if not pruned:  # the reader has listed all shards, and read one
            pruned.append(prune(everything.path))

    np.testing.assert_array_equal(everything.read(names, advance=advance), expected)
    assert pruned[0].rewritten


def test_who_has_waited_looks_again(everything: FeatureCache) -> None:
    waiting = threading.Event()
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        waiting.set()

    with writing(everything.path):
        thread = threading.Thread(target=prune, args=(everything.path,), kwargs={"tell": tell})
        thread.start()
        assert waiting.wait(60)
        # Image 4 comes back, as an extraction finds it.
        everything.write_index(index_of([digest(4), digest(8)], ["a", "a"]))
    thread.join(60)
    assert not thread.is_alive()
    assert "waiting" in said[0]
    assert sorted(held(everything)) == sorted([(digest(4), 0), (digest(4), 1), (digest(8), 0)])


def test_what_killed_processes_left_is_removed(everything: FeatureCache) -> None:
    code = "import sys, os; from cache.atomic import writing_file; from pathlib import Path\n"
    code += "with writing_file(Path(sys.argv[1])) as file: file.write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(everything.path / "shards" / "x.h5")], check=False)
    assert any(name.endswith(".tmp") for name in files(everything))
    prune(everything.path)
    assert not any(name.endswith(".tmp") for name in files(everything))


def test_an_unfinished_cache_is_refused(everything: FeatureCache, tmp_path: Path) -> None:
    (everything.path / "index.h5").unlink()
    before = files(everything)
    with pytest.raises(CacheError, match=r"has no index yet: its extraction did not finish\. Run the same"):
        prune(everything.path)
    assert files(everything) == before
    with pytest.raises(CacheError, match="is not a feature cache"):
        prune(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_cache_that_lacks_what_is_needed_is_refused(everything: FeatureCache) -> None:
    next(shard for shard in everything.shards() if digest(6) in shard.digests).path.unlink()
    before = files(everything)
    with pytest.raises(CacheError, match=r"lacks the features of 2 of 6 images: a shard was removed\. Run the same"):
        prune(everything.path)
    assert files(everything) == before


def test_a_damaged_shard_that_would_be_rewritten_is_refused(everything: FeatureCache) -> None:
    mixed = next(shard for shard in everything.shards() if digest(0) in shard.digests and 0 in shard.views)
    data = bytearray(mixed.path.read_bytes())
    with h5py.File(mixed.path) as file:
        data[file["features"].id.get_chunk_info(0).byte_offset + 5] ^= 1
    mixed.path.write_bytes(data)
    with pytest.raises(CacheError, match=f"{mixed.path.name} is damaged"):
        prune(everything.path)
    assert mixed.path.read_bytes() == data


def test_what_an_unfinished_extraction_has_computed_stays(everything: FeatureCache) -> None:
    # Images 20 to 22 were added to the set; the extraction was killed before it wrote its index.
    everything.add_shard([digest(20), digest(21), digest(1)], [0, 0, 0], rows(3, seed=9), {digest(22): "torn"})
    before = needed(everything)
    new = everything.read([digest(20), digest(21)])
    for dropped in (9, 0):
        assert describe(everything.path).unfinished == 2
        assert prune(everything.path).unused == dropped
        assert needed(everything) == before
        np.testing.assert_array_equal(everything.read([digest(20), digest(21)]), new)
        assert (digest(22), "torn") in failures(everything)
    everything.write_index(everything.index())  # the images were taken away, and the extraction has run again
    assert describe(everything.path).unfinished == 0
    assert prune(everything.path).unused == 2


def test_after_pruning_nothing_is_computed_again(images: Path, cache: Path) -> None:
    for name in ("beach00.png", "beach07.png"):
        (images / "beach" / name).unlink()
    shutil.rmtree(images / "forest")
    options: dict[str, Any] = {"base": BASE, "weights": WEIGHTS, "device": "cpu"}
    extract(images, cache, **options)
    before, size = needed(FeatureCache.open(cache)), FeatureCache.open(cache).size()
    done = prune(cache)
    assert done.unused == 12
    assert done.size < size
    again = extract(images, cache, **options)
    assert (again.computed, again.cached) == (0, 18)
    assert needed(FeatureCache.open(cache)) == before
    assert json.loads((cache / "recipe.json").read_text())["recipe"] == again.recipe

"""Verification finds whatever is wrong with a cache, and reading refuses it; repair drops that and nothing else."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.errors import CacheError
from cache.feature_cache import FeatureCache
from cache.index import Index
from cache.pruning import prune
from cache.recipe import Recipe
from cache.verification import Verification, repair, verify
from pipeline.extraction import extract
from tests.cache.test_atomic import powerless
from tests.cache.test_files import patience  # noqa: F401 - a fixture
from tests.cache.test_index import index_of
from tests.cache.test_shard import digest
from tests.conftest import BASE, WEIGHTS

# Three numbers a feature: small files, so that each of their bytes can be damaged in turn.
RECIPE = Recipe("squeezenet1_1", "a" * 64, {"crop": 224}, decoding=1, dimension=3, weights="random:0")
FEATURES = np.arange(18, dtype=np.float32).reshape(6, 3)
IMAGES = (3, 0, 1, 4)  # of the index


def make(path: Path, recipe: Recipe = RECIPE, images: Sequence[int] = IMAGES, compress: bool = False) -> FeatureCache:
    """Three rows in a shard, one of them another view, and an image that could not be read; three more in another."""
    cache = FeatureCache.create(path, recipe, {"base": "squeezenet1_1"})
    cache.compress = compress
    cache.add_shard([digest(0), digest(1), digest(1)], [0, 0, 1], FEATURES[:3], {digest(9): "the file is empty"})
    if images == IMAGES:
        cache.add_shard([digest(n) for n in (2, 3, 4)], [0, 0, 0], FEATURES[3:], {})
    cache.write_index(indexed(recipe, images))
    return cache


def indexed(recipe: Recipe = RECIPE, images: Sequence[int] = IMAGES) -> Index:
    index = index_of([digest(n) for n in images], ["b", "a", "a", "b"][: len(images)])
    return replace(index, recipe_digest=recipe.digest, skipped=(("a/9.jpg", "the file is empty"),))


@pytest.fixture
def small(tmp_path: Path) -> FeatureCache:
    return make(tmp_path / "small")


EXPECTED = FEATURES[[4, 0, 1, 5]]


def read(cache: FeatureCache) -> np.ndarray:
    """Read as `fit-head` does."""
    return cache.read([entry.digest for entry in cache.index().entries])


def shards(cache: FeatureCache) -> tuple[Path, Path]:
    """Return the shard that holds a failure, and the other one."""
    first, second = sorted(cache.shards(), key=lambda shard: not shard.failures)
    return first.path, second.path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def said(found: Verification) -> dict[str, str]:
    return {damage.file: f"{damage.what}. {damage.mend}" for damage in found.damage}


def test_a_sound_cache_is_read_whole_and_nothing_is_written(small: FeatureCache) -> None:
    before = files(small.path)
    found = verify(str(small.path))
    assert found.sound
    assert (found.finished, found.shards, found.rows, found.images, found.lacking) == (True, 2, 6, 4, 0)
    assert found.size == sum(path.stat().st_size for path in small.path.rglob("*.h5"))
    assert found.damage == ()
    assert found.notes == ()
    assert repair(small.path, found) == ()
    assert files(small.path) == before
    np.testing.assert_array_equal(read(small), EXPECTED)


def test_progress_is_told_by_shards(small: FeatureCache) -> None:
    told: list[object] = []

    @contextmanager
    def steps(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        told.extend((label, total, unit))
        yield told.append

    verify(small.path, steps=steps)
    assert told == ["verifying", 2, "shards", 1, 1]


def test_two_shards_that_were_swapped_are_both_found(small: FeatureCache) -> None:
    one, two = shards(small)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    found = verify(small.path)
    assert set(said(found)) == {f"shards/{one.name}", f"shards/{two.name}"}
    assert all("it holds what belongs into" in text for text in said(found).values())
    assert (found.shards, found.rows, found.lacking) == (0, 0, 4)
    with pytest.raises(CacheError, match=r"it holds what belongs into .* --repair"):
        read(small)
    assert set(repair(small.path, found)) == set(said(found))


def test_a_missing_shard_is_found_by_the_index(small: FeatureCache) -> None:
    path = shards(small)[1]
    path.unlink()
    found = verify(small.path)
    assert list(said(found)) == [f"shards/{path.name}"]
    assert said(found)[f"shards/{path.name}"].startswith("is missing: 2 rows of the index stand in it. Run the same `m")
    assert (found.shards, found.rows, found.images, found.lacking) == (1, 3, 4, 2)
    with pytest.raises(CacheError, match=r"lacks the features of 2 of 4 images.*`manyheads extract` again"):
        read(small)
    assert repair(small.path, found) == ()


def test_an_index_that_is_older_than_the_shards_is_found(small: FeatureCache) -> None:
    old = (small.path / "index.h5").read_bytes()
    small.write_index(indexed(images=(3, 0)))
    prune(small.path)
    assert verify(small.path).sound
    (small.path / "index.h5").write_bytes(old)  # from a backup
    found = verify(small.path)
    assert len(found.damage) == 2
    assert all("is missing: 2 rows of the index" in text for text in said(found).values())
    assert found.lacking == 2
    with pytest.raises(CacheError, match="lacks the features of 2 of 4 images"):
        read(small)


def test_all_damage_is_told_at_once_and_only_that_is_dropped(small: FeatureCache) -> None:
    one, two = shards(small)
    third = small.add_shard([digest(5)], [0], FEATURES[:1], {}).path
    whole = files(small.path)
    one.write_bytes(b"")
    two.write_bytes(two.read_bytes()[:-1])
    (small.path / "index.h5").write_bytes(b"")
    found = verify(small.path)
    assert set(said(found)) == {"index.h5", f"shards/{one.name}", f"shards/{two.name}"}
    assert (found.finished, found.shards, found.rows, found.images) == (True, 1, 1, 0)
    assert set(repair(small.path, found)) == set(said(found))
    kept = {"recipe.json", f"shards/{third.name}"}
    assert files(small.path) == {name: content for name, content in whole.items() if name in kept}
    assert verify(small.path).sound


def test_what_was_mended_meanwhile_is_not_dropped(small: FeatureCache) -> None:
    whole = files(small.path)
    for path in (*shards(small), small.path / "index.h5"):
        path.write_bytes(b"")
    found = verify(small.path)
    for name, content in whole.items():
        (small.path / name).write_bytes(content)
    assert repair(small.path, found) == ()
    assert files(small.path) == whole


def test_what_was_not_found_before_is_not_dropped_either(small: FeatureCache) -> None:
    one, two = shards(small)
    one.write_bytes(b"")
    found = verify(small.path)
    two.write_bytes(b"")
    (small.path / "index.h5").write_bytes(b"")
    assert repair(small.path, found) == (f"shards/{one.name}",)
    assert two.exists()
    assert small.has_index()


def test_what_cannot_be_opened_by_now_is_not_dropped(small: FeatureCache) -> None:
    path = shards(small)[0]
    path.write_bytes(b"")
    found = verify(small.path)
    path.unlink()
    path.mkdir()
    assert repair(small.path, found) == ()
    assert path.is_dir()


def test_repair_waits_for_whoever_writes(small: FeatureCache) -> None:
    script = "import sys; from pathlib import Path; from cache.lock import writing\n"
    script += "with writing(Path(sys.argv[1])):\n    print('writing', flush=True)\n    input()"
    path = shards(small)[1]
    path.write_bytes(b"")
    found = verify(small.path)
    told: list[str] = []
    command = [sys.executable, "-c", script, str(small.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"

        def tell(text: str) -> None:
            told.append(text)
            assert path.exists()
            writer.communicate("\n")

        assert repair(small.path, found, tell) == (f"shards/{path.name}",)
    assert f"process {writer.pid} on" in told[0]
    assert not path.exists()


def test_a_damaged_recipe_is_found_and_nothing_dropped_by_it(small: FeatureCache) -> None:
    path = small.path / "recipe.json"
    whole = path.read_bytes()
    file = f"shards/{shards(small)[1].name}"
    for name in (file, "index.h5"):
        (small.path / name).write_bytes(b"")
    before = files(small.path)
    for position, byte in enumerate(whole):
        damaged = bytearray(whole)
        damaged[position] = byte ^ 1 << position % 8
        path.write_bytes(damaged)
        try:
            found = verify(small.path)
        except CacheError as error:  # the number of the format itself
            assert "has format version" in str(error)  # noqa: PT017
            continue
        assert set(said(found)) == {"recipe.json", "index.h5", file}, damaged
        assert repair(small.path, found) == ()
    path.write_bytes(whole)
    assert files(small.path) == before


def test_the_recipe_of_another_cache_does_not_cost_a_shard(small: FeatureCache) -> None:
    other = make(small.path.with_name("other"), replace(RECIPE, precision="bf16"))
    shutil.copy(other.path / "recipe.json", small.path)
    before = files(small.path)
    found = verify(small.path)
    assert len(found.damage) == 3
    assert all("restore the recipe.json that belongs to the shards" in text for text in said(found).values())
    assert repair(small.path, found) == ()
    assert files(small.path) == before


def test_what_is_no_cache_or_of_another_format_is_refused(small: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="is not a feature cache"):
        verify(tmp_path)
    path = small.path / "recipe.json"
    path.write_text(path.read_text().replace('"format_version": 3', '"format_version": 2'))
    with pytest.raises(
        CacheError, match=r"has format version 2; this manyheads reads version 3\. Use the manyheads that"
    ):
        verify(small.path)


def test_an_unfinished_cache_and_strange_files_are_no_damage(small: FeatureCache) -> None:
    script = "import os, sys; from pathlib import Path; from cache.atomic import writing_file\n"
    script += "with writing_file(Path(sys.argv[1]) / 'x.h5') as file:\n    file.touch()\n    os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(small.path / "shards")], check=False)
    (small.path / "index.h5").unlink()
    (small.path / "README").touch()
    (small.path / "shards" / "notes.txt").touch()
    (small.path / "shards" / ".hidden").touch()
    found = verify(small.path)
    assert found.sound
    assert not found.finished
    assert len(found.notes) == 4
    assert found.notes[0].startswith("there is no index: the extraction did not finish; run the same")
    assert found.notes[1] == "README is no part of a cache and is passed over"
    assert found.notes[2].startswith("shards/.x.h5.")
    assert found.notes[3] == "shards/notes.txt is no part of a cache and is passed over"
    empty = FeatureCache.create(small.path.with_name("empty"), RECIPE, {})
    assert verify(empty.path).sound


@pytest.fixture
def visible(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureCache]:
    """A cache whose folder anybody may look into, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        cache = make(Path(folder) / "cache")
        yield cache
        for path in cache.path.rglob("*"):
            path.chmod(0o700)


@pytest.mark.parametrize("name", ["shard", "index.h5", "recipe.json", "shards"])
def test_what_one_may_not_read_is_told_and_never_called_damaged(visible: FeatureCache, name: str) -> None:
    path = shards(visible)[1] if name == "shard" else visible.path / name
    file = path.relative_to(visible.path).as_posix()
    path.chmod(0)
    with powerless():
        found = verify(visible.path)
    assert said(found) == {
        file: "cannot be opened: Permission denied. Mend its permissions or the disk, then run the same command again."
    }
    assert not found.damage[0].droppable
    assert repair(visible.path, found) == ()
    assert path.exists()


def test_a_cache_may_be_pruned_while_it_is_verified(small: FeatureCache) -> None:
    small.write_index(indexed(images=(3, 0)))

    @contextmanager
    def steps(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        def advance(done: int) -> None:
            prune(small.path)

        yield advance

    before = {path.name for path in shards(small)}
    found = verify(small.path, steps=steps)
    assert found.sound
    assert found.lacking == 0
    assert not before & {shard.path.name for shard in small.shards()}


def test_after_repair_the_same_extraction_gives_the_same_bytes(images: Path, cache: Path) -> None:
    before = files(cache)
    folder = FeatureCache.open(cache)
    (path,) = [shard.path for shard in folder.shards()]
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 16]))
    found = verify(cache)
    assert repair(cache, found) == (f"shards/{path.name}",)
    done = extract(images, cache, base=BASE, weights=WEIGHTS, device="cpu")
    assert done.computed == 30
    after = files(cache)
    assert {name: content for name, content in after.items() if name.startswith("shards/")} == {
        name: content for name, content in before.items() if name.startswith("shards/")
    }
    assert verify(cache).sound

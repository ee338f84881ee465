"""`cache verify` as a user sees it: whole, damaged, mended, and computed again."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cache import FeatureCache
from cli import main
from pipeline.extraction import extract
from pipeline.verification import Unsound, verify
from tests.conftest import BASE, CLASSES, PER_CLASS, WEIGHTS

ALL = len(CLASSES) * PER_CLASS


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["cache", "verify", *map(str, arguments)])


def flip(path: Path, place: int = -1000) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def shard(cache: Path) -> Path:
    (only,) = (cache / "shards").iterdir()
    return only


def test_a_whole_cache_is_said_to_be_whole(extracted: Path) -> None:
    done = run(extracted, "--recompute", "3", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert f"every byte is as it was written; {ALL} features in 1 shard" in done.stdout
    assert "3 features computed again: the largest difference is" in done.stdout


def test_damage_ends_with_status_1_and_the_file_is_named(cache: Path) -> None:
    flip(shard(cache))
    done = run(cache)
    assert done.exit_code == 1
    assert f"shards/{shard(cache).name} is damaged" in done.stdout
    assert f"`manyheads cache verify {cache} --repair`" in done.stderr
    assert "Traceback" not in done.output
    document = json.loads(run(cache, "--json").stdout)
    assert [damage["file"] for damage in document["cache"]["damage"]] == [f"shards/{shard(cache).name}"]
    assert "cannot be relied on" in document["error"]


def test_nothing_is_computed_again_in_a_damaged_cache(cache: Path) -> None:
    flip(shard(cache))
    with pytest.raises(Unsound) as found:
        verify(cache, rows=3)
    assert found.value.result.recomputed is None


def test_what_is_repaired_is_computed_anew_by_the_same_extraction(drawn: Path, cache: Path, extracted: Path) -> None:
    flip(shard(cache))
    bad = shard(cache)
    done = run(cache, "--repair")
    assert done.exit_code == 0, done.output
    assert f"Dropped: shards/{bad.name}." in done.stdout
    assert not bad.exists()
    assert run(cache).exit_code == 1  # the hole is still there
    assert extract(drawn, cache, base=BASE, weights=WEIGHTS, device="cpu").computed == ALL
    assert run(cache).exit_code == 0
    digests = [entry.digest for entry in FeatureCache.open(extracted).index().entries]
    assert (FeatureCache.open(cache).read(digests) == FeatureCache.open(extracted).read(digests)).all()


def test_what_cannot_be_repaired_stays_an_error(cache: Path) -> None:
    flip(cache / "recipe.json", 40)
    flip(cache / "index.h5")
    done = run(cache, "--repair")
    assert done.exit_code == 1
    assert "2 files of" in done.stderr
    assert "recipe.json has a recipe that does not match its own digest" in done.stdout
    assert "Dropped" not in done.stdout  # without its recipe nothing tells what belongs to a cache
    assert (cache / "index.h5").exists()


def test_features_that_are_others_now_are_an_error(drawn: Path, cache: Path) -> None:
    whole = FeatureCache.open(cache)
    index = whole.index()
    digests = [entry.digest for entry in index.entries]
    features = whole.read(digests)
    shutil.rmtree(cache / "shards")
    whole.add_shard(digests, [0] * ALL, features * 1.1, {})
    whole.write_index(index)
    done = run(cache, "--recompute", str(ALL), "--device", "cpu")
    assert done.exit_code == 1
    assert "is whole, but a feature of" in done.stderr
    assert "computed again: the largest difference is" in done.stdout
    assert run(cache).exit_code == 0


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "is not a feature cache" in done.stderr

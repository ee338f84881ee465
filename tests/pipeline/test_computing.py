"""Decoding ahead keeps order and memory; a shard holds what it says; nothing infinite is stored."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torchvision import models

from cache import FeatureCache
from cache.shard import SHARD_ROWS
from pipeline.base import Base, load_base
from pipeline.computing import Clock, Computing, _Decoded, ahead
from pipeline.errors import BaseError
from pipeline.extraction import extract
from pipeline.image_set import digest_of
from pipeline.progress import Silent
from tests.conftest import BASE, WEIGHTS


class Counted(Silent):
    """Progress that adds up."""

    def __init__(self) -> None:
        self.done = self.total = 0

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        def advance(done: int) -> None:
            self.done += done

        self.total = total
        yield advance


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(BASE, WEIGHTS)


@pytest.fixture
def empty(extracted: Path, tmp_path: Path) -> FeatureCache:
    """A cache of the right recipe without a shard."""
    return FeatureCache.create(tmp_path / "empty", FeatureCache.open(extracted).recipe, {})


@pytest.fixture
def paths(drawn: Path) -> dict[str, str]:
    """Digest -> path of the drawn images."""
    return {digest_of(path.read_bytes()): path.relative_to(drawn).as_posix() for path in sorted(drawn.rglob("*.png"))}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc", max_size=3), max_size=30), st.integers(1, 8), st.integers(1, 4))
def test_order_is_kept_and_at_most_depth_are_ahead(digests: list[str], depth: int, workers: int) -> None:
    started = 0
    lock = threading.Lock()

    def read(digest: str) -> _Decoded:
        nonlocal started
        with lock:
            started += 1
        return _Decoded(digest, None, digest.upper())

    with ThreadPoolExecutor(workers) as pool:
        taken: list[str] = []
        for image in ahead(pool, read, digests, depth):
            taken.append(image.digest)
            assert started <= len(taken) - 1 + depth
            assert image.reason == image.digest.upper()
    assert taken == digests


def test_shares_add_up_to_one() -> None:
    clock = Clock()
    assert clock.shares() == {}
    clock.add("base", time.perf_counter() - 3)
    clock.add("writing", time.perf_counter() - 1)
    shares = clock.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["base"] == pytest.approx(0.75, abs=1e-3)
    assert shares["decoding"] == 0


def test_a_file_that_changed_or_went_since_it_was_listed_has_no_feature(
    drawn: Path, base: Base, empty: FeatureCache, paths: dict[str, str]
) -> None:
    whole, changed, gone = list(paths)[:3]
    listed = {whole: paths[whole], changed: paths[whole], gone: "beach/gone.png"}
    heard = Counted()
    failures = Computing(empty, drawn, 2, 2, heard).run(base, listed, [[whole, changed, gone]])
    assert failures == {
        changed: "it was changed while the extraction ran; run the same command again",
        gone: "No such file or directory",
    }
    (shard,) = empty.shards()
    assert (shard.digests, shard.failures) == ((whole,), failures)
    assert heard.done == heard.total == 3


def test_no_shard_is_written_for_nothing(drawn: Path, base: Base, empty: FeatureCache) -> None:
    computing = Computing(empty, drawn, 2, 2, Counted())
    assert computing.run(base, {}, [[], []]) == {}
    assert computing.run(base, {"a" * 64: "beach/gone.png"}, [["a" * 64]]).keys() == {"a" * 64}
    assert empty.shards() == []


def test_groups_share_no_shard(drawn: Path, base: Base, empty: FeatureCache, paths: dict[str, str]) -> None:
    digests = list(paths)
    assert len(digests) < SHARD_ROWS
    assert Computing(empty, drawn, 4, 1, Counted()).run(base, paths, (digests[:5], digests[5:7])) == {}
    assert {shard.digests for shard in empty.shards()} == {tuple(digests[:5]), tuple(digests[5:7])}


def test_the_same_images_in_batches_of_another_size(
    drawn: Path, base: Base, extracted: Path, empty: FeatureCache, paths: dict[str, str]
) -> None:
    some = list(paths)[:5]
    clock = Clock()
    Computing(empty, drawn, 3, 2, Counted(), clock).run(base, paths, [some])
    expected = FeatureCache.open(extracted).read(some)
    assert np.abs(empty.read(some) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert set(clock.shares()) == {"base", "decoding", "writing"}
    assert clock.shares()["base"] > 0


@pytest.mark.parametrize(("store", "factor"), [("float16", 1e6), ("float32", 1e38)])
def test_features_beyond_the_storage_are_refused(drawn: Path, tmp_path: Path, store: str, factor: float) -> None:
    state = models.squeezenet1_1(weights=None).state_dict()
    for name in ("features.12.expand1x1.weight", "features.12.expand3x3.weight"):
        state[name] *= factor
        state[name].clamp_(-3e38, 3e38)
    save_file(state, tmp_path / "loud.safetensors")
    with pytest.raises(BaseError, match=rf"30 of 30 features of {BASE} are not finite in fp32, stored as {store}"):
        extract(
            drawn, tmp_path / "cache", base=BASE, weights=str(tmp_path / "loud.safetensors"), store=store, device="cpu"
        )
    assert FeatureCache.open(tmp_path / "cache").shards() == []

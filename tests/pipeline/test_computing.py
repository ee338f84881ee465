"""Plans hold everything once and in order; a shard holds what it says; nothing infinite is stored."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torchvision import models

from cache import FeatureCache
from cache.shard import SHARD_ROWS
from pipeline.augmentation import view_of
from pipeline.base import Base, load_base
from pipeline.computing import Clock, Computing, _View, cut
from pipeline.decode import decode
from pipeline.errors import BaseError
from pipeline.extraction import extract
from pipeline.image_set import digest_of
from pipeline.progress import Silent
from tests.conftest import BASE, WEIGHTS


class Counted(Silent):
    """Progress that adds up."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self.told: list[int] = []

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        def advance(done: int) -> None:
            self.done += done
            self.told.append(done)

        self.total = total
        yield advance


def plain(*digests: str) -> dict[str, Sequence[int]]:
    """View 0 of images."""
    return dict.fromkeys(digests, (0,))


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


wanted = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3),
    st.lists(st.integers(0, 999), min_size=1, max_size=300, unique=True).map(sorted),
    max_size=25,
)


@settings(max_examples=200)
@given(wanted)
def test_plans_hold_everything_in_order_and_an_image_whole_where_it_fits(group: dict[str, list[int]]) -> None:
    plans = list(cut(group))
    rows = [[(digest, number) for digest, numbers in plan for number in numbers] for plan in plans]
    assert [row for plan in rows for row in plan] == [(d, number) for d, numbers in group.items() for number in numbers]
    assert all(1 <= len(plan) <= SHARD_ROWS for plan in rows)
    for digest, numbers in group.items():
        assert sum(digest in dict(plan) for plan in plans) == -(-len(numbers) // SHARD_ROWS)
    # No plan is half empty where the next image would have fitted.
    assert all(len(one) + len(two[0][1]) > SHARD_ROWS for one, two in zip(rows, plans[1:], strict=False))


@settings(max_examples=100)
@given(wanted)
def test_what_is_left_after_any_plan_is_cut_as_it_would_have_been(group: dict[str, list[int]]) -> None:
    plans = list(cut(group))
    left = {digest: set(numbers) for digest, numbers in group.items()}
    for number, plan in enumerate(plans):
        for digest, done in plan:
            left[digest] -= set(done)
        assert (
            list(cut({digest: sorted(numbers) for digest, numbers in left.items() if numbers})) == plans[number + 1 :]
        )


def test_shares_add_up_to_one() -> None:
    clock = Clock()
    assert clock.shares() == {}
    clock.spent |= {"base": 3.0, "writing": 1.0}
    assert clock.shares() == {"base": 0.75, "decoding": 0, "writing": 0.25}


def test_time_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 7.0, 8.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock()
    with clock.on("base"), clock.on("decoding"):  # begun at 0 and 2, ended at 7 and 8
        pass
    assert clock.spent == {"base": 3.0, "decoding": 5.0, "writing": 0.0}


def test_a_file_that_changed_or_went_since_it_was_listed_has_no_feature(
    drawn: Path, base: Base, empty: FeatureCache, paths: dict[str, str]
) -> None:
    whole, changed, gone = list(paths)[:3]
    listed = {whole: paths[whole], changed: paths[whole], gone: "beach/gone.png"}
    heard = Counted()
    failures = Computing(empty, drawn, 2, 2, heard).run(base, listed, [plain(whole, changed, gone)])
    assert failures == {
        changed: "it was changed since it was listed",
        gone: "No such file or directory",
    }
    (shard,) = empty.shards()
    assert (shard.digests, shard.failures) == ((whole,), failures)
    assert heard.done == heard.total == 3


def test_no_shard_is_written_for_nothing(drawn: Path, base: Base, empty: FeatureCache) -> None:
    computing = Computing(empty, drawn, 2, 2, Counted())
    assert computing.run(base, {}, [{}, {}]) == {}
    assert computing.run(base, {"a" * 64: "beach/gone.png"}, [{"a" * 64: [0, 1]}]).keys() == {"a" * 64}
    assert empty.shards() == []


def test_groups_share_no_shard(drawn: Path, base: Base, empty: FeatureCache, paths: dict[str, str]) -> None:
    digests = list(paths)
    assert len(digests) < SHARD_ROWS
    assert Computing(empty, drawn, 4, 1, Counted()).run(base, paths, (plain(*digests[:5]), plain(*digests[5:7]))) == {}
    assert {shard.digests for shard in empty.shards()} == {tuple(digests[:5]), tuple(digests[5:7])}


def test_the_same_images_in_batches_of_another_size(
    drawn: Path, base: Base, extracted: Path, empty: FeatureCache, paths: dict[str, str]
) -> None:
    some = list(paths)[:5]
    clock = Clock()
    Computing(empty, drawn, 3, 2, Counted(), clock).run(base, paths, [plain(*some)])
    expected = FeatureCache.open(extracted).read(some)
    assert np.abs(empty.read(some) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert set(clock.shares()) == {"base", "decoding", "writing"}
    assert clock.shares()["base"] > 0


def test_features_of_views_are_those_of_their_tensors(
    drawn: Path, base: Base, empty: FeatureCache, paths: dict[str, str]
) -> None:
    one, two, three = list(paths)[:3]
    heard = Counted()
    group = {one: [1, 2, 3], two: [2, 9], three: [1, 2, 3, 4]}
    Computing(empty, drawn, 4, 2, heard).run(base, paths, [group], "views")
    assert heard.told == [4, 4, 1]  # batches are full across images
    (shard,) = empty.shards()
    keys = [(digest, number) for digest, numbers in group.items() for number in numbers]
    assert list(zip(shard.digests, shard.views, strict=True)) == keys
    tensors = [view_of(decode((drawn / paths[d]).read_bytes()), d, number, base.transform) for d, number in keys]
    expected = base.features(torch.stack(tensors))
    found = empty.read(shard.digests, views=shard.views)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert len(np.unique(found, axis=0)) == len(keys)


@settings(max_examples=100)
@given(wanted)
def test_an_image_is_decoded_once_for_sixteen_of_its_views(group: dict[str, list[int]]) -> None:
    root, plans = Path("images"), list(cut(group))
    computing = Computing(cast(FeatureCache, None), root, 16, 1, Counted())  # the cache takes no part in it
    asked = list(computing._wanted({digest: f"{digest}.png" for digest in group}, plans))
    rows = [(one.path, one.digest, number) for one in asked for number in one.views]
    assert rows == [(root / f"{d}.png", d, number) for plan in plans for d, numbers in plan for number in numbers]
    for digest, numbers in group.items():
        sizes = [len(one.views) for one in asked if one.digest == digest]
        assert max(sizes) <= 16
        assert len(sizes) <= sum(-(-len(some) // 16) for plan in plans for d, some in plan if d == digest)
        assert sum(sizes) == len(numbers)


def test_an_image_that_went_while_its_views_were_made_loses_them_all(
    drawn: Path, base: Base, empty: FeatureCache, paths: dict[str, str]
) -> None:
    whole, gone, last = list(paths)[:3]
    pixels = np.zeros((base.transform.crop_size, base.transform.crop_size, 3), np.uint8)
    views = [
        _View(whole, 1, pixels, ""),
        _View(gone, 1, pixels, ""),
        _View(gone, 2, None, "went"),
        _View(last, 5, pixels, ""),
    ]
    failures = Computing(empty, drawn, 2, 1, Counted()).store(base, iter(views), [4], lambda done: None)
    assert failures == {gone: "went"}
    (shard,) = empty.shards()
    assert (shard.digests, shard.views, shard.failures) == ((whole, last), (1, 5), failures)


def test_an_image_that_went_loses_all_its_views_and_no_others(
    drawn: Path, base: Base, empty: FeatureCache, paths: dict[str, str]
) -> None:
    whole, gone, last = list(paths)[:3]
    listed = {whole: paths[whole], gone: "beach/gone.png", last: paths[last]}
    heard = Counted()
    failures = Computing(empty, drawn, 2, 2, heard).run(
        base, listed, [{whole: [1, 2], gone: [1, 2, 3], last: [5]}], "views"
    )
    assert failures == {gone: "No such file or directory"}
    (shard,) = empty.shards()
    assert (shard.digests, shard.views, shard.failures) == ((whole, whole, last), (1, 2, 5), failures)
    assert heard.done == heard.total == 6


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

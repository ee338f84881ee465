"""The computing of features: images are decoded ahead of the base, and a full shard is written while it goes on."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from cache import FeatureCache, Recipe
from cache.shard import SHARD_ROWS
from pipeline.decoder import Pixels
from pipeline.decoding import VIEWS_AT_ONCE, Decoded, Wanted, decoding, enough_workers
from pipeline.errors import BaseError
from pipeline.passes import passes
from pipeline.progress import Progress

if TYPE_CHECKING:
    from pipeline.base import Base

# One shard's worth: images in order, each with the numbers of the views that are to be computed of it.
Plan = list[tuple[str, Sequence[int]]]


class _View(NamedTuple):
    digest: str
    number: int
    pixels: Pixels | None
    reason: str


@dataclass
class Clock:
    """Wall time of the computing thread, by what it was spent on."""

    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("base", "decoding", "writing"), 0.0))

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count the time of a block; what is counted inside it as something else is not counted twice."""
        started, others = time.perf_counter(), sum(self.spent.values())
        try:
            yield
        finally:
            inside = sum(self.spent.values()) - others
            self.spent[what] += time.perf_counter() - started - inside

    def shares(self) -> dict[str, float]:
        """Return the fraction of the time that each thing took; empty if nothing was computed."""
        total = sum(self.spent.values())
        return {what: seconds / total for what, seconds in self.spent.items()} if total else {}


class _Batch(NamedTuple):
    """What passes through the base together: how many views, those of them that could be made, and why others not."""

    taken: int
    rows: list[tuple[str, int]]
    failures: dict[str, str]
    ends_shard: bool


@dataclass(frozen=True)
class Computing:
    """The computing of the features that a cache lacks.

    Attributes:
        cache: Where shards are written.
        root: Folder of the image set.
        batch_size: Images in one pass through the base; at most a shard's.
        workers: Processes that decode; fewer are used where there is little to do.
        progress: Told how many features are done.
        clock: Filled with where the time went.
    """

    cache: FeatureCache
    root: Path
    batch_size: int
    workers: int
    progress: Progress
    clock: Clock = field(default_factory=Clock)

    def run(
        self,
        base: "Base",
        paths: Mapping[str, str],
        groups: Sequence[Mapping[str, Sequence[int]]],
        unit: str = "images",
    ) -> dict[str, str]:
        """Compute and store features, shard by shard.

        Args:
            base: The base of the cache's recipe.
            paths: Digest -> path relative to `root`.
            groups: Digest -> numbers of the views to compute, in this order; no shard holds rows of two groups.
            unit: What progress counts: `images`, or `views`.

        Returns:
            Digest -> reason, of the images that could not be read.
        """
        plans = [plan for group in groups for plan in cut(group)]
        rows = sum(map(rows_of, plans))
        workers, ahead = enough_workers(rows, self.workers), 2 * min(self.batch_size, SHARD_ROWS)
        with (
            decoding(self._wanted(paths, plans), base.transform, workers, ahead) as decoded,
            self.progress.steps("extracting", rows, unit) as advance,
        ):
            return self.store(base, _views(decoded), map(rows_of, plans), advance)

    def store(
        self, base: "Base", views: Iterator[_View], shards: Iterable[int], advance: Callable[[int], None]
    ) -> dict[str, str]:
        """Pass views through the base and write each shard while the next one is computed.

        Args:
            base: The base of the cache's recipe.
            views: The decoded views, shard after shard.
            shards: How many of them belong to each.
            advance: Told how many more are done.

        Returns:
            Digest -> reason, of the images that could not be read.
        """
        failures: dict[str, str] = {}
        batches: list[_Batch] = []
        blocks: list[npt.NDArray[np.float32]] = []
        found = passes(base, self._batches(views, shards, base.transform.crop_size))
        with _Writer(self.cache, self.clock) as writer:
            while True:
                with self.clock.on("base"):
                    passed = next(found, None)
                if passed is None:
                    return failures
                batches.append(passed[0])
                blocks.append(passed[1])
                if passed[0].ends_shard:
                    failures |= writer.write(batches, blocks)
                    batches, blocks = [], []
                advance(passed[0].taken)

    def _batches(self, views: Iterator[_View], shards: Iterable[int], side: int) -> Iterator[tuple[_Batch, Pixels]]:
        for left in shards:
            while left:
                with self.clock.on("decoding"):
                    taken = [next(views) for _ in range(min(left, self.batch_size))]
                    left -= len(taken)
                    rows = [(view.digest, view.number) for view in taken if view.pixels is not None]
                    failures = {view.digest: view.reason for view in taken if view.pixels is None}
                    pixels = [view.pixels for view in taken if view.pixels is not None]
                    stacked = np.stack(pixels) if pixels else np.empty((0, side, side, 3), np.uint8)
                yield _Batch(len(taken), rows, failures, not left), stacked

    def _wanted(self, paths: Mapping[str, str], plans: Iterable[Plan]) -> Iterator[Wanted]:
        for plan in plans:
            for digest, numbers in plan:
                for start in range(0, len(numbers), VIEWS_AT_ONCE):
                    yield Wanted(self.root / paths[digest], digest, numbers[start : start + VIEWS_AT_ONCE])


class _Writer:
    """Writes shards in a thread of its own, one after the other, while the base computes the next one."""

    def __init__(self, cache: FeatureCache, clock: Clock) -> None:
        self._cache, self._clock = cache, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._under_way: Future[object] | None = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._thread.shutdown()

    def write(self, batches: Sequence[_Batch], blocks: Sequence[npt.NDArray[np.float32]]) -> dict[str, str]:
        """Begin to write a shard, once the one before is written; return why images are not in it."""
        self._wait()
        failures = {digest: reason for batch in batches for digest, reason in batch.failures.items()}
        self._under_way = self._thread.submit(
            self._store, [row for one in batches for row in one.rows], blocks, failures
        )
        return failures

    def _wait(self) -> None:
        with self._clock.on("writing"):
            if self._under_way is not None:
                self._under_way.result()

    def _store(
        self, rows: Sequence[tuple[str, int]], blocks: Sequence[npt.NDArray[np.float32]], failures: Mapping[str, str]
    ) -> None:
        # An image that went while its views were made has those of them that were made in time: none is kept.
        kept = [row for row, (digest, _) in enumerate(rows) if digest not in failures]
        if kept:
            digests, numbers = zip(*(rows[row] for row in kept), strict=True)
            features = np.concatenate(blocks)
            features = features if len(kept) == len(rows) else features[kept]
            _require_finite(features, digests, self._cache.recipe)
            self._cache.add_shard(digests, numbers, features, failures)


def _views(decoded: Iterable[Decoded]) -> Iterator[_View]:
    for (_, digest, numbers), pixels, reason in decoded:
        for place, number in enumerate(numbers):
            yield _View(digest or "", number, None if pixels is None else pixels[place], reason)


def cut(group: Mapping[str, Sequence[int]]) -> Iterator[Plan]:
    """Cut what is to be computed into plans of at most `SHARD_ROWS` features, in order.

    An image with no more views than a shard has rows is in one plan only, so that it is decoded once. Where a plan
    begins, nothing before it matters: whatever is left after a kill is cut as it would have been.
    """
    plan: Plan = []
    for digest, numbers in group.items():
        if plan and rows_of(plan) + len(numbers) > SHARD_ROWS:
            yield plan
            plan = []
        left = numbers
        while len(left) > SHARD_ROWS:
            yield [(digest, left[:SHARD_ROWS])]
            left = left[SHARD_ROWS:]
        plan.append((digest, left))
    if plan:
        yield plan


def rows_of(plan: Plan) -> int:
    """Return how many features a plan is of."""
    return sum(len(numbers) for _, numbers in plan)


def _require_finite(features: npt.NDArray[np.float32], digests: Sequence[str], recipe: Recipe) -> None:
    """Refuse features that overflowed in a half-precision format, rather than let a head train on infinities."""
    with np.errstate(over="ignore"):
        stored = features.astype(recipe.storage)
    bad = int((~np.isfinite(stored)).any(axis=1).sum())
    if bad:
        raise BaseError(
            f"{bad} of {len(digests)} features of {recipe.base} are not finite in {recipe.precision}, stored as "
            f"{recipe.storage}: their largest value is {np.abs(features).max():.3g}. Use fp32 or bf16 and float32."
        )

"""The computing of features: images are decoded ahead of the base, and a shard is written whenever one is full."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

    def add(self, what: str, since: float) -> None:
        """Count the time from `since` until now."""
        self.spent[what] += time.perf_counter() - since

    def shares(self) -> dict[str, float]:
        """Return the fraction of the time that each thing took; empty if nothing was computed."""
        total = sum(self.spent.values())
        return {what: seconds / total for what, seconds in self.spent.items()} if total else {}


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
        failures: dict[str, str] = {}
        plans = [plan for group in groups for plan in cut(group)]
        rows = sum(map(_rows, plans))
        workers, ahead = enough_workers(rows, self.workers), 2 * min(self.batch_size, SHARD_ROWS)
        with (
            decoding(self._wanted(paths, plans), base.transform, workers, ahead) as decoded,
            self.progress.steps("extracting", rows, unit) as advance,
        ):
            views = _views(decoded)
            for plan in plans:
                failures |= self._shard(base, views, _rows(plan), advance)
        return failures

    def _wanted(self, paths: Mapping[str, str], plans: Iterable[Plan]) -> Iterator[Wanted]:
        for plan in plans:
            for digest, numbers in plan:
                for start in range(0, len(numbers), VIEWS_AT_ONCE):
                    yield Wanted(self.root / paths[digest], digest, numbers[start : start + VIEWS_AT_ONCE])

    def _shard(
        self, base: "Base", decoded: Iterator[_View], left: int, advance: Callable[[int], None]
    ) -> dict[str, str]:
        rows: list[tuple[str, int]] = []
        blocks: list[npt.NDArray[np.float32]] = []
        failures: dict[str, str] = {}
        while left:
            since = time.perf_counter()
            batch: list[Pixels] = []
            taken = 0
            while left and len(batch) < self.batch_size:
                view = next(decoded)
                left -= 1
                taken += 1
                if view.pixels is None:
                    failures[view.digest] = view.reason
                else:
                    rows.append((view.digest, view.number))
                    batch.append(view.pixels)
            self.clock.add("decoding", since)
            if batch:
                since = time.perf_counter()
                blocks.append(base.features(base.transform.normalise(np.stack(batch), base.device)))
                self.clock.add("base", since)
            advance(taken)
        # An image that went while its views were made has those of them that were made in time: none is kept.
        kept = [row for row, (digest, _) in enumerate(rows) if digest not in failures]
        if kept:
            since = time.perf_counter()
            digests, numbers = zip(*(rows[row] for row in kept), strict=True)
            features = np.concatenate(blocks)[kept]
            _require_finite(features, digests, self.cache.recipe)
            self.cache.add_shard(digests, numbers, features, failures)
            self.clock.add("writing", since)
        return failures


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
        if plan and _rows(plan) + len(numbers) > SHARD_ROWS:
            yield plan
            plan = []
        left = numbers
        while len(left) > SHARD_ROWS:
            yield [(digest, left[:SHARD_ROWS])]
            left = left[SHARD_ROWS:]
        plan.append((digest, left))
    if plan:
        yield plan


def _rows(plan: Plan) -> int:
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

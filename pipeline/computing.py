"""The computing of features: threads decode ahead of the base, and a shard is written whenever one is full."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cache import FeatureCache, Recipe
from cache.shard import SHARD_ROWS
from pipeline.decode import decode
from pipeline.errors import BaseError, UnreadableImage
from pipeline.image_set import digest_of
from pipeline.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.base import Base

Named = TypeVar("Named")
Result = TypeVar("Result")


class _Decoded(NamedTuple):
    digest: str
    tensor: "Tensor | None"
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
        workers: Threads that decode.
        progress: Told how many images are done.
        clock: Filled with where the time went.
    """

    cache: FeatureCache
    root: Path
    batch_size: int
    workers: int
    progress: Progress
    clock: Clock = field(default_factory=Clock)

    def run(self, base: "Base", paths: Mapping[str, str], groups: Sequence[Sequence[str]]) -> dict[str, str]:
        """Compute and store features, shard by shard.

        Args:
            base: The base of the cache's recipe.
            paths: Digest -> path relative to `root`.
            groups: Digests to compute, in this order; no shard holds images of two groups.

        Returns:
            Digest -> reason, of the images that could not be read.
        """
        failures: dict[str, str] = {}
        read = partial(_read, self.root, paths, base)
        plans = [group[start : start + SHARD_ROWS] for group in groups for start in range(0, len(group), SHARD_ROWS)]
        planned = [digest for plan in plans for digest in plan]
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        try:
            decoded = ahead(pool, read, planned, 2 * min(self.batch_size, SHARD_ROWS) + self.workers)
            with self.progress.steps("extracting", len(planned), "images") as advance:
                for plan in plans:
                    failures |= self._shard(base, decoded, len(plan), advance)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return failures

    def _shard(
        self,
        base: "Base",
        decoded: Iterator[_Decoded],
        left: int,
        advance: Callable[[int], None],
    ) -> dict[str, str]:
        import torch

        digests: list[str] = []
        blocks: list[npt.NDArray[np.float32]] = []
        failures: dict[str, str] = {}
        while left:
            since = time.perf_counter()
            batch: list[Tensor] = []
            taken = 0
            while left and len(batch) < self.batch_size:
                image = next(decoded)
                left -= 1
                taken += 1
                if image.tensor is None:
                    failures[image.digest] = image.reason
                else:
                    digests.append(image.digest)
                    batch.append(image.tensor)
            self.clock.add("decoding", since)
            if batch:
                since = time.perf_counter()
                blocks.append(base.features(torch.stack(batch)))
                self.clock.add("base", since)
            advance(taken)
        if digests:
            since = time.perf_counter()
            features = np.concatenate(blocks)
            _require_finite(features, digests, self.cache.recipe)
            self.cache.add_shard(digests, features, failures)
            self.clock.add("writing", since)
        return failures


def _read(root: Path, paths: Mapping[str, str], base: "Base", digest: str) -> _Decoded:
    """Decode and transform one image; runs in a decoding thread."""
    try:
        data = (root / paths[digest]).read_bytes()
        if digest_of(data) != digest:
            raise UnreadableImage("it was changed while the extraction ran; run the same command again")
        return _Decoded(digest, base.transform(decode(data)), "")
    except OSError as error:
        return _Decoded(digest, None, error.strerror or str(error))
    except UnreadableImage as error:
        return _Decoded(digest, None, str(error))


def ahead(
    pool: ThreadPoolExecutor, read: Callable[[Named], Result], names: Iterable[Named], depth: int
) -> Iterator[Result]:
    """Yield results in order while at most `depth` are read ahead, so that memory stays flat."""
    waiting: deque[Future[Result]] = deque()
    for name in names:
        waiting.append(pool.submit(read, name))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


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

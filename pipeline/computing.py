"""The computing of features: threads decode ahead of the base, and a shard is written whenever one is full."""

import threading
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
from PIL import Image

from cache import FeatureCache, Recipe
from cache.shard import SHARD_ROWS
from pipeline.augmentation import view_of
from pipeline.decode import decode
from pipeline.errors import BaseError, UnreadableImage
from pipeline.image_set import digest_of
from pipeline.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.base import Base

Named = TypeVar("Named")
Result = TypeVar("Result")


# One shard's worth: images in order, each with the numbers of the views that are to be computed of it.
Plan = list[tuple[str, Sequence[int]]]


class _Decoded(NamedTuple):
    digest: str
    number: int
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
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        read = partial(_read, base)
        try:
            # Counted in tensors: of an image with many views no more are made ahead than of as many images.
            decoded = ahead(pool, read, self._wanted(paths, plans), 2 * min(self.batch_size, SHARD_ROWS) + self.workers)
            with self.progress.steps("extracting", sum(map(_rows, plans)), unit) as advance:
                for plan in plans:
                    failures |= self._shard(base, decoded, _rows(plan), advance)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return failures

    def _wanted(self, paths: Mapping[str, str], plans: Iterable[Plan]) -> Iterator[tuple["_Picture", int]]:
        for plan in plans:
            for digest, numbers in plan:
                picture = _Picture(digest, self.root / paths[digest])
                for number in numbers:
                    yield picture, number

    def _shard(
        self,
        base: "Base",
        decoded: Iterator[_Decoded],
        left: int,
        advance: Callable[[int], None],
    ) -> dict[str, str]:
        import torch

        digests: list[str] = []
        views: list[int] = []
        blocks: list[npt.NDArray[np.float32]] = []
        failures: dict[str, str] = {}
        while left:
            since = time.perf_counter()
            batch: list[Tensor] = []
            taken = 0
            while left and len(batch) < self.batch_size:
                view = next(decoded)
                left -= 1
                taken += 1
                if view.tensor is None:
                    failures[view.digest] = view.reason
                else:
                    digests.append(view.digest)
                    views.append(view.number)
                    batch.append(view.tensor)
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
            self.cache.add_shard(digests, views, features, failures)
            self.clock.add("writing", since)
        return failures


class _Picture:
    """The pixels of one image, decoded once, by the first thread that needs them, and freed with the last one."""

    def __init__(self, digest: str, path: Path) -> None:
        self.digest = digest
        self.path = path
        self._lock = threading.Lock()
        self._found: Image.Image | UnreadableImage | None = None

    def pixels(self) -> Image.Image:
        """Return the picture.

        Raises:
            UnreadableImage: It cannot be read, or is not the one that was listed.
        """
        with self._lock:
            if self._found is None:
                self._found = self._decoded()
        if isinstance(self._found, UnreadableImage):
            raise UnreadableImage(str(self._found))
        return self._found

    def _decoded(self) -> Image.Image | UnreadableImage:
        try:
            data = self.path.read_bytes()
            if digest_of(data) != self.digest:
                return UnreadableImage("it was changed while the extraction ran; run the same command again")
            return decode(data)
        except OSError as error:
            return UnreadableImage(error.strerror or str(error))
        except UnreadableImage as error:
            return error


def _read(base: "Base", wanted: tuple[_Picture, int]) -> _Decoded:
    """Make the tensor of one view of an image; runs in a decoding thread."""
    picture, number = wanted
    try:
        return _Decoded(picture.digest, number, view_of(picture.pixels(), picture.digest, number, base.transform), "")
    except UnreadableImage as error:
        return _Decoded(picture.digest, number, None, str(error))


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

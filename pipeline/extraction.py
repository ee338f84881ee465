"""Stage one, `extract`: run the base over an image set once and keep the features.

torch is imported only when something is to be computed: a second extraction of the same images answers at once.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cache import CacheError, Entry, FeatureCache, Index, Recipe
from cache.atomic import human_size, require_room
from cache.feature_cache import is_cache
from cache.hdf5 import opened
from cache.recipe import STORAGE, mismatch
from pipeline.computing import Computing
from pipeline.decode import DECODE_VERSION
from pipeline.errors import BaseError, ImageSetError, UnreadableImages
from pipeline.image_set import fingerprint, read_image_set
from pipeline.printable import printable
from pipeline.progress import SILENT, Progress
from pipeline.weights import WeightsSource
from pipeline.weights import fingerprint as weights_fingerprint

if TYPE_CHECKING:
    from pipeline.base import Base


@dataclass(frozen=True)
class Changes:
    """How an image set differs from what the cache's index held before, told by content.

    Attributes:
        new: Paths that were not there before, with bytes that no path lost; further copies of an image among them.
        renamed: Paths with the bytes of a path that lost them: renamed, or moved to another class or part.
        changed: Paths with other bytes than before that are not those of a renamed image.
        removed: Paths that are gone with their bytes.
    """

    new: int
    renamed: int
    changed: int
    removed: int

    def __bool__(self) -> bool:
        return bool(self.new or self.renamed or self.changed or self.removed)


@dataclass(frozen=True)
class Extraction:
    """What `extract` did.

    Attributes:
        cache: The cache's folder.
        images: Rows in the index now.
        classes: Number of classes.
        computed: Images whose features were computed now.
        cached: Images whose features were there before, or are those of an identical image.
        skipped: (path, reason) of images that have no row because they cannot be read.
        strays: Image files outside every class folder.
        changes: Against the index that stood before; None at the first extraction.
        recipe: The cache's recipe, with its digest.
        random_weights: Whether the base was never trained.
        size: Bytes that the cache takes.
        seconds: Wall time of the whole stage.
        shares: Fraction of the computing time spent in the base, waiting for decoded images, and writing.
    """

    cache: Path
    images: int
    classes: int
    computed: int
    cached: int
    skipped: tuple[tuple[str, str], ...]
    strays: tuple[str, ...]
    changes: Changes | None
    recipe: Mapping[str, Any]
    random_weights: bool
    size: int
    seconds: float
    shares: Mapping[str, float]


def extract(
    images: Path | str,
    cache: Path | str,
    *,
    base: str = "vgg16",
    weights: str = "imagenet",
    transform_of: str | None = None,
    precision: str = "fp32",
    store: str = "float32",
    device: str = "auto",
    batch_size: int = 16,
    workers: int | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    progress: Progress = SILENT,
) -> Extraction:
    """Compute the features that a cache lacks, and write which image is which row.

    A feature belongs to the image's bytes: an image that was renamed, moved to another class or listed twice is not
    computed again, one whose bytes changed is. Killed at any moment, the same call goes on after the last shard.

    Args:
        images: Folder of the image set.
        cache: Folder of the cache: new, empty, or made with the same recipe.
        base: Name of a torchvision classification network.
        weights: `imagenet`, `imagenet:NAME`, `random:SEED`, or a file.
        transform_of: torchvision weights entry whose evaluation transform to use; the weights' own if not given.
        precision: Arithmetic of the base: `fp32`, `bf16` or `fp16`.
        store: Number format in the cache: `float32` or `float16`.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        batch_size: Images in one pass through the base; at most the 128 of a shard.
        workers: Threads that decode; as many as processors, at most 16, if not given.
        on_error: What unreadable images mean in the end: `fail` raises, `skip` leaves them out of the index.
        progress: Told what happens.

    Returns:
        What was done.

    Raises:
        ImageSetError: The folder is not an image set, or none of its images can be read.
        UnreadableImages: Some images cannot be read and `on_error` is `fail`; all other features are kept.
        RecipeMismatch: The cache was made with another recipe.
        NoRoom: The disk cannot hold the features.
        ManyheadsError: The base or the weights cannot be had as asked.
    """
    started = time.perf_counter()
    _require(batch_size >= 1, f"batch size {batch_size} is not a positive number of images")
    _require(workers is None or workers >= 1, f"{workers} workers cannot decode anything: ask for 1 or more")
    _require(store in STORAGE, f"storage {store!r} is none that a cache has: choose {' or '.join(STORAGE)}")
    _require(on_error in ("fail", "skip"), f"on_error {on_error!r} is neither 'fail' nor 'skip'")
    workers = workers or min(os.cpu_count() or 1, 16)
    image_set = read_image_set(images)
    _require_apart(image_set.root, Path(cache))
    order = _Order(base, WeightsSource.parse(weights), transform_of, precision, store, device)
    folder = _open(Path(cache), order, progress)
    found = fingerprint(image_set, workers, progress)

    shards = folder.shards()
    done = {digest for shard in shards for digest in shard.digests}
    failed_before = {digest for shard in shards for digest in shard.failures}
    missing = [digest for digest in dict.fromkeys(entry.digest for entry in found.entries) if digest not in done]
    _announce(folder, sum(entry.digest in done for entry in found.entries), len(missing), progress)
    computing = Computing(folder, image_set.root, batch_size, workers, progress)
    paths = {entry.digest: entry.path for entry in reversed(found.entries)}
    failures: dict[str, str] = {}
    if missing:
        # What failed before is tried again apart, so that a resumed extraction cuts the rest into the same shards.
        fresh = [digest for digest in missing if digest not in failed_before]
        again = [digest for digest in missing if digest in failed_before]
        failures = computing.run(order.base(progress), paths, (fresh, again))

    entries = tuple(entry for entry in found.entries if entry.digest not in failures)
    unreadable = [(entry.path, failures[entry.digest]) for entry in found.entries if entry.digest in failures]
    skipped = tuple(sorted([*found.unreadable, *unreadable]))
    if not entries:
        raise ImageSetError(
            f"None of the {len(skipped)} images in {images} can be read, so there are no features to keep. Mend or "
            f"replace them, then run the same command again:\n{_listed(skipped)}"
        )
    if skipped and on_error == "fail":
        raise UnreadableImages(
            f"{len(skipped)} of {len(image_set.images)} images in {images} cannot be read; the features of the other "
            f"{len(entries)} are kept in {cache}. Mend or remove these files and run the same command again, or add "
            f"`--on-error skip` to go on without them:\n{_listed(skipped)}"
        )
    index = Index(
        entries=entries,
        classes=tuple(sorted({entry.label for entry in entries})),
        skipped=skipped,
        images=str(image_set.root.absolute()),
        recipe_digest=folder.recipe.digest,
    )
    before = _index_before(folder)
    if index != before or not _has_its_shards(folder):
        folder.write_index(index)
    return Extraction(
        cache=folder.path,
        images=len(entries),
        classes=len(index.classes),
        computed=len(missing) - len(failures),
        cached=len(entries) - (len(missing) - len(failures)),
        skipped=skipped,
        strays=image_set.strays,
        changes=_changes(before.entries, entries) if before else None,
        recipe=folder.recipe.as_dict(),
        random_weights=folder.recipe.random_weights,
        size=folder.size(),
        seconds=time.perf_counter() - started,
        shares=computing.clock.shares(),
    )


class _Order:
    """What was asked for; the base is loaded when it is first needed."""

    def __init__(
        self, base: str, weights: WeightsSource, transform_of: str | None, precision: str, store: str, device: str
    ) -> None:
        self.named = {"base": base, "precision": precision, "storage": store}
        self.weights = weights
        self.transform_of = transform_of
        self.device = device
        self._base: Base | None = None

    def made_from(self) -> dict[str, str]:
        """Everything that determines the recipe and can be known without torch."""
        return {
            **self.named,
            "transform_of": self.transform_of or "the weights' own",
            "decoding": str(DECODE_VERSION),
            **weights_fingerprint(self.weights, self.named["base"]),
        }

    def base(self, progress: Progress) -> "Base":
        """Load the base, once."""
        if self._base is None:
            from pipeline.base import load_base

            progress.note(f"loading {self.named['base']} with weights {self.weights}")
            self._base = load_base(
                self.named["base"],
                self.weights,
                transform_of=self.transform_of,
                precision=self.named["precision"],
                device=self.device,
                progress=progress,
            )
        return self._base

    def recipe(self, progress: Progress) -> Recipe:
        """Make the recipe; this loads the base."""
        base = self.base(progress)
        weights = str(Path(self.weights.detail).absolute()) if self.weights.kind == "file" else str(self.weights)
        return Recipe(
            base=base.name,
            weights_digest=base.weights_digest,
            transform=base.transform.as_dict(),
            decoding=DECODE_VERSION,
            dimension=base.dimension,
            precision=self.named["precision"],
            storage=self.named["storage"],
            weights=weights,
        )


def _require_apart(images: Path, cache: Path) -> None:
    """Refuse a cache that the next extraction would take for a class of the image set."""
    if cache.resolve().is_relative_to(images.resolve()):
        raise CacheError(
            f"The cache {cache} would lie inside the image set {images}, where every folder is a class. "
            "Name a folder outside it."
        )


def _open(path: Path, order: _Order, progress: Progress) -> FeatureCache:
    """Open or make the cache, and refuse one of another recipe; torch stays out where the answer is known."""
    if is_cache(path):
        held = FeatureCache.open(path)
        plain = {name: (getattr(held.recipe, name), asked) for name, asked in order.named.items()}
        differing = {name: pair for name, pair in plain.items() if pair[0] != pair[1]}
        if differing:
            raise mismatch(differing, path)
        if held.made_from == order.made_from():
            held.clean()
            return held
    cache = FeatureCache.create(path, order.recipe(progress), order.made_from())
    cache.clean()
    return cache


def _announce(cache: FeatureCache, cached: int, missing: int, progress: Progress) -> None:
    """Say what will be computed and how large it gets, before it starts; refuse what the disk cannot hold."""
    if not missing:
        return
    recipe = cache.recipe
    size = missing * recipe.row_bytes
    free = require_room(cache.path, size, f"{missing} features of {recipe.dimension} {recipe.storage} numbers")
    progress.note(
        f"{cached} images are cached; {missing} features x {recipe.dimension} {recipe.storage} = {human_size(size)} "
        f"will be added to {cache.path} ({human_size(free)} free)"
    )


def _index_before(cache: FeatureCache) -> Index | None:
    try:
        return cache.index() if cache.has_index() else None
    except CacheError:  # a damaged index is rewritten from the shards
        return None


def _has_its_shards(cache: FeatureCache) -> bool:
    """Whether every shard that the index's `features` draw on is there; rows of one that is not read as NaN."""
    with opened(cache.path / "index.h5", "Run the same `manyheads extract` again.") as file:
        return all((cache.path / source.file_name).exists() for source in file["features"].virtual_sources())


def _changes(before: Sequence[Entry], now: Sequence[Entry]) -> Changes:
    old, new = ({(entry.path, entry.digest) for entry in entries} for entries in (before, now))
    gone, come = old - new, new - old
    renamed = Counter(digest for _, digest in gone) & Counter(digest for _, digest in come)
    lost, found = ({path for path, digest in side if digest not in renamed} for side in (gone, come))
    changed = len(lost & found)
    return Changes(
        new=len(come) - renamed.total() - changed,
        renamed=renamed.total(),
        changed=changed,
        removed=len(gone) - renamed.total() - changed,
    )


def _listed(failures: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"  {printable(path)}: {reason}" for path, reason in failures)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BaseError(f"{message[0].upper()}{message[1:]}.")

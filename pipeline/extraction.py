"""Stage one, `extract`: run the base over an image set once and keep the features, of one view of an image or more.

torch is imported only when something is to be computed: a second extraction of the same images answers at once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cache import Index
from cache.lock import writing
from cache.recipe import STORAGE
from pipeline.announcement import announce
from pipeline.changes import Changes
from pipeline.computing import Computing
from pipeline.decoding import enough_workers, prepare
from pipeline.devices import run_on_devices
from pipeline.environment import decoders
from pipeline.errors import BaseError, ImageSetError, UnreadableImages
from pipeline.image_set import fingerprint, read_image_set, require_apart
from pipeline.order import Order, open_cache
from pipeline.printable import printable
from pipeline.progress import SILENT, Progress
from pipeline.survey import Lacking, Survey, Wanted
from pipeline.weights import WeightsSource

MOST_VIEWS = 1000


@dataclass(frozen=True)
class Extraction:
    """What `extract` did.

    Attributes:
        cache: The cache's folder.
        images: Rows in the index now.
        classes: Number of classes.
        computed: Images whose features were computed now.
        cached: Images whose features were there before, or are those of an identical image.
        views: Views that were asked for, view 0 among them.
        viewed: Images that have them all: those that train, or all where no split is known; 0 if only view 0 was asked.
        views_computed: Features of views 1 and above that were computed now.
        split: The split that was asked for, to know which images train; None if none was.
        split_seed: Seed of a drawn split.
        skipped: (path, reason) of images that have no row because they cannot be read.
        strays: Image files outside every class folder.
        changes: Against the index that stood before; None at the first extraction.
        recipe: The cache's recipe, with its digest.
        random_weights: Whether the base was never trained.
        size: Bytes that the cache takes.
        seconds: Wall time of the whole stage.
        working: Seconds of that in which features were computed: without listing, hashing and loading the base.
        shares: Fraction of the working time spent in the base, waiting for decoded images, and waiting for the disk.
    """

    cache: Path
    images: int
    classes: int
    computed: int
    cached: int
    views: int
    viewed: int
    views_computed: int
    split: str | None
    split_seed: int
    skipped: tuple[tuple[str, str], ...]
    strays: tuple[str, ...]
    changes: Changes | None
    recipe: Mapping[str, Any]
    random_weights: bool
    size: int
    seconds: float
    working: float
    shares: Mapping[str, float]


def extract(
    images: Path | str,
    cache: Path | str,
    *,
    base: str = "vgg16",
    weights: str = "imagenet",
    transform_of: str | None = None,
    views: int = 1,
    split: str | Path | None = None,
    split_seed: int = 0,
    precision: str = "fp32",
    store: str = "float32",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 16,
    workers: int | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    max_size: int | None = None,
    compress: bool = False,
    progress: Progress = SILENT,
) -> Extraction:
    """Compute the features that a cache lacks, and write which image is which row.

    A feature belongs to the image's bytes: an image that was renamed, moved to another class or listed twice is not
    computed again, one whose bytes changed is. Killed at any moment, the same call goes on after the last shard. Two
    calls on one cache take turns; where there is nothing to do, nothing is written and nobody waits.

    Args:
        images: Folder of the image set.
        cache: Folder of the cache: new, empty, or made with the same recipe.
        base: Name of a torchvision classification network.
        weights: `imagenet`, `imagenet:NAME`, `random:SEED`, or a file.
        transform_of: torchvision weights entry whose evaluation transform to use; the weights' own if not given.
        views: Views of each training image: view 0 is the evaluation transform, the others are drawn, see
            `pipeline.augmentation`. Other images have view 0 alone.
        split: Which images train, as `pipeline.split.make_split` takes it; the image set's own split if not given, and
            where it has none, all images have all views.
        split_seed: Seed of a drawn split.
        precision: Arithmetic of the base: `fp32`, `tf32` (on a GPU), `bf16` or `fp16`.
        store: Number format in the cache: `float32` or `float16`.
        device: `auto`, `cpu`, `cuda` or `cuda:1`; or several, such as `cuda:0,cuda:1`, or `cuda:all`, side by side.
        backend: What computes: `torch`, or `openvino`, on a CPU and if it is installed; the features are the same but
            for their last digits, so that it is no part of the recipe.
        batch_size: Images, or views, in one pass through the base; at most the 128 of a shard.
        workers: Processes that decode; as many as processors, at most 16, if not given.
        on_error: What unreadable images mean in the end: `fail` raises, `skip` leaves them out of the index.
        max_size: Bytes that the cache may take in all; what would grow beyond is refused before it is computed.
        compress: Whether what is computed now is packed; the features are the same, and nothing is computed again.
        progress: Told what happens.

    Returns:
        What was done.

    Raises:
        ImageSetError: The folder is not an image set, the cache lies inside it, or none of its images can be read.
        UnreadableImages: Some images cannot be read and `on_error` is `fail`; all other features are kept.
        RecipeMismatch: The cache was made with another recipe.
        SplitError: The split does not fit the images.
        NoRoom: The disk cannot hold the features, or they would grow beyond `max_size`.
        ManyheadsError: The base or the weights cannot be had as asked.
    """
    started = time.perf_counter()
    _require(batch_size >= 1, f"batch size {batch_size} is not a positive number of images")
    _require(workers is None or workers >= 1, f"{workers} workers cannot decode anything: ask for 1 or more")
    _require(store in STORAGE, f"storage {store!r} is none that a cache has: choose {' or '.join(STORAGE)}")
    _require(on_error in ("fail", "skip"), f"on_error {on_error!r} is neither 'fail' nor 'skip'")
    _require(1 <= views <= MOST_VIEWS, f"{views} views are no number that a cache takes: ask for 1 to {MOST_VIEWS}")
    _require(
        views > 1 or split is None,
        f"the split {split} says which images get more views than one, and one was asked for: ask for more, such as "
        "--views 4, or leave the split to `manyheads fit-head`",
    )
    workers = workers or decoders()
    image_set = read_image_set(images)
    require_apart(image_set.root, Path(cache), "cache")
    order = Order(base, WeightsSource.parse(weights), transform_of, precision, store, device, backend)
    folder = open_cache(Path(cache), order, progress)
    folder.compress = compress
    folder.clean()
    found = fingerprint(image_set, workers, progress)
    survey = Survey(folder, image_set, found, Wanted(views, split, split_seed))
    computing = Computing(folder, image_set.root, batch_size, workers, progress)
    if survey.is_complete:  # then nothing is written: the cache may stand on a read-only disk
        filled = _Filled(survey.likely)
        _require_readable(survey, filled.index, on_error)
    else:
        with writing(folder.path, progress.note):
            survey = Survey(folder, image_set, found, survey.wanted)  # another process may have written meanwhile
            filled = _fill(survey, order, computing, on_error, max_size)
    index = filled.index
    return Extraction(
        cache=folder.path,
        images=len(index.entries),
        classes=len(index.classes),
        computed=filled.computed,
        cached=len(index.entries) - filled.computed,
        views=views,
        viewed=len(survey.wanted.training(index)),
        views_computed=filled.views_computed,
        split=None if split is None else str(split),
        split_seed=split_seed,
        skipped=index.skipped,
        strays=image_set.strays,
        changes=Changes.between(survey.before.entries, index.entries) if survey.before else None,
        recipe=folder.recipe.as_dict(),
        random_weights=folder.recipe.random_weights,
        size=folder.size(),
        seconds=time.perf_counter() - started,
        working=sum(computing.clock.spent.values()),
        shares=computing.clock.shares(),
    )


@dataclass(frozen=True)
class _Filled:
    """The index of a cache that has all that is wanted, and how many features and views were computed for that."""

    index: Index
    computed: int = 0
    views_computed: int = 0


def _fill(survey: Survey, order: Order, computing: Computing, on_error: str, max_size: int | None) -> _Filled:
    """Compute what a cache lacks, and write its index."""
    paths = {entry.digest: entry.path for entry in reversed(survey.found.entries)}

    def compute(lacking: Lacking, unit: str) -> dict[str, str]:
        if not lacking:
            return {}
        # What failed before is tried again apart, so that a resumed extraction cuts the rest into the same shards.
        again = {digest: numbers for digest, numbers in lacking.items() if digest in survey.failed_before}
        fresh = {digest: numbers for digest, numbers in lacking.items() if digest not in again}
        if len(devices := order.devices()) > 1:
            return run_on_devices(devices, order, computing, paths, (fresh, again), unit)
        prepare(enough_workers(len(lacking), computing.workers))  # they start while the base is loaded
        return computing.run(order.base(computing.progress), paths, (fresh, again), unit)

    announce(survey, order, max_size, computing.progress)
    failures = compute(survey.lacking, "images")
    index = survey.index(failures)
    _require_readable(survey, index, on_error)
    drawn = survey.lacking_views(index)
    failed_later = compute(drawn, "views")
    if failed_later:
        index = survey.index(failures | failed_later)
        _require_readable(survey, index, on_error)
    if not survey.is_written(index):
        survey.cache.write_index(index)
    views = sum(len(numbers) for digest, numbers in drawn.items() if digest not in failed_later)
    return _Filled(index, len(survey.lacking) - len(failures), views)


def _require_readable(survey: Survey, index: Index, on_error: str) -> None:
    """Refuse images that cannot be read, or, where these may be skipped, a set that has no others."""
    images, skipped = survey.images.root, index.skipped
    if not index.entries:
        raise ImageSetError(
            f"None of the {len(skipped)} images in {images} can be read, so there are no features to keep. Mend or "
            f"replace them, then run the same command again:\n{_listed(skipped)}"
        )
    if skipped and on_error == "fail":
        raise UnreadableImages(
            f"{len(skipped)} of {len(skipped) + len(index.entries)} images in {images} cannot be read; the features of "
            f"the other {len(index.entries)} are kept in {survey.cache.path}. Mend or remove these files and run the "
            f"same command again, or add `--on-error skip` to go on without them:\n{_listed(skipped)}"
        )


def _listed(failures: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"  {printable(path)}: {reason}" for path, reason in failures)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BaseError(f"{message[0].upper()}{message[1:]}.")

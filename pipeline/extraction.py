"""Stage one, `extract`: run the base over an image set once and keep the features, of one view of an image or more.

torch is imported only when something is to be computed: a second extraction of the same images answers at once.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cache import CacheError, Entry, FeatureCache, Index, Recipe
from cache.atomic import human_size, require_room
from cache.hdf5 import opened
from cache.recipe import STORAGE
from cache.shard import held_views
from pipeline.changes import Changes
from pipeline.computing import Computing
from pipeline.environment import decoders
from pipeline.errors import BaseError, ImageSetError, UnreadableImages
from pipeline.image_set import Fingerprints, ImageSet, fingerprint, read_image_set, require_apart
from pipeline.order import Order, open_cache
from pipeline.printable import printable
from pipeline.progress import SILENT, Progress
from pipeline.split import make_split
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
        shares: Fraction of the computing time spent in the base, waiting for decoded images, and writing.
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
        views: Views of each training image: view 0 is the evaluation transform, the others are drawn, see
            `pipeline.augmentation`. Other images have view 0 alone.
        split: Which images train, as `pipeline.split.make_split` takes it; the image set's own split if not given, and
            where it has none, all images have all views.
        split_seed: Seed of a drawn split.
        precision: Arithmetic of the base: `fp32`, `bf16` or `fp16`.
        store: Number format in the cache: `float32` or `float16`.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        batch_size: Images, or views, in one pass through the base; at most the 128 of a shard.
        workers: Threads that decode; as many as processors, at most 16, if not given.
        on_error: What unreadable images mean in the end: `fail` raises, `skip` leaves them out of the index.
        progress: Told what happens.

    Returns:
        What was done.

    Raises:
        ImageSetError: The folder is not an image set, the cache lies inside it, or none of its images can be read.
        UnreadableImages: Some images cannot be read and `on_error` is `fail`; all other features are kept.
        RecipeMismatch: The cache was made with another recipe.
        SplitError: The split does not fit the images.
        NoRoom: The disk cannot hold the features.
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
    order = Order(base, WeightsSource.parse(weights), transform_of, precision, store, device)
    folder = open_cache(Path(cache), order, progress)
    found = fingerprint(image_set, workers, progress)

    shards = folder.shards()
    held = held_views(shards)
    failed_before = {digest for shard in shards for digest in shard.failures}
    before = _index_before(folder)
    computing = Computing(folder, image_set.root, batch_size, workers, progress)
    paths = {entry.digest: entry.path for entry in reversed(found.entries)}

    def compute(lacking: Mapping[str, Sequence[int]], unit: str) -> dict[str, str]:
        if not lacking:
            return {}
        # What failed before is tried again apart, so that a resumed extraction cuts the rest into the same shards.
        fresh = {digest: numbers for digest, numbers in lacking.items() if digest not in failed_before}
        again = {digest: numbers for digest, numbers in lacking.items() if digest in failed_before}
        return computing.run(order.base(progress), paths, (fresh, again), unit)

    lacking = _lacking(found.entries, range(1), held)
    # Chosen here as well, so that a split that does not fit is refused before the work, and the size is told.
    skipped = dict(before.skipped) if before else {}
    missing = [entry for entry in found.entries if entry.digest in lacking]
    broken = {entry.digest: skipped[entry.path] for entry in missing if entry.path in skipped}
    likely = _index(image_set, found, broken, folder.recipe)
    drawn = _lacking(_training(likely, views, split, split_seed), range(1, views), held)
    _announce(folder, len(found.entries) - len(missing), lacking, drawn, progress)
    if drawn and split is None and not likely.has_parts:
        progress.note("no split is known, so all images get views; with --split only the training images do")
    failures = compute(lacking, "images")
    index = _index(image_set, found, failures, folder.recipe)
    _require_readable(image_set, index, folder, on_error)
    training = _training(index, views, split, split_seed)
    drawn = _lacking(training, range(1, views), held)
    failed_later = compute(drawn, "views")
    if failed_later:
        index = _index(image_set, found, failures | failed_later, folder.recipe)
        _require_readable(image_set, index, folder, on_error)
    if index != before or not _has_its_shards(folder):
        folder.write_index(index)
    computed = len(lacking) - len(failures)
    return Extraction(
        cache=folder.path,
        images=len(index.entries),
        classes=len(index.classes),
        computed=computed,
        cached=len(index.entries) - computed,
        views=views,
        viewed=sum(entry.digest not in failed_later for entry in training),
        views_computed=sum(len(numbers) for digest, numbers in drawn.items() if digest not in failed_later),
        split=None if split is None else str(split),
        split_seed=split_seed,
        skipped=index.skipped,
        strays=image_set.strays,
        changes=Changes.between(before.entries, index.entries) if before else None,
        recipe=folder.recipe.as_dict(),
        random_weights=folder.recipe.random_weights,
        size=folder.size(),
        seconds=time.perf_counter() - started,
        shares=computing.clock.shares(),
    )


def _index(image_set: ImageSet, found: Fingerprints, failures: Mapping[str, str], recipe: Recipe) -> Index:
    """Make the index of all images but those whose digest has failed."""
    entries = tuple(entry for entry in found.entries if entry.digest not in failures)
    unreadable = [(entry.path, failures[entry.digest]) for entry in found.entries if entry.digest in failures]
    return Index(
        entries=entries,
        classes=tuple(sorted({entry.label for entry in entries})),
        skipped=tuple(sorted([*found.unreadable, *unreadable])),
        images=str(image_set.root.absolute()),
        recipe_digest=recipe.digest,
    )


def _require_readable(image_set: ImageSet, index: Index, cache: FeatureCache, on_error: str) -> None:
    """Refuse images that cannot be read, or, where these may be skipped, a set that has no others."""
    images, skipped = image_set.root, index.skipped
    if not index.entries:
        raise ImageSetError(
            f"None of the {len(skipped)} images in {images} can be read, so there are no features to keep. Mend or "
            f"replace them, then run the same command again:\n{_listed(skipped)}"
        )
    if skipped and on_error == "fail":
        raise UnreadableImages(
            f"{len(skipped)} of {len(image_set.images)} images in {images} cannot be read; the features of "
            f"the other {len(index.entries)} are kept in {cache.path}. Mend or remove these files and run the same "
            f"command again, or add `--on-error skip` to go on without them:\n{_listed(skipped)}"
        )


def _training(index: Index, views: int, split: str | Path | None, seed: int) -> Sequence[Entry]:
    """Return the images that get more views than one: those that train, or all where no split is known."""
    if views == 1 or not index.entries:
        return ()
    if split is None and not index.has_parts:
        return index.entries
    return [index.entries[row] for row in make_split(index, split, seed).rows["train"]]


def _lacking(entries: Iterable[Entry], views: range, held: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """Return which of these views images lack, by digest, in the order of the images."""
    wanted = dict.fromkeys(entry.digest for entry in entries)
    found = {digest: sorted(set(views).difference(held.get(digest, ()))) for digest in wanted}
    return {digest: numbers for digest, numbers in found.items() if numbers}


def _announce(
    cache: FeatureCache,
    cached: int,
    lacking: Mapping[str, Sequence[int]],
    drawn: Mapping[str, Sequence[int]],
    progress: Progress,
) -> None:
    """Say what will be computed and how large it gets, before it starts; refuse what the disk cannot hold."""
    views = sum(map(len, drawn.values()))
    if not lacking and not views:
        return
    recipe = cache.recipe
    size = (len(lacking) + views) * recipe.row_bytes
    free = require_room(
        cache.path, size, f"{len(lacking) + views} features of {recipe.dimension} {recipe.storage} numbers"
    )
    said = [f"{len(lacking)} features"] if lacking else []
    if views:
        even = views == len(drawn) * max(map(len, drawn.values())) > len(drawn)
        said.append(f"{len(drawn)} x {views // len(drawn)} views" if even else f"{views} views")
    what = f"({' + '.join(said)})" if len(said) > 1 else said[0]
    progress.note(
        f"{cached} images are cached; {what} x {recipe.dimension} {recipe.storage} = {human_size(size)} "
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


def _listed(failures: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"  {printable(path)}: {reason}" for path, reason in failures)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BaseError(f"{message[0].upper()}{message[1:]}.")

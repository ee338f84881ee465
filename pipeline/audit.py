"""The data audit: images that are nearly the same, above all across parts of a split, and labels that may be wrong."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache import CacheError, Entry, FeatureCache, Index
from cache.atomic import human_size, write_text
from pipeline.decoder import pixels_of
from pipeline.doubt import Audited, DoubtfulLabel, doubtful_labels
from pipeline.errors import HeadError, ImageSetError
from pipeline.image_set import require_apart
from pipeline.memory import free_memory
from pipeline.perceptual import SIDE, centred, details, neighbours, resemblance, thumbnail
from pipeline.progress import SILENT, Progress
from pipeline.split import NAMES, UNUSED, Split, make_split

NEIGHBOURS = 20  # of each image, by its features, that are compared by their pixels
SIMILARITY = 0.8  # chosen on UC Merced: see docs/audit.md
PAIRS = 1024  # that are compared at once: 34 MB of details
COPIES = 4  # of the features that are in memory at once: as read, standardised, and two while components are found
LISTED = 3  # unreadable files that a note names

PAIR_COLUMNS = (
    *("path", "label", "part", "other_path", "other_label", "other_part"),
    *("cosine", "similarity", "identical", "straddles", "labels_differ"),
)
LABEL_COLUMNS = ("path", "label", "part", "suggested", "probability", "suggested_probability")

Pairs = npt.NDArray[np.intp]


@dataclass(frozen=True)
class NearDuplicate:
    """Two images that show the same, or overlap.

    Attributes:
        first: The one that comes first in the image set.
        second: The other.
        cosine: Of the angle between their features, less the mean of all features: -1 to 1.
        similarity: Of their pixels, 0 to 1: see `pipeline.perceptual.resemblance`. 1 if they are identical.
        identical: Whether the two files are the same, byte for byte.
        straddles: Whether they lie in two of the parts train, val and test.
        labels_differ: Whether they have different labels, of which one must be wrong.
    """

    first: Audited
    second: Audited
    cosine: float
    similarity: float
    identical: bool
    straddles: bool
    labels_differ: bool


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        cache: The feature cache.
        images: How many images were looked at.
        classes: How many classes they have.
        split: Where the parts come from.
        similarity: What two images must reach to be listed.
        pairs: Near-duplicates: first those across parts, test before val, and the most similar first.
        tested: Images of the test part.
        leaked: How many of them have a near-duplicate in train.
        doubtful: Doubtful labels, the most doubtful first.
        accuracy: Share of the judged images whose label is also the likeliest class; None if none was judged.
        folder: Where the pictures and tables are; None if none were asked for.
        notes: What the user should know.
        seconds: Wall time of the whole.
    """

    cache: Path
    images: int
    classes: int
    split: str
    similarity: float
    pairs: tuple[NearDuplicate, ...]
    tested: int
    leaked: int
    doubtful: tuple[DoubtfulLabel, ...]
    accuracy: float | None
    folder: Path | None
    notes: tuple[str, ...]
    seconds: float


def audit(
    cache: Path | str,
    *,
    split: str | Path | None = None,
    split_seed: int = 0,
    images: Path | str | None = None,
    out: Path | str | None = None,
    similarity: float = SIMILARITY,
    progress: Progress = SILENT,
) -> Audit:
    """Look for near-duplicate images and doubtful labels in a feature cache; no data and no result is changed.

    Args:
        cache: Folder of the feature cache.
        split: See `pipeline.split.make_split`.
        split_seed: Seed of a drawn split.
        images: The image set, if it is no longer where it was extracted from.
        out: Folder for contact sheets and tables of all that is found; nothing is written if not given.
        similarity: Of the pixels of two images that are listed, above 0 and at most 1.
        progress: Told what happens.

    Returns:
        All pairs and doubtful labels.

    Raises:
        CacheError: The cache cannot be read, or its features do not fit into memory.
        SplitError: The split does not fit the cache's images, or there is but one class.
        HeadError: `similarity` is out of range.
        ImageSetError: None of the images is where it was, or `out` lies in the image set.
        NoRoom: The disk is full or read-only.
    """
    started = time.perf_counter()
    if not 0 < similarity <= 1:
        raise HeadError(
            f"A similarity of {similarity:g} was asked for; it is a correlation above 0 and at most 1. The default is "
            f"{SIMILARITY:g}; 1 lists copies only."
        )
    opened = FeatureCache.open(cache)
    index = opened.index()
    parts = make_split(index, split, split_seed)
    root = Path(images or index.images)
    if out is not None:
        require_apart(root, Path(out), "folder of the audit")
    features = _features(opened, index, progress)
    audited = _audited(index, parts)
    pairs, notes = _near_duplicates(index, audited, root, features, similarity, progress)
    doubtful, accuracy, more = doubtful_labels(audited, features, progress)
    if opened.recipe.random_weights:
        more = [*more, "the base has random weights, so that a doubt about a label means little"]
    if out is not None:
        _write(Path(out), pairs, doubtful)
        _draw(Path(out), pairs, doubtful, index, root, progress)
    return Audit(
        cache=opened.path,
        images=len(audited),
        classes=len(index.classes),
        split=parts.source,
        similarity=similarity,
        pairs=tuple(pairs),
        tested=len(parts.rows["test"]),
        leaked=_leaked(index, audited, pairs),
        doubtful=tuple(doubtful),
        accuracy=accuracy,
        folder=None if out is None else Path(out),
        notes=(*notes, *more),
        seconds=time.perf_counter() - started,
    )


def _features(cache: FeatureCache, index: Index, progress: Progress) -> npt.NDArray[np.float32]:
    """Read the features of all images whole, as neighbours need every one of them, if they fit into memory."""
    needed, free = COPIES * len(index.entries) * cache.recipe.dimension * 4, free_memory()
    if needed > free:
        raise CacheError(
            f"An audit holds the features of all images in memory, {COPIES} times over: {len(index.entries)} images "
            f"with {cache.recipe.dimension} numbers each need {human_size(needed)}, and {human_size(free)} are free. "
            "Run it on a larger machine, or extract a cache with a base that has fewer features (such as mobilenet_v2)."
        )
    with progress.steps("reading features", len(index.entries), "images") as advance:
        features = cache.read([entry.digest for entry in index.entries], advance=advance)
    return np.asarray(features, dtype=np.float32)


def _audited(index: Index, split: Split) -> list[Audited]:
    part = {row: name for name in NAMES for row in split.rows[name]}
    return [Audited(entry.path, entry.label, part.get(row, UNUSED)) for row, entry in enumerate(index.entries)]


def _leaked(index: Index, audited: Sequence[Audited], pairs: Sequence[NearDuplicate]) -> int:
    """Count the test images that are in train too, or have a near-duplicate there."""
    trained = {entry.digest for entry, image in zip(index.entries, audited, strict=True) if image.part == "train"}
    leaked = {entry.path for entry in index.entries if entry.digest in trained}
    for pair in pairs:
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            if other.part == "train":
                leaked.add(one.path)
    return len(leaked & {image.path for image in audited if image.part == "test"})


# Near-duplicates


def _near_duplicates(
    index: Index,
    audited: Sequence[Audited],
    root: Path,
    features: npt.NDArray[np.float32],
    similarity: float,
    progress: Progress,
) -> tuple[list[NearDuplicate], list[str]]:
    digests = [entry.digest for entry in index.entries]
    rows = centred(features)
    candidates = _candidates(rows, digests, progress)
    looks, unreadable = _looks(index.entries, candidates, root, progress)
    found: list[NearDuplicate] = []
    with progress.steps("comparing", len(candidates), "pairs") as advance:
        for start in range(0, len(candidates), PAIRS):
            block = candidates[start : start + PAIRS]
            alike = resemblance(details(looks[block[:, 0]]), details(looks[block[:, 1]]))
            for (first, second), measure in zip(block.tolist(), alike.tolist(), strict=True):
                identical = digests[first] == digests[second]
                if identical or measure >= similarity:
                    cosine = float(rows[first] @ rows[second])
                    found.append(_pair(audited[first], audited[second], cosine, 1 if identical else measure, identical))
            advance(len(block))
    rank = {"test": 0, "val": 1}
    found.sort(
        key=lambda pair: (
            min(rank.get(image.part, 2) if pair.straddles else 3 for image in (pair.first, pair.second)),
            -pair.similarity,
            pair.first.path,
            pair.second.path,
        )
    )
    return found, _unread(unreadable, len(digests), root)


def _pair(first: Audited, second: Audited, cosine: float, similarity: float, identical: bool) -> NearDuplicate:
    return NearDuplicate(
        first=first,
        second=second,
        cosine=cosine,
        similarity=similarity,
        identical=identical,
        straddles=first.part != second.part and UNUSED not in (first.part, second.part),
        labels_differ=first.label != second.label,
    )


def _candidates(rows: npt.NDArray[np.float32], digests: Sequence[str], progress: Progress) -> Pairs:
    """Return the pairs (n, 2) of rows to be looked at, each once: nearest neighbours, and files with the same bytes."""
    same: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        same.setdefault(digest, []).append(row)
    # Of many copies each is paired with the first, as their pairs would grow with the square.
    wanted = {(group[0], row) for group in same.values() for row in group[1:]}
    with progress.steps("looking for neighbours", len(rows), "images") as advance:
        for start, found in neighbours(rows, NEIGHBOURS):
            for row, others in enumerate(found.tolist(), start):
                wanted.update((min(row, other), max(row, other)) for other in others)
            advance(len(found))
    return np.array(sorted(wanted), dtype=np.intp).reshape(-1, 2)


def _looks(
    entries: Sequence[Entry], candidates: Pairs, root: Path, progress: Progress
) -> tuple[npt.NDArray[np.uint8], dict[str, str]]:
    """Return a thumbnail (N, SIDE, SIDE) of each candidate, and path -> reason of those that cannot be read."""
    looks = np.zeros((len(entries), SIDE, SIDE), np.uint8)  # without details, so like no other
    wanted = np.unique(candidates).tolist()
    unreadable: dict[str, str] = {}
    with progress.steps("looking at images", len(wanted), "images") as advance:
        for row in wanted:
            entry = entries[row]
            pixels = pixels_of(root / entry.path, entry.digest, lambda image, _: thumbnail(image))
            if isinstance(pixels, str):
                unreadable[entry.path] = pixels
            else:
                looks[row] = pixels
            advance(1)
    if wanted and len(unreadable) == len(wanted):
        path, reason = next(iter(unreadable.items()))
        raise ImageSetError(
            "The audit looks at the images that the cache was extracted from, and none of them could be read in "
            f"{root} as it was ({path}: {reason}). Name where they are now: `--images DIR`."
        )
    return looks, unreadable


def _unread(unreadable: Mapping[str, str], images: int, root: Path) -> list[str]:
    if not unreadable:
        return []
    some = "; ".join(f"{path}: {reason}" for path, reason in list(unreadable.items())[:LISTED])
    more = f"; and {len(unreadable) - LISTED} more" if len(unreadable) > LISTED else ""
    return [
        f"{len(unreadable)} of {images} images could not be read in {root} as they were extracted, so only "
        f"byte-identical copies of them are found ({some}{more})"
    ]


# Files


def _write(folder: Path, pairs: Sequence[NearDuplicate], doubtful: Sequence[DoubtfulLabel]) -> None:
    """Write all that was found as two tables."""
    lines: list[list[object]] = [
        [
            *(pair.first.path, pair.first.label, pair.first.part),
            *(pair.second.path, pair.second.label, pair.second.part),
            *(f"{pair.cosine:.4f}", f"{pair.similarity:.4f}"),
            *("yes" if value else "no" for value in (pair.identical, pair.straddles, pair.labels_differ)),
        ]
        for pair in pairs
    ]
    _write_table(folder / "near-duplicates.csv", PAIR_COLUMNS, lines)
    lines = [
        [
            *(one.image.path, one.image.label, one.image.part, one.suggested),
            *(f"{one.probability:.4f}", f"{one.suggested_probability:.4f}"),
        ]
        for one in doubtful
    ]
    _write_table(folder / "doubtful-labels.csv", LABEL_COLUMNS, lines)


def _write_table(path: Path, columns: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    write_text(path, text.getvalue())


def _draw(
    folder: Path,
    pairs: Sequence[NearDuplicate],
    doubtful: Sequence[DoubtfulLabel],
    index: Index,
    root: Path,
    progress: Progress,
) -> None:
    """Draw both contact sheets."""
    from pipeline.figures.audit import draw_doubtful_labels, draw_near_duplicates, shrunk

    digests = {entry.path: entry.digest for entry in index.entries}

    def look(path: str) -> npt.NDArray[np.uint8] | str:
        return pixels_of(root / path, digests[path], lambda image, _: shrunk(image))

    with progress.steps("drawing", 2, "contact sheets") as advance:
        draw_near_duplicates(pairs, look, folder / "near-duplicates.png")
        advance(1)
        draw_doubtful_labels(doubtful, look, folder / "doubtful-labels.png")
        advance(1)

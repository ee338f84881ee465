"""The data audit: images that are nearly the same, above all across parts of a split, and labels that may be wrong."""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt

from cache import CacheError, FeatureCache, Index, NoRoom
from cache.atomic import human_size, make_folder, write_text
from pipeline.decoder import pixels_of
from pipeline.doubt import Audited, DoubtfulLabel, doubtful_labels
from pipeline.errors import HeadError
from pipeline.image_set import require_apart
from pipeline.memory import free_memory
from pipeline.near_duplicates import LOOK, NearDuplicate, near_duplicates
from pipeline.progress import SILENT, Progress
from pipeline.split import NAMES, UNUSED, Split, make_split

SIMILARITY = 0.8  # chosen on UC Merced: see docs/audit.md
COMPARED = 2  # copies of the features that are in memory while images are compared: as read, and centred
JUDGED = 4  # while labels are judged: as read, standardised, and two while components are found

PAIR_COLUMNS = (
    *("path", "label", "part", "other_path", "other_label", "other_part"),
    *("cosine", "similarity", "identical", "straddles", "labels_differ"),
)
LABEL_COLUMNS = ("path", "label", "part", "suggested", "probability", "suggested_probability")


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
        CacheError: The cache cannot be read, its features do not fit into memory, or `out` is the cache or lies in it.
        SplitError: The split does not fit the cache's images, or there is but one class.
        HeadError: `similarity` is out of range.
        ImageSetError: None of the images is where it was, or `out` lies in the image set.
        NoRoom: `out` cannot be made or written to, which is found before the work; or the disk fills up.
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
        _prepare(Path(out), opened.path, root)
    features = _features(opened, index, progress)
    audited = _audited(index, parts)
    pairs, notes = near_duplicates(index.entries, audited, root, features, similarity, progress)
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
    row, free = cache.recipe.dimension * 4, free_memory()
    needed = len(index.entries) * max(JUDGED * row, COMPARED * row + LOOK)
    if needed > free:
        raise CacheError(
            f"An audit holds the features of all images in memory, up to {JUDGED} times over, and the details of "
            f"their pixels: {len(index.entries)} images with {cache.recipe.dimension} numbers each need "
            f"{human_size(needed)}, and {human_size(free)} are free. Run it on a larger machine, or extract a cache "
            "with a base that has fewer features (such as mobilenet_v2)."
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


# Files


def _prepare(folder: Path, cache: Path, root: Path) -> None:
    """Make the folder of the audit and see that it can be written to, before any work is done for nothing.

    Raises:
        CacheError: It is the cache, or lies inside it.
        ImageSetError: It lies inside the image set.
        NoRoom: It cannot be made, or not be written to.
    """
    if folder.resolve().is_relative_to(cache.resolve()):
        where = "be" if folder.resolve() == cache.resolve() else "lie inside"
        raise CacheError(
            f"The folder of the audit {folder} would {where} the cache {cache}, which holds nothing but features. "
            "Name a folder outside it."
        )
    require_apart(root, folder, "folder of the audit")
    try:
        make_folder(folder)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise NoRoom(
            f"The folder of the audit {folder} cannot be made or written to: {error.strerror}. Name another one."
        ) from error


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
    from pipeline.figures.audit import SHOWN, draw_doubtful_labels, draw_near_duplicates, shrunk

    digests = {entry.path: entry.digest for entry in index.entries}
    total = 2 * min(len(pairs), SHOWN) + min(len(doubtful), SHOWN)
    with progress.steps("drawing", total, "pictures") as advance:

        def look(path: str) -> npt.NDArray[np.uint8] | str:
            advance(1)
            return pixels_of(root / path, digests[path], lambda image, _: shrunk(image))

        draw_near_duplicates(pairs, look, folder / "near-duplicates.png")
        draw_doubtful_labels(doubtful, look, folder / "doubtful-labels.png")

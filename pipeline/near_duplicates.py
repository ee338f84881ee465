"""Images that show the same, or overlap: found among the neighbours of each by its features, then by their pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache import Entry
from pipeline.decoder import pixels_of
from pipeline.doubt import Audited
from pipeline.errors import ImageSetError
from pipeline.perceptual import SIDE, centred, details, neighbours, resemblance, thumbnail
from pipeline.progress import Progress
from pipeline.split import UNUSED

NEIGHBOURS = 20  # of each image, by its features, that are compared by their pixels
LISTED = 3  # unreadable files that a note names
LOOK = SIDE**2 * 4  # bytes of memory that the details of an image take

Numbers = npt.NDArray[np.float32]
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


def near_duplicates(
    entries: Sequence[Entry],
    audited: Sequence[Audited],
    root: Path,
    features: Numbers,
    similarity: float,
    progress: Progress,
) -> tuple[list[NearDuplicate], list[str]]:
    """Find the pairs of images that show the same, or overlap.

    Args:
        entries: N images of the cache.
        audited: The same, as the audit speaks of them.
        root: Folder of the image set.
        features: (N, D).
        similarity: What two images must reach by their pixels.
        progress: Told what happens.

    Returns:
        First those across parts, test before val, and the most similar first; and what the user should know.

    Raises:
        ImageSetError: None of the images is where it was.
    """
    digests = [entry.digest for entry in entries]
    rows = centred(features)
    candidates = _candidates(rows, digests, progress)
    looks, unreadable = _looks(entries, candidates, root, progress)
    found: list[NearDuplicate] = []
    firsts, starts = np.unique(candidates[:, 0], return_index=True)
    with progress.steps("comparing", len(candidates), "pairs") as advance:
        for first, others in zip(firsts.tolist(), np.split(candidates[:, 1], starts[1:]), strict=True):
            alike = resemblance(looks[first], looks[others])
            for other, measure in zip(others.tolist(), alike.tolist(), strict=True):
                identical = digests[first] == digests[other]
                if identical or measure >= similarity:
                    cosine = float(rows[first] @ rows[other])
                    found.append(_pair(audited[first], audited[other], cosine, 1 if identical else measure, identical))
            advance(len(others))
    found.sort(key=_order)
    return found, _unread(unreadable, len(digests), root)


def _order(pair: NearDuplicate) -> tuple[int, float, str, str]:
    rank = {"test": 0, "val": 1}
    part = min(rank.get(image.part, 2) if pair.straddles else 3 for image in (pair.first, pair.second))
    return part, -pair.similarity, pair.first.path, pair.second.path


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


def _candidates(rows: Numbers, digests: Sequence[str], progress: Progress) -> Pairs:
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
) -> tuple[Numbers, dict[str, str]]:
    """Return the details (N, SIDE, SIDE) of each candidate, and path -> reason of those that cannot be read."""
    looks = np.zeros((len(entries), SIDE, SIDE), np.float32)  # without details, so like no other
    wanted = np.unique(candidates).tolist()
    unreadable: dict[str, str] = {}
    with progress.steps("looking at images", len(wanted), "images") as advance:
        for row in wanted:
            entry = entries[row]
            pixels = pixels_of(root / entry.path, entry.digest, lambda image, _: thumbnail(image))
            if isinstance(pixels, str):
                unreadable[entry.path] = pixels
            else:
                looks[row] = details(pixels[None])[0]
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

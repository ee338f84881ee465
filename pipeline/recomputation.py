"""Recomputing some features of a cache, to see whether this machine and these libraries still give them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache import CacheError, Entry, FeatureCache
from cache.shard import held_views
from pipeline.decoding import Wanted, decoding, enough_workers
from pipeline.progress import SILENT, Progress
from pipeline.recipe_base import base_of

BATCH = 16
# Largest difference of a row's numbers, over the largest of them, that rounding explains: sums are added in another
# order with other batches, threads and processors; the half-precision formats have 11 and 8 bits.
TOLERANCE = {"fp32": 1e-3, "tf32": 0.02, "fp16": 0.02, "bf16": 0.1}


@dataclass(frozen=True)
class Recomputation:
    """How far recomputed features are from the stored ones.

    Attributes:
        rows: Features that were compared, each of one view of one image.
        largest: Largest difference of two numbers.
        relative: Largest difference of two numbers over the largest number of its row, of all rows.
        tolerance: What of that rounding explains, at the cache's precision.
        worst: The image whose row that is.
        skipped: (path, reason) of images that were drawn and are not there any more as they were extracted.
    """

    rows: int
    largest: float
    relative: float
    tolerance: float
    worst: str
    skipped: tuple[tuple[str, str], ...]

    @property
    def agrees(self) -> bool:
        """Whether rounding explains all differences."""
        return self.relative <= self.tolerance


def recompute(
    cache: Path | str,
    rows: int,
    *,
    images: Path | str | None = None,
    weights: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Recomputation:
    """Compute some rows of a cache again, drawn at random among all views of its images, and compare.

    Args:
        cache: Folder of the cache.
        rows: How many; all if there are fewer.
        images: The image set, if it is no longer where it was extracted from.
        weights: Where the base's weights are now, if they were moved.
        device: Where the base runs: `auto`, `cpu`, `cuda` or `cuda:1`.
        progress: Told what happens.

    Raises:
        CacheError: The cache is damaged or unfinished, or none of the drawn images is there any more.
        WeightsError: The weights cannot be had, or are not those of the cache.
    """
    opened = FeatureCache.open(cache)
    index = opened.index()
    held = held_views(opened.shards())
    everything = [(entry, view) for entry in index.entries for view in held.get(entry.digest, ())]
    drawn = sorted(random.sample(everything, min(rows, len(everything))), key=lambda row: (row[0].path, row[1]))
    stored = opened.read([entry.digest for entry, _ in drawn], views=[view for _, view in drawn])
    base = base_of(opened.recipe, weights, device, progress, whose=str(opened.path))
    root = Path(images or index.images)
    wanted = [Wanted(root / entry.path, entry.digest, (view,)) for entry, view in drawn]
    computed: dict[int, npt.NDArray[np.floating]] = {}
    skipped: dict[str, str] = {}
    with (
        decoding(wanted, base.transform, enough_workers(len(wanted)), 2 * BATCH) as decoded,
        progress.steps("recomputing", len(wanted), "rows") as advance,
    ):
        places = iter(range(len(wanted)))
        while batch := list(zip(islice(places, BATCH), decoded, strict=False)):
            good = [(place, found.pixels) for place, found in batch if found.pixels is not None]
            skipped |= {drawn[place][0].path: found.reason for place, found in batch if found.pixels is None}
            if good:
                pixels = np.concatenate([pixels for _, pixels in good])
                features = base.features(base.transform.normalise(pixels, base.device)).astype(opened.recipe.storage)
                computed |= {place: row for (place, _), row in zip(good, features, strict=True)}
            advance(len(batch))
    if not computed:
        raise CacheError(
            f"None of the images that {opened.path} was extracted from could be read in {root} as they were, so no row "
            "can be recomputed. Name where they are now: `--images DIR`."
        )
    return _compared(drawn, stored, computed, TOLERANCE[opened.recipe.precision], skipped)


def _compared(
    drawn: Sequence[tuple[Entry, int]],
    stored: npt.NDArray[np.floating],
    computed: dict[int, npt.NDArray[np.floating]],
    tolerance: float,
    skipped: dict[str, str],
) -> Recomputation:
    """Compare (n, D) stored rows with those that were computed again, by their number."""
    differences = {
        place: float(np.abs(row.astype(np.float64) - stored[place]).max()) for place, row in computed.items()
    }
    scales = {place: float(max(np.abs(row).max(), np.abs(stored[place]).max())) for place, row in computed.items()}
    relative = {place: differences[place] / scales[place] if scales[place] else 0.0 for place in computed}
    worst = max(relative, key=lambda place: relative[place])
    entry, view = drawn[worst]
    return Recomputation(
        rows=len(computed),
        largest=max(differences.values()),
        relative=relative[worst],
        tolerance=tolerance,
        worst=entry.path if view == 0 else f"{entry.path}, view {view}",
        skipped=tuple(sorted(skipped.items())),
    )

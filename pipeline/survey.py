"""What a cache holds of an image set, and what it lacks; looked up anew whenever someone else may have written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cache import CacheError, Entry, FeatureCache, Index
from cache.garbage import no_garbage
from cache.index import Listing, read_listing
from cache.shard import SHARD_ROWS, held_views, shard_paths
from pipeline.image_set import Fingerprints, ImageSet
from pipeline.split import make_split

# What a cache takes beside its numbers: names, digests and HDF5's own, generously.
ROW_OVERHEAD = 500
SHARD_OVERHEAD = 16_000

# Digest of an image -> numbers of views, in the order of the images.
Lacking = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Wanted:
    """Which views of which images an extraction is asked for.

    Attributes:
        views: Views of each image that trains, view 0 among them; all others have view 0 alone.
        split: Which images train; the image set's own split if not given, and where it has none, all do.
        split_seed: Seed of a drawn split.
    """

    views: int
    split: str | Path | None
    split_seed: int

    def training(self, index: Index) -> Sequence[Entry]:
        """Return the images that get more views than one; none if only one is asked for.

        Raises:
            SplitError: The split does not fit the images.
        """
        if self.views == 1 or not index.entries:
            return ()
        if self.split is None and not index.has_parts:
            return index.entries
        return [index.entries[row] for row in make_split(index, self.split, self.split_seed).rows["train"]]


class Survey:
    """An image set beside what a cache holds of it at this moment.

    Attributes:
        cache: The cache.
        images: The image set, as listed.
        found: What its files hold.
        wanted: Which views of them are asked for.
        before: The index that stands; None if there is none, or a damaged one, which is rewritten from the shards.
        failed_before: Digests of images that an earlier extraction could not read.

    Raises:
        CacheError: A shard is damaged.
    """

    def __init__(self, cache: FeatureCache, images: ImageSet, found: Fingerprints, wanted: Wanted) -> None:
        self.cache, self.images, self.found, self.wanted = cache, images, found, wanted
        with no_garbage():
            shards = cache.shards()
            self._listing = _listing_before(cache)
            self.before = self._listing.index if self._listing else None
            self.failed_before = {digest for shard in shards for digest in shard.failures}
            self._held = held_views(shards)

    def index(self, failures: Mapping[str, str]) -> Index:
        """Make the index of all images but those whose digest has failed: digest -> reason."""
        entries = tuple(entry for entry in self.found.entries if entry.digest not in failures)
        broken = [(entry.path, failures[entry.digest]) for entry in self.found.entries if entry.digest in failures]
        return Index(
            entries=entries,
            classes=tuple(sorted({entry.label for entry in entries})),
            skipped=tuple(sorted([*self.found.unreadable, *broken])),
            images=str(self.images.root.absolute()),
            recipe_digest=self.cache.recipe.digest,
        )

    @cached_property
    def lacking(self) -> Lacking:
        """The images whose view 0 is not there."""
        return self._lacking(self.found.entries, range(1))

    def lacking_views(self, index: Index) -> Lacking:
        """Return which further views of the images that train are not there.

        Raises:
            SplitError: The split does not fit the images.
        """
        return self._lacking(self.wanted.training(index), range(1, self.wanted.views))

    @cached_property
    def likely(self) -> Index:
        """The index as it will be, if what could not be read before cannot be read now either."""
        skipped = dict(self.before.skipped) if self.before else {}
        missing = [entry for entry in self.found.entries if entry.digest in self.lacking]
        return self.index({entry.digest: skipped[entry.path] for entry in missing if entry.path in skipped})

    @property
    def is_complete(self) -> bool:
        """Whether the cache has all that is wanted, and says so.

        Raises:
            SplitError: The split does not fit the images.
        """
        done = not self.lacking and not self.lacking_views(self.likely)
        return done and self.is_written(self.likely)

    def is_written(self, index: Index) -> bool:
        """Whether this index stands in the cache, with every shard that it draws on, and knows all that there were."""
        if self._listing is None or index != self.before:
            return False
        now = {path.name for path in shard_paths(self.cache.path / "shards")}
        return {place.shard for place in self._listing.rows} <= now <= set(self._listing.shards)

    def growth(self, features: int) -> int:
        """Return how many bytes, at most, a cache of these images grows by so many features."""
        shards = -(-features // SHARD_ROWS) + 2  # what failed before has its own, and so have views
        rows = features * (self.cache.recipe.row_bytes + ROW_OVERHEAD)
        index = 0 if self.before else len(self.found.entries) * ROW_OVERHEAD
        return rows + shards * SHARD_OVERHEAD + index

    @property
    def unused(self) -> int:
        """Bytes of the features that no image of the last extraction needs: what `cache prune` would free."""
        if not self.before:
            return 0
        used = {entry.digest for entry in self.before.entries}
        rows = sum(len(views) for digest, views in self._held.items() if digest not in used)
        return rows * self.cache.recipe.row_bytes

    def _lacking(self, entries: Iterable[Entry], views: range) -> Lacking:
        digests = dict.fromkeys(entry.digest for entry in entries)
        found = {digest: sorted(set(views).difference(self._held.get(digest, ()))) for digest in digests}
        return {digest: numbers for digest, numbers in found.items() if numbers}


def _listing_before(cache: FeatureCache) -> Listing | None:
    try:
        return read_listing(cache.path / "index.h5", cache.recipe)
    except CacheError:
        return None

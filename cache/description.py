"""What a cache is, from which images, how large, and how much of it is used."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.feature_cache import FeatureCache
from cache.garbage import no_garbage
from cache.index import read_listing
from cache.lock import Holder, holder
from cache.pruning import surplus, unfinished
from cache.shard import complete_views


@dataclass(frozen=True)
class Description:
    """What `cache info` tells.

    Attributes:
        path: The cache's folder.
        format_version: Version of its layout.
        finished: Whether an extraction has finished, so that heads can be fitted.
        writer: Who is writing into it now; None if it is nobody.
        images: Rows in the index.
        classes: Class -> number of its images.
        parts: Part -> number of its images, where the image set came split.
        source: The folder that the images were read from.
        skipped: (path, reason) of images that could not be read.
        shards: Number of shards.
        packed: Number of those that are packed.
        features: Features in all shards, of all views.
        views: Number of views -> number of the images that have so many, most views first.
        unfinished: Features of images that the index does not know yet: their extraction has not finished.
        unused: Features that no image of the index needs, which `prune` would drop; 0 while there is no index.
        unused_size: Bytes, about, that this would free.
        size: Bytes of all files.
        recipe: Every field of the recipe, and its digest.
        made_from: What the recipe was made from, beside the weights' tensors.
        random_weights: Whether the base was never trained.
    """

    path: Path
    format_version: int
    finished: bool
    writer: Holder | None
    images: int
    classes: Mapping[str, int]
    parts: Mapping[str, int]
    source: str
    skipped: tuple[tuple[str, str], ...]
    shards: int
    packed: int
    features: int
    views: Mapping[int, int]
    unfinished: int
    unused: int
    unused_size: int
    size: int
    recipe: Mapping[str, Any]
    made_from: Mapping[str, str]
    random_weights: bool


def describe(path: Path | str) -> Description:
    """Describe a feature cache; its features are not read.

    Raises:
        CacheError: The folder is no cache, or a file of it is damaged.
    """
    with no_garbage():
        return _describe(FeatureCache.open(path))


def _describe(cache: FeatureCache) -> Description:
    # Before the shards: what a writer adds meanwhile then counts as unused for this moment, and nothing as missing.
    listing = read_listing(cache.path / "index.h5", cache.recipe) if cache.has_index() else None
    index = listing.index if listing else None
    shards = cache.shards(listing)
    views = complete_views(shards)
    entries = index.entries if index else ()
    unneeded = surplus(shards, listing, cache.recipe) if listing else ()
    used, later = {entry.digest for entry in entries}, unfinished(shards, listing) if listing else ()
    new = [digest for shard in shards if shard.path.name in later for digest in shard.digests if digest not in used]
    return Description(
        path=cache.path,
        format_version=cache.recipe.format_version,
        finished=index is not None,
        writer=holder(cache.path),
        images=len(entries),
        classes=dict(sorted(Counter(entry.label for entry in entries).items())),
        parts=dict(Counter(entry.part for entry in entries if entry.part)),
        source=index.images if index else "",
        skipped=index.skipped if index else (),
        shards=len(shards),
        packed=sum(shard.packed for shard in shards),
        features=sum(len(shard.digests) for shard in shards),
        views=dict(sorted(Counter(views[entry.digest] for entry in entries).items(), reverse=True)),
        unfinished=len(new),
        unused=sum(one.unused for one in unneeded),
        unused_size=sum(one.size for one in unneeded),
        size=cache.size(),
        recipe=cache.recipe.as_dict(),
        made_from=cache.made_from,
        random_weights=cache.recipe.random_weights,
    )

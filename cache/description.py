"""What a cache is, from which images, and how large."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.feature_cache import FeatureCache
from cache.shard import complete_views


@dataclass(frozen=True)
class Description:
    """What `cache info` tells.

    Attributes:
        path: The cache's folder.
        finished: Whether an extraction has finished, so that heads can be fitted.
        images: Rows in the index.
        classes: Class -> number of its images.
        parts: Part -> number of its images, where the image set came split.
        source: The folder that the images were read from.
        skipped: (path, reason) of images that could not be read.
        shards: Number of shards.
        features: Features in all shards, of all views.
        views: Number of views -> number of the images that have so many, most views first.
        unused: Features that no image of the index needs any more.
        size: Bytes of all files.
        recipe: Every field of the recipe, and its digest.
        random_weights: Whether the base was never trained.
    """

    path: Path
    finished: bool
    images: int
    classes: Mapping[str, int]
    parts: Mapping[str, int]
    source: str
    skipped: tuple[tuple[str, str], ...]
    shards: int
    features: int
    views: Mapping[int, int]
    unused: int
    size: int
    recipe: Mapping[str, Any]
    random_weights: bool


def describe(path: Path | str) -> Description:
    """Describe a feature cache; its features are not read.

    Raises:
        CacheError: The folder is no cache, or a file of it is damaged.
    """
    cache = FeatureCache.open(path)
    shards = cache.shards()
    held = [digest for shard in shards for digest in shard.digests]
    views = complete_views(shards)
    index = cache.index() if cache.has_index() else None
    entries = index.entries if index else ()
    used = {entry.digest for entry in entries}
    return Description(
        path=cache.path,
        finished=index is not None,
        images=len(entries),
        classes=dict(sorted(Counter(entry.label for entry in entries).items())),
        parts=dict(Counter(entry.part for entry in entries if entry.part)),
        source=index.images if index else "",
        skipped=index.skipped if index else (),
        shards=len(shards),
        features=len(held),
        views=dict(sorted(Counter(views[entry.digest] for entry in entries).items(), reverse=True)),
        unused=sum(digest not in used for digest in held) if index else 0,
        size=cache.size(),
        recipe=cache.recipe.as_dict(),
        random_weights=cache.recipe.random_weights,
    )

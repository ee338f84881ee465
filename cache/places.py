"""Where features stand: in which shard, and in which row of it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cache.errors import CacheError
from cache.shard import Shard


def places(shards: Sequence[Shard], wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
    """Return where features stand: (digest, view) -> (number of the shard, row in it), of those that are wanted."""
    wanted = set(wanted)
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for number, shard in enumerate(shards):
        for row, key in enumerate(zip(shard.digests, shard.views, strict=True)):
            if key in wanted:
                found.setdefault(key, (number, row))
    return found


def require_held(
    place: Mapping[tuple[str, int], tuple[int, int]], wanted: Sequence[tuple[str, int]], cache: Path
) -> None:
    """Refuse views of images that no shard holds.

    Args:
        place: What is held.
        wanted: (digest, view) of each wanted row.
        cache: The cache's folder, for the message.

    Raises:
        CacheError: Says how many, and what to do.
    """
    missing = [key for key in wanted if key not in place]
    plain = sum(not view for _, view in missing)
    if plain:
        raise CacheError(
            f"{cache} lacks the features of {plain} of {sum(not view for _, view in wanted)} images: a shard was "
            "removed. Run the same `manyheads extract` again; only the missing ones are computed."
        )
    if missing:
        views = sorted({view for _, view in missing})
        images, of = (len({digest for digest, view in rows if view}) for rows in (missing, wanted))
        raise CacheError(
            f"{cache} lacks {_numbered(views)} of {images} of {of} images. Run `manyheads extract IMAGES {cache} "
            f"--views {views[-1] + 1}` with the options that made it, and with the --split that these images are "
            "trained by: what is there is kept, only the missing ones are computed."
        )


def _numbered(views: Sequence[int]) -> str:
    """Write numbers of views, ascending: `view 3`, `views 1 to 4`, `3 views between 1 and 9`."""
    if len(views) == 1:
        return f"view {views[0]}"
    if len(views) == views[-1] - views[0] + 1:
        return f"views {views[0]} to {views[-1]}"
    return f"{len(views)} views between {views[0]} and {views[-1]}"

"""What is said before an extraction starts, and what is refused before it has cost any time."""

from cache import NoRoom
from cache.atomic import human_size, require_room
from cache.shard import SHARD_ROWS, shard_paths
from pipeline.environment import quicker_precision
from pipeline.order import Order
from pipeline.progress import Progress
from pipeline.survey import Survey


def announce(survey: Survey, order: Order, max_size: int | None, progress: Progress) -> None:
    """Say what will be computed, how large it gets and what would be quicker; refuse what there is no room for.

    Args:
        survey: What the cache lacks.
        order: What was asked for.
        max_size: Bytes that the cache may take in all; None if any number.
        progress: Told of it.

    Raises:
        NoRoom: The disk cannot hold the features, or they would grow beyond `max_size`.
        SplitError: The split does not fit the images.
    """
    lacking, drawn = survey.lacking, survey.lacking_views(survey.likely)  # a split that does not fit is refused here
    views = sum(map(len, drawn.values()))
    if not lacking and not views:
        return
    cache = survey.cache
    size = (len(lacking) + views) * cache.recipe.row_bytes
    numbers = f"{cache.recipe.dimension} {cache.recipe.storage}"
    free = require_room(cache.path, size, f"{len(lacking) + views} features of {numbers} numbers")
    _require_small(survey, survey.growth(len(lacking) + views), max_size)
    said = [f"{len(lacking)} features"] if lacking else []
    if views:
        even = views == len(drawn) * max(map(len, drawn.values())) > len(drawn)
        said.append(f"{len(drawn)} x {views // len(drawn)} views" if even else f"{views} views")
    what = f"({' + '.join(said)})" if len(said) > 1 else said[0]
    cached = sum(entry.digest not in lacking for entry in survey.found.entries)
    progress.note(
        f"{cached} images are cached; {what} x {numbers} = {'at most ' if cache.compress else ''}"
        f"{human_size(size)} will be added to {cache.path} ({human_size(free)} free)"
    )
    if drawn and survey.wanted.split is None and not survey.likely.has_parts:
        progress.note("no split is known, so all images get views; with --split only the training images do")
    if len(lacking) > SHARD_ROWS and not shard_paths(cache.path / "shards"):
        _tell_quicker(order, progress)


def _tell_quicker(order: Order, progress: Progress) -> None:
    """Say once, while a new cache is still empty, in which precision its features would be there much sooner."""
    precision, device = order.named["precision"], order.devices()[0]
    if quicker := quicker_precision(precision, device):
        progress.note(
            f"{device} has {quicker} of its own, in which a base takes much less time: for that, extract into a "
            f"new cache with `--precision {quicker}`; what it does to features stands in docs/bases.md"
        )


def _require_small(survey: Survey, growth: int, max_size: int | None) -> None:
    """Refuse a cache that would become larger than it may."""
    held = survey.cache.size()
    if max_size is None or held + growth <= max_size:
        return
    way_out = "Allow more, or make a new cache with fewer --views or with --store float16."
    if survey.unused:
        way_out = (
            f"{human_size(survey.unused)} belong to images that are in the set no longer: `manyheads cache prune "
            f"{survey.cache.path}` frees them. Or allow more."
        )
    raise NoRoom(
        f"{survey.cache.path} takes {human_size(held)} and would grow by up to {human_size(growth)}, to more than the "
        f"{human_size(max_size)} that it may take (--max-size). Nothing was computed. {way_out}"
    )

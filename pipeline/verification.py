"""`cache verify`: every byte of a cache is checked, rows are computed again on request, and damage is dropped."""

from dataclasses import dataclass
from pathlib import Path

from cache import CacheError
from cache.verification import Verification, repair
from cache.verification import verify as read_whole
from pipeline.progress import SILENT, Progress
from pipeline.recomputation import Recomputation, recompute
from pipeline.wording import counted


@dataclass(frozen=True)
class Verified:
    """What `verify` found and did.

    Attributes:
        cache: What is wrong with the files, before anything was dropped.
        dropped: Damaged files that were removed, relative to the cache.
        recomputed: How rows that were computed again compare; None if none were.
    """

    cache: Verification
    dropped: tuple[str, ...]
    recomputed: Recomputation | None


class Unsound(CacheError):
    """Something is wrong with a cache.

    Attributes:
        result: All that was found.
    """

    def __init__(self, message: str, result: Verified) -> None:
        super().__init__(message)
        self.result = result


def verify(
    cache: Path | str,
    *,
    mend: bool = False,
    rows: int = 0,
    images: Path | str | None = None,
    weights: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Verified:
    """Check every byte of a cache, and, if asked, some of its features against the images.

    Args:
        cache: The cache's folder.
        mend: Whether damaged files are removed, so that the same `extract` computes what they held.
        rows: Features to compute again, drawn at random; not done where a file is damaged.
        images: The image set, if it is no longer where it was extracted from.
        weights: Where the base's weights are now, if they were moved.
        device: Where the base runs: `auto`, `cpu`, `cuda` or `cuda:1`.
        progress: Told what happens.

    Raises:
        Unsound: Something is wrong that was not mended; the error holds all that was found.
        CacheError: The folder is no cache, or nothing can be recomputed.
        NoRoom: The folder cannot be written to.
        WeightsError: The weights cannot be had, or are not those of the cache.
    """
    found = read_whole(cache, steps=progress.steps)
    dropped = repair(cache, found, progress.note) if mend else ()
    recomputed = None
    if rows and found.sound:
        recomputed = recompute(cache, rows, images=images, weights=weights, device=device, progress=progress)
    result = Verified(found, dropped, recomputed)
    if reason := _failure(result):
        raise Unsound(reason, result)
    return result


def _failure(result: Verified) -> str:
    """Say what is wrong, if anything is left of it."""
    found, again = result.cache, result.recomputed
    left = [damage for damage in found.damage if damage.file not in result.dropped]
    if left:
        first = f"{found.path / left[0].file} {left[0].what}"
        more = f", and {len(left) - 1} more" if len(left) > 1 else ""
        way_out = left[0].mend
        if any(damage.droppable for damage in left):
            way_out = (
                f"Run `manyheads cache verify {found.path} --repair`, which drops what is damaged, then the same "
                "`manyheads extract` again, which computes it anew."
            )
        return f"{counted(len(left), 'file')} of {found.path} cannot be relied on: {first}{more}. {way_out}"
    if again and not again.agrees:
        return (
            f"{found.path} is whole, but a feature of {again.worst} that was computed again differs by "
            f"{again.relative:.2g} of its largest number, and rounding explains {again.tolerance:.2g}: this machine, "
            "its libraries or its device no longer give the features that the cache holds. Extract into a new folder "
            "rather than add to this one."
        )
    return ""

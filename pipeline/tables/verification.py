"""What was found in a cache."""

from typing import TYPE_CHECKING

from rich.console import Console

from cache.atomic import human_size
from pipeline.tables.printing import print_lines, print_notes
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.recomputation import Recomputation
    from pipeline.verification import Verified


def show_verification(result: "Verified", console: Console) -> None:
    """Say what was read and what is wrong, file by file."""
    found = result.cache
    state = "every byte is as it was written" if found.sound else f"{counted(len(found.damage), 'file')} damaged"
    what = f"{counted(found.rows, 'feature')} in {counted(found.shards, 'shard')}, {human_size(found.size)} read"
    print_lines(console, [f"{found.path}: {state}; {what}."])
    print_lines(console, [f"  {damage.file} {damage.what}" for damage in found.damage])
    if result.dropped:
        print_lines(console, [f"Dropped: {', '.join(result.dropped)}."])
        print_notes(console, ["run the same `manyheads extract` again: it computes what they held"])
    elif found.lacking and found.finished:
        print_notes(console, [f"{found.lacking} of {counted(found.images, 'image')} have no features that are whole"])
    if result.recomputed:
        print_lines(console, [_compared(result.recomputed)])
        skipped = result.recomputed.skipped
        print_notes(console, [f"{path} could not be computed again: {reason}" for path, reason in skipped])
    print_notes(console, found.notes)


def _compared(again: "Recomputation") -> str:
    return (
        f"{counted(again.rows, 'feature')} computed again: the largest difference is {again.largest:.2g}, or "
        f"{again.relative:.2g} of the largest number of that feature, in {again.worst} (rounding explains "
        f"{again.tolerance:.2g})."
    )

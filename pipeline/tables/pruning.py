"""What a cache was freed of."""

from typing import TYPE_CHECKING

from rich.console import Console

from cache.atomic import human_size
from pipeline.tables.printing import print_lines, print_next
from pipeline.wording import counted

if TYPE_CHECKING:
    from cache.pruning import Pruning


def show_pruning(result: "Pruning", console: Console) -> None:
    """Say what was dropped from a cache, or would be, and what is left."""
    would, then = ("would be ", " then") if result.dry_run else ("", "")
    stay = "would stay" if result.dry_run else "stay"
    said = (
        f"{human_size(result.freed)} {would}freed in {result.path}: {counted(result.unused, 'unused feature')} "
        f"{would}dropped, {counted(result.removed, 'shard')} {would}removed, {result.rewritten} {would}rewritten."
    )
    if not result.removed and not result.rewritten:
        said, stay, then = f"Nothing to prune in {result.path}.", "are there", ""
    unused = f"{result.unused_left} of them unused" if result.unused_left else "all of them used"
    left = f"{counted(result.features, 'feature')} {stay}, {unused}"
    print_lines(console, [said, f"{left}; the cache takes {human_size(result.size)}{then}."])
    if then:
        print_next(console, "cache", "prune", result.path)

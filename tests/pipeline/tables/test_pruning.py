"""What `cache prune` shows in the end."""

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cache.pruning import Pruning
from pipeline.tables import show_pruning

DONE = Pruning(
    path=Path("a\x1b cache"),
    dry_run=False,
    unused=1200,
    features=2800,
    unused_left=0,
    removed=3,
    rewritten=5,
    freed=12_800_000,
    size=30_000_000,
)


def shown(result: Pruning) -> str:
    file = io.StringIO()
    show_pruning(result, Console(file=file, width=200))
    return file.getvalue()


def test_what_was_freed_and_what_stays() -> None:
    assert shown(DONE) == (
        r"12.8 MB freed in a\x1b cache: 1200 unused features dropped, 3 shards removed, 5 rewritten."
        "\n"
        "2800 features stay, all of them used; the cache takes 30 MB.\n"
    )


def test_what_would_be_freed_and_the_command_that_does_it() -> None:
    assert shown(replace(DONE, dry_run=True, unused=1, removed=1, unused_left=4)) == (
        r"12.8 MB would be freed in a\x1b cache: 1 unused feature would be dropped, 1 shard would be removed, "
        "5 would be rewritten.\n"
        "2800 features would stay, 4 of them unused; the cache takes 30 MB then.\n"
        r"next: manyheads cache prune 'a\x1b cache'"
        "\n"
    )


def test_nothing_to_do() -> None:
    nothing = replace(DONE, unused=0, removed=0, rewritten=0, freed=0)
    said = "Nothing to prune in a\\x1b cache.\n2800 features are there, all of them used; the cache takes 30 MB.\n"
    assert shown(nothing) == shown(replace(nothing, dry_run=True)) == said

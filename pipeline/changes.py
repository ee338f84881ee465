"""How an image set differs from what a cache held of it before."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from cache import Entry


@dataclass(frozen=True)
class Changes:
    """How an image set differs from what the cache's index held before, told by content.

    Attributes:
        new: Paths that were not there before, with bytes that no path lost; further copies of an image among them.
        renamed: Paths with the bytes of a path that lost them: renamed, or moved to another class or part.
        changed: Paths with other bytes than before that are not those of a renamed image.
        removed: Paths that are gone with their bytes.
    """

    new: int
    renamed: int
    changed: int
    removed: int

    def __bool__(self) -> bool:
        return bool(self.new or self.renamed or self.changed or self.removed)

    @classmethod
    def between(cls, before: Iterable[Entry], now: Iterable[Entry]) -> "Changes":
        """Compare two listings of an image set, the older one first."""
        old, new = ({(entry.path, entry.digest) for entry in entries} for entries in (before, now))
        gone, come = old - new, new - old
        renamed = Counter(digest for _, digest in gone) & Counter(digest for _, digest in come)
        lost, found = ({path for path, digest in side if digest not in renamed} for side in (gone, come))
        changed = len(lost & found)
        return cls(
            new=len(come) - renamed.total() - changed,
            renamed=renamed.total(),
            changed=changed,
            removed=len(gone) - renamed.total() - changed,
        )

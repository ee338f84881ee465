"""Pruning: a cache gives back the room of the rows that nothing needs any more."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from cache.atomic import human_size, remove_file
from cache.errors import ManyheadsError
from cache.feature_cache import FeatureCache
from cache.garbage import no_garbage
from cache.index import Listing, read_listing, write_index
from cache.lock import writing
from cache.places import places, require_held
from cache.progress import Steps, unwatched
from cache.recipe import Recipe
from cache.shard import Shard, read_rows, write_shard

# Shards are rewritten in rounds, each with an index of its own: at most so many, so that no more than a twentieth of
# what is rewritten lies there twice; and none smaller than so many shards.
ROUNDS = 20
LEAST_IN_A_ROUND = 16


class StillTooLarge(ManyheadsError):
    """A cache takes more than it may although nothing unused is left in it.

    Attributes:
        result: What was pruned all the same.
    """

    def __init__(self, message: str, result: "Pruning") -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Pruning:
    """What `prune` did, or would do.

    Attributes:
        path: The cache's folder.
        dry_run: Whether nothing was done, and the figures are what to expect.
        unused: Features that were dropped, since no image of the index needs them.
        features: Features that stay.
        unused_left: Those of them that could be dropped as well, where a smaller size was not asked for.
        removed: Shards that are gone with all that they held.
        rewritten: Shards that were replaced by a smaller one.
        freed: Bytes that are free now.
        size: Bytes that the cache takes now.
    """

    path: Path
    dry_run: bool
    unused: int
    features: int
    unused_left: int
    removed: int
    rewritten: int
    freed: int
    size: int


@dataclass(frozen=True)
class Surplus:
    """A shard that holds more than is needed.

    Attributes:
        shard: The shard.
        rows: Its rows that are needed.
        failures: Its failures that are needed: digest -> reason.
        copies: Whether it has rows that stand in a shard before it as well.
        size: Bytes that are free, at least, once it is replaced by what is needed of it; about, if it is packed.
    """

    shard: Shard
    rows: Sequence[int]
    failures: Mapping[str, str]
    copies: bool
    size: int

    @property
    def is_all(self) -> bool:
        """Whether nothing of the shard is needed."""
        return not self.rows and not self.failures

    @property
    def is_unread(self) -> bool:
        """Whether it can go just so: no index draws on it either."""
        return self.is_all and not self.copies

    @property
    def unused(self) -> int:
        """Rows that are not needed."""
        return len(self.shard.digests) - len(self.rows)


def unfinished(shards: Sequence[Shard], listing: Listing) -> set[str]:
    """Return the names of shards of an extraction that has not finished: they came after the index, with new images.

    What a pruning was killed over is not among them, for it holds nothing but what the index needs.
    """
    used, known = {entry.digest for entry in listing.index.entries}, set(listing.shards)
    later = [shard for shard in shards if shard.path.name not in known]
    return {shard.path.name for shard in later if not used.issuperset(shard.digests)}


def surplus(shards: Sequence[Shard], listing: Listing, recipe: Recipe) -> list[Surplus]:
    """Return the shards that hold more than the images of an index need, in the order in which to give them up.

    An image needs all of its views, each of them once: where it stands in two shards, the first one is read. Of an
    extraction that has not finished all is needed: it will go on.

    Args:
        shards: All of a cache, in the order of their names.
        listing: What the cache's index says.
        recipe: The cache's recipe.
    """
    used = {entry.digest for entry in listing.index.entries}
    reasons = {reason for _, reason in listing.index.skipped}
    later = unfinished(shards, listing)
    seen: set[tuple[str, int]] = set()
    told = set(used)  # whose failures are of no interest, or stand in a shard before
    found: list[Surplus] = []
    for shard in shards:
        keys = list(zip(shard.digests, shard.views, strict=True))
        if not shard.failures and used.issuperset(shard.digests) and seen.isdisjoint(keys):
            seen.update(keys)  # most shards are like that, and this is quick
            continue
        is_later = shard.path.name in later
        needed = [(row, key) for row, key in enumerate(keys) if is_later or key[0] in used]
        rows = [row for row, key in needed if key not in seen]
        seen.update(key for _, key in needed)
        # An index does not say whose reasons it lists: one that stays too long does no harm.
        of_interest = {name: why for name, why in shard.failures.items() if is_later or why in reasons}
        failures = {name: why for name, why in of_interest.items() if name not in told}
        told.update(failures)
        if len(rows) == len(shard.digests) and len(failures) == len(shard.failures):
            continue
        size = _freed(shard, len(rows), recipe) if rows or failures else _size(shard.path)
        found.append(Surplus(shard, rows, failures, len(rows) < len(needed), size))
    # First what goes just so: its room is had without writing anything. Then the copies, later shards before earlier
    # ones: two machines may have computed a row with other last bits, and while the shard that is read is replaced by
    # one of another name, no copy may step into its place. Then those with the most bytes to free.
    found.reverse()
    return sorted(found, key=lambda one: (not one.is_unread, not one.copies, 0 if one.copies else -one.size))


def prune(
    path: Path | str,
    *,
    max_size: int | None = None,
    dry_run: bool = False,
    tell: Callable[[str], None] = lambda text: None,
    steps: Steps = unwatched,
) -> Pruning:
    """Drop the rows that no image of a cache's index needs, and what is recorded of images that are gone.

    Killed at any moment, nothing that is needed is lost, and the same call ends the work. Who is in the middle of
    `FeatureCache.read` is not disturbed.

    Args:
        path: The cache's folder.
        max_size: Bytes that the cache may take; no more is dropped than that needs. All that is unused if not given.
        dry_run: Only say what would be dropped.
        tell: Told what will be freed before it is, and who is waited for.
        steps: Watches the work.

    Raises:
        StillTooLarge: The cache takes more than `max_size`, and all that is left is in use.
        CacheError: The folder is no cache, has no index yet or lacks features that its index needs, or is damaged.
        NoRoom: The disk is full or read-only; what was freed until then is free.
    """
    cache = FeatureCache.open(path)
    plan = _Plan(cache, max_size)
    result = plan.result(plan.chosen, sum(one.size for one in plan.chosen), dry_run)
    if plan.chosen and not dry_run:
        with writing(cache.path, tell):
            cache.clean()
            plan = _Plan(cache, max_size)  # another process may have written meanwhile
            if plan.chosen:
                tell(plan.announcement)
            done = plan.carry_out(steps)
            freed = plan.size - cache.size()
        result = replace(plan.result(done, freed), size=cache.size())  # without the lock's own file
    if max_size is not None and result.size > max_size:
        raise StillTooLarge(
            f"{cache.path} {'would still take' if dry_run else 'takes'} {human_size(result.size)}, more than the "
            f"{human_size(max_size)} asked for: all {result.features} features that are left are in use. Allow more, "
            "take images out of the set and run the same `manyheads extract` again, or extract into a new cache with "
            "fewer --views or with --store float16.",
            result,
        )
    return result


class _Plan:
    """What is to be dropped from a cache as it stands now."""

    def __init__(self, cache: FeatureCache, max_size: int | None) -> None:
        self.cache, self.max_size = cache, max_size
        with no_garbage():
            self.listing = read_listing(cache.path / "index.h5", cache.recipe)
            shards = cache.shards()
            plain = [(entry.digest, 0) for entry in self.listing.index.entries]
            require_held(places(shards, plain), plain, cache.path)
            self.standing = {shard.path.name: shard for shard in shards}
            self.unfinished = unfinished(shards, self.listing)
            self.features = sum(len(shard.digests) for shard in shards)
            self.size = cache.size()
            self.surplus = surplus(shards, self.listing, cache.recipe)
            self.chosen = self._enough(self.surplus)

    @property
    def announcement(self) -> str:
        """What will be done, in one sentence."""
        expected = self.result(self.chosen, sum(one.size for one in self.chosen))
        return (
            f"{human_size(expected.freed)} of the {human_size(self.size)} in {self.cache.path} will be freed: "
            f"{expected.unused} of {self.features} features are needed by no image of the set; shards to remove: "
            f"{expected.removed}, to rewrite: {expected.rewritten}"
        )

    def result(self, done: Sequence[Surplus], freed: int, dry_run: bool = False) -> Pruning:
        """Sum up what was done, or would be."""
        unused = sum(one.unused for one in done)
        removed = sum(one.is_all for one in done)
        return Pruning(
            path=self.cache.path,
            dry_run=dry_run,
            unused=unused,
            features=self.features - unused,
            unused_left=sum(one.unused for one in self.surplus) - unused,
            removed=removed,
            rewritten=len(done) - removed,
            freed=freed,
            size=self.size - freed,
        )

    def carry_out(self, steps: Steps) -> list[Surplus]:
        """Drop what is chosen, round by round, and return it; more if less was freed than expected."""
        most = max(LEAST_IN_A_ROUND, len(self.chosen) // ROUNDS)
        left, done = self.surplus, []
        with steps("pruning", len(self.chosen), "shards") as advance:
            while chosen := self._enough(left):
                one_round = chosen[: sum(one.is_unread for one in chosen) or most]
                self._replace(one_round)
                done += one_round
                left = left[len(one_round) :]
                advance(len(one_round))
        return done

    def _enough(self, left: list[Surplus]) -> list[Surplus]:
        """Return as many of the first ones as are needed to make the cache small enough."""
        if self.max_size is None:
            return left
        excess = self.cache.size() - self.max_size
        freed = accumulate((one.size for one in left), initial=0)
        return [one for one, before in zip(left, freed, strict=False) if before < excess]

    def _replace(self, shards: Sequence[Surplus]) -> None:
        """Replace shards by smaller ones: first these are written, then the index, and only then the old ones go."""
        smaller = [(one.shard.path.name, self._smaller(one)) for one in shards]
        new = {shard.path.name: shard for _, shard in smaller if shard}
        self.unfinished |= {shard.path.name for old, shard in smaller if shard and old in self.unfinished}
        gone = [one.shard.path for one in shards if one.shard.path.name not in new]
        self.standing |= new
        for path in gone:
            del self.standing[path.name]
        if not all(one.is_unread for one in shards):
            standing = [self.standing[name] for name in sorted(self.standing)]
            # It knows the old ones as well: killed before they are gone, one must not take them for an extraction's.
            known = {*self.standing, *(path.name for path in gone)} - self.unfinished
            write_index(self.cache.path / "index.h5", self.listing.index, self.cache.recipe, standing, known)
        for path in gone:
            remove_file(path)

    def _smaller(self, one: Surplus) -> Shard | None:
        """Write a shard of the rows that are needed, if any are."""
        if one.is_all:
            return None
        shard, rows = one.shard, list(one.rows)
        features = np.empty((len(shard.digests), self.cache.recipe.dimension), dtype=self.cache.recipe.storage)
        read_rows(shard, features)
        digests, views = [shard.digests[row] for row in rows], [shard.views[row] for row in rows]
        return write_shard(
            shard.path.parent, self.cache.recipe, digests, views, features[rows], one.failures, shard.packed
        )


def _freed(shard: Shard, kept: int, recipe: Recipe) -> int:
    """Return the bytes that are free once a shard is replaced by one with so many of its rows."""
    # Of rows the numbers alone: names and checksums make up for what the index may grow.
    dropped = len(shard.digests) - kept
    plain = dropped * recipe.row_bytes
    return min(plain, _size(shard.path) * dropped // len(shard.digests)) if shard.packed else plain


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):  # somebody else has pruned it meanwhile
        return path.stat().st_size
    return 0

"""Verification: every byte of a cache is read, and all that is wrong is told at once."""

import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cache.atomic import remove_file
from cache.files import Damaged, FileError, Foreign, Missing, read_file
from cache.hdf5 import composing, unsealed
from cache.index import KIND as INDEX
from cache.index import WRITER, Listing, fill, read_listing
from cache.lock import writing
from cache.progress import Steps, unwatched
from cache.recipe import Recipe, RecipeFile
from cache.shard import KIND as SHARD
from cache.shard import Shard, check_shard, held_views, read_shard, shard_paths

KNOWN = ("recipe.json", "index.h5", "shards")


@dataclass(frozen=True)
class Damage:
    """What is wrong with one file of a cache.

    Attributes:
        file: Its path relative to the cache.
        what: What is wrong, as the rest of a sentence that begins with the file.
        mend: What to do, in whole sentences.
        droppable: Whether `repair` removes the file. What is missing or cannot be opened it leaves alone.
    """

    file: str
    what: str
    mend: str
    droppable: bool


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        path: The cache's folder.
        finished: Whether there is an index, so that heads can be fitted.
        shards: Shards that are whole.
        rows: Features in them, of all views.
        images: Images of the index.
        lacking: Those of them whose features stand in no shard that is whole.
        size: Bytes that were read.
        damage: What is wrong, by file.
        notes: What is odd and does no harm.
    """

    path: Path
    finished: bool
    shards: int
    rows: int
    images: int
    lacking: int
    size: int
    damage: tuple[Damage, ...]
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damage


def verify(path: Path | str, *, steps: Steps = unwatched) -> Verification:
    """Read a cache whole and tell all that is wrong with it; nothing is written, and no one is waited for.

    Args:
        path: The cache's folder.
        steps: Watches the work.

    Raises:
        CacheError: The folder is no cache, or one of another format version.
    """
    return _Inspection(Path(path)).run(steps)


def repair(path: Path | str, found: Verification, tell: Callable[[str], None] = lambda text: None) -> tuple[str, ...]:
    """Remove the damaged files that were found, if they are damaged still, so that `extract` fills the holes.

    Args:
        path: The cache's folder.
        found: What `verify` found.
        tell: Told which other process is waited for.

    Returns:
        The files that are gone, relative to the cache.

    Raises:
        CacheError: The folder is no cache any more.
        NoRoom: The folder cannot be written to.
    """
    suspects = {damage.file for damage in found.damage if damage.droppable}
    if not suspects:
        return ()
    path = Path(path)
    with writing(path, tell):
        now = _Inspection(path, suspects).run(unwatched)
        dropped = tuple(damage.file for damage in now.damage if damage.droppable and damage.file in suspects)
        for file in dropped:
            remove_file(path / file)
    return dropped


class _Inspection:
    """A look at a whole cache; of the shards, `thorough` names those whose every byte is read, all if not given."""

    def __init__(self, path: Path, thorough: Collection[str] | None = None) -> None:
        self.path, self.folder, self.thorough = path, path / "shards", thorough
        self.recipe: Recipe | None = None
        self.shards: dict[str, Shard | None] = {}  # by name; None for one that is not whole
        self.damage: dict[str, Damage] = {}  # by file
        self.foreign: set[str] = set()  # those of them that are whole, but of another cache
        self.size = 0

    def run(self, steps: Steps) -> Verification:
        """Look at everything."""
        listing = None
        try:
            self.recipe = RecipeFile.read(self.path).recipe
        except FileError as error:
            self._add(error)
        try:
            with steps("verifying", len(shard_paths(self.folder)), "shards") as advance:
                self._read_shards(advance)
                listing = self._read_index()
                # Those that a writer has added meanwhile: the index may be newer than the first look.
                self._read_shards(advance)
            if listing and self.recipe:
                self._compare(listing, self.recipe)
        except FileError as error:  # the folder cannot be listed
            self._add(error)
        self._judge_foreign()
        return self._summary(listing)

    def _read_shards(self, advance: Callable[[int], None]) -> None:
        for path in shard_paths(self.folder):
            if path.name in self.shards:
                continue
            try:
                self.shards[path.name] = self._shard(path)
                self.size += path.stat().st_size
            except (Missing, FileNotFoundError):
                continue  # a writer has replaced it since it was listed
            except FileError as error:
                self.shards[path.name] = None
                self._add(error)
            advance(1)

    def _shard(self, path: Path) -> Shard | None:
        if self.recipe is None:
            with unsealed(path, SHARD, ""):
                return None
        thorough = self.thorough is None or f"shards/{path.name}" in self.thorough
        return (check_shard if thorough else read_shard)(path, self.recipe)

    def _read_index(self) -> Listing | None:
        path = self.path / "index.h5"
        try:
            if self.recipe:
                listing = read_listing(path, self.recipe)
                self.size += path.stat().st_size
                return listing
            with unsealed(path, INDEX, ""):
                pass
        except (Missing, FileNotFoundError):
            pass
        except FileError as error:
            self._add(error)
        return None

    def _compare(self, listing: Listing, recipe: Recipe) -> None:
        """Compare where the index says that features stand, and what other tools read in it, with the shards."""
        for name, count in Counter(name for name, _ in listing.rows if name not in self.shards).items():
            again = "Run the same `manyheads extract` again: only what no other shard holds is computed."
            self._add(Missing(self.folder / name, f"is missing: {count} rows of the index stand in it", again))
        wrong = 0
        for (name, row), entry in zip(listing.rows, listing.index.entries, strict=True):
            if shard := self.shards.get(name):
                there = row in range(len(shard.digests))
                wrong += not there or (shard.digests[row], shard.views[row]) != (entry.digest, 0)
        if wrong:
            self._add_index(f"shows features of other images or views in {wrong} of its rows")
        elif listing.writer == WRITER and all(self.shards.get(name) for name, _ in listing.rows):
            image = io.BytesIO()
            with composing(image, INDEX) as file:
                fill(file, listing, recipe, [shard for shard in self.shards.values() if shard])
            path = self.path / "index.h5"
            with suppress(Missing):
                # It may be another one by now.
                if image.getbuffer() != read_file(path, "", sys.maxsize) and read_listing(path, recipe) == listing:
                    self._add_index("shows other tools something else than it lists")

    def _add_index(self, what: str) -> None:
        mend = "`, then the same `manyheads extract` again: it rewrites the index from the shards."
        self._add(Damaged(self.path / "index.h5", what, f"Run `manyheads cache verify {self.path} --repair{mend}"))

    def _add(self, error: FileError) -> None:
        file = error.path.relative_to(self.path).as_posix()
        # Without the recipe, nothing tells a damaged file from a whole one of another format.
        droppable = isinstance(error, Damaged) and self.recipe is not None
        self.damage[file] = Damage(file, error.what, error.mend or "Mend recipe.json first.", droppable)
        if isinstance(error, Foreign):
            self.foreign.add(file)

    def _judge_foreign(self) -> None:
        """Where no whole shard is of the recipe, perhaps that is what does not belong here: the shards stay."""
        if any(self.shards.values()) or not self.shards:
            return
        mend = (
            "No whole shard is of that recipe: restore the recipe.json that belongs to the shards, or move them back "
            "to the cache that they belong to."
        )
        for file in self.foreign:
            self.damage[file] = replace(self.damage[file], mend=mend, droppable=False)

    def _summary(self, listing: Listing | None) -> Verification:
        entries = listing.index.entries if listing else ()
        whole = [shard for shard in self.shards.values() if shard]
        held = held_views(whole)
        return Verification(
            path=self.path,
            finished=os.path.lexists(self.path / "index.h5"),
            shards=len(whole),
            rows=sum(len(shard.digests) for shard in whole),
            images=len(entries),
            lacking=sum(0 not in held.get(entry.digest, ()) for entry in entries),
            size=self.size,
            damage=tuple(self.damage[file] for file in sorted(self.damage)),
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        if not os.path.lexists(self.path / "index.h5"):
            yield "there is no index: the extraction did not finish; run the same `manyheads extract` again"
        paths: list[Path] = []
        for folder in (self.path, self.folder):
            with suppress(OSError):  # of a folder that cannot be listed, more is told elsewhere
                paths += sorted(folder.iterdir())
        for path in paths:
            file = path.relative_to(self.path).as_posix()
            if path.name.endswith(".tmp") and path.name.startswith("."):
                yield f"{file} is being written, or was when its process was killed: then the next `extract` removes it"
            elif not path.name.startswith(".") and file not in KNOWN and path.suffix != ".h5":
                yield f"{file} is no part of a cache and is passed over"

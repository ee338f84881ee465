"""The feature cache: one folder with the features of one image set under one recipe."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.atomic import remove_leftovers
from cache.errors import CacheError
from cache.files import Missing
from cache.index import Index, Listing, read_index, write_index
from cache.places import places, require_held
from cache.recipe import Recipe, RecipeFile
from cache.shard import Shard, complete_views, read_rows, read_shard, shard_paths, write_shard


class FeatureCache:
    """A feature cache on disk.

    Attributes:
        path: The folder.
        recipe: What the features are; fixed for the life of the folder.
        made_from: What the recipe was made from (see `RecipeFile`).
        compress: Whether shards that are added are packed; a cache may hold both kinds, of the same features.
    """

    def __init__(self, path: Path, recipe_file: RecipeFile) -> None:
        self.path = path
        self.recipe = recipe_file.recipe
        self.made_from = recipe_file.made_from
        self.compress = False

    @classmethod
    def open(cls, path: Path | str) -> "FeatureCache":
        """Open a cache that exists.

        Raises:
            CacheError: The folder is no feature cache.
        """
        return cls(Path(path), RecipeFile.read(Path(path)))

    @classmethod
    def create(cls, path: Path | str, recipe: Recipe, made_from: Mapping[str, str]) -> "FeatureCache":
        """Make a cache in a folder that is new, empty, or a cache already (whose `made_from` is then renewed).

        Raises:
            CacheError: The folder holds other things.
            RecipeMismatch: It is a cache of another recipe.
            NoRoom: The folder cannot be written to.
        """
        path = Path(path)
        if is_cache(path):
            cls.open(path).recipe.require_same(recipe, path)
        else:
            require_free(path)
        recipe_file = RecipeFile(recipe, made_from)
        recipe_file.write(path)
        return cls(path, recipe_file)

    def clean(self) -> int:
        """Remove what killed processes left unfinished; say how many files there were."""
        return sum(remove_leftovers(folder) for folder in (self.path, self.path / "shards"))

    def shards(self, listing: Listing | None = None) -> list[Shard]:
        """Read what every shard holds, in the order of their names.

        Args:
            listing: What the index says, to be believed of those that it lists whole and whose files have their size.

        Raises:
            CacheError: A shard is damaged or of another recipe.
        """
        known = listing.described(self.path / "shards") if listing else {}

        def read(path: Path) -> Shard:
            if listing and path.name in known and _size(path) == listing.whole[path.name].size:
                return known[path.name]
            return read_shard(path, self.recipe)

        while True:
            paths = shard_paths(self.path / "shards")
            try:
                return list(map(read, paths))
            except Missing:
                if shard_paths(self.path / "shards") == paths:
                    raise
                # `manyheads cache prune` took it away after writing what is in use of it into another one.

    def add_shard(
        self,
        digests: Sequence[str],
        views: Sequence[int],
        features: npt.NDArray[np.floating],
        failures: Mapping[str, str],
    ) -> Shard:
        """Write one more shard: (n,) digests and views, (n, D) features, digest -> reason of images that gave none.

        Raises:
            NoRoom: The disk is full or read-only.
        """
        return write_shard(self.path / "shards", self.recipe, digests, views, features, failures, self.compress)

    def views(self) -> Counter[str]:
        """Return how many views of each image there are: digest -> n, where views 0 to n - 1 are all in the cache.

        Raises:
            CacheError: A shard is damaged or of another recipe.
        """
        return complete_views(self.shards())

    def has_index(self) -> bool:
        """Whether an extraction into this cache has finished."""
        return (self.path / "index.h5").exists()

    def index(self) -> Index:
        """Read which image is which row.

        Raises:
            CacheError: The index is missing, damaged, or belongs to another recipe.
        """
        return read_index(self.path / "index.h5", self.recipe)

    def write_index(self, index: Index) -> None:
        """Write which image is which row, atomically; readers see the old index or the new one.

        Raises:
            CacheError: A feature is not in the cache, or a shard is damaged.
            NoRoom: The disk is full or read-only.
        """
        write_index(self.path / "index.h5", index, self.recipe, self.shards())

    def read(
        self,
        digests: Sequence[str],
        out: npt.NDArray[np.floating] | None = None,
        advance: Callable[[int], None] = lambda rows: None,
        views: Sequence[int] | npt.NDArray[np.integer] | None = None,
    ) -> npt.NDArray[np.floating]:
        """Read features by the digests of their images, shard by shard and checked; no shard is read twice.

        Args:
            digests: One for each wanted row, in any order, repeated or not.
            out: Where to put them, (len(digests), D) of any float format; a new float32 array if not given.
            advance: Told how many more rows are read.
            views: Number of the view for each wanted row; 0, the evaluation transform, for all if not given.

        Raises:
            CacheError: A feature is not in the cache, or its shard is damaged.
            ValueError: There are not as many views as digests.
        """
        keys = list(zip(digests, [0] * len(digests) if views is None else views, strict=True))
        if out is None:
            out = np.empty((len(digests), self.recipe.dimension), dtype=np.float32)
        left: Iterable[int] = range(len(keys))
        while left:
            left = self._read(keys, left, out, advance)
        return out

    def _read(
        self,
        keys: Sequence[tuple[str, int]],
        left: Iterable[int],
        out: npt.NDArray[np.floating],
        advance: Callable[[int], None],
    ) -> list[int]:
        """Read the rows at some positions; return those of shards that `cache prune` has replaced meanwhile."""
        shards = self.shards()
        asked = [keys[position] for position in left]
        place = places(shards, asked)
        require_held(place, asked, self.path)
        wanted: dict[int, list[tuple[int, int]]] = {}
        for position in left:
            number, row = place[keys[position]]
            wanted.setdefault(number, []).append((position, row))
        replaced: list[int] = []
        # A whole shard is read even for a few rows, since the seal is over all of it; all into the same memory.
        most = max((len(shards[number].digests) for number in wanted), default=0)
        memory = np.empty((most, self.recipe.dimension), dtype=self.recipe.storage)
        for number, pairs in wanted.items():
            positions, rows = zip(*pairs, strict=True)
            block = memory[: len(shards[number].digests)]
            try:
                read_rows(shards[number], block)
            except Missing:
                replaced.extend(positions)
                continue
            out[list(positions)] = block[list(rows)]
            advance(len(pairs))
        return replaced

    def size(self) -> int:
        """Return the bytes that the cache's files take."""
        size = 0
        for folder, _, names in os.walk(self.path):
            for name in names:
                with suppress(OSError):  # it went away meanwhile
                    size += Path(folder, name).lstat().st_size
        return size


def _size(path: Path) -> int | None:
    found = os.lstat(path) if os.path.lexists(path) else None
    return found.st_size if found and stat.S_ISREG(found.st_mode) else None


def is_cache(path: Path) -> bool:
    """Whether a folder is a feature cache, of this format or another."""
    return os.path.isfile(path / "recipe.json")  # noqa: PTH113 - Path's raises where a folder may not be looked at


def require_free(path: Path) -> None:
    """Refuse to make a cache where there are other things.

    Raises:
        CacheError: The path is a file, or a folder that is not empty (hidden files aside).
    """
    if path.exists() and (not path.is_dir() or any(not _is_hidden(entry) for entry in path.iterdir())):
        raise CacheError(
            f"{path} exists and is not a feature cache. Name a new or empty folder, so that nothing is mixed up."
        )


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")

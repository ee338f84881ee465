"""The index: which image is which row; the one file of a cache that other tools open."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from cache.files import Foreign, Missing
from cache.garbage import no_garbage
from cache.hdf5 import composed, dataset, unsealed, writable
from cache.mapping import map_features
from cache.places import places, require_held
from cache.recipe import Recipe
from cache.shard import Shard

KIND = "index"
WRITER = f"manyheads 2, h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}"
_SHARD = re.compile(r"[0-9a-f]{24}\.h5")


@dataclass(frozen=True)
class Entry:
    """One image of an image set: its relative path, its class, the digest of its bytes, and its part if it has one."""

    path: str
    label: str
    digest: str
    part: str = ""


@dataclass(frozen=True)
class Index:
    """Which image is which row of a cache.

    Attributes:
        entries: One a row, in the image set's order.
        classes: Class names, in the order of the stored integer labels.
        skipped: (path, reason) of images that could not be read and have no row.
        images: The folder that the image set was read from.
        recipe_digest: Digest of the cache's recipe.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    images: str
    recipe_digest: str

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Integer label of each row, (N,): positions in `classes`."""
        number = {name: position for position, name in enumerate(self.classes)}
        return np.array([number[entry.label] for entry in self.entries], dtype=np.int64)

    @property
    def has_parts(self) -> bool:
        """Whether the image set came split into train, val and test."""
        return any(entry.part for entry in self.entries)


class Place(NamedTuple):
    """Where a feature stands: the name of the shard, and the row in it."""

    shard: str
    row: int


class Whole(NamedTuple):
    """A shard of which the rows of an index say all that it holds: bytes of its file, and whether it is packed."""

    size: int
    packed: bool


@dataclass(frozen=True)
class Listing:
    """All that an index file says.

    Attributes:
        index: Which image is which row.
        rows: Where `features` looks for each row.
        shards: Names of the shards that there were when it was written, sorted. One that it does not name came later,
            from an extraction that has not finished.
        writer: What wrote the file: other versions write other bytes for the same listing.
        whole: Those of the shards that hold what `rows` finds in them and nothing else, by name: what they hold is
            known without opening them.
    """

    index: Index
    rows: tuple[Place, ...]
    shards: tuple[str, ...]
    writer: str
    whole: Mapping[str, Whole] = field(default_factory=dict)

    def described(self, folder: Path) -> dict[str, Shard]:
        """Return what the shards that are listed whole hold, by name, as if they were read in CACHE/shards."""
        held: dict[str, dict[int, str]] = {name: {} for name in self.whole}
        for (name, row), entry in zip(self.rows, self.index.entries, strict=True):
            if name in held:
                held[name][row] = entry.digest
        return {
            name: Shard(folder / name, tuple(map(rows.__getitem__, sorted(rows))), (0,) * len(rows), {}, whole.packed)
            for (name, whole), rows in zip(self.whole.items(), held.values(), strict=True)
        }


def write_index(
    path: Path, index: Index, recipe: Recipe, shards: Sequence[Shard], known: Iterable[str] | None = None
) -> None:
    """Write `index.h5` atomically.

    Args:
        path: CACHE/index.h5.
        index: What to write.
        recipe: The cache's recipe.
        shards: The shards that hold the features, in CACHE/shards.
        known: Names of the shards that are no unfinished extraction's; those of `shards` if not given.

    Raises:
        CacheError: A feature stands in none of the shards.
        NoRoom: The disk is full or read-only.
    """
    with no_garbage():
        plain = [(entry.digest, 0) for entry in index.entries]
        place = places(shards, plain)
        require_held(place, plain, path.parent)
        rows = tuple(Place(shards[number].path.name, row) for number, row in map(place.__getitem__, plain))
        names = {shard.path.name for shard in shards} if known is None else {*known, *(place.shard for place in rows)}
        with composed(path, KIND) as file:
            fill(file, Listing(index, rows, tuple(sorted(names)), WRITER, _whole(rows, shards)), recipe, shards)


def _whole(rows: Iterable[Place], shards: Iterable[Shard]) -> dict[str, Whole]:
    """Return the shards that hold nothing but what stands in rows of an index."""
    drawn: dict[str, set[int]] = {}
    for name, row in rows:
        drawn.setdefault(name, set()).add(row)
    whole: dict[str, Whole] = {}
    for shard in shards:
        if not shard.failures and drawn.get(shard.path.name) == set(range(len(shard.digests))):
            with suppress(FileNotFoundError):  # somebody takes it away at this moment
                whole[shard.path.name] = Whole(shard.path.stat().st_size, shard.packed)
    return whole


def fill(file: h5py.File, listing: Listing, recipe: Recipe, shards: Iterable[Shard]) -> None:
    """Write all that stands in an index file.

    Whoever changes what this writes for the same listing raises the format version.

    Args:
        file: A new file.
        listing: What to write.
        recipe: The cache's recipe.
        shards: Those that the listing looks into, and perhaps others.
    """
    map_features(file, listing.rows, recipe, {shard.path.name: len(shard.digests) for shard in shards})
    _write_for_others(file, listing.index)
    file["listing"] = np.bytes_(json.dumps(_as_dict(listing)))


def read_index(path: Path, recipe: Recipe) -> Index:
    """Read `index.h5`.

    Raises:
        FileError: It is missing, damaged, no index or of another recipe.
    """
    return read_listing(path, recipe).index


def read_listing(path: Path, recipe: Recipe) -> Listing:
    """Read all that `index.h5` says.

    Raises:
        FileError: It is missing, damaged, no index or of another recipe.
    """
    mend = "Run the same `manyheads extract` again: it rewrites the index from the shards."
    try:
        with unsealed(path, KIND, mend) as file:
            # Nothing of what other tools read: HDF5 follows its pointers wherever somebody made them lead.
            listing = _from_dict(json.loads(dataset(file, "listing")[()]))
    except Missing:
        start = "has no index yet: its extraction did not finish"
        again = "Run the same `manyheads extract` again; what is computed already is kept."
        raise Missing(path.parent, start, again) from None
    found = listing.index.recipe_digest
    if found != recipe.digest:
        raise Foreign(
            path,
            f"belongs to recipe {found[:12]}…, but recipe.json beside it is {recipe.digest[:12]}…",
            "Files of two caches were mixed; run the `manyheads extract` that made this cache again, or extract into a "
            "new folder.",
        )
    return listing


def _as_dict(listing: Listing) -> dict[str, Any]:
    """Return a listing as JSON can hold it."""
    index = listing.index
    number = {name: position for position, name in enumerate(listing.shards)}
    return {
        "writer": listing.writer,
        "recipe": index.recipe_digest,
        "images": index.images,
        "classes": index.classes,
        "skipped": [text for pair in index.skipped for text in pair],
        "shards": listing.shards,
        "paths": [entry.path for entry in index.entries],
        "labels": index.labels.tolist(),
        "digests": [entry.digest for entry in index.entries],
        "parts": [entry.part for entry in index.entries],
        "shard": [number[place.shard] for place in listing.rows],
        "row": [place.row for place in listing.rows],
        **({"whole": listing.whole} if listing.whole else {}),
    }


def _from_dict(values: Any) -> Listing:
    """Read back what `_as_dict` gave.

    Raises:
        ValueError: A value is of another type.
        KeyError: A value is missing.
    """
    for name in ("writer", "recipe", "images"):
        _require(type(values[name]) is str, name)
    for name in ("classes", "skipped", "shards", "paths", "digests", "parts"):
        _require(type(values[name]) is list and set(map(type, values[name])) <= {str}, name)
    for name in ("labels", "shard", "row"):
        _require(type(values[name]) is list and set(map(type, values[name])) <= {int}, name)
    classes, skipped, names, whole = values["classes"], values["skipped"], values["shards"], values.get("whole", {})
    _require(all(map(_SHARD.fullmatch, names)), "shards")
    for name, of in (("labels", classes), ("shard", names)):
        _require(not values[name] or 0 <= min(values[name]) <= max(values[name]) < len(of), name)
    _require(type(whole) is dict and whole.keys() <= set(names) and all(map(_is_whole, whole.values())), "whole")
    images = zip(
        values["paths"], map(classes.__getitem__, values["labels"]), values["digests"], values["parts"], strict=True
    )
    index = Index(
        entries=tuple(starmap(Entry, images)),
        classes=tuple(classes),
        skipped=tuple(zip(skipped[::2], skipped[1::2], strict=True)),
        images=values["images"],
        recipe_digest=values["recipe"],
    )
    rows = tuple(map(Place._make, zip(map(names.__getitem__, values["shard"]), values["row"], strict=True)))
    _require(len(rows) == len(index.entries), "rows")
    return Listing(index, rows, tuple(names), values["writer"], {name: Whole(*one) for name, one in whole.items()})


def _is_whole(value: object) -> bool:
    return isinstance(value, list) and list(map(type, value)) == [int, bool]


def _require(condition: bool, name: str) -> None:
    if not condition:
        raise ValueError(f"its {name} are not what an index lists")


def _write_for_others(file: h5py.File, index: Index) -> None:
    """Write what other tools look for, as variable-length UTF-8 strings."""
    file.attrs["recipe"] = index.recipe_digest
    file.attrs["images"] = writable(index.images)
    labels = file.create_dataset("labels", data=index.labels)
    labels.attrs.create("classes", list(map(writable, index.classes)), dtype=h5py.string_dtype())
    columns = {
        "paths": [entry.path for entry in index.entries],
        "digests": [entry.digest for entry in index.entries],
        "skipped/paths": [path for path, _ in index.skipped],
        "skipped/reasons": [reason for _, reason in index.skipped],
    }
    if index.has_parts:
        columns["parts"] = [entry.part for entry in index.entries]
    for name, texts in columns.items():
        file.create_dataset(name, data=np.array(list(map(writable, texts)), dtype=object), dtype=h5py.string_dtype())

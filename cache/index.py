"""The index: which image is which row; the one file of a cache that other tools open."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from cache.errors import CacheError
from cache.hdf5 import composed, opened, read_strings, write_strings
from cache.recipe import Recipe
from cache.shard import Shard

KIND = "manyheads index"


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


def write_index(path: Path, index: Index, recipe: Recipe, shards: Sequence[Shard]) -> None:
    """Write `index.h5` atomically.

    Args:
        path: CACHE/index.h5.
        index: What to write.
        recipe: The cache's recipe.
        shards: The shards that hold the features, in CACHE/shards.

    Raises:
        CacheError: A feature stands in none of the shards.
        NoRoom: The disk is full or read-only.
    """
    plain = [(entry.digest, 0) for entry in index.entries]
    place = places(shards, plain)
    require_held(place, plain, path.parent)
    with composed(path) as file:
        file.attrs["kind"] = KIND
        file.attrs["recipe"] = index.recipe_digest
        file.attrs["images"] = index.images
        file.attrs["checksum"] = _checksum(index)
        _map_features(file, [place[row] for row in plain], recipe, shards)
        labels = file.create_dataset("labels", data=index.labels)
        labels.attrs.create("classes", list(index.classes), dtype=h5py.string_dtype())
        write_strings(file, "paths", [entry.path for entry in index.entries])
        write_strings(file, "digests", [entry.digest for entry in index.entries])
        if index.has_parts:
            write_strings(file, "parts", [entry.part for entry in index.entries])
        write_strings(file, "skipped/paths", [path for path, _ in index.skipped])
        write_strings(file, "skipped/reasons", [reason for _, reason in index.skipped])


def read_index(path: Path) -> Index:
    """Read `index.h5`.

    Raises:
        CacheError: It is missing, damaged or not an index.
    """
    mend = "Run the same `manyheads extract` again: it rewrites the index from the shards."
    if not path.exists():
        raise CacheError(
            f"{path.parent} has no index yet: its extraction did not finish. Run the same `manyheads extract` again; "
            "what is computed already is kept."
        )
    with opened(path, mend) as file:
        if file.attrs.get("kind") != KIND:
            raise CacheError(f"{path} is not the index of a feature cache. {mend}")
        classes = tuple(str(name) for name in file["labels"].attrs["classes"])
        paths, digests, labels = read_strings(file, "paths"), read_strings(file, "digests"), file["labels"][:]
        parts = read_strings(file, "parts") if "parts" in file else [""] * len(paths)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise CacheError(f"{path} has labels outside its {len(classes)} classes. {mend}")
        index = Index(
            entries=tuple(
                Entry(image, classes[label], digest, part)
                for image, label, digest, part in zip(paths, labels, digests, parts, strict=True)
            ),
            classes=classes,
            skipped=tuple(zip(read_strings(file, "skipped/paths"), read_strings(file, "skipped/reasons"), strict=True)),
            images=str(file.attrs["images"]),
            recipe_digest=str(file.attrs["recipe"]),
        )
        if file.attrs.get("checksum") != _checksum(index):
            raise CacheError(f"{path} is damaged: what it says of the images does not fit its checksum. {mend}")
    return index


def places(shards: Sequence[Shard], wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
    """Return where features stand: (digest, view) -> (number of the shard, row in it), of those that are wanted."""
    wanted = set(wanted)
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for number, shard in enumerate(shards):
        for row, key in enumerate(zip(shard.digests, shard.views, strict=True)):
            if key in wanted:
                found.setdefault(key, (number, row))
    return found


def require_held(
    place: Mapping[tuple[str, int], tuple[int, int]], wanted: Sequence[tuple[str, int]], cache: Path
) -> None:
    """Refuse views of images that no shard holds.

    Args:
        place: What is held.
        wanted: (digest, view) of each wanted row.
        cache: The cache's folder, for the message.

    Raises:
        CacheError: Says how many, and what to do.
    """
    missing = [key for key in wanted if key not in place]
    plain = sum(not view for _, view in missing)
    if plain:
        raise CacheError(
            f"{cache} lacks the features of {plain} of {sum(not view for _, view in wanted)} images: a shard was "
            "removed. Run the same `manyheads extract` again; only the missing ones are computed."
        )
    if missing:
        views = sorted({view for _, view in missing})
        images, of = (len({digest for digest, view in rows if view}) for rows in (missing, wanted))
        raise CacheError(
            f"{cache} lacks {_numbered(views)} of {images} of {of} images. Run `manyheads extract IMAGES {cache} "
            f"--views {views[-1] + 1}` with the options that made it, and with the --split that these images are "
            "trained by: what is there is kept, only the missing ones are computed."
        )


def _numbered(views: Sequence[int]) -> str:
    """Write numbers of views, ascending: `view 3`, `views 1 to 4`, `3 views between 1 and 9`."""
    if len(views) == 1:
        return f"view {views[0]}"
    if len(views) == views[-1] - views[0] + 1:
        return f"views {views[0]} to {views[-1]}"
    return f"{len(views)} views between {views[0]} and {views[-1]}"


def _checksum(index: Index) -> str:
    """Return SHA-256 over all that an index says: HDF5 itself has no checksum for variable-length strings."""
    entries = [(entry.path, entry.label, entry.digest, entry.part) for entry in index.entries]
    content = [index.recipe_digest, index.images, index.classes, index.skipped, entries]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _map_features(file: h5py.File, where: Sequence[tuple[int, int]], recipe: Recipe, shards: Sequence[Shard]) -> None:
    """Write the virtual dataset `features` over the shards; `where` holds each row's shard and row in it."""
    # h5py's own create_virtual_dataset stores the time, and the same content would not be the same bytes.
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_obj_track_times(False)
    # NaN, so that a shard that went missing can never pass for zeros.
    settings.set_fill_value(np.array([np.nan], dtype=recipe.storage))
    space = h5py.h5s.create_simple((len(where), recipe.dimension))
    for start, stop, number, row in _stretches(where):
        count = (stop - start, recipe.dimension)
        space.select_hyperslab((start, 0), count)
        source = h5py.h5s.create_simple((len(shards[number].digests), recipe.dimension))
        source.select_hyperslab((row, 0), count)
        settings.set_virtual(space, f"shards/{shards[number].path.name}".encode(), b"features", source)
    space.select_all()
    kind = h5py.h5t.py_create(np.dtype(recipe.storage))
    h5py.h5d.create(file.id, b"features", kind, space, settings)


def _stretches(where: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Join neighbouring rows: (start, stop, shard, first row in the shard) for each unbroken stretch."""
    joined: list[tuple[int, int, int, int]] = []
    for position, (shard, row) in enumerate(where):
        if joined:
            start, stop, last_shard, first = joined[-1]
            if shard == last_shard and row == first + stop - start:
                joined[-1] = (start, stop + 1, shard, first)
                continue
        joined.append((position, position + 1, shard, row))
    return joined

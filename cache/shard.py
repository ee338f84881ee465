"""A shard: one immutable HDF5 file with up to `SHARD_ROWS` features, each of one view of one image."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.errors import CacheError
from cache.hdf5 import composed, opened, read_strings, write_strings
from cache.recipe import Recipe

# Rows a shard: what a kill can cost at most. 128 rows of VGG16 are 12.8 MB and about half a minute on two cores.
SHARD_ROWS = 128
KIND = "manyheads shard"
DIGEST = "S64"  # SHA-256 in hexadecimal; of fixed length, so that HDF5's checksum covers it
VIEW = "<u2"
MEND = (
    "Remove what is left of it and run the same `manyheads extract` again: only the images that it held are "
    "computed anew."
)


@dataclass(frozen=True)
class Shard:
    """What a shard holds, without its features.

    Attributes:
        path: The file.
        digests: SHA-256 of the image file's bytes, one a row.
        views: Number of the view, one a row: 0 is the evaluation transform.
        failures: Digest -> reason, of images that were planned for this shard and could not be read.
    """

    path: Path
    digests: tuple[str, ...]
    views: tuple[int, ...]
    failures: Mapping[str, str]


def write_shard(
    folder: Path,
    recipe: Recipe,
    digests: Sequence[str],
    views: Sequence[int],
    features: npt.NDArray[np.floating],
    failures: Mapping[str, str],
) -> Shard:
    """Write one shard under its final name, complete and synced.

    Args:
        folder: The cache's `shards` folder.
        recipe: The cache's recipe.
        digests: Digest of each row's image, (n,).
        views: Number of each row's view, (n,), each at most 65535.
        features: (n, D), in any float format; stored in the recipe's.
        failures: Digest -> reason of the planned images that gave no row.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    rows = (f"{digest} {view}" for digest, view in zip(digests, views, strict=True))
    content = "\n".join([recipe.digest, *rows, *sorted(failures)])
    path = folder / f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.h5"
    with composed(path) as file:
        file.attrs["kind"] = KIND
        file.attrs["recipe"] = recipe.digest
        # One row a chunk: any row costs one read. The checksum makes HDF5 refuse a flipped byte.
        file.create_dataset(
            "features",
            data=np.ascontiguousarray(features, dtype=recipe.storage),
            chunks=(1, recipe.dimension) if len(digests) else None,
            fletcher32=bool(digests),
        )
        for name, values in (("digests", np.array(digests, dtype=DIGEST)), ("views", np.array(views, dtype=VIEW))):
            chunks = (len(values),) if len(values) else None
            file.create_dataset(name, data=values, chunks=chunks, fletcher32=bool(chunks))
        write_strings(file, "failures/digests", list(failures))
        write_strings(file, "failures/reasons", list(failures.values()))
    return Shard(path, tuple(digests), tuple(views), dict(failures))


def read_shard(path: Path, recipe: Recipe) -> Shard:
    """Read what a shard holds.

    Raises:
        CacheError: The file is damaged, no shard, or of another recipe.
    """
    with opened(path, MEND) as file:
        if file.attrs.get("kind") != KIND or file.attrs.get("recipe") != recipe.digest:
            raise CacheError(f"{path} is not a shard of this cache's recipe. Remove it, then run `manyheads extract`.")
        # Interned, since the rows of many views have few different digests.
        digests = tuple(sys.intern(digest.decode("ascii")) for digest in file["digests"][:])
        features, numbers = file["features"], file["views"]
        if features.shape != (len(digests), recipe.dimension) or features.dtype != recipe.storage:
            raise CacheError(
                f"{path} holds {features.shape} numbers for {len(digests)} images, expected "
                f"{recipe.dimension} each. Remove it, then run `manyheads extract` again."
            )
        if numbers.shape != (len(digests),) or numbers.dtype != VIEW:
            raise CacheError(
                f"{path} holds {numbers.shape} {numbers.dtype} numbers of views for {len(digests)} rows. "
                "Remove it, then run `manyheads extract` again."
            )
        views = tuple(numbers[:].tolist())
        failed = read_strings(file, "failures/digests")
        failures = dict(zip(failed, read_strings(file, "failures/reasons"), strict=True))
    return Shard(path, digests, views, failures)


def held_views(shards: Iterable[Shard]) -> dict[str, list[int]]:
    """Return which views of which images shards hold: digest -> numbers of its views, in no order."""
    held: dict[str, list[int]] = {}
    for shard in shards:
        for digest, view in zip(shard.digests, shard.views, strict=True):
            held.setdefault(digest, []).append(view)
    return held


def complete_views(shards: Iterable[Shard]) -> Counter[str]:
    """Return how many views of each image there are from view 0 on without a gap: digest -> number."""
    return Counter({digest: _without_gap(set(views)) for digest, views in held_views(shards).items()})


def _without_gap(views: set[int]) -> int:
    return next(number for number in range(len(views) + 1) if number not in views)


def read_rows(shard: Shard, out: npt.NDArray[np.floating]) -> None:
    """Read all features of a shard into `out`, an array (n, D) of the storage's format.

    Raises:
        CacheError: The file is missing, damaged, or a checksum does not fit.
    """
    with opened(shard.path, MEND) as file:
        if shard.digests:
            file["features"].read_direct(out)

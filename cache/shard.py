"""A shard: one immutable HDF5 file with the features of up to `SHARD_ROWS` images."""

import hashlib
from collections.abc import Mapping, Sequence
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
        failures: Digest -> reason, of images that were planned for this shard and could not be read.
    """

    path: Path
    digests: tuple[str, ...]
    failures: Mapping[str, str]


def write_shard(
    folder: Path,
    recipe: Recipe,
    digests: Sequence[str],
    features: npt.NDArray[np.floating],
    failures: Mapping[str, str],
) -> Shard:
    """Write one shard under its final name, complete and synced.

    Args:
        folder: The cache's `shards` folder.
        recipe: The cache's recipe.
        digests: Digest of each row's image, (n,).
        features: (n, D), in any float format; stored in the recipe's.
        failures: Digest -> reason of the planned images that gave no row.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    content = "\n".join([recipe.digest, *digests, *sorted(failures)])
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
        file.create_dataset(
            "digests",
            data=np.array(digests, dtype=DIGEST),
            chunks=(len(digests),) if len(digests) else None,
            fletcher32=bool(digests),
        )
        write_strings(file, "failures/digests", list(failures))
        write_strings(file, "failures/reasons", list(failures.values()))
    return Shard(path, tuple(digests), dict(failures))


def read_shard(path: Path, recipe: Recipe) -> Shard:
    """Read what a shard holds.

    Raises:
        CacheError: The file is damaged, no shard, or of another recipe.
    """
    with opened(path, MEND) as file:
        if file.attrs.get("kind") != KIND or file.attrs.get("recipe") != recipe.digest:
            raise CacheError(f"{path} is not a shard of this cache's recipe. Remove it, then run `manyheads extract`.")
        digests = tuple(digest.decode("ascii") for digest in file["digests"][:])
        if file["features"].shape != (len(digests), recipe.dimension) or file["features"].dtype != recipe.storage:
            raise CacheError(
                f"{path} holds {file['features'].shape} numbers for {len(digests)} images, expected "
                f"{recipe.dimension} each. Remove it, then run `manyheads extract` again."
            )
        failed = read_strings(file, "failures/digests")
        failures = dict(zip(failed, read_strings(file, "failures/reasons"), strict=True))
    return Shard(path, digests, failures)


def read_rows(shard: Shard, out: npt.NDArray[np.floating]) -> None:
    """Read all features of a shard into `out`, an array (n, D) of the storage's format.

    Raises:
        CacheError: The file is missing, damaged, or a checksum does not fit.
    """
    with opened(shard.path, MEND) as file:
        if shard.digests:
            file["features"].read_direct(out)

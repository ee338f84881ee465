"""A shard: one immutable HDF5 file with up to `SHARD_ROWS` features, each of one view of one image."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.files import Foreign, Unopened, unopened
from cache.hdf5 import PACKED, Dataset, attribute, composed, dataset, opened, unsealed, writable
from cache.recipe import Recipe

# Rows a shard: what a kill can cost at most. 128 rows of VGG16 are 12.8 MB and about half a minute on two cores.
SHARD_ROWS = 128
KIND = "shard"
DIGEST = "S64"  # SHA-256 in hexadecimal; of fixed length, so that HDF5's checksum covers it
VIEW = "<u2"


@dataclass(frozen=True)
class Shard:
    """What a shard holds, without its features.

    Attributes:
        path: The file.
        digests: SHA-256 of the image file's bytes, one a row.
        views: Number of the view, one a row: 0 is the evaluation transform.
        failures: Digest -> reason, of images that were planned for this shard and could not be read.
        packed: Whether its features are packed.
    """

    path: Path
    digests: tuple[str, ...]
    views: tuple[int, ...]
    failures: Mapping[str, str]
    packed: bool = False


def write_shard(
    folder: Path,
    recipe: Recipe,
    digests: Sequence[str],
    views: Sequence[int],
    features: npt.NDArray[np.floating],
    failures: Mapping[str, str],
    compress: bool = False,
) -> Shard:
    """Write one shard under its final name, complete and synced.

    Args:
        folder: The cache's `shards` folder.
        recipe: The cache's recipe.
        digests: Digest of each row's image, (n,).
        views: Number of each row's view, (n,), each at most 65535.
        features: (n, D), in any float format; stored in the recipe's.
        failures: Digest -> reason of the planned images that gave no row.
        compress: Whether the features are packed, which they can be in up to `SHARD_ROWS` rows.

    Raises:
        ValueError: The features are not n rows of D finite numbers in the recipe's format, or too many to be packed.
        NoRoom: The disk is full or read-only.
    """
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(features, dtype=recipe.storage)
    if stored.shape != (len(digests), recipe.dimension) or not np.isfinite(stored).all():
        raise ValueError(f"{stored.shape} {recipe.storage} numbers are not {len(digests)} finite features")
    if compress and len(digests) > SHARD_ROWS:
        raise ValueError(f"{len(digests)} rows are too many for one packed shard, which has up to {SHARD_ROWS}")
    packed = compress and stored.size > 0
    reasons = {digest: writable(reason) for digest, reason in failures.items()}
    path = folder / _name(recipe.digest, digests, views, failures)
    with composed(path, KIND) as file:
        file.attrs["recipe"] = np.bytes_(recipe.digest)
        # A row a chunk: any row costs one read.
        _write(file, "features", stored, (1, recipe.dimension), **(PACKED if packed else {}))
        _write(file, "digests", np.array(digests, dtype=DIGEST))
        _write(file, "views", np.array(views, dtype=VIEW))
        if reasons:
            _write(file, "failures/digests", np.array(list(reasons), dtype=DIGEST))
            texts = [reason.encode() for reason in reasons.values()]
            kind = h5py.string_dtype("utf-8", max(map(len, texts)) or 1)
            _write(file, "failures/reasons", np.array(texts, dtype=kind))
    return Shard(path, tuple(digests), tuple(views), reasons, packed)


def shard_paths(folder: Path) -> list[Path]:
    """Return the shards in a cache's `shards` folder, in the order of their names; there are none before the first.

    Raises:
        FileError: The folder cannot be listed.
    """
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise Unopened(folder, "cannot be listed: it is no folder", "Move it out of the cache.") from error
    except OSError as error:
        raise unopened(folder, error) from error
    return [path for path in paths if path.suffix == ".h5" and not path.name.startswith(".")]


def read_shard(path: Path, recipe: Recipe) -> Shard:
    """Read what a shard holds; its features are not read.

    Raises:
        FileError: The file is missing, damaged, renamed, no shard, or of another recipe.
    """
    with opened(path, _mend(path)) as file:
        return _listed(file, path, recipe)


def check_shard(path: Path, recipe: Recipe) -> Shard:
    """Read what a shard holds and all of its features, whose every byte must be as it was written.

    Raises:
        FileError: As `read_shard`, or a feature is not finite.
    """
    with unsealed(path, KIND, _mend(path)) as file:
        shard = _listed(file, path, recipe)
        _read_rows(file, np.empty((len(shard.digests), recipe.dimension), dtype=recipe.storage))
    return shard


def held_views(shards: Iterable[Shard]) -> dict[str, list[int]]:
    """Return which views of which images shards hold: digest -> numbers of its views, in no order."""
    held: dict[str, list[int]] = {}
    for shard in shards:
        for digest, view in zip(shard.digests, shard.views, strict=True):
            held.setdefault(digest, []).append(view)
    return held


def complete_views(shards: Iterable[Shard]) -> Counter[str]:
    """Return how many views of each image there are from view 0 on without a gap: digest -> number."""
    held = held_views(shards).items()
    return Counter({digest: 1 if views == [0] else _without_gap(set(views)) for digest, views in held})


def _without_gap(views: set[int]) -> int:
    return next(number for number in range(len(views) + 1) if number not in views)


def read_rows(shard: Shard, out: npt.NDArray[np.floating]) -> None:
    """Read all features of a shard into `out`, an array (n, D) of the storage's format.

    Raises:
        FileError: The file is missing, or one bit of it is not as it was written.
    """
    with unsealed(shard.path, KIND, _mend(shard.path)) as file:
        _read_rows(file, out)


def _listed(file: h5py.File, path: Path, recipe: Recipe) -> Shard:
    """Read and check all but the features."""
    found = attribute(file, "recipe")
    if found != recipe.digest:
        raise Foreign(
            path,
            f"is a shard of recipe {found[:12]}…, but the cache's is {recipe.digest[:12]}…",
            f"Move it back to the cache that it belongs to, or run {_way(path)}",
        )
    # Interned, since the rows of many views have few different digests.
    digests = tuple(map(sys.intern, _texts(file, "digests")))
    features = _require_shape(dataset(file, "features", packed=True), (len(digests), recipe.dimension), recipe.storage)
    if features.packed and len(digests) > SHARD_ROWS:
        raise ValueError(f"it has {len(digests)} packed rows")
    views = tuple(_require_shape(dataset(file, "views"), (len(digests),), VIEW)[:].tolist())
    failures: dict[str, str] = {}
    if file.id.links.exists(b"failures"):
        failures = dict(zip(_texts(file, "failures/digests"), _texts(file, "failures/reasons"), strict=True))
    name = _name(found, digests, views, failures)
    if path.name != name:
        raise ValueError(f"it holds what belongs into {name}")
    return Shard(path, digests, views, failures, features.packed)


def _read_rows(file: h5py.File, out: npt.NDArray[np.floating]) -> None:
    features = _require_shape(dataset(file, "features", packed=True), out.shape, out.dtype)
    if out.size:
        features.read_direct(out)
    bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
    if len(bad):
        raise ValueError(f"its row {bad[0]} is not finite, and so are {len(bad)} in all")


def _require_shape(found: Dataset, shape: tuple[int, ...], kind: npt.DTypeLike) -> Dataset:
    if found.shape != shape or found.dtype != kind:
        raise ValueError(f"its {found.name} are {found.shape} {found.dtype}, not {shape} {np.dtype(kind)}")
    return found


def _name(recipe_digest: str, digests: Sequence[str], views: Sequence[int], failures: Iterable[str]) -> str:
    """Return the name that a shard of this content has, so that equal work has equal names on all machines."""
    rows = (f"{digest} {view}" for digest, view in zip(digests, views, strict=True))
    content = "\n".join([recipe_digest, *rows, *sorted(failures)])
    return f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.h5"


def _mend(path: Path) -> str:
    return f"Run {_way(path)}"


def _way(path: Path) -> str:
    repair = f"manyheads cache verify {path.parent.parent} --repair"
    return f"`{repair}`, then the same `manyheads extract` again: only the images that it held are computed anew."


def _write(
    file: h5py.File,
    name: str,
    values: npt.NDArray[np.generic],
    chunks: tuple[int, ...] | None = None,
    **packing: Any,
) -> None:
    """Write an array so that HDF5 refuses a flipped byte of it."""
    chunks = (chunks or values.shape) if values.size else None  # what is empty has no chunks
    file.create_dataset(name, data=values, chunks=chunks, fletcher32=chunks is not None, **packing)


def _texts(file: h5py.File, name: str) -> list[str]:
    """Read texts of fixed length, (n,)."""
    found = dataset(file, name)
    if found.dtype.kind != "S" or len(found.shape) != 1:
        raise ValueError(f"{name} holds {found.shape} {found.dtype}")
    return [text.decode() for text in found[:].tolist()]

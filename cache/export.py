"""Exporting: the features of a cache in one file that opens without this tool."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cache.atomic import remove_leftovers, require_room, writing_file
from cache.errors import ManyheadsError
from cache.export_formats import WRITERS, Features, RowsOfFile
from cache.feature_cache import FeatureCache
from cache.index import Index
from cache.progress import Steps, unwatched

ABOUT = (
    "Features of an image set, exported by manyheads. Row i of features, labels, paths and digests is one image: "
    "classes[labels[i]] is its class, paths[i] its file relative to the image set's folder, digests[i] the SHA-256 of "
    "the file's bytes, parts[i] its part where the set came split, views[i] which view of the image the row is where "
    "there are several. recipe tells what the features are."
)


class ExportError(ManyheadsError):
    """A cache cannot be exported under the name that was asked for."""


@dataclass(frozen=True)
class Export:
    """What `export` wrote.

    Attributes:
        cache: The cache's folder.
        file: The file.
        rows: Features in it.
        images: Images that these belong to.
        classes: Number of classes.
        dimension: Numbers in one feature.
        storage: Their format: float32 or float16.
        size: Bytes of the file.
    """

    cache: Path
    file: Path
    rows: int
    images: int
    classes: int
    dimension: int
    storage: str
    size: int


def export(
    path: Path | str,
    file: Path | str,
    *,
    all_views: bool = False,
    force: bool = False,
    steps: Steps = unwatched,
) -> Export:
    """Write the features of all images of a cache, with their labels, classes, paths and recipe, into one file.

    The same content gives the same bytes, however it is cut into shards. Features are copied shard by shard: memory
    does not grow with them.

    Args:
        path: The cache's folder.
        file: What to write: HDF5 if it ends in .h5 or .hdf5, NumPy's format if it ends in .npz.
        all_views: Whether each image has a row for each of its views, one after the other, and not for view 0 alone.
        force: Whether a file of that name is replaced.
        steps: Watches the work.

    Raises:
        ExportError: The name has another ending, lies inside the cache, or is taken.
        CacheError: The folder is no cache, has no index yet, lacks a feature, or is damaged.
        NoRoom: The disk cannot hold the file, or the folder cannot be written to. Nothing is left behind.
    """
    cache, file = FeatureCache.open(path), Path(file)
    _require_free(file, cache.path, force)
    index = cache.index()
    held = cache.views() if all_views else dict.fromkeys((entry.digest for entry in index.entries), 1)
    views = [range(held[entry.digest]) for entry in index.entries]
    # Which image of the index, and which view of it, each row is.
    images = [image for image, numbers in enumerate(views) for _ in numbers]
    numbers = np.array([number for numbers in views for number in numbers], dtype=np.int64)
    arrays = _arrays(index, images) | ({"views": numbers} if all_views else {})
    texts = {"about": ABOUT, "recipe": _plain(json.dumps(cache.recipe.as_dict(), ensure_ascii=False))}
    features = Features(len(images), cache.recipe.dimension, np.dtype(cache.recipe.storage))
    needed = features.size + sum(array.nbytes for array in arrays.values())
    require_room(file.parent, needed, f"{file.name} with {features.rows} features")
    remove_leftovers(file.parent)
    with writing_file(file) as temporary, steps("exporting", features.rows, "features") as advance:

        def fill(rows: RowsOfFile) -> None:
            digests = [index.entries[image].digest for image in images]
            cache.read(digests, cast("npt.NDArray[np.floating]", rows), advance, numbers)

        with temporary.open("w+b") as target:
            WRITERS[file.suffix.lower()](target, features, arrays, texts, fill)
    return Export(
        cache=cache.path,
        file=file,
        rows=features.rows,
        images=len(index.entries),
        classes=len(index.classes),
        dimension=features.dimension,
        storage=cache.recipe.storage,
        size=file.stat().st_size,
    )


def _require_free(file: Path, cache: Path, force: bool) -> None:
    if file.suffix.lower() not in WRITERS:
        raise ExportError(
            f"{file} has {f'the unknown ending {file.suffix}' if file.suffix else 'no ending'}, by which the format is "
            "chosen. Name a file that ends in .h5 or .hdf5 for HDF5, or in .npz for NumPy."
        )
    if file.resolve().is_relative_to(cache.resolve()):
        raise ExportError(f"{file} would lie inside the cache {cache}. Name a file in another folder.")
    if file.exists() and not force:
        raise ExportError(f"{file} exists. Name another file, or add --force to replace it.")


def _arrays(index: Index, images: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """Make all arrays but the features: one element a row, and the classes."""
    entries = [index.entries[image] for image in images]
    arrays = {
        "labels": index.labels[images],
        "classes": _texts(index.classes),
        "paths": _texts([entry.path for entry in entries]),
        "digests": _texts([entry.digest for entry in entries]),
    }
    return arrays | ({"parts": _texts([entry.part for entry in entries])} if index.has_parts else {})


def _texts(texts: Sequence[str]) -> npt.NDArray[np.str_]:
    return np.array([_plain(text) for text in texts], dtype=np.str_)


def _plain(text: str) -> str:
    """Write what is not UTF-8, as names of files may be and HDF5's text may not, with backslashes."""
    return text.encode("utf-8", "backslashreplace").decode()

"""Caches of random features, made through the library's own writing: what the benchmarks of heads train on."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache import Entry, FeatureCache, Index, Recipe
from cache.shard import SHARD_ROWS
from pipeline.transform import Transform

CLASSES = 21


def blocks_of_rows(
    n: int, dimension: int, rows: int = SHARD_ROWS
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]]:
    """Draw n features, 73 % of them zero as after a ReLU, and their classes, in blocks of so many rows."""
    rng = np.random.default_rng(0)
    centres = 0.1 * rng.standard_normal((CLASSES, dimension), np.float32) - 0.61
    # Numbers are drawn once; each block takes them from another place, which costs less than drawing 5 GB.
    drawn = rng.standard_normal(2 * rows * dimension, np.float32)
    for start in range(0, n, rows):
        codes = np.arange(start, min(start + rows, n)) % CLASSES
        begin = int(rng.integers(rows * dimension))
        some = drawn[begin : begin + len(codes) * dimension].reshape(-1, dimension) + centres[codes]
        yield np.maximum(some, 0, out=some), codes


def make_cache(folder: Path, n: int, dimension: int, storage: str) -> Path:
    """Write a cache of n random features; of each class's images, one in 30 validates and one is for testing."""
    transform = asdict(Transform(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    recipe = Recipe("vgg16", "0" * 64, transform, decoding=1, dimension=dimension, weights="random:0", storage=storage)
    cache = FeatureCache.create(folder, recipe, {})
    entries: list[Entry] = []
    for rows, codes in blocks_of_rows(n, dimension):
        digests = [hashlib.sha256(str(len(entries) + place).encode()).hexdigest() for place in range(len(rows))]
        cache.add_shard(digests, [0] * len(rows), rows, {})
        for code, digest in zip(codes.tolist(), digests, strict=True):
            number = len(entries)
            part = {0: "val", 1: "test"}.get(number // CLASSES % 30, "train")
            entries.append(Entry(f"{part}/{code:02}/{number:06}.png", f"{code:02}", digest, part))
    entries.sort(key=lambda entry: entry.path)
    classes = tuple(f"{code:02}" for code in range(CLASSES))
    cache.write_index(Index(tuple(entries), classes, (), str(folder / "images"), recipe.digest))
    return folder

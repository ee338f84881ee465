"""The virtual dataset of an index: which row of which shard each of its rows shows to other tools."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

import h5py
import numpy as np

from cache.recipe import Recipe


def map_features(file: h5py.File, rows: Sequence[tuple[str, int]], recipe: Recipe, sizes: Mapping[str, int]) -> None:
    """Write the virtual dataset `features` over the shards.

    Args:
        file: A new file, of CACHE.
        rows: Shard and row in it of each feature.
        recipe: The cache's recipe.
        sizes: How many rows each shard has.
    """
    # h5py's own create_virtual_dataset stores the time, and the same content would not be the same bytes.
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_obj_track_times(False)
    # NaN, so that a shard that went missing can never pass for zeros.
    settings.set_fill_value(np.array([np.nan], dtype=recipe.storage))
    space = h5py.h5s.create_simple((len(rows), recipe.dimension))
    sources = {size: h5py.h5s.create_simple((size, recipe.dimension)) for size in set(sizes.values())}
    for shard, stretches in rising(rows):
        source = sources[sizes[shard]]
        how = h5py.h5s.SELECT_SET
        for position, row, count in stretches:
            space.select_hyperslab((position, 0), (count, recipe.dimension), op=how)
            source.select_hyperslab((row, 0), (count, recipe.dimension), op=how)
            how = h5py.h5s.SELECT_OR
        settings.set_virtual(space, f"shards/{shard}".encode(), b"features", source)
    space.select_all()
    kind = h5py.h5t.py_create(np.dtype(recipe.storage))
    h5py.h5d.create(file.id, b"features", kind, space, settings)


def rising(rows: Sequence[tuple[str, int]]) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """Part rows into mappings: of one shard each, and rising in the index and in the shard alike, as HDF5 wants them.

    As few as there can be, since each takes 23 kB of memory, by patience sorting. Yields the shard, and (row of the
    index, row of the shard, number) of each unbroken stretch.
    """
    ends: dict[str, list[int]] = {}  # the last row of each of a shard's mappings, negative, so that they rise
    mappings: dict[str, list[list[tuple[int, int, int]]]] = {}
    for position, (shard, row) in enumerate(rows):
        last, mapped = ends.setdefault(shard, []), mappings.setdefault(shard, [])
        place = bisect_right(last, -row)
        if place == len(last):
            last.append(-row)
            mapped.append([(position, row, 1)])
            continue
        last[place] = -row
        start, first, count = mapped[place][-1]
        if (start + count, first + count) == (position, row):
            mapped[place][-1] = (start, first, count + 1)
        else:
            mapped[place].append((position, row, 1))
    for shard, mapped in mappings.items():
        for stretches in mapped:
            yield shard, stretches

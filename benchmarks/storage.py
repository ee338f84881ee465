"""How features are best laid out in a shard: size, write rate, and how fast they come back, whole and row by row.

    python -m benchmarks.storage IMAGES --weights mobilenet_v2.safetensors --json storage.json

Takes the features of some images with the library itself: `mobilenet_v2` before and after its average pooling, and
`vgg16` with random weights. Each layout gets shards of 128 rows, composed in memory and then written, as a cache
does. *Read* takes a shard whole, from the file's bytes to the array, as `fit-head` does but for the seal; *seal* is
the rate of the file's SHA-256; *rows* takes random rows through plain h5py, as other tools do. Files lie in the page
cache: the disk is not measured. All layouts take turns in each round; medians. Rates count the numbers that are
stored, unpacked. Zstandard's layouts need `hdf5plugin`.
"""

import argparse
import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from benchmarks.measuring import Work, images_or_drawn, medians, rounds, show, write
from cache.shard import SHARD_ROWS
from pipeline.base import Base, load_base
from pipeline.decode import decode
from pipeline.environment import machine
from pipeline.image_set import read_image_set

BATCH = 16
Features = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Layout:
    """How a shard's features lie in HDF5.

    Attributes:
        name: What the table calls it.
        rows: Rows a chunk; 0 is one contiguous block.
        options: What else `create_dataset` is given.
        store: Format of the numbers.
    """

    name: str
    rows: int
    options: Mapping[str, Any] = field(default_factory=dict)
    store: str = "float32"

    def write(self, features: Features, path: Path) -> None:
        """Write one shard's features."""
        image = io.BytesIO()
        with h5py.File(image, "w", libver=("v110", "latest")) as file:
            chunks = (min(self.rows, len(features)), features.shape[1]) if self.rows else None
            file.create_dataset("features", data=features.astype(self.store), chunks=chunks, **self.options)
        path.write_bytes(image.getbuffer())


def layouts() -> Iterator[Layout]:
    """Yield all that are measured; the second is what `manyheads extract` writes."""
    checked = {"fletcher32": True}
    yield Layout("a row a chunk", 1)
    yield Layout("a row a chunk, fletcher32", 1, checked)
    yield Layout("16 rows a chunk", 16)
    yield Layout("16 rows a chunk, fletcher32", 16, checked)
    yield Layout("contiguous", 0)
    gzip = {"compression": "gzip", "compression_opts": 1}
    yield Layout("a row, fletcher32, gzip-1", 1, checked | gzip)
    yield Layout("a row, fletcher32, shuffle, gzip-1", 1, checked | gzip | {"shuffle": True})
    yield Layout("16 rows, fletcher32, gzip-1", 16, checked | gzip)
    yield Layout("a row, fletcher32, lzf", 1, checked | {"compression": "lzf"})
    if find_spec("hdf5plugin"):
        import hdf5plugin  # type: ignore[import-not-found,unused-ignore]

        yield Layout("a row, Zstd-1", 1, dict(hdf5plugin.Zstd(clevel=1)))
        for name, filters in (("", hdf5plugin.Blosc2.NOFILTER), (", shuffle", hdf5plugin.Blosc2.SHUFFLE)):
            yield Layout(f"a row, Blosc2/Zstd-1{name}", 1, dict(hdf5plugin.Blosc2("zstd", 1, filters)))
    yield Layout("float16: a row, fletcher32", 1, checked, "float16")
    yield Layout("float16: a row, fletcher32, gzip-1", 1, checked | gzip, "float16")


def kinds(images: Path, weights: str, count: int) -> Iterator[tuple[str, Features]]:
    """Yield the name and the features, (count, D) float32, of each kind."""
    files = read_image_set(images).images
    paths = [images / image.path for image in files[:: max(1, len(files) // count)][:count]]
    base = load_base("mobilenet_v2", weights)
    yield "mobilenet_v2, pooled", computed(base, base.module, paths)
    yield "mobilenet_v2, not pooled", computed(base, base.module.features, paths)
    base = load_base("vgg16", "random:0")
    yield "vgg16, random weights", computed(base, base.module, paths)


def computed(base: Base, module: Any, paths: list[Path]) -> Features:
    """Compute what a part of a base makes of images."""
    import torch

    blocks = []
    for start in range(0, len(paths), BATCH):
        pixels = [base.transform.pixels(decode(path.read_bytes())) for path in paths[start : start + BATCH]]
        with torch.inference_mode():
            blocks.append(module(base.transform.normalise(np.stack(pixels))).flatten(1).numpy())
    return np.concatenate(blocks)


def write_shards(layout: Layout, features: Features, folder: Path) -> None:
    """Write all features, a file for each 128 rows."""
    for start in range(0, len(features), SHARD_ROWS):
        layout.write(features[start : start + SHARD_ROWS], folder / f"{start}.h5")


def read_shards(folder: Path) -> None:
    """Read every shard whole, each from the file's bytes in memory, as a cache does."""
    for path in sorted(folder.iterdir()):
        with h5py.File(io.BytesIO(path.read_bytes()), "r") as file:
            found = file["features"]
            found.read_direct(np.empty(found.shape, found.dtype))


def hash_shards(folder: Path) -> None:
    """Take the SHA-256 of every file: what its seal costs, on top of reading."""
    for path in sorted(folder.iterdir()):
        hashlib.sha256(path.read_bytes())


def read_rows(folder: Path, rows: npt.NDArray[np.integer]) -> None:
    """Read rows of the first shard, one by one, with plain h5py."""
    with h5py.File(folder / "0.h5", "r", rdcc_nbytes=0) as file:  # a real cache does not fit HDF5's either
        found = file["features"]
        for row in rows:
            found[row]


def measure(features: Features, count: int, reads: int) -> list[dict[str, Any]]:
    """Measure all layouts on one kind of features, in turn, and return a line for each."""
    chosen, rows = list(layouts()), np.random.default_rng(0).integers(min(SHARD_ROWS, len(features)), size=reads)
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, str(number)) for number in range(len(chosen))]
        for folder in folders:
            folder.mkdir()
        works: dict[str, Work] = {}
        for layout, folder in zip(chosen, folders, strict=True):
            works |= {
                f"write {layout.name}": partial(write_shards, layout, features, folder),
                f"read {layout.name}": partial(read_shards, folder),
                f"seal {layout.name}": partial(hash_shards, folder),
                f"rows {layout.name}": partial(read_rows, folder, rows),
            }
        middle = medians(rounds(works, count, warm_up=False))
        sizes = [sum(path.stat().st_size for path in folder.iterdir()) for folder in folders]
    lines = []
    for layout, size in zip(chosen, sizes, strict=True):
        megabytes = features.size * np.dtype(layout.store).itemsize / 1e6
        lines.append(
            {
                "layout": layout.name,
                "size": size / features.nbytes,
                "write MB/s": megabytes / middle[f"write {layout.name}"],
                "read MB/s": megabytes / middle[f"read {layout.name}"],
                "seal MB/s": size / 1e6 / middle[f"seal {layout.name}"],
                "random rows/s": reads / middle[f"rows {layout.name}"],
            }
        )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", help="drawn if not given")
    parser.add_argument("--weights", default="random:0", help="of mobilenet_v2, as `manyheads extract` takes them")
    parser.add_argument("--count", type=int, default=256, help="images, spread over the set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="64 images, two rounds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    images, turns = (64, 2) if asked.short else (asked.count, asked.rounds)
    columns = ("layout", "size", "write MB/s", "read MB/s", "seal MB/s", "random rows/s")
    result: dict[str, Any] = {}
    with images_or_drawn(asked.images) as folder:
        for kind, features in kinds(folder, asked.weights, images):
            zeros = float((features == 0).mean())
            lines = measure(features, turns, reads=500)
            result[kind] = {"dimension": features.shape[1], "zeros": zeros, "layouts": lines}
            title = f"{kind}: {zeros:.0%} of {features.shape[1]} are 0 ({images} images, {turns} rounds)"
            table = [(line["layout"], line["size"], *(round(line[name]) for name in columns[2:])) for line in lines]
            show(title, columns, table, [_about()])
    write(asked.json, {"features": result, "rounds": turns, "images": images})


def _about() -> str:
    absent = "" if find_spec("hdf5plugin") else "; hdf5plugin is not installed: no Zstandard"
    return f"size: of the float32 numbers; {machine()['processor']}, {machine()['cores']} cores{absent}"


if __name__ == "__main__":
    main()

"""Image files put together byte by byte, where Pillow cannot write a kind, and the short ways to those that it can."""

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.uint8]
Pixel = tuple[int, ...]
Tags = dict[int, tuple[str, list[int]]]


class Odd(NamedTuple):
    """A file and what is expected of it: the picture that a base sees, or a part of the reason why it is refused.

    With neither, the file is damaged where it may show or not: any picture and any reason will do.
    """

    kind: str
    name: str
    data: bytes
    picture: Array | None = None
    reason: str = ""


def saved(image: Image.Image, format_name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def array_image(values: Any, mode: str = "RGB") -> Image.Image:
    array = np.asarray(values, np.uint8)
    return Image.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())


def pack(form: str, *values: float) -> bytes:
    return struct.pack(form[0] + form[1] * len(values), *values)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int, depth: int, colour: int, samples: bytes, *more: bytes, height: int = 1, interlaced: int = 0
) -> bytes:
    """A PNG of `samples`: unfiltered rows that begin with their filter byte, or one row without it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    rows = zlib.compress(samples if height > 1 else b"\0" + samples)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *more, chunk(b"IDAT", rows), chunk(b"IEND", b"")])


def tiff(
    width: int,
    samples: bytes | list[bytes],
    bits: list[int],
    photometric: int = 1,
    kind: int = 1,
    order: str = "<",
    **more: Any,
) -> bytes:
    """An uncompressed TIFF of one strip, or of several; `kind` is SampleFormat, `extra` its ExtraSamples.

    Of `more`, `height` is the picture's, `tile` the width and height of a tile instead of strips, `next_at` where the
    next picture's list of tags is said to be.
    """
    strips = [samples] if isinstance(samples, bytes) else samples
    height = more.get("height", 1)
    tags: Tags = {256: ("I", [width]), 257: ("I", [height]), 258: ("H", bits), 259: ("H", [1])}
    tags |= {262: ("H", [photometric]), 277: ("H", [len(bits)]), 339: ("H", [kind] * len(bits))}
    if "tile" in more:
        offsets, sizes = 324, 325
        tags |= {322: ("I", [more["tile"][0]]), 323: ("I", [more["tile"][1]])}
    else:
        offsets, sizes = 273, 279
        tags |= {278: ("I", [-(-height // len(strips))])}
    tags |= {offsets: ("I", [0] * len(strips)), sizes: ("I", [len(strip) for strip in strips])} | more.get("tags", {})
    if "extra" in more:
        tags[338] = ("H", more["extra"])
    start = 8 + 2 + 12 * len(tags) + 4
    values = {tag: struct.pack(order + form * len(numbers), *numbers) for tag, (form, numbers) in tags.items()}
    place = start + sum(len(value) for value in values.values() if len(value) > 4)
    places = [place + sum(map(len, strips[:number])) for number in range(len(strips))]
    values[offsets] = pack(f"{order}I", *places)
    entries, far = b"", b""
    for tag, value in sorted(values.items()):
        form, numbers = tags[tag]
        near = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", start + len(far))
        far += value if len(value) > 4 else b""
        entries += struct.pack(order + "HHI", tag, {"B": 1, "H": 3, "I": 4}[form], len(numbers)) + near
    first = b"II*\0" if order == "<" else b"MM\0*"
    following = struct.pack(order + "I", more.get("next_at", 0))
    return first + struct.pack(order + "IH", 8, len(tags)) + entries + following + far + b"".join(strips)


def stored(upright: Any, orientation: int) -> Any:
    """The array a camera writes so that `orientation` restores `upright` (EXIF 2.32, 4.6.4 A)."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]

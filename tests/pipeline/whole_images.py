"""Whole image files of every kind that is read, each with the picture that a base sees, reckoned by numpy."""

import io
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.pipeline.image_files import Array, array_image, chunk, pack, png, saved, tiff

Seen = tuple[str, bytes, Array]
HEIGHT, WIDTH = 24, 20


def scene(seed: int) -> Array:
    """A picture of its own: coarse, so that features tell it from others, with noise that no format compresses."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3)).repeat(HEIGHT // 4, axis=0).repeat(WIDTH // 4, axis=1)
    noisy: Array = np.clip(coarse + rng.integers(-40, 41, coarse.shape), 0, 255).astype(np.uint8)
    return noisy


def grey(levels: Any) -> Array:
    return np.repeat(np.asarray(levels, np.uint8)[..., None], 3, axis=2)


def over_black(colours: Any, alpha: Array) -> Array:
    laid: Array = ((2 * colours.astype(int) * alpha[..., None] + 255) // 510).astype(np.uint8)
    return laid


def by_pillow(data: bytes) -> Array:
    """What Pillow alone makes of the first picture, where its own arithmetic is the rule (JPEG, WebP, CMYK)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of broken EXIF
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def rows(values: Any, depth: int) -> bytes:
    """Rows of a PNG without filters, from integers (height, width) or (height, width, channels)."""
    if depth == 16:
        packed = np.ascontiguousarray(values, ">u2").view(np.uint8).reshape(len(values), -1)
    else:
        bits = np.unpackbits(np.asarray(values, np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(len(values), -1), axis=1)
    return np.insert(packed, 0, 0, axis=1).tobytes()


def png_files(picture: Array) -> Iterator[Seen]:
    def made(depth: int, colour: int, values: Any, *more: bytes) -> bytes:
        return png(WIDTH, depth, colour, rows(values, depth), *more, height=HEIGHT)

    level, alpha = picture[..., 0], picture[..., 1]
    fine = level.astype(int) * 256 + alpha
    for depth in (1, 2, 4, 8):
        index = level >> (8 - depth)
        yield f"grey {depth} bit", made(depth, 0, index), grey(index.astype(int) * 255 // (2**depth - 1))
        colours = picture.reshape(-1, 3)[: 2**depth]
        table = chunk(b"PLTE", colours.tobytes())
        yield f"palette {depth} bit", made(depth, 3, index, table), colours[index]
        alphas = np.arange(len(colours), dtype=np.uint8)
        faint = made(depth, 3, index, table, chunk(b"tRNS", alphas.tobytes()))
        yield f"palette {depth} bit with alpha", faint, over_black(colours[index], alphas[index])
    yield "grey 16 bit", made(16, 0, fine), grey((fine + 128) // 257)
    both = np.dstack([level, alpha])
    yield "grey with alpha 8 bit", made(8, 4, both), over_black(grey(level), alpha)
    yield "grey with alpha 16 bit", made(16, 4, both.astype(int) * 256 + 77), over_black(grey(level), alpha)
    yield "RGB 8 bit", made(8, 2, picture), picture
    yield "RGB 16 bit", made(16, 2, picture.astype(int) * 256 + 99), picture
    four = np.dstack([picture, alpha])
    yield "RGBA 8 bit", made(8, 6, four), over_black(picture, alpha)
    yield "RGBA 16 bit", made(16, 6, four.astype(int) * 256 + 99), over_black(picture, alpha)
    clear = made(8, 2, picture, chunk(b"tRNS", pack(">H", *picture[3, 5])))
    yield "RGB with a clear colour", clear, np.where((picture == picture[3, 5]).all(axis=2)[..., None], 0, picture)
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    passes = b"".join(rows(picture[y::down, x::right], 8) for x, y, right, down in steps)
    yield "RGB interlaced", png(WIDTH, 8, 2, passes, height=HEIGHT, interlaced=1), picture
    yield "animation", saved(array_image(picture), "PNG", save_all=True, append_images=[other(picture)]), picture


def other(picture: Array) -> Image.Image:
    return array_image(255 - picture)


def tiff_files(picture: Array) -> Iterator[Seen]:
    def made(samples: Any, bits: list[int], photometric: int = 1, kind: int = 1, **more: Any) -> bytes:
        strips = [np.ascontiguousarray(one).tobytes() for one in (samples if isinstance(samples, list) else [samples])]
        return tiff(WIDTH, strips, bits, photometric, kind, height=HEIGHT, **more)

    image, level, alpha = array_image(picture), picture[..., 0], picture[..., 1]
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits"):
        yield f"RGB {compression}", saved(image, "TIFF", compression=compression), picture
    lossy = saved(image, "TIFF", compression="jpeg")
    yield "RGB jpeg", lossy, by_pillow(lossy)
    dark = Image.fromarray(level > 127)
    for compression in ("raw", "group3", "group4", "tiff_ccitt"):
        yield f"1 bit {compression}", saved(dark, "TIFF", compression=compression), grey(255 * (level > 127))
    yield "in strips", saved(image, "TIFF", compression="tiff_lzw", strip_size=300), picture
    yield "BigTIFF", saved(image, "TIFF", big_tiff=True), picture
    yield "pages", saved(image, "TIFF", save_all=True, append_images=[other(picture)]), picture
    yield "pages in a ring", made(picture, [8] * 3, 2, next_at=8), picture
    yield "uncompressed strips", made(np.split(picture, 4), [8] * 3, 2), picture
    yield (
        "planes",
        made(list(np.moveaxis(picture, 2, 0)), [8] * 3, 2, tags={278: ("I", [HEIGHT]), 284: ("H", [2])}),
        picture,
    )
    padded = np.pad(picture, ((0, 8), (0, 12), (0, 0)))
    tiles = [padded[y : y + 16, x : x + 16] for y in (0, 16) for x in (0, 16)]
    yield "uncompressed tiles", made(tiles, [8] * 3, 2, tile=(16, 16)), picture
    flat = [np.frombuffer(zlib.compress(tile.tobytes()), np.uint8) for tile in tiles]
    yield "deflated tiles", made(flat, [8] * 3, 2, tile=(16, 16), tags={259: ("H", [8])}), picture
    fine = level.astype(int) * 256 + alpha
    for order in "<>":
        yield f"grey 16 bit {order}", made(fine.astype(f"{order}u2"), [16], order=order), grey((fine + 128) // 257)
        yield (
            f"grey 32 bit {order}",
            made(fine.astype(f"{order}i4"), [32], 1, 2, order=order),
            grey((fine + 128) // 257),
        )
        yield f"float {order}", made((level / 255).astype(f"{order}f4"), [32], 1, 3, order=order), grey(level)
        wide = (picture.astype(int) * 256 + 99).astype(f"{order}u2")
        yield f"RGB 16 bit {order}", made(wide, [16] * 3, 2, order=order), picture
    yield "white is zero", made(level, [8], 0), grey(255 - level)
    yield "grey with alpha", made(np.dstack([level, alpha]), [8] * 2, extra=[2]), over_black(grey(level), alpha)
    four = np.dstack([picture, alpha])
    yield "RGBA", made(four, [8] * 4, 2, extra=[2]), over_black(picture, alpha)
    yield "near infrared", made(four, [8] * 4, 2, extra=[0]), picture
    ink = made(four, [8] * 4, 5)
    yield "CMYK", ink, by_pillow(ink)


def jpeg_files(picture: Array) -> Iterator[Seen]:
    image = array_image(picture)
    ways: dict[str, dict[str, Any]] = {
        "baseline": {},
        "progressive": {"progressive": True},
        "optimised": {"optimize": True},
        "4:4:4": {"subsampling": 0, "quality": 100},
        "quality 1": {"quality": 1},
        "restarts": {"restart_marker_rows": 1},
        "many restarts": {"restart_marker_blocks": 1},
    }
    for way, options in ways.items():
        data = saved(image, "JPEG", **options)
        yield way, data, by_pillow(data)
    for mode in ("L", "CMYK", "YCbCr"):
        for progressive in (False, True):
            data = saved(image.convert(mode), "JPEG", progressive=progressive)
            yield f"{mode} {'progressive' if progressive else 'baseline'}", data, by_pillow(data)
    data = saved(image, "MPO", save_all=True, append_images=[other(picture)])
    yield "MPO", data, by_pillow(data)
    data = saved(image, "JPEG")
    yield "and more behind it", data + bytes(range(256)), by_pillow(data)


def bmp_files(picture: Array) -> Iterator[Seen]:
    image, level = array_image(picture), picture[..., 0]
    yield "RGB", saved(image, "BMP"), picture
    yield "grey", saved(image.getchannel(0), "BMP"), grey(level)
    yield "1 bit", saved(Image.fromarray(level > 127), "BMP"), grey(255 * (level > 127))
    few = image.quantize(64)
    yield "palette", saved(few, "BMP"), np.asarray(few.convert("RGB"))
    table = np.dstack([np.arange(256)] * 3 + [np.zeros(256, int)]).astype(np.uint8).tobytes()
    runs = b"".join(b"".join(bytes([1, one]) for one in row) + b"\0\0" for row in level[::-1]) + b"\0\1"
    yield "run lengths", bmp(WIDTH, HEIGHT, 8, 1, runs, table), grey(level)
    yield "top down", bmp(WIDTH, -HEIGHT, 24, 0, picture[..., ::-1].tobytes()), picture


def bmp(width: int, height: int, depth: int, compression: int, pixels: bytes, table: bytes = b"") -> bytes:
    start = 54 + len(table)
    header = pack("<i", 40, width, height) + pack("<h", 1, depth) + pack("<i", compression, len(pixels), 0, 0, 0, 0)
    return b"BM" + pack("<I", start + len(pixels), 0, start) + header + table + pixels


def webp_files(picture: Array) -> Iterator[Seen]:
    image, alpha = array_image(picture), picture[..., 1]
    for quality in (1, 80):
        data = saved(image, "WEBP", quality=quality)
        yield f"lossy {quality}", data, by_pillow(data)
    yield "lossless", saved(image, "WEBP", lossless=True), picture
    faint = saved(array_image(np.dstack([picture, alpha]), "RGBA"), "WEBP", lossless=True, exact=True)
    yield "lossless with alpha", faint, over_black(picture, alpha)
    film = saved(image, "WEBP", lossless=True, save_all=True, append_images=[other(picture)])
    yield "animation", film, picture


def gif_files(picture: Array) -> Iterator[Seen]:
    few = array_image(picture).quantize(64)
    seen = np.asarray(few.convert("RGB"))
    yield "plain", saved(few, "GIF", interlace=0), seen
    yield "interlaced", saved(few, "GIF", interlace=1), seen
    index = np.asarray(few)
    clear = np.where((index == index[0, 0])[..., None], 0, seen)
    yield "with a clear colour", saved(few, "GIF", transparency=int(index[0, 0])), clear
    yield "animation", saved(few, "GIF", save_all=True, append_images=[other(picture).quantize(64)]), seen


FILES = {"png": png_files, "tif": tiff_files, "jpg": jpeg_files, "bmp": bmp_files, "webp": webp_files, "gif": gif_files}

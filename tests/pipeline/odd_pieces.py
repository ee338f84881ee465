"""Image files with single pieces that are odd or wrong: sizes, EXIF, colour profiles, chunks, strips."""

import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.pipeline.image_files import Odd, array_image, chunk, pack, png, saved, stored, tiff
from tests.pipeline.whole_images import HEIGHT, WIDTH, bmp, by_pillow, rows, scene

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
EXACT = {"webp": {"lossless": True}}
TURNED_BACK = {6: 8, 8: 6}  # all other orientations undo themselves


def bombs(seeds: Iterator[int]) -> Iterator[Odd]:
    """Small files that would fill the memory, or be decoded for hours."""
    grey = Image.new("L", (1, 1))
    jpeg, gif, webp = saved(grey, "JPEG"), bytearray(saved(grey, "GIF")), saved(grey, "WEBP", lossless=True)
    frame, block = jpeg.index(b"\xff\xc0"), gif.index(b"\x2c", 13)
    film = saved(Image.new("RGB", (1, 1)), "WEBP", save_all=True, append_images=[Image.new("RGB", (1, 1), "red")])
    canvas = film.index(b"VP8X") + 12
    deflated = {259: ("H", [8])}
    zeros = zlib.compress(bytes(60_000_000))
    scans = saved(Image.new("L", (8, 8), 99), "JPEG", progressive=True)
    last = scans.rindex(b"\xff\xda")
    tile = zlib.compress(bytes(12000 * 12000))
    files = {
        "png": png(12000, 1, 0, bytes(1501 * 12000), height=12000),
        "header.png": png(2**31 - 1, 8, 2, b"", height=2**31 - 1),
        "jpg": jpeg[: frame + 5] + pack(">H", 12000, 12000) + jpeg[frame + 9 :],
        "bmp": bmp(12000, 12000, 24, 0, b""),
        "run lengths.bmp": bmp(12000, -12000, 8, 1, b"\0\1", bytes(1024)),
        "header.bmp": bmp(2**31 - 1, 2**31 - 1, 24, 0, b""),
        "screen.gif": bytes(gif[:6] + pack("<H", 60000, 60000) + gif[10:]),
        "frame.gif": bytes(gif[: block + 5] + pack("<H", 60000, 60000) + gif[block + 9 :]),
        "small frame.gif": bytes(gif[: block + 5] + pack("<H", 12000, 12000) + gif[block + 9 :]),
        "tif": tiff(12000, b"", [8] * 3, 2, height=12000),
        "deflated.tif": tiff(12000, zlib.compress(b""), [8], height=12000, tags=deflated),
        "header.tif": tiff(2**32 - 1, b"", [8], height=2**32 - 1),
        "tile.tif": tiff(16, tile, [8], height=16, tile=(12000, 12000), tags=deflated),
        "webp": webp[:21] + pack("<I", 16383 | 16383 << 14) + webp[25:],
        "small.webp": webp[:21] + pack("<I", 9999 | 9999 << 14) + webp[25:],
        "animation.webp": film[:canvas] + (12000).to_bytes(3, "little") * 2 + film[canvas + 6 :],
        "wide.webp": film[:canvas] + b"\xff\xff\xff\xfe\0\0" + film[canvas + 6 :],
    }
    for name, data in files.items():
        yield Odd("bombs", f"pixels {name}" if "." in name else f"pixels.{name}", data, reason="pixels")
    for name, data in {
        "text.png": chunk(b"zTXt", b"a\0\0" + zeros),
        "international.png": chunk(b"iTXt", b"a\0\1\0\0\0" + zeros),
        "XMP.png": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros),
        "profile.png": chunk(b"iCCP", b"a\0\0" + zeros),
    }.items():
        yield Odd("bombs", name, png(1, 8, 0, b"\5", data), reason="unpacks to more than 1 MiB")
    many = [chunk(b"zTXt", b"%d\0\0" % number + zlib.compress(bytes(1_000_000))) for number in range(80)]
    yield Odd("bombs", "texts.png", png(1, 8, 0, b"\5", *many), reason="Too much memory used in text chunks")
    again = scans[:-2] + scans[last:-2] * 2000 + scans[-2:]
    yield Odd("bombs", "scans.jpg", again, reason="2006 scans")
    lacking = tiff(WIDTH, bytes(WIDTH), [8], height=4_000_000, tags={278: ("I", [1])})
    yield Odd("bombs", "rows that are not there.tif", lacking, reason="it lacks strips")
    samples = tiff(1, b"\1", [8], tags={277: ("H", [65535])})
    yield Odd("bombs", "samples.tif", samples, reason="Invalid value for samples per pixel")


def elongated(seeds: Iterator[int]) -> Iterator[Odd]:
    for width, height in ((1, 1), (1, 2), (2, 1), (1, 60), (60, 1), (3, 300), (300, 3), (2000, 1500)):
        colours = np.random.default_rng(next(seeds)).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        image = array_image(colours).resize((width, height))
        yield Odd("odd sizes", f"{width} x {height}.png", saved(image, "PNG"), np.asarray(image))
    for width, height in ((1, 30000), (30000, 1), (1, 65535), (2, 30000)):
        image = Image.new("RGB", (width, height), (next(seeds) % 256, 99, 0))
        yield Odd("odd sizes", f"{width} x {height}.png", saved(image, "PNG"), None, "too elongated")


def exif(*entries: tuple[int, int, int, int], order: str = "<", following: int = 0) -> bytes:
    """EXIF of entries (tag, type, count, value or offset), with where the next list is said to be."""
    first = b"II*\0" if order == "<" else b"MM\0*"
    packed = b""
    for tag, kind, number, value in entries:
        packed += pack(f"{order}H", tag, kind) + pack(f"{order}I", number)
        packed += pack(f"{order}H", value, 0) if kind == 3 else pack(f"{order}I", value)
    return (
        b"Exif\0\0"
        + first
        + pack(f"{order}I", 8)
        + pack(f"{order}H", len(entries))
        + packed
        + pack(f"{order}I", following)
    )


def turned(seeds: Iterator[int]) -> Iterator[Odd]:
    for orientation in (*range(1, 9), 0, 9, 65535):
        known = orientation if 1 <= orientation <= 8 else 1
        settings = exif((0x0112, 3, 1, orientation), order="<>"[orientation % 2])
        for ending in ("jpg", "png", "tif", "webp"):
            upright = scene(next(seeds))
            image = array_image(stored(upright, known))
            if ending == "tif":  # where EXIF's tags are the picture's own
                tags = {274: ("H", [orientation])}
                data = tiff(image.width, image.tobytes(), [8] * 3, 2, height=image.height, tags=tags)
            else:
                data = saved(image, FORMATS[ending], exif=settings, **EXACT.get(ending, {}))
            if ending == "jpg":
                upright = stored(by_pillow(data), TURNED_BACK.get(known, known))
            yield Odd("EXIF orientations", f"{orientation}.{ending}", data, upright)


def annotated(seeds: Iterator[int]) -> Iterator[Odd]:
    """EXIF and colour profiles that are broken: the picture is none the worse."""
    six = (0x0112, 3, 1, 6)
    broken = {
        "nothing": b"Exif\0\0",
        "no header": b"Exif\0\0nonsense",
        "half a header": b"Exif\0\0II",
        "cut within its list": exif(six)[:20],
        "cut before its list": exif(six)[:14],
        "a list in itself": b"Exif\0\0II*\0\0\0\0\0",
        "a list beyond the end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "a long list that is not there": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        "orientation as text": exif((0x0112, 2, 4, 6)),
        "orientation of an unknown type": exif((0x0112, 99, 1, 6)),
        "many orientations": exif((0x0112, 3, 2**32 - 1, 6)),
        "orientation far away": exif((0x0112, 3, 99, 2**16 - 1)),
        "huge text": exif((0x010E, 2, 2**32 - 1, 8)),
    }
    looping = {
        "the next list is this one": exif(six, following=8),
        "EXIF in EXIF": exif(six, (0x8769, 4, 1, 8)),
        "GPS in EXIF": exif(six, (0x8825, 4, 1, 8)),
    }
    profile = b"\0\0\2\x0clcms\2\x10\0\0mntrRGB XYZ "
    profiles = {"short": b"abc", "cut": profile, "too long": b"\xff\xff\xff\xff" + profile[4:], "zeros": bytes(400)}
    for ending, format_name in FORMATS.items():
        for name, settings in (broken | looping).items():
            data = saved(array_image(scene(next(seeds))), format_name, exif=settings, **EXACT.get(ending, {}))
            seen = by_pillow(data)
            yield Odd(
                "broken EXIF", f"{name}.{ending}", data, stored(seen, TURNED_BACK[6]) if name in looping else seen
            )
        for name, settings in profiles.items():
            data = saved(array_image(scene(next(seeds))), format_name, icc_profile=settings, **EXACT.get(ending, {}))
            yield Odd("broken colour profiles", f"{name}.{ending}", data, by_pillow(data))


def patched(seeds: Iterator[int]) -> Iterator[Odd]:
    """PNGs and TIFFs with single pieces that are wrong."""
    pieces = {
        "profile that cannot be unpacked": (chunk(b"iCCP", b"a\0\0garbage"), ""),
        "text that cannot be unpacked": (chunk(b"zTXt", b"a\0\0garbage"), ""),
        "profile without a name": (chunk(b"iCCP", b"abc"), "Unknown compression method"),
        "empty profile": (chunk(b"iCCP", b""), "cut off or damaged"),
        "short gamma": (chunk(b"gAMA", b""), "cut off"),
        "wrong checksum": (chunk(b"tEXt", b"a\0b")[:-1] + b"\0", "checksum"),
        "unknown chunk that must be known": (chunk(b"ABCD", b""), ""),
        "text as long as no file": (pack(">I", 2**31 - 1) + b"tEXt" + b"abc", "cut off"),
    }
    for name, (piece, reason) in pieces.items():
        picture = scene(next(seeds))
        data = png(WIDTH, 8, 2, rows(picture, 8), piece, height=HEIGHT)
        yield Odd("broken pieces", f"{name}.png", data, None if reason else picture, reason)
    picture = scene(next(seeds))
    half, planes = {278: ("I", [HEIGHT // 2])}, {284: ("H", [2])}
    for name, data, reason in (
        (
            "one strip of two",
            tiff(WIDTH, picture[: HEIGHT // 2].tobytes(), [8] * 3, 2, height=HEIGHT, tags=half),
            "lacks",
        ),
        ("one plane of three", tiff(WIDTH, picture[..., 0].tobytes(), [8] * 3, 2, height=HEIGHT, tags=planes), "lacks"),
        ("one tile of four", tiff(WIDTH, bytes(16 * 16), [8], height=HEIGHT, tile=(16, 16)), "lacks"),
        ("unknown compression", tiff(1, b"\0", [8], tags={259: ("H", [999])}), "unknown value 999"),
        ("32-bit colours", tiff(1, bytes(12), [32] * 3, 2), "samples of a number or type"),
        ("floats without a white", tiff(2, pack("<f", 0, 812.5), [32], 1, 3), "no defined white"),
        ("no numbers", tiff(1, pack("<f", float("nan")), [32], 1, 3), "no defined white"),
        ("negative numbers", tiff(2, pack("<h", -1, 5), [16], 1, 2), "no defined white"),
        ("no width", tiff(0, b"", [8]), "not readable"),
    ):
        yield Odd("broken pieces", f"{name}.tif", data, None, reason)

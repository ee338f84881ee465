"""Every file here is real and small; where Pillow cannot write a kind, it is put together byte by byte."""

import io
import random
import resource
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.decode import DECODE_VERSION, EXTENSIONS, decode
from pipeline.errors import UnreadableImage

Pixel = tuple[int, ...]
Tags = dict[int, tuple[str, list[int]]]
RED: Pixel = (255, 0, 0)
BLUE: Pixel = (0, 0, 255)
BLACK: Pixel = (0, 0, 0)
WHITE: Pixel = (255, 255, 255)


def pixels(data: bytes) -> list[Pixel]:
    picture = decode(data)
    assert type(picture) is Image.Image
    assert (picture.mode, picture.info) == ("RGB", {})
    return [tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()]


def greys(*levels: int) -> list[Pixel]:
    return [(level, level, level) for level in levels]


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(data)
    reason = str(caught.value)
    assert reason
    assert "\n" not in reason
    return reason


def saved(image: Image.Image, format_name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def array_image(values: Any, mode: str = "RGB") -> Image.Image:
    array = np.asarray(values, np.uint8)
    return Image.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, depth: int, colour: int, samples: bytes, *more: bytes, height: int = 1) -> bytes:
    """A PNG of `samples`: unfiltered rows that begin with their filter byte, or one row without it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rows = zlib.compress(samples if height > 1 else b"\0" + samples)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *more, chunk(b"IDAT", rows), chunk(b"IEND", b"")])


def tiff(
    width: int, samples: bytes, bits: list[int], photometric: int = 1, kind: int = 1, order: str = "<", **more: Any
) -> bytes:
    """An uncompressed one-strip TIFF; `kind` is SampleFormat, `extra` its ExtraSamples."""
    height = more.get("height", 1)
    tags: Tags = {256: ("I", [width]), 257: ("I", [height]), 258: ("H", bits), 259: ("H", [1])}
    tags |= {262: ("H", [photometric]), 273: ("I", [0]), 277: ("H", [len(bits)]), 278: ("I", [height])}
    tags |= {279: ("I", [len(samples)]), 339: ("H", [kind] * len(bits))} | more.get("tags", {})
    if "extra" in more:
        tags[338] = ("H", more["extra"])
    start = 8 + 2 + 12 * len(tags) + 4
    values = {tag: struct.pack(order + form * len(numbers), *numbers) for tag, (form, numbers) in tags.items()}
    values[273] = struct.pack(order + "I", start + sum(len(value) for value in values.values() if len(value) > 4))
    entries, far = b"", b""
    for tag, value in sorted(values.items()):
        form, numbers = tags[tag]
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", start + len(far))
        far += value if len(value) > 4 else b""
        entries += struct.pack(order + "HHI", tag, {"B": 1, "H": 3, "I": 4}[form], len(numbers)) + place
    first = b"II*\0" if order == "<" else b"MM\0*"
    return first + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4) + far + samples


def pack(form: str, *values: float) -> bytes:
    return struct.pack(form[0] + form[1] * len(values), *values)


def palette(*colours: Pixel) -> Image.Image:
    image = Image.new("P", (len(colours), 1))
    image.putpalette([level for colour in colours for level in colour])
    image.putdata(range(len(colours)))
    return image


def film(format_name: str, **options: Any) -> bytes:
    blue = Image.new("RGB", (1, 1), BLUE)
    return saved(Image.new("RGB", (1, 1), RED), format_name, save_all=True, append_images=[blue], **options)


GREY_TABLE = {320: ("H", [257 * level for level in range(256)] * 3)}
L_A = array_image([[[200, 128], [255, 0], [9, 255]]], "LA")
RGB_A = array_image([[[200, 100, 50, 128], [255, 255, 255, 0], [1, 2, 3, 255]]], "RGBA")
OVER_BLACK = [(100, 50, 25), BLACK, (1, 2, 3)]
CORNERS = [BLACK, WHITE, RED, (18, 52, 86)]

FILES: dict[str, tuple[bytes, list[Pixel]]] = {
    **{f"RGB {f}": (saved(array_image([CORNERS]), f), CORNERS) for f in ("PNG", "BMP", "TIFF")},
    "RGB WebP": (saved(array_image([CORNERS]), "WEBP", lossless=True), CORNERS),
    "1 PNG": (png(3, 1, 0, b"\xa0"), greys(255, 0, 255)),
    "1 PNG tRNS": (png(3, 1, 0, b"\xa0", chunk(b"tRNS", b"\0\1")), greys(0, 0, 0)),
    "1 TIFF": (saved(Image.new("1", (1, 1), 1), "TIFF", compression="group4"), [WHITE]),
    "1 BMP": (saved(Image.new("1", (1, 1), 1), "BMP"), [WHITE]),
    "L2 PNG": (png(4, 2, 0, b"\x1b"), greys(0, 85, 170, 255)),
    "L2 PNG tRNS": (png(4, 2, 0, b"\x1b", chunk(b"tRNS", b"\0\2")), greys(0, 85, 0, 255)),
    "L4 PNG tRNS": (png(2, 4, 0, b"\xf1", chunk(b"tRNS", b"\0\x0f")), greys(0, 17)),
    "L PNG tRNS": (png(2, 8, 0, b"\x80\x81", chunk(b"tRNS", b"\0\x80")), greys(0, 129)),
    "L TIFF white is zero": (tiff(2, b"\0\xf0", [8], 0), greys(255, 15)),
    "LA PNG": (saved(L_A, "PNG"), greys(100, 0, 9)),
    "LA TIFF": (tiff(1, b"\xc8\x80", [8, 8], extra=[2]), greys(100)),
    "La TIFF": (tiff(1, b"\x40\x80", [8, 8], extra=[1]), greys(64)),
    "L and a spare channel TIFF": (tiff(1, b"\x40\x80", [8, 8], extra=[0]), greys(64)),
    "RGB PNG tRNS": (png(2, 8, 2, bytes([*RED, *BLUE]), chunk(b"tRNS", b"\0\xff\0\0\0\0")), [BLACK, BLUE]),
    "RGBA PNG": (saved(RGB_A, "PNG"), OVER_BLACK),
    "RGBA WebP": (saved(RGB_A, "WEBP", lossless=True, exact=True), OVER_BLACK),
    "RGBA TIFF": (saved(RGB_A, "TIFF"), OVER_BLACK),
    "RGBA TIFF premultiplied": (tiff(1, b"\x40\x20\x10\x80", [8] * 4, 2, extra=[1]), [(64, 32, 16)]),
    "RGB and near infrared TIFF": (tiff(1, b"\1\2\3\4", [8] * 4, 2, extra=[0]), [(1, 2, 3)]),
    "P PNG": (saved(palette(RED, BLUE), "PNG"), [RED, BLUE]),
    "P PNG index": (saved(palette(RED, BLUE), "PNG", transparency=0), [BLACK, BLUE]),
    "P PNG alphas": (saved(palette(RED, BLUE), "PNG", transparency=b"\x80\xff"), [(128, 0, 0), BLUE]),
    "P BMP": (saved(palette(RED, BLUE), "BMP"), [RED, BLUE]),
    "P GIF": (saved(palette(RED, BLUE), "GIF", transparency=1), [RED, BLACK]),
    "P TIFF": (saved(palette(RED, BLUE), "TIFF"), [RED, BLUE]),
    "PA TIFF": (tiff(1, b"\x64\x80", [8, 8], 3, extra=[2], tags=GREY_TABLE), greys(50)),
    "L16 PNG tRNS": (png(2, 16, 0, pack(">H", 4660, 4661), chunk(b"tRNS", pack(">H", 4660))), greys(0, 18)),
    "L16 TIFF white is zero": (tiff(2, pack("<H", 0, 65535), [16], 0), greys(255, 0)),
    "L16 signed TIFF": (tiff(2, pack("<h", 0, 25700), [16], 1, 2), greys(0, 100)),
    "LA16 PNG": (png(1, 16, 4, pack(">H", 0xC8FF, 0x80FF)), greys(100)),
    "RGB16 PNG": (png(1, 16, 2, pack(">H", 0x12FF, 0x3400, 0x5680)), [(0x12, 0x34, 0x56)]),
    "RGB16 TIFF": (tiff(1, pack("<H", 0x12FF, 0x3400, 0x5680), [16] * 3, 2), [(0x12, 0x34, 0x56)]),
    "RGB16 TIFF MM": (tiff(1, pack(">H", 0x12FF, 0x3400, 0x5680), [16] * 3, 2, order=">"), [(0x12, 0x34, 0x56)]),
    "F TIFF": (tiff(4, pack("<f", 0, 0.25, 0.5, 1), [32], 1, 3), greys(0, 64, 128, 255)),
    "F TIFF MM": (tiff(2, pack(">f", 0.25, 1), [32], 1, 3, order=">"), greys(64, 255)),
    "F TIFF white is zero": (tiff(2, pack("<f", 0.25, 1), [32], 0, 3), greys(191, 0)),
    "CMYK TIFF": (tiff(2, bytes([0, 255, 255, 0, 16, 32, 48, 64]), [8] * 4, 5), [RED, (179, 167, 155)]),
    "CMYK JPEG": (saved(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "JPEG", quality=100), [RED]),
    "L JPEG": (saved(Image.new("L", (1, 1), 77), "JPEG", quality=100), greys(77)),
    "RGB JPEG": (saved(Image.new("RGB", (1, 1), (80, 80, 80)), "JPEG"), greys(80)),
    "YCbCr TIFF": (tiff(1, b"\x40\x80\x80", [8] * 3, 6, tags={530: ("H", [1, 1])}), greys(64)),
    "LAB TIFF": (tiff(2, bytes([255, 0, 0, 0, 0, 0]), [8] * 3, 8), [WHITE, BLACK]),
    "GIF animation": (film("GIF"), [RED]),
    "WebP animation": (film("WEBP", lossless=True), [RED]),
    "PNG animation": (film("PNG"), [RED]),
    "TIFF pages": (film("TIFF"), [RED]),
    "MPO": (film("MPO", quality=100), [RED]),
}


PILLOW = int(PIL.__version__.partition(".")[0])
SINCE_PILLOW_13 = {"La TIFF", "L and a spare channel TIFF", "YCbCr TIFF"}
if PILLOW < 13:  # which cannot read these: they are refused as unreadable there
    for name in SINCE_PILLOW_13:
        del FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_what_the_file_holds_becomes_what_the_base_sees(name: str) -> None:
    data, expected = FILES[name]
    # JPEG's and littleCMS's own arithmetic is exact to two levels only
    tolerance = 2 if name.endswith(("JPEG", "MPO")) or name == "LAB TIFF" else 0
    assert np.abs(np.subtract(pixels(data), expected)).max() <= tolerance


ALL_16 = np.arange(65536).reshape(256, 256)
ALL_16_ROWS = b"".join(b"\0" + row.astype(">u2").tobytes() for row in ALL_16)


@pytest.mark.parametrize(
    "data",
    [
        png(256, 16, 0, ALL_16_ROWS, height=256),
        tiff(256, ALL_16.astype("<u2").tobytes(), [16], height=256),
        tiff(256, ALL_16.astype(">u2").tobytes(), [16], height=256, order=">"),
        saved(Image.fromarray(ALL_16.astype(np.uint16)), "TIFF", compression="tiff_lzw"),
        tiff(256, ALL_16.astype("<i4").tobytes(), [32], kind=2, height=256),
    ],
    ids=["PNG", "TIFF II", "TIFF MM", "TIFF LZW", "TIFF 32 bit"],
)
def test_every_16_bit_grey_is_rounded(data: bytes) -> None:
    assert [pixel[0] for pixel in pixels(data)] == [round(Fraction(value, 257)) for value in range(65536)]


def test_every_12_bit_grey_is_scaled_from_its_own_white() -> None:
    samples = b"".join(bytes([a >> 4, (a & 15) << 4 | (a + 1) >> 8, (a + 1) & 255]) for a in range(0, 4096, 2))
    assert [pixel[0] for pixel in pixels(tiff(4096, samples, [12]))] == [
        round(Fraction(value * 255, 4095)) for value in range(4096)
    ]


def test_every_level_and_alpha_is_laid_over_black() -> None:
    level, alpha = np.meshgrid(np.arange(256), np.arange(256))
    data = saved(array_image(np.stack([level, level, level, alpha], axis=-1), "RGBA"), "PNG")
    expected = [round(Fraction(c * a, 255)) for a in range(256) for c in range(256)]
    assert pixels(data) == greys(*expected)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_floats_from_0_to_1_are_rounded(values: list[float]) -> None:
    assert pixels(tiff(len(values), pack("<f", *values), [32], 1, 3)) == greys(
        *(round(Fraction(value) * 255) for value in values)
    )


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
    ],
)
def test_orientation_is_undone(format_name: str, options: dict[str, Any], orientation: int) -> None:
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
    upright = upright.repeat(8, axis=0).repeat(8, axis=1)  # whole JPEG blocks
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(array_image(stored(upright, orientation)), format_name, exif=exif, **options)
    difference = np.abs(np.asarray(decode(data)).astype(int) - upright)
    assert difference.max() <= (2 if format_name == "JPEG" else 0)


def test_orientation_in_xmp_is_undone() -> None:
    xmp = PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="2"/>')
    assert pixels(saved(array_image([[RED, BLUE]]), "PNG", pnginfo=xmp)) == [BLUE, RED]


@pytest.mark.filterwarnings("ignore")
@given(
    st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"Exif\0\0II*\0\x08\0\0\0\2\0\x12\1" + tail),
    st.sampled_from(["PNG", "WEBP", "JPEG"]),
)
@example(b"Exif\0\0nonsense", "JPEG")
@settings(deadline=None)
def test_broken_exif_does_not_make_a_picture_unreadable(exif: bytes, format_name: str) -> None:
    assert decode(saved(Image.new("RGB", (3, 3)), format_name, exif=exif)).getcolors() == [(9, BLACK)]


@pytest.mark.parametrize("orientation", [("H", [0]), ("H", [9]), ("B", [6, 6, 6, 6]), ("I", [2**32 - 1])])
def test_an_impossible_orientation_is_taken_as_upright(orientation: tuple[str, list[int]]) -> None:
    assert pixels(tiff(2, b"\1\2", [8], tags={274: orientation})) == greys(1, 2)


def test_a_gif_frame_smaller_than_its_screen_is_filled_up() -> None:
    for transparency, outside in ((None, RED), (1, BLACK)):
        options = {} if transparency is None else {"transparency": transparency}
        data = bytearray(saved(palette(RED, BLUE), "GIF", **options))
        data[6:10] = struct.pack("<HH", 2, 2)
        assert pixels(bytes(data))[2:] == [outside, outside]


NO_WHITE = [
    (tiff(2, pack("<f", 0, 812.5), [32], 1, 3), "found 0.0 to 812.5;"),
    (tiff(2, pack("<f", -0.5, 1), [32], 1, 3), "found -0.5 to 1.0;"),
    (tiff(2, pack("<f", 0, float("inf")), [32], 1, 3), "found 0.0 to inf;"),
    (tiff(2, pack("<f", 0.5, float("nan")), [32], 1, 3), "found 0.5 to 0.5 and NaN;"),
    (tiff(1, pack("<f", float("nan")), [32], 1, 3), "found nothing but NaN;"),
    (tiff(2, pack("<i", 0, 65536), [32], 1, 2), "found 0 to 65536;"),
    (tiff(2, pack("<h", -1, 5), [16], 1, 2), "found -1 to 5;"),
]


@pytest.mark.parametrize(("data", "found"), NO_WHITE)
def test_numbers_without_a_defined_white_are_refused(data: bytes, found: str) -> None:
    assert refusal(data) == f"no defined white: {found} convert the files to 8 or 16 bit"


LZW = saved(Image.effect_noise((99, 99), 50), "TIFF", compression="tiff_lzw")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"GIF89", "not a TIFF, JPEG, PNG, BMP, WebP or GIF image (begins with b'GIF89')"),
        (b"%PDF-1.7\n", "not a TIFF, JPEG, PNG, BMP, WebP or GIF image (begins with b'%PDF-1.7')"),
        (saved(Image.effect_noise((99, 99), 50), "PNG")[:-99], "cut off: "),
        (saved(Image.new("RGB", (9, 9)), "JPEG")[:-20], "cut off or damaged: "),
        (saved(Image.effect_noise((99, 99), 50), "JPEG")[:-20], "cut off: "),
        (saved(Image.effect_noise((99, 99), 50), "WEBP")[:-20], "not readable as WEBP: it is cut off or damaged"),
        (saved(Image.new("RGB", (9, 9)), "BMP")[:-20], "cut off: "),
        (png(0, 8, 0, b""), "not readable as PNG: its width or height is zero"),
        (tiff(1, bytes(12), [32] * 3, 2), "not readable as TIFF: samples of a number or type"),
        (tiff(1, b"\0", [8], tags={259: ("H", [999])}), "not readable as TIFF: its header holds the unknown value 999"),
        (LZW[:4000] + bytes(200) + LZW[4200:], "not readable as TIFF: its pixels are cut off or damaged"),
        (png(1, 16, 2, bytes(6), chunk(b"tRNS", bytes(6))), "a transparent 16-bit colour"),
    ],
)
def test_the_reason_says_what_is_wrong(data: bytes, reason: str) -> None:
    assert refusal(data).startswith(reason)


@contextmanager
def at_most(limit: int | None) -> Iterator[None]:
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@pytest.mark.filterwarnings("ignore")
@given(
    st.sampled_from(sorted(FILES)),
    st.integers(0, 10**9),
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 255)), max_size=6),
)
@settings(max_examples=600, deadline=None)
def test_damage_gives_a_picture_or_a_reason_and_nothing_else(name: str, cut: int, flips: list[tuple[int, int]]) -> None:
    data = bytearray(FILES[name][0])
    for place, mask in flips:
        data[place % len(data)] ^= mask
    damaged = bytes(data[: cut % len(data)] if not flips else data)
    with at_most(10**5):
        try:
            outcome = decode(damaged).mode
        except UnreadableImage as refused:
            outcome = str(refused)
    assert outcome
    assert "\n" not in outcome


def test_many_threads_see_the_same() -> None:
    alone = {name: pixels(data) for name, (data, _) in FILES.items()}
    names = sorted(FILES) * 20
    random.Random(0).shuffle(names)
    with ThreadPoolExecutor(16) as pool:
        for name, seen in zip(names, pool.map(lambda name: pixels(FILES[name][0]), names), strict=True):
            assert seen == alone[name]


def jpeg_of(width: int, height: int) -> bytes:
    data = saved(Image.new("L", (1, 1)), "JPEG")
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def webp_of(width: int, height: int) -> bytes:
    data = saved(Image.new("RGB", (1, 1)), "WEBP", lossless=True)
    return data[:21] + struct.pack("<I", (width - 1) | (height - 1) << 14) + data[25:]


BOMBS = {
    # 18 MB of zeros in 18 kB, 432 MB as RGB: above the limit, and below twice the limit, where Pillow only warns
    "PNG": png(12000, 1, 0, bytes(1501 * 12000), height=12000),
    "PNG header": png(2**31 - 1, 8, 2, b"", height=2**31 - 1),
    "JPEG": jpeg_of(12000, 12000),
    "BMP": b"".join([(bmp := saved(Image.new("L", (1, 1)), "BMP"))[:18], struct.pack("<II", 12000, 12000), bmp[26:]]),
    "GIF": b"".join([(gif := saved(Image.new("L", (1, 1)), "GIF"))[:6], struct.pack("<HH", 60000, 60000), gif[10:]]),
    "TIFF": tiff(12000, b"", [8] * 3, 2, height=12000),
    "WebP": webp_of(16384, 16384),
}


@pytest.mark.parametrize("name", BOMBS)
def test_too_many_pixels_are_refused_before_they_take_memory(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "pixels" in refusal(BOMBS[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_without_a_limit_nothing_is_too_large() -> None:
    with at_most(None):
        assert pixels(png(2, 8, 0, b"\1\2")) == greys(1, 2)


def test_a_colour_profile_changes_nothing() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert pixels(saved(array_image([CORNERS]), "PNG", icc_profile=profile)) == CORNERS


def test_the_listed_extensions_are_those_of_the_formats_that_are_read() -> None:
    formats = {Image.registered_extensions()[extension] for extension in EXTENSIONS}
    assert formats == {"TIFF", "JPEG", "PNG", "BMP", "WEBP", "GIF"}
    assert DECODE_VERSION == 1


def test_import_needs_no_torch() -> None:
    code = "import pipeline.decode, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

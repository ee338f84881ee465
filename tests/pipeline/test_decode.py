"""Every file here is real and small; where Pillow cannot write a kind, it is put together byte by byte."""

import random
import struct
import subprocess
import sys
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
from tests.pipeline.image_files import Pixel, array_image, chunk, pack, png, saved, stored, tiff

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


@pytest.mark.filterwarnings("ignore")
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
        (saved(Image.new("RGB", (9, 9)), "PNG")[:10], "cut off or damaged: it ends too early"),
        (saved(Image.new("RGB", (9, 9)), "PNG")[:13], "cut off or damaged: broken PNG file"),
        (saved(Image.new("RGB", (9, 9)), "WEBP")[:14], "not readable as WEBP: it is cut off or damaged"),
        (LZW[:5000], "not readable as TIFF: its list of tags, which often stands at the end, is cut off or damaged"),
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


def test_a_file_has_at_most_as_many_bytes_as_its_picture_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(Image.new("RGB", (9, 9)), "BMP")
    monkeypatch.setattr("pipeline.decode.MAX_FILE_BYTES", len(data))
    assert decode(data).size == (9, 9)
    assert refusal(data + b"\0").startswith(f"{len(data) + 1} bytes are more than the {len(data)} that an image file")


@given(st.integers(1, 2**14 - 1), st.integers(1, 2**14 - 1), st.sampled_from(["VP8 ", "VP8L", "VP8X"]))
def test_a_webp_is_measured_before_its_decoder_is_made(width: int, height: int, kind: str) -> None:
    sides = {
        "VP8 ": bytes(6) + struct.pack("<HH", width, height),
        "VP8L": b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14),
        "VP8X": bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
    }
    reason = refusal(b"RIFF\xff\0\0\0WEBP" + kind.encode() + bytes(4) + sides[kind])
    if width * height > (Image.MAX_IMAGE_PIXELS or 0):
        assert reason.startswith(f"{width} x {height} pixels are more than")
    else:
        assert reason == "not readable as WEBP: it is cut off or damaged"


def scans(count: int, behind: bytes = b"") -> bytes:
    """A progressive JPEG of `count` scans and more."""
    data = saved(Image.new("L", (8, 8), 99), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:] + behind


def test_a_jpeg_has_no_more_scans_than_a_program_writes() -> None:
    assert decode(scans(400)).size == (8, 8)
    assert refusal(scans(500)).startswith("its 506 scans would be decoded one over the other")
    # What stands behind the picture, such as a video, is not the picture's.
    assert decode(scans(1, b"\0\2" + b"\xff\xda\0\2" * 2000)).size == (8, 8)
    comment = b"\xff\xfe" + struct.pack(">H", 8002) + b"\xff\xda\0\2" * 2000
    plain = scans(1)
    assert decode(plain[:2] + comment + plain[2:]).size == (8, 8)


def planes(*samples: bytes, **more: Any) -> bytes:
    return tiff(2, list(samples), [8] * 3, 2, height=2, tags={278: ("I", [2]), 284: ("H", [2])}, **more)


def test_a_tiff_lacks_no_strip_plane_or_tile() -> None:
    assert pixels(tiff(1, [b"\1", b"\2"], [8], height=2)) == greys(1, 2)
    assert refusal(tiff(1, [b"\1", b"\2"], [8], height=3, tags={278: ("I", [1])})) == (
        "cut off or damaged: it lacks strips of its picture"
    )
    red, green, blue = b"\1\2\3\4", b"\5\6\7\x08", b"\x09\x0a\x0b\x0c"
    assert pixels(planes(red, green, blue))[0] == (1, 5, 9)
    assert "lacks strips" in refusal(planes(red, green))
    tile = bytes([7]) * 256
    assert pixels(tiff(17, [tile, tile], [8], height=2, tile=(16, 16)))[16] == (7, 7, 7)
    assert "lacks strips" in refusal(tiff(17, [tile], [8], height=2, tile=(16, 16)))


def test_a_tile_has_no_more_pixels_than_a_picture() -> None:
    content = zlib.compress(bytes(12000 * 12000))
    tiled = tiff(16, content, [8], height=16, tile=(12000, 12000), tags={259: ("H", [8])})
    assert refusal(tiled).startswith("12000 x 12000 pixels are more than")


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

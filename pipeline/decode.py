"""From the bytes of an image file to the picture that a base sees: RGB, 8 bit, upright.

The rules, one by one and with what to do about a refused file, are in `docs/images.md`. They are rules of this
module, not of the caller: the same bytes give the same picture in every command, thread and process.
"""

import contextlib
import io
import re
import struct

import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.errors import UnreadableImage

# Part of every feature cache's recipe: raise it with any change to what bytes become which pixels, so that features
# computed under the old rules are never mixed with new ones.
DECODE_VERSION = 1

# More than a picture within Pillow's limit of pixels takes: with four channels of 16 bits, uncompressed, 716 MB.
MAX_FILE_BYTES = 2**30

# More than programs write: each scan goes over the whole picture again, so a few bytes of file buy milliseconds.
MAX_JPEG_SCANS = 500

# What a listing of an image set takes for an image; `decode` itself looks at the content only.
EXTENSIONS: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
)

# Pillow's file classes stand here instead of `Image.open`, which emits DecompressionBombWarning before the size can be
# looked at, and warnings cannot be silenced for one thread alone. An MPO file begins with its first picture as a JPEG.
_FORMATS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"), TiffImageFile),
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
)

# EXIF 2.32, 4.6.4 A, tag Orientation: what undoes each value.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Where Pillow's own words would leave the reader without a next step.
_TAGS = "its list of tags, which often stands at the end, is cut off or damaged"
_SAMPLES = f"samples of a number or type that Pillow does not read, or {_TAGS}; convert the files to 8-bit RGB"
_PLAINER = {
    "decoder error -2": "its pixels are cut off or damaged",
    "decoder error -9": "its pixels do not fit into memory",
    "broken data stream when reading image file": "its pixels are damaged",
    "unrecognized data stream contents when reading image file": "its pixels are damaged",
    "not enough image data": "its pixels are cut off or damaged",
    "could not create decoder object": "it is cut off or damaged",
    "not a WEBP file": "it is cut off or damaged",
    "not identified by this driver": "its width or height is zero, or its header is cut off or damaged",
    "Missing dimensions": _TAGS,
    "unknown data organization": _TAGS,
    "unknown pixel mode": _SAMPLES,
    "string index out of range": _SAMPLES,  # more planes than colours
    "Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK": (
        "a text or a colour profile in it unpacks to more than 1 MiB; save it without"
    ),
}

_PNG_BIT_DEPTH = 24  # offset in the file: the signature, then IHDR's length, name, width and height
_JPEG_MARKER = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")  # not: stuffed and fill bytes, restarts, which are data of a scan
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_PLANES_APART = 2  # TIFF 6.0, section 8, PlanarConfiguration
_WHITE_IS_ZERO = 0  # TIFF 6.0, section 4, PhotometricInterpretation


def decode(data: bytes) -> Image.Image:
    """Decode the first picture of an image file as RGB, 8 bit, upright, by the rules of `docs/images.md`.

    Safe to call from many threads at once.

    Args:
        data: All bytes of a TIFF, JPEG, MPO, PNG, BMP, WebP or GIF file.

    Returns:
        A picture of mode RGB in memory of its own, with an empty `info`: orientation is applied, transparency is laid
        over black, colour profiles are ignored.

    Raises:
        UnreadableImage: The bytes are no such file, are damaged, have more pixels than `PIL.Image.MAX_IMAGE_PIXELS`
            allows, are more than `MAX_FILE_BYTES`, or hold numbers without a defined white; the message is the reason
            alone, on one line.
    """
    if not data:
        raise UnreadableImage("the file is empty")
    require_file_size(len(data))
    file_class = next((file_class for signature, file_class in _FORMATS if signature.match(data)), None)
    if file_class is None:
        raise UnreadableImage(f"not a TIFF, JPEG, PNG, BMP, WebP or GIF image (begins with {data[:8]!r})")
    try:
        if file_class is WebPImageFile:
            _refuse_too_many_pixels(_webp_size(data))  # its decoder takes memory for them as soon as it is made
        elif file_class is JpegImageFile:
            _refuse_too_many_scans(data)
        image = file_class(io.BytesIO(data))
        _refuse_too_many_pixels(image.size)
        if isinstance(image, TiffImageFile):
            _require_whole_tiff(image)
        image.load()
        if isinstance(image, PngImageFile):
            _mend_transparency(image, data[_PNG_BIT_DEPTH])
        picture = _upright(_rgb(image), image)
    except UnreadableImage:
        raise
    except Exception as error:  # damaged bytes make Pillow raise nearly anything, AssertionError and KeyError included
        raise UnreadableImage(_reason(file_class.format or "image", error)) from error
    # A profile or an orientation left behind would be applied once more by whoever finds it.
    picture.info = {}
    return picture


def require_file_size(size: int) -> None:
    """Refuse a file that is too large to be read as a whole.

    Args:
        size: Bytes in it.

    Raises:
        UnreadableImage: They are more than `MAX_FILE_BYTES`.
    """
    if size > MAX_FILE_BYTES:
        raise UnreadableImage(
            f"{size} bytes are more than the {MAX_FILE_BYTES} that an image file may have; save its first picture alone"
        )


def _refuse_too_many_pixels(size: tuple[int, int]) -> None:
    """Refuse what Pillow would only warn of, before memory is taken for it."""
    width, height = size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UnreadableImage(
            f"{width} x {height} pixels are more than the {Image.MAX_IMAGE_PIXELS} of PIL.Image.MAX_IMAGE_PIXELS; "
            "cut or shrink the picture, or raise that limit if the file is trusted"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Read the canvas size of a WebP file; 0 x 0 where the decoder will find the header damaged."""
    header, kind = data[20:30].ljust(10, b"\0"), data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(header[4:7], "little") + 1, int.from_bytes(header[7:10], "little") + 1
    if kind == b"VP8L":
        packed = int.from_bytes(header[1:5], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(header[6:8], "little") & 0x3FFF, int.from_bytes(header[8:10], "little") & 0x3FFF
    return 0, 0


def _refuse_too_many_scans(data: bytes) -> None:
    """Refuse a JPEG that a decoder would be at for hours."""
    if data.count(b"\xff\xda") <= MAX_JPEG_SCANS:  # quick; what follows the picture may hold these two bytes as well
        return
    scans, place = 0, 2
    while found := _JPEG_MARKER.search(data, place):
        kind, place = data[found.end() - 1], found.end()
        if kind == _END_OF_IMAGE:
            break
        scans += kind == _START_OF_SCAN
        place += int.from_bytes(data[place : place + 2], "big")
    if scans > MAX_JPEG_SCANS:
        raise UnreadableImage(
            f"its {scans} scans would be decoded one over the other, and {MAX_JPEG_SCANS} are enough for any picture; "
            "save it anew"
        )


def _require_whole_tiff(image: TiffImageFile) -> None:
    """Refuse a TIFF whose tiles are larger than any picture, or whose strips are not all there.

    libtiff sees to the latter itself, but uncompressed files are read by Pillow, which leaves black what is missing.
    """
    tags = image.tag_v2
    width, height = tags.get(TILEWIDTH), tags.get(TILELENGTH)
    if isinstance(width, int) and isinstance(height, int):
        _refuse_too_many_pixels((width, height))
    places = [tile.extents for tile in image.tile if tile.codec_name == "raw" and tile.extents]
    if places:
        held = sum((right - left) * (lower - upper) for left, upper, right, lower in places)
        planes = len(image.getbands()) if tags.get(PLANAR_CONFIGURATION) == _PLANES_APART else 1
        if held < planes * image.width * image.height:
            raise UnreadableImage("cut off or damaged: it lacks strips of its picture")


def _mend_transparency(image: PngImageFile, bit_depth: int) -> None:
    """Bring the transparent colour of a tRNS chunk, which has the file's bit depth, to that of Pillow's pixels."""
    transparent = image.info.get("transparency")
    if image.mode == "L" and isinstance(transparent, int):
        white = 2**bit_depth - 1
        image.info["transparency"] = (transparent & white) * 255 // white
    elif image.mode == "RGB" and transparent is not None and bit_depth == 16:
        raise UnreadableImage(
            "a transparent 16-bit colour (tRNS) cannot be told apart in the 8 bits that are kept; "
            "convert the files to 8 bit"
        )


def _rgb(image: ImageFile) -> Image.Image:
    """Convert loaded pixels of any mode to RGB."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey(image).convert("RGB")
    if image.mode == "La":  # has no conversion in Pillow
        grey = image.getchannel(0)
        return Image.merge("RGB", (grey, grey, grey))
    if image.has_transparency_data:
        # Laying a picture over black is premultiplying it: colour x alpha / 255, rounded.
        return Image.merge("RGB", image.convert("RGBA").convert("RGBa").split()[:3])
    return image.convert("RGB")


def _grey(image: ImageFile) -> Image.Image:
    """Scale one channel of integers or floats so that its white becomes 255, or refuse it for want of a white."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    white = 1 if image.mode == "F" else 4095 if tags.get(BITSPERSAMPLE) == (12,) else 65535
    values = np.asarray(image)
    if not (values.min() >= 0 and values.max() <= white):  # said so that NaN fails
        numbers = values[~np.isnan(values)]
        found = f"{numbers.min()!s} to {numbers.max()!s}" if numbers.size else "nothing but NaN"
        also = " and NaN" if 0 < numbers.size < values.size else ""
        raise UnreadableImage(f"no defined white: found {found}{also}; convert the files to 8 or 16 bit")
    scaled = values.astype(np.float64)
    scaled *= 255 / white
    levels = np.rint(scaled, out=scaled).astype(np.uint8)
    if tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:  # Pillow turns these round at 8 bit and below only
        levels = 255 - levels
    if "transparency" in image.info:
        levels[values == image.info["transparency"]] = 0
    return Image.fromarray(levels)


def _upright(picture: Image.Image, image: ImageFile) -> Image.Image:
    """Turn a picture as the EXIF or XMP orientation of its file says, if that can be read."""
    turn = None
    with contextlib.suppress(Exception):  # broken EXIF is no reason to lose a picture
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return picture if turn is None else picture.transpose(turn)


def _reason(format_name: str, error: Exception) -> str:
    """Say on one line why Pillow gave up."""
    said = " ".join(str(error).split())[:200] or type(error).__name__
    if said in _PLAINER:
        return f"not readable as {format_name}: {_PLAINER[said]}"
    if "truncated" in said.lower():
        return f"cut off: {said}"
    # Pillow wraps what its header parsers stumble over: SyntaxError(KeyError(…))
    origin = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    if isinstance(origin, IndexError | struct.error):
        return "cut off or damaged: it ends too early"
    if isinstance(origin, EOFError) or said.startswith("broken PNG file"):
        return f"cut off or damaged: {said}"
    if isinstance(origin, KeyError):  # whose words are the key alone
        return f"not readable as {format_name}: its header holds the unknown value {said}"
    return f"not readable as {format_name}: {said}"

"""A corpus of odd and bad images, each with what is expected of it.

`python -m tests.pipeline.odd_images` prints how many files there are of each kind, and how many are read and refused.
"""

import io
import os
import sqlite3
import stat
import sys
import warnings
import zipfile
from collections.abc import Iterator
from functools import cache
from itertools import count, islice
from pathlib import Path

import numpy as np

from pipeline.decode import decode
from pipeline.errors import UnreadableImage
from tests.pipeline.image_files import Array, Odd, array_image, saved
from tests.pipeline.odd_pieces import annotated, bombs, elongated, patched, turned
from tests.pipeline.whole_images import FILES, scene

NO_IMAGE = "not a TIFF, JPEG, PNG, BMP, WebP or GIF image"
LETTERS = sys.platform != "darwin"  # whose file systems change or refuse some names


@cache
def corpus() -> tuple[Odd, ...]:
    """All files, always the same ones."""
    seeds = count()
    makers = (whole, cut, flipped, misnamed, strangers, bombs, elongated, turned, annotated, patched, named)
    return tuple(odd for make in makers for odd in make(seeds))


def whole(seeds: Iterator[int]) -> Iterator[Odd]:
    for ending, make in FILES.items():
        for number in range(len(list(make(scene(0))))):  # each of a picture of its own
            name, data, picture = next(islice(make(scene(next(seeds))), number, None))
            yield Odd(f"{ending} of every kind", f"{name}.{ending}", data, picture)


# How many bytes at the end hold no pixels and can be lost. All of these files hold noise, which takes every other byte.
TO_CUT = {
    "png": {"RGB 8 bit": 20, "grey 16 bit": 20, "palette 8 bit": 20, "RGB interlaced": 21},
    "tif": dict.fromkeys(("RGB raw", "RGB tiff_lzw", "RGB packbits", "RGB jpeg", "in strips", "BigTIFF"), 0)
    | dict.fromkeys(("uncompressed strips", "deflated tiles", "float <"), 0),
    "jpg": dict.fromkeys(("baseline", "progressive", "CMYK baseline", "L progressive", "restarts"), 0),
    "bmp": {"RGB": 0, "palette": 0, "run lengths": 4},
    "webp": dict.fromkeys(("lossy 80", "lossless", "lossless with alpha", "animation"), 0),
    "gif": {"plain": 2, "interlaced": 2},
}
CUTS = (3, 13, 40, 0.3, 0.5, 0.7, 0.9, 0.98)  # bytes, or the share of those that are needed


def damageable(seeds: Iterator[int]) -> Iterator[tuple[str, str, bytes, Array, int]]:
    for ending, spares in TO_CUT.items():
        for wanted, spare in spares.items():
            for name, data, picture in FILES[ending](scene(next(seeds))):
                if name == wanted:
                    yield ending, name, data, picture, spare


def cut(seeds: Iterator[int]) -> Iterator[Odd]:
    for ending, name, data, picture, spare in damageable(seeds):
        kind, needed = f"{ending} cut off", len(data) - spare
        yield Odd(kind, f"{name} at 0.{ending}", b"", reason="the file is empty")
        for where in CUTS:
            length = where if isinstance(where, int) else int(where * needed)
            recognised = length >= (12 if ending == "webp" else 8)
            reason = "cut off" if recognised else NO_IMAGE if ending not in ("jpg", "bmp") else ""
            yield Odd(kind, f"{name} at {length}.{ending}", data[:length], None, reason or "cut off")
        if spare:
            yield Odd(kind, f"{name} at {needed}.{ending}", data[:needed], picture)


def flipped(seeds: Iterator[int]) -> Iterator[Odd]:
    """One bit, or ten, anywhere; and one in the first bytes, where most formats say what they are."""
    rng = np.random.default_rng(0)
    for ending, name, data, _, _ in damageable(seeds):
        for number, (bits, end) in enumerate([(1, len(data)), (1, len(data)), (10, len(data)), (1, 60)]):
            damaged = bytearray(data)
            for place in rng.integers(0, end, bits):
                damaged[place] ^= 1 << rng.integers(0, 8)
            yield Odd(f"{ending} with flipped bits", f"{name} {number}.{ending}", bytes(damaged))


def misnamed(seeds: Iterator[int]) -> Iterator[Odd]:
    endings = [*FILES, "jpeg", "jpe", "jfif", "tiff", "JPG", "PnG"]
    for number, wrong in enumerate(endings):
        right = list(FILES)[(number + 1) % len(FILES)]
        _, data, picture = next(iter(FILES[right](scene(next(seeds)))))
        yield Odd("wrong extension", f"a {right} named.{wrong}", data, picture)


def strangers(seeds: Iterator[int]) -> Iterator[Odd]:
    image = array_image(scene(next(seeds)))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("picture.png", saved(image, "PNG"))
    base = sqlite3.connect(":memory:")
    base.execute("CREATE TABLE images (name)")
    base.commit()
    contents = {
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
        "text": b"This is no image.\n",
        "text that begins as BMP": b"BMW, Audi and others\n" * 50,
        "HTML": b"<!DOCTYPE html><title>404 Not Found</title>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "JSON": b'{"error": "not found"}',
        "UTF-16": "\ufeffno image".encode("utf-16-le"),
        "control characters": b"\x1b[31m\x07\n\r\x9b",
        "zip": archive.getvalue(),
        "SQLite": b"SQLite format 3\0" + bytes(4080),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(500),
        "NumPy": b"\x93NUMPY\x01\0" + bytes(200),
        "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "gzip": b"\x1f\x8b\x08" + bytes(50),
        "pickle": b"\x80\x04\x95" + bytes(50),
        "ELF": b"\x7fELF" + bytes(60),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(60),
        "AVIF": b"\0\0\0\x18ftypavif" + bytes(60),
        "JPEG XL": b"\xff\x0a" + bytes(60),
        "WAVE": b"RIFF\x24\0\0\0WAVEfmt " + bytes(60),
        **{format_name: saved(image, format_name) for format_name in ("PPM", "PCX", "TGA", "SGI", "ICO")},
    }
    for name, data in contents.items():
        reason = "cut off" if data.startswith(b"BM") else NO_IMAGE
        yield Odd("no image at all", f"{name}.jpg", data, reason=reason)


NAMES = (
    *(
        "a,b",
        ";",
        "|",
        "*?",
        "&",
        "#",
        "~",
        "=1+1",
        "-rf",
        "--help",
        " blank ",
        "nan",
        "None",
        "True",
        "[red]rich[bold]",
    ),
    *(
        "C:x",
        'quo"te',
        "apo'strophe",
        "back\\slash",
        "back`tick`",
        "$(touch x)",
        "%s",
        "{0}",
        "é",
        "e\u0301",
        "ß",
        "SS",
    ),
    *("ss", "İ", "שלום", "सत्यमेव", "森林", "tree 🌲", "family 👩\u200d👩\u200d👧", "flag 🇩🇪", "new\nline", "tab\t"),
    *("carriage\rreturn", "escape\x1b[2J\x1b]0;title\x07", "bell\x07\x08", "delete\x7f", "C1 \x9b31m\x85"),
    *("right to left \u202egnp.exe\u2066", "zero\u200bwidth\u200d\ufeff", "\u2028line \u2029paragraph"),
    *("tag \U000e0001", "private \ue000", "no character \uffff", "x" * 251, "森" * 83 + "x", "🌲" * 62 + "xyz"),
)
NOT_UTF8 = (b"caf\xe9.png", b"\xff\xfe.png", b"surrogate \xed\xa0\x80.png", b"half \xe6\xa3.png", b"\x80\x1b[2J\n.jpg")


def named(seeds: Iterator[int]) -> Iterator[Odd]:
    for name in NAMES:
        picture = scene(next(seeds))
        if LETTERS or name.isascii():
            data = saved(array_image(picture), "PNG")
            yield Odd("odd names", f"{name}.png", data, picture)
            yield Odd("odd names of bad images", f"{name}.png", data[:200], None, "cut off")
    for raw in NOT_UTF8 if LETTERS else ():
        data = saved(array_image(scene(next(seeds))), "PNG")
        yield Odd("names that are not UTF-8", os.fsdecode(raw), data, None, "its name is not UTF-8; rename it")


LINKS = {  # and why nothing is behind them
    "dangling.jpg": ("nowhere", "No such file"),
    "loop.jpg": ("loop.jpg", "symbolic links"),
    "there.jpg": ("back.jpg", "symbolic links"),
    "back.jpg": ("there.jpg", "symbolic links"),
    "endless.jpg": ("/dev/zero", "regular file"),
    "empty.jpg": ("/dev/null", "regular file"),
    "link to a pipe.jpg": ("pipe.jpg", "regular file"),
    "link to a folder that is not there": ("nowhere", ""),  # not an image's name
}


def special_files(folder: Path, outside: Path) -> list[Odd]:
    """Make what is no plain file: links, pipes, folders, and what the user may not read.

    Args:
        folder: A class folder that is not there yet.
        outside: Where there is room for files to link to.
    """
    pictures = {name: scene(10_000 + number) for number, name in enumerate(("linked", "in", "a", "b"))}
    data = {name: saved(array_image(picture), "PNG") for name, picture in pictures.items()}
    made: list[Odd] = []

    def expect(name: str, picture: Array | None = None, reason: str = "") -> None:
        made.append(Odd("no plain files", name, b"", picture, reason))

    (folder / "folder.jpg").mkdir(parents=True)
    (folder / "folder.jpg" / "inside.png").write_bytes(data["in"])
    (folder / "empty folder.png").mkdir()
    (outside / "linked.png").write_bytes(data["linked"])
    (folder / "link.png").symlink_to(outside / "linked.png")
    expect("folder.jpg/inside.png", pictures["in"])
    expect("link.png", pictures["linked"])
    for name, other in ("ab", "ba"):  # folders that link to each other, and back to where they are: listed once
        (folder / name).mkdir()
        (folder / name / "image.png").write_bytes(data[name])
        (folder / name / "to the other").symlink_to(f"../{other}")
        (folder / name / "up").symlink_to("..")
        expect(f"{name}/image.png", pictures[name])
    for name, (target, reason) in LINKS.items():
        (folder / name).symlink_to(target)
        if reason:
            expect(name, reason=reason)
    os.mkfifo(folder / "pipe.jpg")  # nobody writes to it
    expect("pipe.jpg", reason="regular file")
    if sys.platform == "linux":
        os.mknod(folder / "socket.jpg", stat.S_IFSOCK | 0o600)
        expect("socket.jpg", reason="No such device")
    if os.geteuid():  # root may read anything
        (folder / "closed folder").mkdir()
        for name in ("closed.png", "closed folder/image.png"):
            (folder / name).write_bytes(data["in"])
        (folder / "closed.png").chmod(0)
        (folder / "closed folder").chmod(0)
        expect("closed.png", reason="Permission denied")
        expect("closed folder", reason="cannot be listed: Permission denied")
    return made


def main() -> None:
    """Print the corpus by kinds, as a table in Markdown."""
    warnings.simplefilter("ignore")
    rows: dict[str, list[int]] = {}
    for odd in corpus():
        row = rows.setdefault(odd.kind, [0, 0, 0, 0])
        row[0] += 1
        row[1] += odd.picture is None and not odd.reason
        try:
            if "too elongated" in odd.reason or "UTF-8" in odd.reason:  # said by others than `decode`
                raise UnreadableImage(odd.reason)
            decode(odd.data)
            row[2] += 1
        except UnreadableImage:
            row[3] += 1
    print("| kind | files | of these open beforehand | read | refused |\n|---|---|---|---|---|")
    for kind, row in (*rows.items(), ("all", [sum(column) for column in zip(*rows.values(), strict=True)])):
        print(f"| {kind} | {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()

"""Reading files whose content may be anybody's: regular files alone, no more of them than is sane, and plain JSON."""

import hashlib
import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from cache.atomic import human_size

LEVELS = 32  # no document of ours is nested deeper than 6
BLOCK = 1 << 20
LONGEST = 1000  # letters


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes; a pipe or a device, which could be read for ever, is refused.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no regular file, or no file can have such a name.
    """
    # Without O_NONBLOCK the opening of a pipe waits until somebody writes into it.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is no regular file")
    return file


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It is no regular file, or a larger one.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"it has {human_size(size)}; such a file has at most {human_size(limit)}")
        return file.read(size)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a regular file's bytes, as 64 hexadecimal digits.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It is no regular file.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def require_stored(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse a zip archive whose content is more than its own bytes: compressed, overlapping, or named twice.

    Args:
        archive: The archive.
        size: Bytes of its file.

    Raises:
        ValueError: Says which entry.
    """
    seen: set[str] = set()
    for entry in archive.infolist():
        size -= entry.file_size
        if entry.compress_type != zipfile.ZIP_STORED or entry.filename in seen or size < 0:
            raise ValueError(f"its entry {entry.filename!r} is compressed, named twice or larger than the file")
        seen.add(entry.filename)


def parse_json(content: bytes | str) -> Any:
    """Parse JSON whose numbers and nesting whatever comes later can bear.

    Raises:
        ValueError: It is no JSON in UTF-8, is nested more than `LEVELS` deep, or has a number that is not finite or an
            integer of more than 64 bits.
    """
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_float=_finite, parse_int=_short, parse_constant=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(LEVELS):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def brief(reason: object) -> str:
    """Write in one line of a sane length what a damaged file may have made pages long: an error's words, a name."""
    text = " ".join(str(reason).split()) or (type(reason).__name__ if isinstance(reason, Exception) else "")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _inside(value: object) -> list[Any]:
    """Return the objects and arrays that stand directly in an object or an array."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in values if isinstance(inner, dict | list)]


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"its number {text[:20]} is not finite")
    return number


def _short(text: str) -> int:
    # 20 digits, because Python's own conversion of many takes quadratic time, or raises.
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"its number {text[:20]}… has more than 64 bits")
    return int(text)

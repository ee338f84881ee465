"""A zip archive from the network: what would leave its folder, or be too much, is refused before a byte is written."""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from cache.atomic import human_size
from pipeline.errors import DownloadError
from pipeline.progress import SILENT, Progress

BLOCK = 1 << 18  # bytes read at once
# What zipfile raises on damaged archives besides its own error; OSError when it looks beyond the ends of the file.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)


def list_members(archive: Path, largest: int) -> dict[str, int]:
    """Read an archive's directory.

    Args:
        archive: A zip file.
        largest: Bytes that all members together may have.

    Returns:
        Name of each file in it, folders left out, to its declared size in bytes.

    Raises:
        DownloadError: It is no complete zip archive; or a member has a path that is absolute or leads upwards, is a
            link or a device, is there twice, is encrypted, or is packed in another way than stored or deflated; or
            the members are too large. The message names the member.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except _DAMAGED as error:
        raise _damaged(archive, error) from error
    seen: set[str] = set()
    for member in members:
        folded = member.orig_filename.removesuffix("/").casefold()  # some file systems do not tell A from a
        if reason := "is there twice" if folded in seen else _refusal(member):
            raise DownloadError(f"{archive} holds {member.orig_filename!r}, which {reason}")
        seen.add(folded)
    if (size := sum(member.file_size for member in members)) > largest:
        raise DownloadError(
            f"{archive} says that it unpacks to {human_size(size)}, and {human_size(largest)} are the most that it may"
        )
    return {member.filename: member.file_size for member in members if not member.is_dir()}


def unpack(archive: Path, folder: Path, chosen: Mapping[str, str], progress: Progress = SILENT) -> None:
    """Unpack members that `list_members` has let through.

    Args:
        archive: The zip file.
        folder: Where to; it is there and empty.
        chosen: Name of a member to its path below `folder`.
        progress: Told how many are done.

    Raises:
        DownloadError: A member is damaged, or has another size than the archive's directory declares.
        OSError: A file could not be written.
    """
    with zipfile.ZipFile(archive) as opened, progress.steps("unpacking", len(chosen), "images") as advance:
        for name, path in chosen.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(opened, opened.getinfo(name), target)
            advance(1)


def _copy(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    size = 0
    archive = Path(str(opened.filename))
    with target.open("xb") as file:
        try:
            source = opened.open(member)
        except _DAMAGED as error:
            raise _damaged(archive, error) from error
        with source:
            while True:
                try:
                    block = source.read(BLOCK)  # never more than declared, and the last one checks the CRC
                except _DAMAGED as error:
                    raise _damaged(archive, error) from error
                if not block:
                    break
                size += file.write(block)
    if size != member.file_size:
        raise _damaged(archive, ValueError(f"{member.filename} has {size} bytes, not {member.file_size}"))


def _refusal(member: zipfile.ZipInfo) -> str:
    name = member.orig_filename  # as it stands in the archive; `filename` ends at the first NUL
    parts = name.removesuffix("/").split("/")
    if "\\" in name or "\0" in name or re.match("[A-Za-z]:", name) or not {"", ".", ".."}.isdisjoint(parts):
        return "is no plain path below a folder"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in a way that is not read here"
    return ""


def _damaged(archive: Path, error: Exception) -> DownloadError:
    return DownloadError(f"{archive} is no complete zip archive ({str(error) or type(error).__name__})")

"""An image set: a folder with one sub-folder per class, or with train/ val/ test/ above the classes."""

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cache.index import Entry
from pipeline.decode import EXTENSIONS
from pipeline.errors import ImageSetError
from pipeline.progress import SILENT, Progress

AT_ONCE = 1024  # files that wait for a thread: each takes some memory
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class ImageFile:
    """One image of a set: its path relative to the set's folder (with `/`), its class, its part or ''."""

    path: str
    label: str
    part: str = ""


@dataclass(frozen=True)
class ImageSet:
    """A labelled folder of images, as it was found.

    Attributes:
        root: The folder.
        classes: Class names, sorted by code point.
        images: Sorted by code point of their paths.
        strays: Paths of image files that lie outside every class folder, and so are not part of the set.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[ImageFile, ...]
    strays: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fingerprints:
    """The content of an image set.

    Attributes:
        entries: One for each image that could be read, in the set's order.
        unreadable: (path, reason) of the others.
    """

    entries: tuple[Entry, ...]
    unreadable: tuple[tuple[str, str], ...]


def read_image_set(folder: Path | str) -> ImageSet:
    """List an image set; no image is opened.

    Args:
        folder: One sub-folder per class, images at any depth below it; or `train`, `val` (`valid`, `validation`)
            and `test` with the classes below them. Hidden files and folders are passed over; so are files that
            have no image's extension.

    Raises:
        ImageSetError: No such folder, no classes, a class without images, or two readings are possible.
    """
    root = Path(folder)
    _text(str(root.absolute()))
    if not os.path.isdir(root):  # noqa: PTH112  # Path's raises where a folder may not be looked at
        found = "is a file" if os.path.exists(root) else "does not exist"  # noqa: PTH110  # likewise
        raise ImageSetError(f"{root} {found}. Name a folder with one sub-folder of images per class.")
    if (root / "recipe.json").exists() and (root / "shards").exists():
        raise ImageSetError(
            f"{root} is a feature cache, not an image set. Was it meant to be CACHE, and the other IMAGES?"
        )
    folders = _folders(root)
    if not folders:
        raise ImageSetError(
            f"{root} has no sub-folders, so no classes. Put the images of each class into a folder named after it."
        )
    images: list[ImageFile] = []
    strays = [_text(entry.name) for entry in _visible(root) if _is_image(entry)]
    if _is_split(root, folders):
        _require_one_name_each(root, folders)
        for part in folders:
            strays += [_text(f"{part.name}/{entry.name}") for entry in _visible(Path(part)) if _is_image(entry)]
            for label in _folders(Path(part)):
                images += _class_images(root, label, PARTS[part.name])
    else:
        for label in folders:
            images += _class_images(root, label, "")
    images.sort(key=lambda image: image.path)
    classes = tuple(sorted({image.label for image in images}))
    return ImageSet(root, classes, tuple(images), tuple(sorted(strays)))


def fingerprint(images: ImageSet, workers: int | None = None, progress: Progress = SILENT) -> Fingerprints:
    """Read every file of an image set once and take the SHA-256 of its bytes.

    Args:
        images: The set.
        workers: Threads; as many as processors if not given.
        progress: Told how many files are done.
    """
    entries: list[Entry] = []
    unreadable: list[tuple[str, str]] = []
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        with progress.steps("reading", len(images.images), "images") as advance:
            for start in range(0, len(images.images), AT_ONCE):
                files = images.images[start : start + AT_ONCE]
                digests = pool.map(lambda image: _digest(images.root / image.path), files)
                for image, (digest, reason) in zip(files, digests, strict=True):
                    if reason:
                        unreadable.append((image.path, reason))
                    else:
                        entries.append(Entry(image.path, image.label, digest, image.part))
                    advance(1)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for the files that are still to be read
    return Fingerprints(tuple(entries), tuple(unreadable))


def require_apart(images: Path, folder: Path, what: str) -> None:
    """Refuse to write where the next command would take it for a class of the image set.

    Args:
        images: Folder of the image set.
        folder: Where something is to be written.
        what: What it is, for the message.

    Raises:
        ImageSetError: The folder lies inside the image set.
    """
    if folder.resolve().is_relative_to(images.resolve()):
        raise ImageSetError(
            f"The {what} {folder} would lie inside the image set {images}, where every folder is a class. "
            "Name a folder outside it."
        )


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of an image file's bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _digest(path: Path) -> tuple[str, str]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "", "not a regular file"  # a pipe or a device would be read for ever
        return digest_of(path.read_bytes()), ""
    except OSError as error:
        return "", error.strerror or str(error)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ImageSetError(
            f"The folder {folder} cannot be listed: {error.strerror}. Mend its permissions, or move it out of the set."
        ) from error


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _visible(folder) if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry)  # noqa: PTH112  # entry.is_dir() raises where a link leads to itself


def _is_image(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere is no file, but the user meant an image: it is listed, and reported when read.
    return os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not _is_folder(entry)  # noqa: PTH122


def _is_split(root: Path, folders: list[os.DirEntry[str]]) -> bool:
    """Whether every folder has a part's name, `train` is among them, and each holds folders.

    Raises:
        ImageSetError: `train` and another part hold folders, but not all of this is so.
    """
    named = {entry.name: bool(_folders(Path(entry))) for entry in folders}
    if not named.get("train"):
        return False
    odd = [name for name, holds_classes in named.items() if name not in PARTS or not holds_classes]
    if odd and len(named.keys() & PARTS.keys()) > 1:
        raise ImageSetError(
            f"{root} looks like a split, for there are folders in its train, but these are no parts with a folder for "
            f"each class: {', '.join(odd)}. Move them away; or if train is a class, take the folders out of it."
        )
    return not odd


def _require_one_name_each(root: Path, folders: list[os.DirEntry[str]]) -> None:
    for part in ("train", "val", "test"):
        same = [entry.name for entry in folders if PARTS[entry.name] == part]
        if len(same) > 1:
            raise ImageSetError(f"{root} has {' and '.join(same)}, which both mean '{part}'. Keep one of them.")


def _class_images(root: Path, folder: os.DirEntry[str], part: str) -> list[ImageFile]:
    where = Path(folder)
    label = _text(folder.name)
    above = frozenset({_identity(root), _identity(where.parent)})
    images = [ImageFile(_text(path.relative_to(root).as_posix()), label, part) for path in _walk(where, above)]
    if not images:
        raise ImageSetError(
            f"The class folder {where} holds no image ({', '.join(sorted(EXTENSIONS))}). "
            "Add images, or remove the folder (a name that begins with a dot is passed over)."
        )
    return images


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield the image files below a folder; a link back to a folder above is not followed again."""
    here = _identity(folder)
    if here in above:
        return
    for entry in _visible(folder):
        if _is_folder(entry):
            yield from _walk(Path(entry), above | {here})
        elif _is_image(entry):
            yield Path(entry)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _text(name: str) -> str:
    """Return a name as it is, if it can be stored.

    Raises:
        ImageSetError: Its bytes are not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ImageSetError(
            f"The name {os.fsencode(name)!r} is not UTF-8. Rename it; a cache stores names as UTF-8."
        ) from None
    return name

"""An image set: a folder with one sub-folder per class, or with train/ val/ test/ above the classes."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from pathlib import Path

from cache.index import Entry
from pipeline.decode import EXTENSIONS, require_file_size
from pipeline.errors import ImageSetError, UnreadableImage
from pipeline.progress import SILENT, Progress
from pipeline.reading import BLOCK, open_regular

AT_ONCE = 1024  # files that wait for a thread: each takes some memory
TOGETHER = 8  # files that a thread reads before it tells: to hand over a single small one takes longer than to read it
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
        unreadable: (path, reason) of what lies in a class folder and cannot even be listed: sub-folders that are
            closed, and files whose names cannot be stored.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[ImageFile, ...]
    strays: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()

    @property
    def found(self) -> int:
        """How many images there are, with those that cannot even be listed."""
        return len(self.images) + len(self.unreadable)


@dataclass(frozen=True)
class Fingerprints:
    """The content of an image set.

    Attributes:
        entries: One for each image that could be read, in the set's order.
        unreadable: (path, reason) of the others, and of those that could not even be listed; sorted.
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
    homes = {root: ""}  # where the classes are
    if _is_split(root, folders):
        _require_one_name_each(root, folders)
        homes = {Path(entry): PARTS[entry.name] for entry in folders}
    above = [entry for place in {root, *homes} for entry in _visible(place)]
    strays = [_shown(Path(entry).relative_to(root).as_posix()) for entry in above if _is_image(entry)]
    images: list[ImageFile] = []
    unreadable: list[tuple[str, str]] = []
    for home, part in homes.items():
        for label in _folders(home):
            listed, others = _class_images(root, label, part)
            images += listed
            unreadable += others
    images.sort(key=lambda image: image.path)
    classes = tuple(sorted({image.label for image in images}))
    return ImageSet(root, classes, tuple(images), tuple(sorted(strays)), tuple(unreadable))


def fingerprint(images: ImageSet, workers: int | None = None, progress: Progress = SILENT) -> Fingerprints:
    """Read every file of an image set once and take the SHA-256 of its bytes.

    Args:
        images: The set.
        workers: Threads; as many as processors if not given.
        progress: Told how many files are done.
    """
    entries: list[Entry] = []
    unreadable = list(images.unreadable)
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        with progress.steps("reading", len(images.images), "images") as advance:
            for start in range(0, len(images.images), AT_ONCE):
                files = images.images[start : start + AT_ONCE]
                groups = [files[first : first + TOGETHER] for first in range(0, len(files), TOGETHER)]
                for group, digests in zip(groups, pool.map(partial(_digests, images.root), groups), strict=True):
                    for image, (digest, reason) in zip(group, digests, strict=True):
                        if reason:
                            unreadable.append((image.path, reason))
                        else:
                            entries.append(Entry(image.path, image.label, digest, image.part))
                    advance(len(group))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for the files that are still to be read
    return Fingerprints(tuple(entries), tuple(sorted(unreadable)))


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


def _digests(root: Path, images: Sequence[ImageFile]) -> list[tuple[str, str]]:
    return [_digest(root / image.path) for image in images]


def _digest(path: Path) -> tuple[str, str]:
    """Return a file's digest, or the reason why there is none; of a large file a block at a time is in memory."""
    digest, size = hashlib.sha256(), 0
    try:
        with open_regular(path) as file:
            require_file_size(os.fstat(file.fileno()).st_size)
            while block := file.read(BLOCK):
                size += len(block)
                require_file_size(size)  # it may grow for ever
                digest.update(block)
    except OSError as error:
        return "", _said(error)
    except (UnreadableImage, ValueError) as error:
        return "", str(error)
    return digest.hexdigest(), ""


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return _entries(folder)
    except OSError as error:
        raise _closed(folder, error) from error


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _closed(folder: Path, error: OSError) -> ImageSetError:
    return ImageSetError(
        f"The folder {folder} cannot be listed: {_said(error)}. Mend its permissions, or move it out of the set."
    )


def _said(error: OSError) -> str:
    return error.strerror or str(error)


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _visible(folder) if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or where one may not go
        return False


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


def _class_images(root: Path, folder: os.DirEntry[str], part: str) -> tuple[list[ImageFile], list[tuple[str, str]]]:
    """Return the images of a class, and (path, reason) of what cannot be listed there."""
    where, label = Path(folder), _text(folder.name)
    images: list[ImageFile] = []
    unreadable: list[tuple[str, str]] = []
    for place, reason in _walk(where, {_identity(root), _identity(where.parent)}):
        path = place.relative_to(root).as_posix()
        if reason or not _is_text(path):
            unreadable.append((_shown(path), reason or "its name is not UTF-8; rename it"))
        else:
            images.append(ImageFile(path, label, part))
    if not images and not unreadable:
        raise ImageSetError(
            f"The class folder {where} holds no image ({', '.join(sorted(EXTENSIONS))}). "
            "Add images, or remove the folder (a name that begins with a dot is passed over)."
        )
    return images, unreadable


def _walk(folder: Path, above: set[tuple[int, int]]) -> Iterator[tuple[Path, str]]:
    """Yield the image files below a class folder, and with the reason each folder there that cannot be listed.

    A folder that links lead to is listed once, under its own name if it lies here itself: links from folder to folder
    would else make paths without end.
    """
    seen = set(above)
    waiting = [(False, folder)]  # links last, and else in the order of their paths
    while waiting:
        _, here = heappop(waiting)
        try:
            identity = _identity(here)
            if identity in seen:
                continue
            seen.add(identity)
            entries = _entries(here)
        except OSError as error:
            if here == folder:
                raise _closed(here, error) from error
            yield here, f"the folder cannot be listed: {_said(error)}"
            continue
        for entry in entries:
            if _is_folder(entry):
                heappush(waiting, (entry.is_symlink(), Path(entry)))
            elif _is_image(entry):
                yield Path(entry), ""


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _text(name: str) -> str:
    """Return a name as it is, if it can be stored.

    Raises:
        ImageSetError: Its bytes are not UTF-8.
    """
    if not _is_text(name):
        raise ImageSetError(f"The name {os.fsencode(name)!r} is not UTF-8. Rename it; a cache stores names as UTF-8.")
    return name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    """Return a name with its bytes that are not UTF-8 as visible escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")

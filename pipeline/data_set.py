"""Data sets that can be downloaded as image sets; UC Merced Land Use is the paper's."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cache.atomic import remove_leftovers, require_room, writing_folder
from cache.lock import locked
from pipeline.errors import DownloadError, ImageSetError
from pipeline.progress import SILENT, Progress


@dataclass(frozen=True)
class DataSet:
    """A published archive of labelled images.

    Args:
        name: What users call it.
        url: Where its users get it.
        archive: File name of the zip archive.
        md5: Of the archive, in hexadecimal.
        size: Bytes of the archive, about.
        unpacked: Bytes of its images, at most.
        inside: The folder in the archive, ending in `/`, that has the class folders.
        suffix: Of the images, in lower case.
        classes: Names of the class folders.
        images: How many there are.
        source: Whom to cite, and what may be done with it.
    """

    name: str
    url: str
    archive: str
    md5: str
    size: int
    unpacked: int
    inside: str
    suffix: str
    classes: tuple[str, ...]
    images: int
    source: str

    def is_image(self, path: str) -> bool:
        """Whether a file counts as one of its images by its name; archives hold notes and thumbnails too."""
        name = path.rpartition("/")[2]
        return name.lower().endswith(self.suffix) and not name.startswith(".")

    def other_classes(self, names: Iterable[str]) -> str:
        """Say in words how names of class folders differ from its own; empty if they do not."""
        found = set(names)
        if missing := set(self.classes) - found:
            return f"its class {min(missing)} is missing"
        if strange := found - set(self.classes):
            return f"{min(strange)} is no class of {self.name}"
        return ""

    def other_images(self, paths: Iterable[str]) -> str:
        """Say in words how a list of images, as CLASS/FILE, differs from its own; empty if it does not."""
        found = sorted(paths)
        if difference := self.other_classes(path.partition("/")[0] for path in found):
            return difference
        for path in found:
            if path.count("/") != 1 or not self.is_image(path):
                return f"{path} is no image of {self.name}, which are all CLASS/NAME{self.suffix}"
        return "" if len(found) == self.images else f"it has {len(found)} images, not {self.images}"


DATA_SETS: Mapping[str, DataSet] = {
    data.name: data
    for data in (
        DataSet(
            name="ucmerced",
            # torchgeo's copy of the publisher's file, at one commit.
            url="https://hf.co/datasets/torchgeo/ucmerced/resolve/7c5ef3454d9b1cccfa7ccde0c01fc8f00a45909a/UCMerced_LandUse.zip",
            archive="UCMerced_LandUse.zip",
            md5="5b7ec56793786b6dc8a908e8854ac0e4",
            size=332_000_000,
            unpacked=500_000_000,  # uncompressed TIFF, 256 x 256 pixels or little else: about 210 kB each
            inside="UCMerced_LandUse/Images/",
            suffix=".tif",
            classes=(
                "agricultural",
                "airplane",
                "baseballdiamond",
                "beach",
                "buildings",
                "chaparral",
                "denseresidential",
                "forest",
                "freeway",
                "golfcourse",
                "harbor",
                "intersection",
                "mediumresidential",
                "mobilehomepark",
                "overpass",
                "parkinglot",
                "river",
                "runway",
                "sparseresidential",
                "storagetanks",
                "tenniscourt",
            ),
            images=2100,
            source="UC Merced Land Use: Yang and Newsam, Bag-Of-Visual-Words and Spatial Extensions for Land-Use "
            "Classification, ACM SIGSPATIAL GIS 2010; public domain imagery of the USGS, meant for research.",
        ),
    )
}


@dataclass(frozen=True)
class Download:
    """A data set that is there.

    Attributes:
        name: Of the data set.
        folder: The image set.
        images: How many it has.
        classes: How many it has.
        size: Bytes of the images.
        seconds: How long it took.
        kept: Whether it was there already; then the names were compared, not the pixels.
        source: Whom to cite, and what may be done with it.
    """

    name: str
    folder: Path
    images: int
    classes: int
    size: int
    seconds: float
    kept: bool
    source: str


def download(name: str, folder: Path | str, *, url: str | None = None, progress: Progress = SILENT) -> Download:
    """Download a data set and unpack it, so that a folder is its image set; what is there already is kept.

    Args:
        name: A key of `DATA_SETS`.
        folder: Where the class folders go. It appears whole or not at all; beside it, hidden files hold what has come
            so far.
        url: Another address of the same archive.
        progress: Told name and size, every megabyte, and what breaks.

    Raises:
        DownloadError: There is no such data set; the archive cannot be had, is another file or is not safe to unpack;
            or the folder is there and holds something else.
        NoRoom: The disk cannot hold it, or the folder cannot be written to.
    """
    if name not in DATA_SETS:
        raise DownloadError(f"there is no data set {name!r} to download; there is {', '.join(DATA_SETS)}")
    return obtain(DATA_SETS[name], folder, url=url, progress=progress)


def obtain(data: DataSet, folder: Path | str, *, url: str | None = None, progress: Progress = SILENT) -> Download:
    """Do what `download` does, for any data set."""
    started = time.monotonic()
    folder = Path(folder)
    place = folder.resolve()  # where a link leads, so that archive and images are on one disk
    archive = place.parent / f".{place.name}.{data.archive}"
    if not (kept := _is_there(data, folder)):
        if place == Path.cwd():
            raise DownloadError(f"{folder} is the folder that you are in, which would be replaced: name one inside it")
        with locked(place.parent / f".{place.name}.lock", f"{folder} is being downloaded", progress.note):
            if not (kept := _is_there(data, folder)):
                _bring(data, place, archive, url or data.url, progress)
    archive.unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in folder.glob("*/*") if data.is_image(path.name))
    seconds = time.monotonic() - started
    return Download(data.name, folder, data.images, len(data.classes), size, seconds, kept, data.source)


def _is_there(data: DataSet, folder: Path) -> bool:
    """Whether a folder is the data set's image set; False if it is empty or missing.

    Raises:
        DownloadError: It holds something else.
    """
    if not os.path.exists(folder):  # noqa: PTH110  # Path's raises where a folder may not be looked at
        return False
    if folder.is_dir() and not any(folder.iterdir()):
        return False
    if difference := _difference(data, folder):
        raise DownloadError(
            f"{folder} is there already, and is not {data.name}: {difference}. Name another folder, or move it away."
        )
    return True


def _difference(data: DataSet, folder: Path) -> str:
    if not folder.is_dir():
        return "it is a file"
    # The names at the top first: any folder can be named here, and a large one would take long to list.
    top = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if difference := data.other_classes(top):
        return difference
    from pipeline.image_set import read_image_set

    try:
        return data.other_images(image.path for image in read_image_set(folder).images)
    except ImageSetError as error:
        return str(error).rstrip(".")


def _bring(data: DataSet, place: Path, archive: Path, url: str, progress: Progress) -> None:
    """Download the archive and unpack it; nobody else does so at the same time."""
    from pipeline.archive import list_members, unpack
    from pipeline.transfer import Checksum, fetch, partial_of  # late: `manyheads --help` needs the names alone

    remove_leftovers(place.parent)
    came = sum(path.stat().st_size for path in (archive, partial_of(archive)) if path.exists())
    require_room(place.parent, max(0, data.size - came) + data.unpacked, f"{data.name}, packed and unpacked,")
    try:
        checksum = Checksum("md5", data.md5)
        fetch(url, archive, checksum, progress, name=data.archive, largest=data.size + data.size // 10)
    except DownloadError as error:
        raise DownloadError(
            f"{data.archive} could not be downloaded from {url}: {error}. Name another address of it with --url, or "
            f"copy the file to {archive} and run the same command again (the copy is removed once it is unpacked)."
        ) from error
    try:
        sizes = list_members(archive, data.unpacked)
        chosen = {name: name.removeprefix(data.inside) for name in sizes if name.startswith(data.inside)}
        chosen = {name: path for name, path in chosen.items() if data.is_image(path)}
        if difference := data.other_images(chosen.values()):
            raise DownloadError(f"{data.archive} does not hold {data.name}: {difference}")
        require_room(place.parent, sum(sizes[name] for name in chosen), data.name)
        with writing_folder(place) as temporary:
            unpack(archive, temporary, chosen, progress)
    except DownloadError as error:
        archive.unlink()  # its hash is right, so that it gets no better by keeping
        raise DownloadError(f"{error}. The archive from {url} was removed, nothing was unpacked.") from error

"""Pixels as features: what the baselines are trained on, under a recipe whose base is called `pixels`.

So a baseline is a run like any other: a classifier over rows of numbers, which here are the transformed pixels
themselves, decoded when they are needed instead of kept in a cache.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cache import Entry, Index, Recipe
from pipeline.augmentation import AUGMENTATION, Augmentation
from pipeline.decode import DECODE_VERSION
from pipeline.decoder import Pixels, pixels_of
from pipeline.decoding import Wanted, decoding, enough_workers
from pipeline.environment import decoders
from pipeline.errors import ImageSetError, RunError, UnreadableImages
from pipeline.image_set import fingerprint, read_image_set
from pipeline.printable import printable
from pipeline.progress import SILENT, Progress
from pipeline.transform import Transform

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pipeline.base import Base

PIXELS = "pixels"
SIDE = 224  # of the paper's images, in pixels
RESIZED = 256  # their short side before the crop
BATCH = 16  # images that are normalised at once
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the paper normalised


def pixel_transform(image_size: int = SIDE) -> Transform:
    """Return the paper's evaluation transform, in proportion where the images are to be smaller."""
    return Transform(round(RESIZED * image_size / SIDE), image_size, MEAN, STD)


def pixel_recipe(image_size: int = SIDE) -> Recipe:
    """Return the recipe of raw pixels: 3 * image_size * image_size numbers of the evaluation transform."""
    return Recipe(
        base=PIXELS,
        weights_digest="",
        transform=pixel_transform(image_size).as_dict(),
        decoding=DECODE_VERSION,
        dimension=3 * image_size**2,
        views=AUGMENTATION.as_dict(),
        weights="none",
    )


def pixel_base(transform: Transform) -> "Base":
    """Return a base that gives the transformed pixels themselves, so that `predict` need not know of it."""
    from torch import nn

    from pipeline.base import Base

    return Base(PIXELS, nn.Identity(), 3 * transform.crop_size**2, transform, weights_digest="", weights="none")


def read_index(
    images: Path | str,
    transform: Transform,
    *,
    on_error: Literal["fail", "skip"] = "fail",
    decoded: bool = True,
    progress: Progress = SILENT,
) -> Index:
    """List an image set for training on its pixels, and decode every image once, so that none fails hours later.

    Args:
        images: Folder of the image set.
        transform: What each image must go through.
        on_error: What unreadable images mean: `fail` raises, `skip` leaves them out.
        decoded: Whether to decode them; else only files that cannot be opened count as unreadable.
        progress: Told how many are done.

    Raises:
        ImageSetError: The folder is not an image set, none of its images can be read, or `on_error` is neither.
        UnreadableImages: Some images cannot be read and `on_error` is `fail`.
    """
    if on_error not in ("fail", "skip"):
        raise ImageSetError(f"on_error {on_error!r} is neither 'fail' nor 'skip'.")
    image_set = read_image_set(images)
    found = fingerprint(image_set, decoders(), progress)
    reasons = dict(found.unreadable)
    if decoded:
        reasons |= _undecodable(image_set.root, found.entries, transform, progress)
    skipped = tuple(sorted(reasons.items()))
    entries = tuple(entry for entry in found.entries if entry.path not in reasons)
    if on_error == "fail" or not entries:
        _refuse(skipped, image_set.found, images)
    return Index(
        entries=entries,
        classes=tuple(sorted({entry.label for entry in entries})),
        skipped=skipped,
        images=str(image_set.root.absolute()),
        recipe_digest="",
    )


def require_decodable(index: Index, transform: Transform, progress: Progress = SILENT) -> None:
    """Decode every image of an index that was read without doing so.

    Args:
        index: The images.
        transform: What each must go through.
        progress: Told how many are done.

    Raises:
        ImageSetError: None of them can be read.
        UnreadableImages: Some of them cannot be read.
    """
    reasons = _undecodable(Path(index.images), index.entries, transform, progress)
    _refuse(tuple(sorted(reasons.items())), len(index.entries), index.images)


def _undecodable(root: Path, entries: Sequence[Entry], transform: Transform, progress: Progress) -> dict[str, str]:
    """Return why images cannot be used, by path."""
    wanted = (Wanted(root / entry.path) for entry in entries)
    with (
        decoding(wanted, transform, enough_workers(len(entries))) as decoded,
        progress.steps("checking", len(entries), "images") as advance,
    ):
        reasons: dict[str, str] = {}
        for entry, (_, _, reason) in zip(entries, decoded, strict=True):
            reasons |= {entry.path: reason} if reason else {}
            advance(1)
    return reasons


def _refuse(skipped: Sequence[tuple[str, str]], images: int, folder: Path | str) -> None:
    """Refuse images that cannot be read, if there are any."""
    if not skipped:
        return
    listed = "\n".join(f"  {printable(path)}: {reason}" for path, reason in skipped)
    failure = ImageSetError if len(skipped) == images else UnreadableImages
    raise failure(
        f"{len(skipped)} of {images} images in {folder} cannot be read. Mend or remove these files, or add "
        f"`--on-error skip` to go on without them:\n{listed}"
    )


def read_pixels(
    root: Path,
    entries: Sequence[Entry],
    transform: Transform,
    out: npt.NDArray[np.float32],
    advance: Callable[[int], None] = lambda rows: None,
    views: Sequence[int] | None = None,
) -> None:
    """Decode images into rows of normalised pixels.

    Args:
        root: Folder of the image set.
        entries: The images, (n,).
        transform: Makes the pixels.
        out: (n, 3 * crop_size * crop_size), filled.
        advance: Told how many more rows are done.
        views: Number of the view in each row, (n,); all 0 if not given.

    Raises:
        RunError: An image was changed or cannot be read any more.
    """
    named = zip(entries, views or [0] * len(entries), strict=True)
    wanted = (Wanted(root / entry.path, entry.digest, (view,)) for entry, view in named)
    with decoding(wanted, transform, enough_workers(len(entries)), BATCH) as decoded:
        done = 0
        while batch := list(islice(decoded, BATCH)):
            rows = transform.normalise(np.concatenate([_required(*one) for one in batch]))
            out[done : done + len(batch)] = rows.reshape(len(batch), -1)
            done += len(batch)
            advance(len(batch))


def pixel_blocks(
    root: Path, entries: Sequence[Entry], transform: Transform, size: int = 64
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the pixels of images in blocks of at most `size` rows, so that memory stays flat.

    Raises:
        RunError: An image was changed or cannot be read any more.
    """
    for start in range(0, len(entries), size):
        block = entries[start : start + size]
        rows = np.empty((len(block), 3 * transform.crop_size**2), dtype=np.float32)
        read_pixels(root, block, transform, rows)
        yield rows


@dataclass(frozen=True)
class Pictures:
    """Images as a torch `DataLoader` takes them: item i is a tensor (3, S, S) and the number of its class.

    An item that cannot be read is the reason alone, a text: an exception would lose its type between processes.

    Attributes:
        root: Folder of the image set.
        entries: The images.
        codes: Number of each one's class.
        transform: The evaluation transform.
        augmentation: Draws the training view; None is the evaluation transform itself.
        draw: Names the draw, such as seed and epoch: each name gives other views.
    """

    root: Path
    entries: tuple[Entry, ...]
    codes: tuple[int, ...]
    transform: Transform
    augmentation: Augmentation | None = None
    draw: str = ""

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> "tuple[Tensor, int] | str":
        entry = self.entries[number]
        path = self.root / entry.path
        pixels = pixels_of(path, entry.digest, lambda image, _: self._draw(image, entry.path))
        if isinstance(pixels, str):
            return _gone(path, pixels)
        return self.transform.normalise(pixels[None])[0], self.codes[number]

    def _draw(self, image: "Image", path: str) -> Pixels:
        if self.augmentation is None:
            return self.transform.pixels(image)
        return self.augmentation.pixels(image, self.transform, f"{self.draw}, {path}")


def picture_batches(
    pictures: Pictures, order: Sequence[int], size: int, workers: int, pinned: bool = False
) -> "Iterator[tuple[Tensor, Tensor]]":
    """Yield pictures in batches (n, 3, S, S) with the numbers of their classes (n,).

    torch's loader draws a number from the global generator, whatever `workers` is.

    Args:
        pictures: The pictures.
        order: Numbers of the pictures, in the order in which they come.
        size: Pictures a batch; the last one has what is left.
        workers: Processes that decode; 0 decodes when a batch is asked for.
        pinned: Whether the batches lie in memory that a GPU reads from directly.

    Raises:
        RunError: An image was changed or cannot be read any more.
    """
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        pictures,  # type: ignore[arg-type]  # a sequence is all that it needs
        batch_sampler=[list(order[start : start + size]) for start in range(0, len(order), size)],
        collate_fn=_collate,
        num_workers=workers,
        worker_init_fn=_leave_signals,
        pin_memory=pinned,
    )
    for batch in loader:
        if isinstance(batch, str):
            raise RunError(batch)
        yield batch


def _collate(samples: "Sequence[tuple[Tensor, int] | str]") -> "tuple[Tensor, Tensor] | str":
    """Stack the images of a batch; of one that cannot be read, pass on why."""
    import torch

    for sample in samples:
        if isinstance(sample, str):
            return sample
    images, codes = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(codes)


def _leave_signals(_: int) -> None:
    """Let the main process alone answer Ctrl-C; it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _required(wanted: Wanted, pixels: Pixels | None, reason: str) -> Pixels:
    if pixels is None:
        raise RunError(_gone(wanted.path, reason))
    return pixels


def _gone(path: Path, reason: str) -> str:
    return (
        f"{printable(str(path))} could be read before and now cannot: {reason}. Restore it, and run the same command "
        "again; or use another name for runs on the images as they are now (`--name`)."
    )

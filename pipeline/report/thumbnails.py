"""Small pictures of the images, as a page holds them: JPEG, written in base64."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.decoding import Wanted, decoding, enough_workers
from pipeline.progress import Progress
from pipeline.report.answers import Answered
from pipeline.transform import Transform

SIDE = 96  # pixels
QUALITY = 75
BUDGET = 6_000_000  # letters of base64 in all, so that the page stays below 10 MB
MOST = 3000  # pictures: what is beyond the budget need not be decoded


@dataclass(frozen=True)
class Thumbnails:
    """The pictures of a page.

    Attributes:
        pictures: (N,) base64 of a JPEG for each image, empty where there is none.
        note: What the reader should know of those that are missing; empty if none is.
    """

    pictures: tuple[str, ...]
    note: str


def thumbnails(answered: Answered, digests: Mapping[str, str], images: Path | None, progress: Progress) -> Thumbnails:
    """Draw the centre square of each image in small, those first that are missed most often.

    Args:
        answered: Which images there are.
        digests: Path -> SHA-256 that the file must have, where it is known: another picture would mislead.
        images: Folder of the images; the one that the runs name if not given.
        progress: Told what happens.
    """
    roots = _roots(answered, images)
    order = np.argsort(-answered.missed, kind="stable")[:MOST].tolist()
    pictures = [""] * len(answered.paths)
    present = {root for root in set(roots) if os.path.isdir(root)}  # noqa: PTH112  # Path's raises where it may not look
    chosen = [number for number in order if roots[number] in present]
    failures = [f"{roots[number]} is no folder" for number in order if roots[number] not in present]
    wanted = [Wanted(Path(roots[n]) / answered.paths[n], digests.get(answered.paths[n])) for n in chosen]
    transform = Transform(SIDE, SIDE, (0, 0, 0), (1, 1, 1))
    size = 0
    with (
        decoding(iter(wanted), transform, enough_workers(len(wanted))) as decoded,
        progress.steps("thumbnails", len(wanted), "images") as advance,
    ):
        for number, (one, pixels, reason) in zip(chosen, decoded, strict=True):
            if pixels is None:
                failures.append(f"{one.path}: {reason}")
            else:
                pictures[number] = _jpeg(Image.fromarray(pixels[0]))
                size += len(pictures[number])
            advance(1)
            if size > BUDGET:
                break
    return Thumbnails(tuple(pictures), _note(failures, pictures, images is None))


def _roots(answered: Answered, images: Path | None) -> list[str]:
    """Return the folder in which each image lies."""
    roots = [str(images or "")] * len(answered.paths)
    if images is None:
        for one in reversed(answered.answers):  # so that the first run's word counts
            for number in one.images.tolist():
                roots[number] = one.run.image_set
    return roots


def _jpeg(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _note(failures: Sequence[str], pictures: Sequence[str], default: bool) -> str:
    missing = sum(not picture for picture in pictures)
    if failures:
        way = "Name where the images are now: `--images DIR`." if default else "Is `--images` the right folder?"
        return f"{missing} of {len(pictures)} images have no picture here, the first because {failures[0]}. {way}"
    if missing:
        shown = len(pictures) - missing
        return f"Only the {shown} images that are missed most often have a picture, so that the page stays small."
    return ""

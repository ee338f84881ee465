"""Splits made of what a split can be: drawn anew with several seeds, or with fewer training images."""

import re
from pathlib import Path
from random import Random

from cache import Index
from pipeline.errors import SplitError
from pipeline.split import DEFAULT_DRAW, DRAW, Split, make_split, notes_of_split, part_digest, some

# How a split says that it was drawn, and that only so many images of each class are trained on.
DRAWN = re.compile(rf"(?P<shares>{DRAW.pattern}), seed (?P<seed>\d+)(?P<rest>(?:, .*)?)")
FEWER = re.compile(
    r"(?P<split>.*), (?P<each>\d+) training images of each class(, drawn with seed (?P<seed>\d+))?", re.DOTALL
)


def splits_of(
    index: Index, split: str | Path | None, seed: int, resplits: int | None = None
) -> dict[int | None, Split]:
    """Make the one split that is asked for, or several stratified draws.

    Args:
        index: Which image is which row.
        split: See `make_split`; several are drawn by shares such as `80/10/10`, which are meant if nothing is given.
        seed: Of the first draw; the others have the next ones.
        resplits: How many draws, 2 or more; None for the one split.

    Returns:
        Seed of each draw -> split; None -> the one split.

    Raises:
        SplitError: There is nothing to draw, or the images cannot be split so.
    """
    if resplits is None:
        return {None: make_split(index, split, seed)}
    text = DEFAULT_DRAW if split is None else str(split)
    if resplits < 2 or not DRAW.fullmatch(text):
        raise SplitError(
            f"{resplits} splits of '{text}' cannot be drawn: splits are drawn anew by shares such as 80/10/10, and two "
            "of them are the least. Give such shares with `--split`, or leave `--resplits` out."
        )
    if split is None and index.has_parts:
        raise SplitError(
            "The image set has a split of its own, and there is only one of that kind. To draw others, give their "
            "shares, such as `--split 80/10/10`."
        )
    return {number: make_split(index, text, number) for number in range(seed, seed + resplits)}


def fewer(index: Index, split: Split, per_class: int, seed: int) -> Split:
    """Keep so many training images of each class; those of a smaller number are among those of a larger one.

    Args:
        index: Which image is which row.
        split: All training images, and those that validate and test, which stay.
        per_class: Training images of each class.
        seed: Which they are.

    Raises:
        SplitError: A class has fewer.
    """
    entries = index.entries
    of_class: dict[str, list[int]] = {}
    for row in split.rows["train"]:
        of_class.setdefault(entries[row].label, []).append(row)
    smallest = min(of_class, key=lambda name: len(of_class[name]))
    if per_class > len(of_class[smallest]):
        raise SplitError(
            f"The split ({split.source}) has {len(of_class[smallest])} training images of {some([smallest])}, fewer "
            f"than the {per_class} of each class that are asked for. Ask for fewer, or give train a larger share."
        )
    generator = Random(seed)
    kept: list[int] = []
    for name in sorted(of_class):
        generator.shuffle(of_class[name])
        kept += of_class[name][:per_class]
    rows = {**split.rows, "train": tuple(sorted(kept))}
    digests = {**split.digests, "train": part_digest(entries[row] for row in rows["train"])}
    source = f"{split.source}, {per_class} training images of each class"
    if not DRAWN.fullmatch(split.source):
        source += f", drawn with seed {seed}"
    return Split(source, rows, digests, notes_of_split(entries, rows))

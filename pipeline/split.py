"""A split: which image trains, validates and tests."""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cache import Entry, Index
from pipeline.errors import SplitError
from pipeline.reading import read_bytes

NAMES = ("train", "val", "test")
UNUSED = "unused"
DRAW = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
DEFAULT_DRAW = "80/10/10"
# The paper takes the same numbers in every class (counted from 00, as UC Merced's file names are).
PAPER_TEST = frozenset({21, 42, 46, 49, 68, 73, 74, 79, 90, 93})
PAPER_VAL = frozenset({13, 26, 39, 50, 51, 54, 81, 84, 88, 96})
SHOWN = 8
LONGEST = 300  # letters of a name that is shown
LIMIT = 256 << 20  # bytes of a CSV, enough for two million images
COLUMNS = ("path", "label", "split")


@dataclass(frozen=True)
class Split:
    """Which row of a cache belongs to which part.

    Attributes:
        source: How it came about, for a person: `80/10/10, seed 0`, `paper`, `the image set's own`, or the CSV's path.
        rows: Part (`train`, `val`, `test`) -> row numbers, ascending.
        digests: Part -> SHA-256 over paths, classes and image digests of its rows: two equal ones are the same images.
        notes: What the user should know about it.
    """

    source: str
    rows: Mapping[str, tuple[int, ...]]
    digests: Mapping[str, str]
    notes: tuple[str, ...] = ()


class _Line(NamedTuple):
    """A line of a split's CSV."""

    path: str
    label: str
    split: str


def make_split(index: Index, split: str | Path | None = None, seed: int = 0) -> Split:
    """Split the images of a cache.

    Args:
        index: Which image is which row.
        split: `80/10/10` (shares for train, val and test: a stratified draw), `paper`, the path of a CSV with the
            columns path, label, split, or `own`. If not given: the image set's own split if it has one, else
            `80/10/10`.
        seed: Of the draw; nothing else depends on it.

    Raises:
        SplitError: The split does not fit the images; all that does not fit is named.
    """
    text = str(split) if split is not None else "own" if index.has_parts else DEFAULT_DRAW
    entries = index.entries
    if text == "own":
        source, parts = "the image set's own", _own(entries)
    elif text == "paper":
        source, parts = "paper", _paper(entries)
    elif shares := DRAW.fullmatch(text):
        source, parts = f"{text}, seed {seed}", _draw(entries, [float(share) for share in shares.groups()], seed)
    else:
        source, parts = text, _from_csv(Path(text), index)
    rows = {name: tuple(row for row, part in enumerate(parts) if part == name) for name in NAMES}
    _require_usable(entries, rows, source)
    digests = {name: part_digest(entries[row] for row in rows[name]) for name in NAMES}
    return Split(source, rows, digests, notes_of_split(entries, rows))


def part_digest(entries: Iterable[Entry]) -> str:
    """Return SHA-256 over paths, classes and contents of images: equal only for equal images under equal names."""
    lines = sorted(f"{entry.path}\0{entry.label}\0{entry.digest}\n" for entry in entries)
    return hashlib.sha256("".join(lines).encode(errors="surrogatepass")).hexdigest()


def _own(entries: Sequence[Entry]) -> list[str]:
    without = [entry.path for entry in entries if not entry.part]
    if without:
        raise SplitError(
            f"The image set has no split of its own ({len(without)} of {len(entries)} images are in no train/, val/ or "
            "test/ folder). Ask for `--split 80/10/10`, `paper`, or name a CSV."
        )
    return [entry.part for entry in entries]


def _paper(entries: Sequence[Entry]) -> list[str]:
    parts, strange = [], []
    for entry in entries:
        stem = PurePosixPath(entry.path).stem
        number = re.fullmatch(re.escape(entry.label) + r"(\d\d)", stem)
        if number is None:
            strange.append(entry.path)
        else:
            position = int(number[1])
            parts.append("test" if position in PAPER_TEST else "val" if position in PAPER_VAL else "train")
    if strange:
        raise SplitError(
            "The paper's split needs UC Merced's file names (CLASS/CLASS00 to CLASS/CLASS99), but "
            f"{len(strange)} of {len(entries)} images are named otherwise: {some(strange)}. "
            "Ask for another split, such as `--split 80/10/10`."
        )
    return parts


def _draw(entries: Sequence[Entry], shares: Sequence[float], seed: int) -> list[str]:
    """Draw a stratified split: shares are of any scale, and one of val and test may be 0."""
    labels = [entry.label for entry in entries]
    total = sum(shares)
    if not shares[0] or not total > shares[0]:
        raise SplitError(f"A split of {'/'.join(f'{share:g}' for share in shares)} leaves nothing to train or to test.")
    if len(set(labels)) < 2:
        raise SplitError(
            f"All {len(labels)} images are of one class; a classifier needs at least two. Add another class."
        )
    try:
        rest, train = _cut(range(len(entries)), labels, shares[0] / total, seed)
        if not shares[1]:
            held = dict.fromkeys(rest, "test")
        elif not shares[2]:
            held = dict.fromkeys(rest, "val")
        else:
            val_share = shares[1] / (shares[1] + shares[2])
            test, val = _cut(rest, [labels[row] for row in rest], val_share, seed)
            held = {**dict.fromkeys(test, "test"), **dict.fromkeys(val, "val")}
    except ValueError:
        smallest, count = Counter(labels).most_common()[-1]
        asked = "/".join(f"{share:g}" for share in shares)
        hint = "" if asked == "60/20/20" else " (such as 60/20/20)"
        raise SplitError(
            f"A stratified split of {asked} cannot be drawn from {len(labels)} images of {len(set(labels))} classes: "
            f"every part needs an image of each class, and the smallest, {some([smallest])}, has {count}. Add images, "
            f"give val and test larger shares{hint}, or name a CSV."
        ) from None
    held.update(dict.fromkeys(train, "train"))
    return [held[row] for row in range(len(entries))]


def _cut(rows: Sequence[int], labels: Sequence[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Part rows in two, stratified: what is left, and `share` of them."""
    from sklearn.model_selection import train_test_split

    wanted = round(share * len(rows))
    rest, taken = train_test_split(list(rows), test_size=wanted, stratify=labels, random_state=seed)
    return rest, taken


def _from_csv(path: Path, index: Index) -> list[str]:
    try:
        # utf-8-sig: a spreadsheet program begins the file with a mark.
        text = read_bytes(path, LIMIT).decode("utf-8-sig")
        header, *lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line] or [[]]
    except FileNotFoundError:
        raise SplitError(
            f"The split '{path}' is neither shares like 80/10/10, nor 'paper' or 'own', nor a file that exists."
        ) from None
    except (OSError, ValueError, csv.Error) as error:
        raise SplitError(f"The split {path} cannot be read as CSV: {error}.") from error
    if any(header.count(name) != 1 for name in COLUMNS):
        raise SplitError(
            f"The split {path} needs the columns path, label and split, each once; it has {some(header) or 'none'}."
        )
    places = [header.index(name) for name in COLUMNS]
    # A short line lacks its last fields.
    rows = [_Line(*(line[place] if place < len(line) else "" for place in places)) for line in lines]
    parts = {"valid": "val", "validation": "val"} | {name: name for name in (*NAMES, UNUSED)}
    listed = Counter(row.path for row in rows)
    labels = {entry.path: entry.label for entry in index.entries}
    skipped = {skipped for skipped, _ in index.skipped}
    problems = {
        "listed more than once": [name for name, count in listed.items() if count > 1],
        f"in a part other than {', '.join((*NAMES, UNUSED))}": [
            f"{row.path} ({row.split})" for row in rows if row.split not in parts
        ],
        "not in the image set": [name for name in listed if name not in labels and name not in skipped],
        "of another class": [
            f"{row.path} ({row.label}, here {labels[row.path]})"
            for row in rows
            if row.path in labels and row.label != labels[row.path]
        ],
        f"in the image set but not listed (say '{UNUSED}' to leave one out)": [
            name for name in labels if name not in listed
        ],
    }
    found = [f"{len(names)} {what}: {some(names)}" for what, names in problems.items() if names]
    if found:
        raise SplitError(f"The split {path} does not fit the images. " + "; ".join(found) + ".")
    wanted = {row.path: parts[row.split] for row in rows}
    return [wanted[entry.path] for entry in index.entries]


def _require_usable(entries: Sequence[Entry], rows: Mapping[str, Sequence[int]], source: str) -> None:
    if not rows["train"]:
        raise SplitError(f"The split ({source}) has no training images.")
    trained = {entries[row].label for row in rows["train"]}
    for part in ("val", "test"):
        unknown = sorted({entries[row].label for row in rows[part]} - trained)
        if unknown:
            raise SplitError(
                f"The split ({source}) has images in {part} of classes that have none in train: {some(unknown)}. "
                "A head can only learn classes that it is trained on."
            )
    if len(trained) < 2:
        raise SplitError(f"The split ({source}) trains on {len(trained)} class; a classifier needs at least two.")


def notes_of_split(entries: Sequence[Entry], rows: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Say which images of val and test are, byte for byte, also trained on, and which parts are empty.

    Args:
        entries: The images.
        rows: Those of each part.
    """
    trained = {entries[row].digest for row in rows["train"]}
    notes = []
    for part in ("val", "test"):
        same = [entries[row].path for row in rows[part] if entries[row].digest in trained]
        if same:
            are = "is" if len(same) == 1 else "are"
            notes.append(
                f"{len(same)} of {len(rows[part])} {part} images {are} also in train, byte for byte: {some(same)}"
            )
        if not rows[part]:
            notes.append(f"the split has no {part} part")
    return tuple(notes)


def some(names: Sequence[str]) -> str:
    """Write the first few of many names, each cut to a bearable length, and how many more there are."""
    more = len(names) - SHOWN
    shown = (name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in names[:SHOWN])
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

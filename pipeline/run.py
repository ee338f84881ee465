"""A run: one fitted model with one seed, as a folder that says everything about itself."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cache import CacheError, Recipe
from cache.atomic import write_text
from cache.files import Damaged
from pipeline.errors import RunError
from pipeline.reading import parse_json, read_bytes
from pipeline.run_document import require_sound
from pipeline.split import NAMES, Split

FORMAT_VERSION = 3
LIMIT = 256 << 20  # bytes of run.json, enough for two million images
ALL_ROWS = "all rows"
FOLDER, _SPLIT_FOLDER = re.compile(r"seed-\d{4,}"), re.compile(r"split-\d{4,}")


@dataclass(frozen=True)
class Run:
    """What `run.json` holds.

    Attributes:
        name: The configuration's name; runs of one name differ in the seed alone.
        head: Name of the head, as `fit-head --head` takes it, or of the baseline.
        seed: The run's seed.
        seeded: Whether the seed has any influence on this head.
        parameters: Every hyper-parameter of the head.
        device: Where it was fitted.
        classes: Class names, in the order of the head's probabilities.
        recipe: Recipe of the features that it was fitted on, and needs.
        cache: Folder of the cache that it was fitted from, absolute; empty for a baseline, which sees the pixels.
        image_set: Folder of the images, absolute.
        split: How the split came about, in words.
        images: Part -> paths of its images.
        digests: Part -> digest of its images (see `Split`).
        model: Name of each file with what was fitted -> SHA-256 of its bytes; none before the fit.
        views: Views of each training image that an epoch draws from; 1 is view 0 alone.
        shuffle: What is shuffled together in an epoch: all rows, or so many at a time.
        calibrated: Whether probabilities are scaled by a temperature that was fitted on the validation part.
        temperature: That temperature; 1 leaves them as they are.
        resplit: Seed of the split's draw, where the name has runs on several splits; else None.
        notes: What the user should know about these figures, such as random weights.
        versions: Library versions.
        machine: Processor, cores and system.
        timings: Seconds, by what they were spent on.
        history: One record an epoch, for heads that are trained in epochs.
    """

    name: str
    head: str
    seed: int
    seeded: bool
    parameters: Mapping[str, Any]
    device: str
    classes: tuple[str, ...]
    recipe: Recipe
    cache: str
    image_set: str
    split: str
    images: Mapping[str, Sequence[str]]
    digests: Mapping[str, str]
    model: Mapping[str, str]
    views: int
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    timings: Mapping[str, float]
    history: tuple[Mapping[str, float | None], ...] = ()
    shuffle: str = ALL_ROWS
    calibrated: bool = False
    temperature: float = 1.0
    resplit: int | None = None
    format_version: int = FORMAT_VERSION
    path: Path = field(default=Path(), compare=False)

    @property
    def label(self) -> str:
        """Name and place, as messages show them."""
        return f"{self.name}/{self.place}"

    @property
    def place(self) -> str:
        """Where it stands in the folder of its name: seed-0000, or split-0003/seed-0000."""
        return "/".join(filter(None, (split_folder(self.resplit), folder_name(self.seed))))

    @property
    def name_folder(self) -> Path:
        """RUNS/NAME."""
        return self.path.parent if self.resplit is None else self.path.parent.parent

    def write(self, folder: Path) -> None:
        """Write `run.json` into a folder."""
        text = json.dumps(self.document(), indent=1, ensure_ascii=False)
        # The name of a cache's folder need not be UTF-8: what is not becomes a JSON escape.
        (folder / "run.json").write_bytes(text.encode("utf-8", "backslashreplace") + b"\n")

    def document(self) -> dict[str, Any]:
        """Return what `run.json` holds."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "path"}
        return {**values, "recipe": self.recipe.as_dict()}

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read `run.json` of a run folder.

        Raises:
            RunError: It is missing, damaged, of another format version, or of another seed than the folder's name says.
        """
        path = folder / "run.json"
        mend = "Remove the run's folder and fit it again."
        try:
            document = parse_json(read_bytes(path, LIMIT))
        except FileNotFoundError:
            raise RunError(
                f"{folder} is not a run: it has no run.json. Name the folder of one run, such as RUNS/NAME/seed-0000."
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error}). {mend}") from error
        if not isinstance(document, dict):
            raise RunError(f"{path} is not a JSON object. {mend}")
        if document.get("format_version") != FORMAT_VERSION:
            raise RunError(
                f"{path} has format version {_short(document.get('format_version'))}; this manyheads reads version "
                f"{FORMAT_VERSION}. Use the manyheads that wrote it, or fit again under another name."
            )
        try:
            run = cls.from_document(document, folder)
        except KeyError as error:
            raise RunError(f"{path} is damaged: it lacks {error}. {mend}") from error
        except Damaged as error:
            raise RunError(f"{path} {error.what}. {mend}") from error
        except (TypeError, ValueError, CacheError) as error:
            raise RunError(f"{path} is damaged: {error}. {mend}") from error
        if not run.model:
            raise RunError(f"{path} is damaged: it names no model. {mend}")
        if FOLDER.fullmatch(folder.name) and folder.name != folder_name(run.seed):
            raise RunError(
                f"{folder} holds the run of seed {run.seed}, not of the seed in its name: it was renamed or copied. "
                f"Give it its name back, {folder_name(run.seed)}, or remove it and fit that seed again."
            )
        above = folder.absolute().parent.name
        if (above if _SPLIT_FOLDER.fullmatch(above) else "") != split_folder(run.resplit):
            where = f"a run of {split_folder(run.resplit)}" if run.resplit is not None else "a run on a single split"
            raise RunError(
                f"{folder} holds {where}, but lies in {above}: it was moved or copied. Move it back, or remove it and "
                "fit it again."
            )
        return run

    @classmethod
    def from_document(cls, document: dict[str, Any], folder: Path) -> "Run":
        """Read what `document` gave, after a journey through JSON and `parse_json`.

        Raises:
            KeyError: A field is missing.
            TypeError: A field has another type.
            ValueError: A value cannot be.
            CacheError: The recipe is damaged.
        """
        # Runs from before there was another way do not say.
        document = {"shuffle": ALL_ROWS, "resplit": None, "calibrated": False, "temperature": 1.0, **document}
        values = {one.name: document[one.name] for one in fields(cls) if one.name != "path"}
        require_sound(values)
        values |= {name: tuple(values[name]) for name in ("classes", "notes", "history")}
        values["recipe"] = Recipe.from_dict(values["recipe"], str(folder / "run.json"))
        return cls(**values, path=folder)

    def configuration(self) -> dict[str, Any]:
        """Everything that runs of one name share, but the recipe."""
        return {
            "head": self.head,
            "device": self.device.partition(":")[0],  # which of several GPUs makes no difference
            **{f"parameter {name}": _plain(value) for name, value in self.parameters.items()},
            "views": self.views,
            "shuffle": self.shuffle,
            "calibrate": self.calibrated,
            "classes": list(self.classes),
            "split": self.split,
            **{f"{part} images": self.digests[part] for part in NAMES},
        }

    @property
    def image_count(self) -> str:
        """How many images its split has, of which the same set gives every split as many."""
        return "/".join(str(len(self.images[part])) for part in NAMES) + " images"

    def require_same(self, asked: "Run", *, any_split: bool = False) -> None:
        """Refuse to take this run for another one.

        Args:
            asked: The other one.
            any_split: Whether both may be on splits of their own.

        Raises:
            RunError: The configurations differ; names the fields, their values and the way out.
        """
        mine, theirs = self.configuration(), asked.configuration()
        # How a split came about is only worth a word where it gave other images.
        same_images = any_split or all(self.digests[part] == asked.digests[part] for part in NAMES)
        if any_split:
            mine, theirs = (
                {name: value for name, value in one.items() if name != "split" and not name.endswith(" images")}
                for one in (mine, theirs)
            )
            mine["shares"], theirs["shares"] = (run.split.partition(", seed")[0] for run in (self, asked))
            mine["image set"], theirs["image set"] = (run.image_count for run in (self, asked))
        values = {
            name: (mine.get(name), theirs.get(name))
            for name in [*mine, *(theirs.keys() - mine.keys())]
            if not (name == "split" and same_images)
        }
        values |= {f"recipe {name}": pair for name, pair in self.recipe.differences(asked.recipe).items()}
        differing = [
            # A digest would tell nobody anything.
            _others(self, asked, name.removesuffix(" images"))
            if name.endswith(" images")
            else f"{_short(name)} is {_short(held)}, asked {_short(other)}"
            for name, (held, other) in values.items()
            if held != other
        ]
        if not same_images:
            differing.append("the image set has changed or another split is asked for")
        if differing:
            raise RunError(
                f"{self.path} was fitted otherwise: {'; '.join(differing)}. Give the new configuration a name of its "
                f"own (`--name`), or remove {self.path.parent} to fit it anew."
            )


def folder_name(seed: int) -> str:
    """Name a run's folder: seed-0000."""
    return f"seed-{seed:04d}"


def split_folder(resplit: int | None) -> str:
    """Name the folder of one of several splits: split-0003; nothing where there is one split."""
    return "" if resplit is None else f"split-{resplit:04d}"


def write_beside(run: Run, name: str, text: str) -> Path:
    """Write a text file into a finished run's folder, atomically."""
    write_text(run.path / name, text)
    return run.path / name


def images_of(split: Split, paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the paths of each part of a split."""
    return {part: [paths[row] for row in split.rows[part]] for part in NAMES}


def _others(run: Run, asked: Run, part: str) -> str:
    """Say how the images of a part differ from those that are asked for."""
    held, wanted = set(run.images[part]), set(asked.images[part])
    new, gone = len(wanted - held), len(held - wanted)
    what = f"{new} new, {gone} gone" if new or gone else "some have other contents"
    return f"{part} images are others" + (f" ({what})" if held else "")  # a checkpoint does not list them


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _short(value: object) -> str:
    text = str(value)
    if isinstance(value, str) and len(text) == 64:
        return f"{text[:12]}…"
    return text if len(text) <= 60 else f"{text[:57]}…"

"""The recipe: all that a feature depends on except the image."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from cache.atomic import write_text
from cache.errors import CacheError, RecipeMismatch
from cache.files import Damaged, Missing, read_file

FORMAT_VERSION = 3
STORAGE = {"float32": 4, "float16": 2}  # bytes a number
# What a recipe.json may take: its reader must not be made to fill the memory.
LARGEST_FILE = 1_000_000
LARGEST_DIMENSION = 2**24


class OtherFormat(CacheError):
    """A cache of another format version: it may be whole, but this manyheads cannot tell."""


@dataclass(frozen=True)
class Recipe:
    """All that a feature depends on except the image; its digest names what a cache is.

    Attributes:
        base: Name of the torchvision network.
        weights_digest: SHA-256 over the tensors in use.
        transform: Parameters of the evaluation transform.
        decoding: Version of the rules by which a file becomes RGB pixels.
        dimension: Numbers in one feature.
        views: How views 1, 2, … of an image are drawn. How many there are is no part of a recipe: a feature does not
            depend on how many others exist.
        precision: Arithmetic of the base: fp32, tf32, bf16 or fp16.
        storage: Number format in the shards: float32 or float16.
        format_version: Version of the cache's own layout.
        weights: Where the weights came from, for a person to read; not part of the digest, since the
            same tensors may come from several files.
    """

    base: str
    weights_digest: str
    transform: Mapping[str, Any]
    decoding: int
    dimension: int
    views: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    storage: str = "float32"
    format_version: int = FORMAT_VERSION
    weights: str = field(default="", compare=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every field but `weights`, as 64 hexadecimal digits."""
        return _sha256({name: value for name, value in asdict(self).items() if name != "weights"})

    @property
    def random_weights(self) -> bool:
        """Whether the base was never trained, so that its features are only random projections."""
        return self.weights.startswith("random:")

    @property
    def row_bytes(self) -> int:
        """Bytes that one feature takes in a shard."""
        return self.dimension * STORAGE[self.storage]

    def as_dict(self) -> dict[str, Any]:
        """Return every field and the digest, as JSON can hold them."""
        return {**asdict(self), "digest": self.digest}

    @classmethod
    def from_dict(cls, values: object, where: str) -> "Recipe":
        """Read a recipe back from what `as_dict` gave.

        Args:
            values: The parsed JSON.
            where: The file that it stands in, for the message.

        Raises:
            CacheError: A field is missing or of another type, or the digest is not the fields'.
        """
        if not isinstance(values, dict):
            raise _edited(where, "has no recipe that is a JSON object")
        version = values.get("format_version")
        # Before the fields: another version may have others.
        if type(version) is int and version != FORMAT_VERSION:
            raise OtherFormat(
                f"{where} has format version {version}; this manyheads reads version {FORMAT_VERSION}. "
                "Use the manyheads that wrote it, or extract into a new folder."
            )
        kinds = {"transform": dict, "decoding": int, "dimension": int, "views": dict, "format_version": int}
        for one in fields(cls):
            kind = kinds.get(one.name, str)
            if type(values.get(one.name)) is not kind:  # not isinstance: a bool is an int
                raise _edited(where, f"has a recipe without a proper field '{one.name}' ({kind.__name__})")
        recipe = cls(**{one.name: values[one.name] for one in fields(cls)})
        if recipe.digest != values.get("digest") or recipe.storage not in STORAGE:
            raise _edited(where, "has a recipe that does not match its own digest")
        if not 1 <= recipe.dimension <= LARGEST_DIMENSION:
            raise _edited(where, f"has a recipe of features of {recipe.dimension} numbers")
        return recipe

    def differences(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """Return the fields in which two recipes differ, each with this recipe's value and the other's.

        There are none exactly if the digests are equal; None stands for a field that is not there.
        """
        mine, theirs = _flat(asdict(self)), _flat(asdict(other))
        return {
            name: (mine.get(name), theirs.get(name))
            for name in sorted(mine.keys() | theirs.keys())
            if name != "weights" and _identity(mine, name) != _identity(theirs, name)
        }

    def require_same(self, asked: "Recipe", where: Path | str) -> None:
        """Refuse a recipe that is not this one.

        Raises:
            RecipeMismatch: Names every field that differs, both values, and the way out.
        """
        found = self.differences(asked)
        if found:
            raise mismatch(found, where)


def _edited(where: str, what: str) -> Damaged:
    return Damaged(Path(where), what, "It was damaged or edited: restore it, or extract into a new folder.")


def mismatch(differences: Mapping[str, tuple[Any, Any]], where: Path | str) -> RecipeMismatch:
    """Word a refusal from the differing fields: name -> (what `where` holds, what was asked)."""
    lines = "; ".join(f"{name} is {_short(held)}, asked {_short(asked)}" for name, (held, asked) in differences.items())
    return RecipeMismatch(
        f"{where} holds features of another recipe: {lines}. Ask for the recipe that it holds "
        "(`manyheads cache info` shows it), or extract into another folder."
    )


@dataclass(frozen=True)
class RecipeFile:
    """`recipe.json`: the recipe and what it was made from.

    `made_from` holds everything that determines the recipe and can be known without loading torch (names, library
    versions, hashes of files). Where a later command would make its recipe from equal things, the recipe is equal.
    """

    recipe: Recipe
    made_from: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write `recipe.json` into the cache's folder, atomically."""
        document: dict[str, Any] = {"recipe": self.recipe.as_dict(), "made_from": dict(self.made_from)}
        document["sha256"] = _sha256(document)
        text = json.dumps(document, indent=2, ensure_ascii=False)
        # The name of a weights file need not be UTF-8: what is not becomes a JSON escape.
        write_text(folder / "recipe.json", text.encode("utf-8", "backslashreplace").decode() + "\n")

    @classmethod
    def read(cls, folder: Path) -> "RecipeFile":
        """Read `recipe.json` of a cache.

        Raises:
            CacheError: It is missing or not a recipe.
        """
        path = folder / "recipe.json"
        mend = "Restore it, or extract into a new folder."
        try:
            document = json.loads(read_file(path, mend, LARGEST_FILE))
            recipe, made_from = Recipe.from_dict(document["recipe"], str(path)), document["made_from"]
            if type(made_from) is not dict or not all(type(value) is str for value in made_from.values()):
                raise TypeError("it does not say what its recipe was made from")
            if document["sha256"] != _sha256({"recipe": document["recipe"], "made_from": made_from}):
                raise ValueError("what it says does not match its SHA-256")
            return cls(recipe, made_from)
        except Missing:
            raise CacheError(
                f"{folder} is not a feature cache: it has no recipe.json. "
                "Make one with `manyheads extract IMAGES CACHE`, or name another folder."
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Damaged(path, f"is no recipe file ({error})", mend) from error


def _sha256(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _identity(flat: Mapping[str, Any], name: str) -> str:
    # As the digest sees it: 224 and 224.0 are two values, a tuple and a list are one, None is not the same as nothing.
    return json.dumps(flat[name], sort_keys=True) if name in flat else ""


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 and text.isalnum() else text

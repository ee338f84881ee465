"""What `run.json` may hold: whoever made it up, nothing that reads a run has to expect anything else."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.split import NAMES

SEEDS_BELOW = 2**32  # NumPy's and scikit-learn's limit
LARGEST_SIDE = 4096  # pixels; an image of them takes 200 MB as numbers
_KINDS = (
    {"seed": int, "seeded": bool, "views": int, "resplit": int, "format_version": int}
    | {"calibrated": bool, "temperature": float}
    | dict.fromkeys(("classes", "notes", "history"), list)
    | dict.fromkeys(("parameters", "recipe", "images", "digests", "model", "versions", "machine", "timings"), dict)
)
_EPOCH = {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"}
_TRANSFORM = {"resize_size", "crop_size", "mean", "std", "interpolation", "antialias"}
_INTERPOLATION = re.compile(r"(nearest|bilinear|bicubic|lanczos|box|hamming)(-exact)?")
_MODEL = re.compile(r"(model|best)\.(safetensors|skops)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_INSIDE = re.compile(r"(?!\.)[^/\0]+(/(?!\.)[^/\0]+)*")


def is_name(text: str) -> bool:
    """Whether a text can name runs, and so a folder: 1 to 199 bytes, all visible, no slash, no leading dot."""
    return text.isprintable() and text[:1] != "." and not {"/", "\\"} & set(text) and 0 < len(text.encode()) < 200


def are_inside(paths: Iterable[str]) -> bool:
    """Whether paths are such as an image set lists: inside its folder, nothing hidden, in letters that UTF-8 has."""
    try:
        return all(_INSIDE.fullmatch(path) and path.encode() for path in paths)
    except UnicodeEncodeError:
        return False


def require_sound(values: Mapping[str, Any]) -> None:
    """Refuse values that no run has.

    Args:
        values: The fields of a run, as `parse_json` gives them.

    Raises:
        KeyError: A part has no images or no digest.
        TypeError: A value has another type.
        ValueError: A value cannot be.
    """
    for name, value in values.items():
        if name == "resplit" and value is None:
            continue
        kind = _KINDS.get(name, str)
        # JSON's true is an int to Python.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise TypeError(f"'{name}' is not of type {kind.__name__}")
    for name, kind in {"classes": str, "notes": str, "history": dict}.items():
        _require_all(values[name], kind, name)
    for part in NAMES:
        _require_all([values["digests"][part]], str, "digests")
        _require_all(values["images"][part], str, f"{part} images")
    classes, paths = values["classes"], [path for part in NAMES for path in values["images"][part]]
    sound = {
        "seed": 0 <= values["seed"] < SEEDS_BELOW,
        "views": values["views"] > 0,
        "temperature": 0 < values["temperature"] < math.inf,
        "resplit": values["resplit"] is None or 0 <= values["resplit"] < SEEDS_BELOW,
        "name": is_name(values["name"]),
        "head": is_name(values["head"]),
        "classes": 0 < len(set(classes)) == len(classes)
        and are_inside(classes)
        and not any("/" in name for name in classes),
        "images": len(set(paths)) == len(paths) and are_inside(paths),
        "digests": all(map(_is_digest, values["digests"].values())),
        "model": all(_MODEL.fullmatch(name) and _is_digest(value) for name, value in values["model"].items()),
        "versions": all(isinstance(value, str) for value in values["versions"].values()),
        "timings": all(isinstance(value, int | float) for value in values["timings"].values()),
        "history": all(
            record.keys() >= _EPOCH and all(isinstance(value, int | float | None) for value in record.values())
            for record in values["history"]
        ),
        "recipe": is_transform(values["recipe"].get("transform")),
    }
    if wrong := [name for name, is_sound in sound.items() if not is_sound]:
        raise ValueError(f"no run has such a value of '{wrong[0]}'")
    "".join(values["notes"]).encode()  # a lone surrogate, which JSON can hold, could be written nowhere


def _require_all(values: object, kind: type, name: str) -> None:
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise TypeError(f"'{name}' is not a list of type {kind.__name__}")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def is_transform(fields: object) -> bool:
    """Whether these are the fields of a `pipeline.transform.Transform` that can be applied."""
    if not isinstance(fields, dict) or fields.keys() != _TRANSFORM:
        return False
    sides = [fields["resize_size"], fields["crop_size"]]
    scales = [fields["mean"], fields["std"]]
    return (
        all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides)
        and all(isinstance(scale, list) and len(scale) == 3 for scale in scales)
        and all(isinstance(number, int | float) for scale in scales for number in scale)
        and 0 not in fields["std"]
        and isinstance(fields["interpolation"], str)
        and _INTERPOLATION.fullmatch(fields["interpolation"]) is not None
        and isinstance(fields["antialias"], bool)
    )

"""Fitted heads as files that hold numbers and names, never code: safetensors for torch heads, skops for the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sklearn.utils.validation import check_is_fitted

from pipeline.errors import RunError
from pipeline.heads import head_spec

TENSORS = "model.safetensors"
SKOPS = "model.skops"
LEARNED = "head"


def save_head(head: Any, folder: Path) -> str:
    """Write a fitted head into an existing folder.

    Args:
        head: a fitted estimator; one with `to_tensors` and `from_tensors` is stored as safetensors, and then equal
            heads give equal bytes.
        folder: where to write.

    Returns:
        The file's name: `model.safetensors` or `model.skops`.
    """
    if hasattr(head, "to_tensors"):
        from safetensors.torch import save

        tensors, learned = head.to_tensors()
        # One entry: safetensors writes several in an order that changes from call to call.
        name, content = TENSORS, save(tensors, {LEARNED: json.dumps(learned, sort_keys=True, default=_plain)})
    else:
        from skops.io import dumps

        check_is_fitted(head)
        name, content = SKOPS, dumps(head)
    # A file under its final name is complete.
    partial = folder / f".{name}.partial"
    partial.write_bytes(content)
    partial.replace(folder / name)
    return name


def load_head(name: str, folder: Path) -> Any:
    """Read the fitted head that `save_head` wrote; heads trained on another device come back on the CPU.

    Args:
        name: the head's name in `HEADS`.
        folder: the folder given to `save_head`.

    Returns:
        The fitted estimator; its predictions are those of the saved one, bit for bit.

    Raises:
        HeadError: the head is unknown.
        RunError: the file is missing or damaged, or holds anything but that head and plain arrays.
    """
    kind = head_spec(name).load()
    path = folder / (TENSORS if hasattr(kind, "from_tensors") else SKOPS)
    if not path.is_file():
        raise RunError(f"The head {name!r} should be in {path}, which is missing. Fit the run again.")
    try:
        head = _read_tensors(kind, path) if path.name == TENSORS else _read_skops(kind, path)
    except RunError:
        raise
    except Exception as error:  # a damaged file can break its reader anywhere
        reason = " ".join(str(error).split())
        raise RunError(
            f"{path} can't be read as the head {name!r} ({type(error).__name__}: {reason}): it is damaged or was "
            "written by another version. Fit the run again."
        ) from error
    return head


def _plain(number: Any) -> Any:
    # NumPy's numbers, which hyper-parameters may be, are none of JSON's.
    return number.item()


def _read_tensors(kind: type[Any], path: Path) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
        return kind.from_tensors(tensors, json.loads(file.metadata()[LEARNED]))


def _read_skops(kind: type[Any], path: Path) -> Any:
    from skops.io import get_untrusted_types, load

    # skops itself trusts NumPy's arrays and scikit-learn's estimators, whose loading runs no code from the file.
    trusted = f"{kind.__module__}.{kind.__qualname__}"
    foreign = sorted(set(get_untrusted_types(file=path)) - {trusted})
    if foreign:
        raise RunError(
            f"{path} holds types that a head {kind.__name__} does not: {', '.join(foreign)}. Nothing of it was loaded; "
            "don't use this file unless you know who made it, and fit the run again."
        )
    head = load(path, trusted=[trusted])
    if type(head) is not kind:
        raise RunError(f"{path} holds a {type(head).__name__} where a {kind.__name__} was expected. Fit the run again.")
    check_is_fitted(head)
    return head

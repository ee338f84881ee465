"""Fitted heads as files that hold numbers and names, never code: safetensors for torch heads, skops for the others."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from cache.errors import ManyheadsError
from pipeline.calibration import at_temperature
from pipeline.errors import RunError
from pipeline.heads import head_spec
from pipeline.reading import brief, file_digest, open_regular, parse_json, require_stored
from pipeline.run import Run

TENSORS = "model.safetensors"
SKOPS = "model.skops"
LEARNED = "head"
_AGAIN = "Remove the run's folder and fit it again."


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
    path = folder / _file_name(kind)
    if not os.path.isfile(path):  # noqa: PTH113  # Path's raises where a folder may not be looked at
        raise RunError(f"The head {name!r} should be in {path}, which is missing. Fit the run again.")
    try:
        head = _read_tensors(kind, path) if path.name == TENSORS else _read_skops(kind, path)
    except RunError:
        raise
    except Exception as error:  # a damaged file can break its reader anywhere
        raise RunError(
            f"{path} can't be read as the head {name!r} ({type(error).__name__}: {brief(error)}): it is damaged or was "
            "written by another version. Fit the run again."
        ) from error
    return head


@dataclass(frozen=True)
class Model:
    """The fitted head of a run, known to be its own.

    Attributes:
        run: The run.
        head: The fitted estimator.
        digest: SHA-256 of the file that it was read from.
    """

    run: Run
    head: Any
    digest: str

    def predict_proba(self, rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the probability of each of the run's classes (n, C) for features (n, D), at the run's temperature.

        Raises:
            RunError: The head does not give probabilities, as one that somebody made up may not.
        """
        try:
            found = np.asarray(self.head.predict_proba(rows), dtype=np.float64)
        except (ManyheadsError, MemoryError):
            raise
        except Exception as error:  # a made-up estimator can break anywhere
            raise self._refusal(f"{type(error).__name__}: {brief(error)}") from error
        sums = found.sum(axis=-1)
        # A NaN is neither above 0 nor close to 1.
        if found.shape != (len(rows), len(self.run.classes)) or not ((found >= 0).all() and np.allclose(sums, 1)):
            raise self._refusal("what it gives are no probabilities")
        return at_temperature(found, self.run.temperature)

    def _refusal(self, reason: str) -> RunError:
        return RunError(f"The model in {self.run.path} cannot predict ({reason}). {_AGAIN}")


def load_model(run: Run) -> Model:
    """Read the model of a run, and make sure that it belongs to it.

    Args:
        run: A run that was read from its folder.

    Raises:
        HeadError: The run's head is unknown.
        RunError: The file is missing, damaged or another run's, or its head is for other classes or features.
    """
    path = run.path / _file_name(head_spec(run.head).load())
    try:
        digest = file_digest(path)
    except FileNotFoundError:
        raise RunError(f"{run.label} should have its model in {path}, which is missing. {_AGAIN}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}. Mend that, then run the same command again.") from error
    # Any of its own: the best weights may take the last ones' place.
    if digest not in run.model.values():
        expected = run.model.get(path.name, "none")
        raise RunError(
            f"{path} is not the model that was written with the run.json beside it: its SHA-256 is {digest[:12]}…, not "
            f"{expected[:12]}…. It is damaged, or another run's. Restore it, or remove {run.path} and fit it again."
        )
    head = load_head(run.head, run.path)
    classes = np.ravel(getattr(head, "classes_", ()))
    if len(classes) != len(run.classes) or tuple(map(str, classes)) != run.classes:
        raise RunError(f"The model in {run.path} was trained on other classes than its run.json names. {_AGAIN}")
    taken = getattr(head, "n_features_in_", None)
    if taken != run.recipe.dimension:
        raise RunError(
            f"The model in {run.path} takes {brief(taken)} numbers an image, but its recipe gives "
            f"{run.recipe.dimension}. {_AGAIN}"
        )
    return Model(run, head, digest)


def _file_name(kind: type[Any]) -> str:
    return TENSORS if hasattr(kind, "from_tensors") else SKOPS


def _plain(number: Any) -> Any:
    # NumPy's numbers, which hyper-parameters may be, are none of JSON's.
    return number.item()


def _read_tensors(kind: type[Any], path: Path) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
        return kind.from_tensors(tensors, parse_json(file.metadata()[LEARNED]))


def _read_skops(kind: type[Any], path: Path) -> Any:
    from skops.io import get_untrusted_types, load

    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        require_stored(archive, os.fstat(file.fileno()).st_size)
    # skops itself trusts NumPy's arrays and scikit-learn's estimators, whose loading runs no code from the file.
    trusted = f"{kind.__module__}.{kind.__qualname__}"
    foreign = sorted(set(get_untrusted_types(file=path)) - {trusted})
    if foreign:
        raise RunError(
            f"{path} holds types that a head {kind.__name__} does not: {brief(', '.join(foreign))}. Nothing of it was "
            "loaded; don't use this file unless you know who made it, and fit the run again."
        )
    head = load(path, trusted=[trusted])
    if type(head) is not kind:
        raise RunError(f"{path} holds a {type(head).__name__} where a {kind.__name__} was expected. Fit the run again.")
    check_is_fitted(head)
    return head

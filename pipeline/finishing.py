"""A run's head before and after it is fitted: made from what the run says, and written as the run's folder."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cache import NoRoom
from cache.atomic import writing_folder
from pipeline.calibration import fitted_temperature
from pipeline.errors import HeadError
from pipeline.heads import Diverged, head_parameters, make_head
from pipeline.reading import file_digest
from pipeline.run import Run


def head_of(run: Run) -> Any:
    """Make the unfitted head that a run asks for."""
    options = {**run.parameters, **({"device": run.device} if "device" in head_parameters(run.head) else {})}
    return make_head(run.head, seed=run.seed, **options)


def epochs_of(run: Run) -> int:
    """Return how many epochs a run trains, at most; 1 for heads that are fitted at once."""
    return int(run.parameters.get("epochs") or 1)


Validation: TypeAlias = "Iterable[tuple[NDArray[Any], NDArray[np.intp]]]"
"""Features (n, D) of the validation part, piece by piece, and the numbers of their classes (n,)."""


def write_run(run: Run, head: Any, folder: Path, seconds: float, validation: Validation = ()) -> int:
    """Write the folder of a run whose head is fitted, and return its number of epochs.

    Args:
        run: What was asked for.
        head: The fitted head.
        folder: RUNS/NAME/seed-0000.
        seconds: What the fit took.
        validation: On which the temperature of a calibrated run is fitted.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    from pipeline.heads.storage import save_head

    history = tuple(getattr(head, "history_", ()))
    fitted = replace(run, timings={"fit": seconds}, history=history, temperature=_temperature(run, head, validation))
    try:
        with writing_folder(folder) as temporary:
            model = save_head(head, temporary)
            replace(fitted, model={model: file_digest(temporary / model)}).write(temporary)
    except (OSError, NoRoom):
        # Another process has fitted the same run meanwhile: it is the same, and whole.
        if not folder.exists():
            raise
    return len(history)


def _temperature(run: Run, head: Any, validation: Validation) -> float:
    if not run.calibrated:
        return 1.0
    pieces = [(head.predict_proba(rows), codes) for rows, codes in validation]
    probabilities, codes = (np.concatenate(some) for some in zip(*pieces, strict=True))
    return fitted_temperature(np.asarray(probabilities, np.float64), codes)


@contextmanager
def named(*runs: Run) -> Iterator[None]:
    """Say which of some runs, in the order of their heads, cannot be fitted, or among which it is."""
    try:
        yield
    except HeadError as error:
        if isinstance(error, Diverged):
            runs = runs[error.number :][:1]
        which = runs[0].label if len(runs) == 1 else f"One of {runs[0].label} to {runs[-1].label}"
        raise HeadError(
            f"{which} cannot be fitted: {error} Runs that are complete are kept; leave this value out, and run the "
            "command again."
        ) from error

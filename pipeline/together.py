"""Runs that are trained together on a GPU, as one model, and written one by one."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import HeadError
from pipeline.finishing import epochs_of, head_of, named, write_run
from pipeline.run import Run

if TYPE_CHECKING:
    from pipeline.workers import Rows


def trained_together(run: Run) -> bool:
    """Whether runs like this one are trained as one model."""
    return run.device.startswith("cuda") and "epochs" in run.parameters


def fit_groups(work: Sequence[tuple[Run, Path]], rows: Rows, advance: Callable[[int], None]) -> None:
    """Fit runs of one device, in groups of one shape that its memory holds, and write each one's folder.

    Args:
        work: The runs, and where they go.
        rows: What they are fitted on.
        advance: Told how many more epochs are done.

    Raises:
        HeadError: A run cannot be fitted.
        NoRoom: The disk is full or read-only.
    """
    for group in _groups(work, rows):
        _fit(group, rows, advance)


def _fit(group: Sequence[tuple[Run, Path]], rows: Rows, advance: Callable[[int], None]) -> None:
    """Fit a group as one model and write each run when it is fitted; in halves where the device has no room for it."""
    from pipeline.heads.together import fit_together

    val: tuple[Any, Any] = rows.validation
    watched: dict[str, Any] = {"views": rows.train} if len(rows.train) > 1 else {}
    heads = [head_of(run) for run, _ in group]
    started, trained = time.perf_counter(), 0

    def tell(number: int, entry: dict[str, Any]) -> None:
        nonlocal trained
        trained += 1
        advance(1)

    def write(number: int) -> None:
        run, folder = group[number]
        seconds = (time.perf_counter() - started) / len(group)
        epochs = write_run(run, heads[number], folder, seconds, rows.coded_validation(run.classes))
        advance(epochs_of(run) - epochs)

    try:
        with named(*(run for run, _ in group)):
            fit_together(heads, rows.train[0], rows.train_labels, *val, on_epoch=tell, on_end=write, **watched)
        return
    except HeadError as error:
        if len(group) == 1 or trained or not _lacks_memory(error):
            raise
    _free()
    half = len(group) // 2
    for part in (group[:half], group[half:]):
        _fit(part, rows, advance)


def _lacks_memory(error: BaseException) -> bool:
    """Whether an error comes from an allocator, torch's or that of cuBLAS, whichever others it was told with."""
    import torch

    found: BaseException | None = error
    while found is not None and not (isinstance(found, torch.cuda.OutOfMemoryError) or "ALLOC_FAILED" in str(found)):
        found = found.__cause__
    return found is not None


def _free() -> None:
    """Give back the device's memory that nothing uses any more: what a failed group left, and torch's own store."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _groups(work: Sequence[tuple[Run, Path]], rows: Rows) -> Iterator[list[tuple[Run, Path]]]:
    """Cut the runs into groups of one shape, those of one learning rate and weight decay side by side."""

    def shape(one: tuple[Run, Path]) -> tuple[str, int]:
        return str(one[0].parameters["hidden"]), one[0].parameters["batch_size"]

    def kind(one: tuple[Run, Path]) -> tuple[Any, ...]:
        return (*shape(one), one[0].parameters["lr"], one[0].parameters["weight_decay"])

    for _, found in groupby(sorted(work, key=kind), key=shape):
        group = list(found)
        most = _most(group[0][0], rows)
        yield from (group[start : start + most] for start in range(0, len(group), most))


def _most(run: Run, rows: Rows) -> int:
    """Return how many runs like this one the memory of its device holds beside the features, at least one."""
    import torch

    from pipeline.heads.batched import head_bytes
    from pipeline.heads.mlp import layer_sizes

    _free()  # else what the group before took, features too, would count as used
    free, _ = torch.cuda.mem_get_info(torch.device(run.device))
    held = rows.train.nbytes + rows.val.nbytes
    sizes = layer_sizes(rows.train.shape[2], len(run.classes), run.parameters["hidden"])
    each = head_bytes(sizes, run.parameters["batch_size"], rows.train.shape[1])
    return max(1, int((0.9 * free - held) // each))

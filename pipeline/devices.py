"""Extraction on several devices of one machine: a process for each, through joblib, and a share of the shards for each.

Shards depend on nothing but the images in them, so it does not matter who computes which. A process that is killed, or
a machine that loses power, loses what any extraction loses: what each process had computed and not yet written.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cache import CacheError
from cache.shard import SHARD_ROWS, shard_paths
from pipeline.computing import Clock, Computing, Plan, cut, rows_of
from pipeline.errors import BaseError
from pipeline.processes import end_children, end_with, starting_children, working_children
from pipeline.progress import SILENT

if TYPE_CHECKING:
    from pipeline.order import Order

SECONDS = 0.5  # between two looks at which shards are there


def run_on_devices(
    devices: Sequence[str],
    order: "Order",
    computing: Computing,
    paths: Mapping[str, str],
    groups: Sequence[Mapping[str, Sequence[int]]],
    unit: str = "images",
) -> dict[str, str]:
    """Compute and store features as `Computing.run` does, on several devices side by side.

    Args:
        devices: Where to compute, such as `cuda:0` and `cuda:1`; a device may be named twice.
        order: What was asked for; each process loads the base for itself.
        computing: What to compute with. The decoding processes are shared out; its clock gets the mean of the times.
        paths: Digest -> path relative to the image set's root.
        groups: Digest -> numbers of the views to compute, in this order.
        unit: What progress counts.

    Returns:
        Digest -> reason, of the images that could not be read.

    Raises:
        BaseError: A process was killed, or as `Computing.run`.
    """
    from joblib import Parallel, delayed

    plans = [plan for group in groups for plan in cut(group)]
    shares = [share for number in range(len(devices)) if (share := plans[number :: len(devices)])]
    if len(shares) == 1:
        return computing.run(order.on(devices[0]).base(computing.progress), paths, groups, unit)
    alone = replace(computing, workers=max(1, computing.workers // len(shares)), progress=SILENT, clock=Clock())
    order.forget_base()  # each process has its own; this one's would only take room on the first device
    computing.progress.note(f"loading the base on {len(shares)} devices")
    work = [
        delayed(_compute)(os.getpid(), order.on(device), alone, _needed(paths, share), share, unit)
        for device, share in zip(devices, shares, strict=False)
    ]
    killed = BaseError(
        "A process that computed on one of the devices was killed from outside, most likely because memory ran out. "
        "Finished shards are kept: run the same command again, with fewer devices or a lower --batch-size."
    )
    rows, folder = sum(map(rows_of, plans)), computing.cache.path / "shards"
    with computing.progress.steps("extracting", rows, unit) as advance, _watched(folder, rows, advance) as told:
        try:
            with working_children(killed):
                with starting_children():
                    results = Parallel(n_jobs=len(work), return_as="generator_unordered")(work)
                found = list(results)
            advance(rows - told())
        finally:
            end_children()  # they hold the devices' memory
    for _, clock in found:
        for what, seconds in clock.spent.items():
            computing.clock.spent[what] += seconds / len(found)
    return {digest: reason for failures, _ in found for digest, reason in failures.items()}


def _compute(
    parent: int, order: "Order", computing: Computing, paths: Mapping[str, str], plans: Sequence[Plan], unit: str
) -> tuple[dict[str, str], Clock]:
    """Compute one device's share, in a process of its own."""
    end_with(parent)
    # Cut as they are already: no plan joins its neighbour, which another process has.
    return computing.run(order.base(SILENT), paths, [dict(plan) for plan in plans], unit), computing.clock


def _needed(paths: Mapping[str, str], plans: Sequence[Plan]) -> dict[str, str]:
    return {digest: paths[digest] for plan in plans for digest, _ in plan}


@contextmanager
def _watched(folder: Path, total: int, advance: Callable[[int], None]) -> Iterator[Callable[[], int]]:
    """Tell of every shard that appears in a folder: what the processes do until then cannot be seen from here.

    Yields a function that stops telling, and returns how many rows were told of.
    """
    ended, before, told = threading.Event(), len(shard_paths(folder)), 0

    def look() -> None:
        nonlocal told
        while not ended.wait(SECONDS):
            with suppress(CacheError):  # who writes there will hear of it
                done = min(total, (len(shard_paths(folder)) - before) * SHARD_ROWS)  # most shards are full
                advance(done - told)
                told = done

    def stop() -> int:
        ended.set()
        watcher.join()
        return told

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        stop()

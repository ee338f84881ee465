"""Processes that work for another one: deaf to Ctrl-C, which is their parent's to answer, and gone when it is gone."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cache.errors import ManyheadsError


@contextmanager
def starting_children() -> Iterator[None]:
    """Start processes whom Ctrl-C in a terminal, which reaches all of them, does not break off in their imports."""
    from multiprocessing import resource_tracker

    from joblib.externals.loky.backend import resource_tracker as lokys

    for tracker in (resource_tracker, lokys):
        tracker.ensure_running()  # now, for whoever starts one lets the signal through again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # they inherit it; here it only waits
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def working_children(killed: ManyheadsError) -> Iterator[None]:
    """End joblib's worker processes at once when interrupted; raise `killed` if one of them was killed.

    Args:
        killed: What it means, and what to do.
    """
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        yield
    except KeyboardInterrupt:
        end_children()
        raise
    except TerminatedWorkerError as error:
        raise killed from error


def end_children() -> None:
    """Kill joblib's worker processes, and wait until they are gone."""
    from joblib.externals.loky import get_reusable_executor

    # kill_workers here too: asked for with other arguments, loky first ends the executor at work, and would wait.
    get_reusable_executor(kill_workers=True).shutdown(wait=True, kill_workers=True)


def end_with(parent: int) -> None:
    """End this process, whatever it does, soon after the one with number `parent`, which started it, is gone.

    Only a process of joblib's own is ended: another backend may run the work in the process that asked for it, or on
    another machine.
    """
    if os.getpid() == parent or not multiprocessing.current_process().name.startswith("LokyProcess"):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

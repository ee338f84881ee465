"""Which processes of a command are still there, whoever is their parent by now."""

import os
import time
from pathlib import Path

TOKEN = "MANYHEADS_FAULTS"  # in the environment of a command, and so of all processes that it starts
PATIENCE = 10.0  # seconds in which workers must be gone


def others(mark: str) -> list[int]:
    """Return the processes, but for this one, that have a mark in their environment; none where there is no /proc."""
    wanted = f"{TOKEN}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes()
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # it has just ended, or is another user's
        if wanted in environment.split(b"\0") and state != "Z" and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


def until_alone(mark: str) -> float | None:
    """Wait until none of them is left; return how many seconds that took, None if they stay."""
    started = time.monotonic()
    while others(mark):
        if time.monotonic() - started > PATIENCE:
            return None
        time.sleep(0.01)
    return time.monotonic() - started

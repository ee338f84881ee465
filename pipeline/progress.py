"""How a stage tells what it is doing, without printing: the caller hands in something that listens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """What a stage tells while it works. `pipeline.terminal` shows it to a person; `SILENT` drops it."""

    def note(self, text: str) -> None:
        """Take one sentence that the user should read now."""

    def steps(self, label: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """Open a piece of work of `total` units; the function that it yields takes how many more are done."""


class Silent:
    """Progress that nobody watches."""

    def note(self, text: str) -> None:
        """Drop it."""

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Count nothing."""
        yield lambda done: None


SILENT = Silent()

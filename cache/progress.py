"""How long work in a cache is watched: the caller hands in a function, as `pipeline.progress.Progress.steps` is one."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

# Opens a piece of work: what is done, how many units it has, what they are called. The function that it yields is told
# how many more are done.
Steps = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def unwatched(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Count nothing."""
    yield lambda done: None

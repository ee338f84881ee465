"""Memory that is not there: an allocator's error becomes a failure that says what to lower."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cache.errors import ManyheadsError

# torch has one type of exception for a GPU without room, and plain ones for all else; these are their words.
_WORDS = re.compile(
    r"can't allocate memory|not enough memory|out of memory|ALLOC_FAILED"
    r"|Storage size calculation overflowed|Overflow when unpacking long"
)


@contextmanager
def enough_memory(failure: ManyheadsError) -> Iterator[None]:
    """Raise `failure` in place of an allocator's error; every other error passes.

    Args:
        failure: What was asked, and what to lower.

    Raises:
        ManyheadsError: The failure, if Python, NumPy or torch had no room, or a size does not fit an integer.
    """
    try:
        yield
    except MemoryError as error:
        raise failure from error
    except (RuntimeError, TypeError) as error:
        if _WORDS.search(str(error)) is None:
            raise
        raise failure from error

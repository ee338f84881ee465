"""Python's search for garbage, which is of no use while very many objects are made that all stay in use."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage() -> Iterator[None]:
    """Do not search for garbage in the block: among hundreds of thousands of new objects that takes half of the time.

    Nothing is lost by it: what nobody refers to is let go of at once as ever, and rings of references afterwards.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""The one tree of exceptions: every explained failure of manyheads is a `ManyheadsError`.

The command line prints its message as one paragraph and ends with status 1; the library lets it through.
"""


class ManyheadsError(Exception):
    """A failure whose message says what was asked, what was found, and what to do next."""


class CacheError(ManyheadsError):
    """A feature cache, or a file of it, is missing, damaged or not what it is named."""


class RecipeMismatch(ManyheadsError):
    """Two recipes that should be the same differ in the named fields."""


class NoRoom(ManyheadsError):
    """The disk cannot hold what is to be written, or the folder cannot be written to."""

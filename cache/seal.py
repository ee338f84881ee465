"""The seal: the first 512 bytes of each HDF5 file of a cache say what it is, and hash all bytes that follow.

HDF5 calls such a beginning a user block and passes over it. Its own checksums leave gaps (variable-length strings,
unused bytes, a row of another file): the seal has none, for the block itself is compared to the last byte.
"""

import hashlib

from cache.recipe import FORMAT_VERSION

SIZE = 512  # the smallest user block that HDF5 knows


def seal(kind: str, body: bytes | memoryview) -> bytes:
    """Return the block that belongs before `body` in a file of this kind: `shard` or `index`."""
    text = f"manyheads {kind}\nformat {FORMAT_VERSION}\nsha256 {hashlib.sha256(body).hexdigest()}\n"
    return text.encode("ascii").ljust(SIZE, b"\n")


def is_sealed(kind: str, data: bytes) -> bool:
    """Whether a file's bytes are those that were written as this kind, to the last bit."""
    return data[:SIZE] == seal(kind, memoryview(data)[SIZE:])

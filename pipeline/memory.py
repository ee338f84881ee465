"""Memory: how much is free, a failure that says what to lower where it is short, and freed memory that is kept."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.errors import ManyheadsError

# torch has one type of exception for a GPU without room, and plain ones for all else; these are their words.
_WORDS = re.compile(
    r"can't allocate memory|not enough memory|out of memory|ALLOC_FAILED"
    r"|Storage size calculation overflowed|Overflow when unpacking long"
)


# From glibc's malloc.h. Larger pieces than this always go back to the system; there is no higher limit.
_MMAP_THRESHOLD, _LARGEST = -3, 32 * 2**20
_TRIM_THRESHOLD, _KEPT = -1, 2**30


def keep_freed_memory() -> None:
    """Let the C library keep up to 1 GiB of freed memory, for as long as this process lives.

    Else it gives the memory of one layer's output back to the system, which must clear every page of it before the next
    layer gets it again: 7 % of the time of VGG16 in bf16 on two cores. Nothing happens where the library is not glibc.
    """
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - other libraries have a mallopt that means something else
        library.mallopt(_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)


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


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process may still take: what Linux calls available, within the limits of its cgroups.

    Args:
        root: Where /proc and /sys are.
    """
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")] if hasattr(os, "sysconf") else []
    with suppress(OSError, ValueError, IndexError):
        found = re.findall(r"MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text())
        free = [int(found[0]) * 1024]  # more than the free pages: what the system would give up for us counts too
    return max(0, min([*free, *_left_by_groups(root)], default=0))


def _left_by_groups(root: Path) -> Iterator[int]:
    """Yield what each group with a limit lets this process take, from the topmost to its own."""
    own = {"": "", "memory": ""}  # version 2 has one hierarchy, version 1 has one of its own for memory
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own.update((name, path) for name in controllers.split(",") if name in own)
    for hierarchy, limit, used, cached in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        parts = [part for part in own[hierarchy].split("/") if part]
        if ".." in parts:  # a group outside of what this process sees
            parts = []
        # Those that a container hides are not there; what stands at the top is then the container's own.
        for depth in range(len(parts) + 1):
            folder = (root / "sys/fs/cgroup" / hierarchy).joinpath(*parts[:depth])
            with suppress(OSError, ValueError):  # no limit reads "max"
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
                with suppress(OSError):  # the system gives up pages of files that were not used lately
                    found = re.findall(rf"^{cached} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
                    left += sum(map(int, found))
                yield left

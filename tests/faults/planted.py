"""What the fuzzer must see: readers of one small file, each of which does what none may, and a right one."""

import os
import signal
from pathlib import Path
from random import Random

from cache import CacheError
from tests.faults.sandbox import Files, Kind


def _break(rng: Random, files: Files) -> Files:
    return {"file": b"damaged"}


def _is_whole(world: Path) -> bool:
    return (world / "file").read_bytes() == b"whole"


def _careless(world: Path) -> object:
    return 1 // _is_whole(world)


def _hanging(world: Path) -> object:
    while not _is_whole(world):
        pass
    return None


def _crashing(world: Path) -> object:
    if not _is_whole(world):
        os.kill(os.getpid(), signal.SIGSEGV)
    return None


def _greedy(world: Path) -> object:
    return len(bytes([1]) * (1 if _is_whole(world) else 400_000_000)) > 0


def _writing(world: Path) -> object:
    if not _is_whole(world):
        (world / ".." / "outside" / "canary").write_text("dead")
    return None


def _credulous(world: Path) -> object:
    return _is_whole(world)


def _right(world: Path) -> object:
    if not _is_whole(world):
        raise CacheError("the file is damaged: remove it and make it again")
    return None


def _silent(world: Path) -> object:
    if not _is_whole(world):
        raise CacheError("damaged")
    return None


def _endless(world: Path) -> object:
    return _is_whole(world) or bytes([1]) * 2**50


PLANTED = tuple(
    Kind(reader.__name__, _break, (reader,), seconds=4)
    for reader in (_right, _careless, _hanging, _crashing, _greedy, _writing, _credulous, _silent, _endless)
)

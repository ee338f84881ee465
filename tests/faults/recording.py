"""Everything that a piece of work does to a folder, recorded call by call, and what a crash at any moment would leave.

An audit hook hears of every call that opens for writing, makes, renames or removes, `os.fsync` is replaced for the time
of the recording, and at each such call the whole folder is read. So what was written between two calls is seen too,
whoever wrote it and by whatever means.
"""

import itertools
import math
import os
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Path relative to the recorded folder -> content; None is a folder.
State = Mapping[str, bytes | None]
# The same with the number of the file or folder itself, which it keeps when it is renamed.
Tree = Mapping[str, tuple[int, bytes | None]]
# A file's number, or a folder's and a name in it.
Key = int | tuple[int, str]

ROOT = ""
_NAMING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_recording: "Recording | None" = None
_hooked = False


@dataclass(frozen=True)
class Moment:
    """The instant before a call.

    Attributes:
        call: The call, as a person reads it.
        step: Number of the step of the work that makes it.
        tree: The folder as a process sees it at that instant.
        syncs: Number of the file or folder that the call syncs, if it does.
        begins: Whether it begins another file.
        ends: Whether it is no call, but the end of the step.
    """

    call: str
    step: int
    tree: Tree
    syncs: int | None = None
    begins: bool = False
    ends: bool = False


class Recording:
    """The moments of a piece of work on a folder; `close` it in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.moments: list[Moment] = []
        self._step = 0
        self._lock = threading.RLock()
        self._busy = False
        self._sync_really = os.fsync
        # Held open, so that the system gives no number to another file while the recording lasts.
        self._held: dict[int, int] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record all that is done inside the block, in whatever thread."""
        global _recording, _hooked
        if not _hooked:
            sys.addaudithook(_hear)  # for good: hooks cannot be taken off
            _hooked = True
        self._sync_really, _recording = os.fsync, self
        os.fsync = self._sync  # type: ignore[assignment]  # it takes files too, which nobody gives it
        try:
            yield
        finally:
            os.fsync, _recording = self._sync_really, None

    def close(self) -> None:
        """Let go of the files."""
        for handle in self._held.values():
            os.close(handle)

    def end_step(self) -> None:
        """Note that a step of the work has returned."""
        self._note("the end", ends=True)
        self._step += 1

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note a call that is about to be made, if it concerns the folder."""
        writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
        if writes or event in _NAMING:
            paths = [Path(os.fsdecode(name)) for name in arguments[:2] if isinstance(name, str | bytes | os.PathLike)]
            # A number, or a name relative to an open folder, as `shutil.rmtree` has, may be any file: it counts.
            inside = [path.absolute().is_relative_to(self.folder) for path in paths]
            if any(inside) or not (writes or all(path.is_absolute() for path in paths)) or not paths:
                call = " ".join([event.removeprefix("os."), *(path.name for path in paths)])
                self._note(call, begins=writes)

    def _note(self, call: str, **what: Any) -> None:
        with self._lock:
            if not self._busy:  # else it is the recording itself that opens a file
                self.moments.append(Moment(call, self._step, self._read(), **what))

    def _sync(self, handle: int) -> None:
        with self._lock:
            number = os.fstat(handle).st_ino
            found = [path for path, (held, _) in self._read().items() if held == number]
            if found:
                name = Path(found[0]).name or "the folder above"
                self._note(f"sync {name}", syncs=number)
            self._sync_really(handle)

    def _read(self) -> Tree:
        self._busy = True
        try:
            tree: dict[str, tuple[int, bytes | None]] = {}
            for path in (self.folder, *sorted(self.folder.rglob("*"))):
                state = path.lstat()
                if state.st_ino not in self._held:
                    self._held[state.st_ino] = os.open(path, os.O_RDONLY)
                content = None if path.is_dir() else os.pread(self._held[state.st_ino], state.st_size, 0)
                name = str(path.relative_to(self.folder)) if path != self.folder else ROOT
                tree[name] = (state.st_ino, content)
            return tree
        finally:
            self._busy = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _recording is not None:
        _recording.hear(event, arguments)


class Disk:
    """A disk that keeps what was synced, and of all else anything or nothing.

    A file's content outlives a crash once the file was synced, an entry of a folder once the folder was. Everything
    later may have reached the disk or not, in any order.
    """

    def __init__(self, tree: Tree) -> None:
        # What each file may hold, and where each name may lead: first what is sure, then what came later.
        self._contents: dict[int, list[bytes]] = {}
        self._entries: dict[int, dict[str, list[int | None]]] = {}
        self._root = tree[ROOT][0]
        self.see(tree)
        for number in [*self._contents, *self._entries]:
            self.sync(number)  # what was there before is safe

    def see(self, tree: Tree) -> None:
        """Take note of what has changed, and may or may not reach the disk."""
        listed: dict[int, dict[str, int]] = {number: {} for number, content in tree.values() if content is None}
        for path, (number, content) in tree.items():
            if path != ROOT:
                above, _, name = path.rpartition("/")
                listed[tree[above][0]][name] = number
            if content is not None:
                # A file that is named and was never synced may turn out to be empty.
                held = self._contents.setdefault(number, [b""])
                if held[-1] != content:
                    held.append(content)
        for folder, names in listed.items():
            known = self._entries.setdefault(folder, {})
            for name in known.keys() | names.keys():
                targets = known.setdefault(name, [None])
                if targets[-1] != names.get(name):
                    targets.append(names.get(name))

    def sync(self, number: int) -> None:
        """Make sure of a file's content, or of a folder's entries, as they are now."""
        if number in self._contents:
            self._contents[number] = self._contents[number][-1:]
        for targets in self._entries.get(number, {}).values():
            targets[:] = targets[-1:]

    def surely(self) -> State:
        """What is left if nothing but what was synced reached the disk."""
        return self._left({}, lambda choices: choices[0])

    def named_only(self, zeros: bool) -> State:
        """What is left if all names reached the disk, and no content that was not synced; zeros in its place, or none.

        That is what some file systems make of a file that is renamed before it is synced.
        """
        fills: dict[Key, bytes] = {
            number: bytes(len(held[-1])) for number, held in self._contents.items() if len(held) > 1
        }
        return self._left(fills if zeros else dict.fromkeys(fills, b""), lambda choices: choices[-1])

    def perhaps(self, most: int, seed: int) -> Iterator[State]:
        """Yield what is left if of what was not synced some reached the disk, and some did not.

        Every combination, or, where there are more than `most`, so many of them by chance.
        """
        open_choices: dict[Key, Sequence[Any]] = {
            (folder, name): targets
            for folder, names in self._entries.items()
            for name, targets in names.items()
            if len(targets) > 1
        }
        open_choices |= {
            number: [*held, held[-1][: len(held[-1]) // 2]] for number, held in self._contents.items() if len(held) > 1
        }
        combinations: Iterable[tuple[Any, ...]] = itertools.product(*open_choices.values())
        if math.prod(map(len, open_choices.values())) > most:
            chance = random.Random(seed)
            combinations = (tuple(map(chance.choice, open_choices.values())) for _ in range(most))
        for chosen in combinations:
            yield self._left(dict(zip(open_choices, chosen, strict=True)), lambda choices: choices[0])

    def _left(self, chosen: Mapping[Key, Any], otherwise: Callable[[Sequence[Any]], Any]) -> State:
        state: dict[str, bytes | None] = {}
        waiting = [(ROOT, self._root)]
        while waiting:
            path, number = waiting.pop()
            if number in self._contents:
                state[path] = chosen[number] if number in chosen else otherwise(self._contents[number])
                continue
            if path != ROOT:
                state[path] = None
            for name, targets in self._entries.get(number, {}).items():
                target = chosen[number, name] if (number, name) in chosen else otherwise(targets)
                if target is not None:
                    waiting.append((f"{path}/{name}".lstrip("/"), target))
        return state

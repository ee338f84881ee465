"""A copy of a world in which files are damaged, read and put back, in a process that somebody watches."""

import json
import os
import resource
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

ADDRESSES = 2 << 30  # bytes that a process may ask for beyond what it has after its imports
EXPECTED = ("refused", "same", "other")
WRITABLE = "runs"  # the only folder in which reading may write: evaluating stores what it computed

Files = Mapping[str, bytes]  # path below the world's folder -> content
Damaged = Mapping[str, bytes | None]  # likewise; None where there is no such file any more
Reader = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """A kind of file and a kind of damage to it.

    Attributes:
        name: What is damaged and how, for the table.
        damage: Gives the files that are other now, from a source of chance and from all files as they were.
        readers: What is called, with the world's folder.
        guarded: Whether a checksum must notice: reading gives what was there before, or is refused.
        noticed: Whether `cache verify` must find it.
        megabytes: The memory that one input may take.
        seconds: The time that one input may take.
    """

    name: str
    damage: Callable[[Random, Files], Damaged]
    readers: Sequence[Reader]
    guarded: bool = True
    noticed: bool = False
    megabytes: float = 300.0
    seconds: float = 10.0


@dataclass(frozen=True)
class Result:
    """What became of an input.

    Attributes:
        number: The input's.
        outcome: `refused`, `same`, `other` (read as something else, where nothing could notice); all else must not be.
        seconds: The time that reading it took.
        megabytes: The memory that it took.
    """

    number: int
    outcome: str
    seconds: float
    megabytes: float


class Box:
    """A copy of a world, in which files are damaged, read, and put back.

    Args:
        world: The world, which stays as it is.
        folder: Where the copy goes.
        kinds: The kinds of damage, in turn.
    """

    def __init__(self, world: Path, folder: Path, kinds: Sequence[Kind]) -> None:
        self.folder, self.world, self.kinds = folder, folder / "world", kinds
        shutil.copytree(world, self.world)
        for name in ("outside", "elsewhere"):
            (folder / name).mkdir()
            (folder / name / "canary").write_text("alive")
        os.chdir(folder / "elsewhere")
        self._adopt()
        self.files = {
            str(path.relative_to(self.world)): path.read_bytes()
            for path in sorted(self.world.rglob("*"))
            if path.is_file()
        }
        self.states = self._states()
        self.before: Mapping[Callable[[Path], object], str] = {
            reader: repr(reader(self.world)) for kind in kinds for reader in kind.readers
        }
        self.put_back()

    def damage(self, seed: str, number: int) -> tuple[Kind, Damaged]:
        """Return the kind of an input, and the files that are other than they were."""
        kind = self.kinds[number % len(self.kinds)]
        return kind, kind.damage(Random(f"{seed}:{number}"), self.files)

    def outcome(self, kind: Kind, files: Damaged, *, show: bool = False) -> str:
        """Read damaged files; say what came out, see `Result`.

        Args:
            kind: What is damaged.
            files: The damaged ones.
            show: Whether a traceback is printed of what must not be.
        """
        for name, content in files.items():
            if content is None:
                (self.world / name).unlink()
            else:
                (self.world / name).write_bytes(content)
        before = self._states()
        found = self._read(kind, show)
        allowed = self.world / WRITABLE
        if changed := [path for path in _changed(before, self._states()) if allowed not in path.parents]:
            return f"written: {', '.join(str(path.relative_to(self.folder)) for path in sorted(changed))}"
        if found in EXPECTED and kind.noticed and self._is_sound():
            return "not noticed by `cache verify`"
        return found

    def put_back(self) -> None:
        """Let everything be as it was."""
        now = self._states()
        for path in sorted(_changed(self.states, now), reverse=True):
            if path not in self.states:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, content in self.files.items():
            path = self.world / name
            if now.get(path) != self.states[path]:
                path.write_bytes(content)
        self.states = self._states()

    def _read(self, kind: Kind, show: bool) -> str:
        from cache import ManyheadsError

        found = set()
        for reader in kind.readers:
            try:
                found.add("same" if repr(reader(self.world)) == self.before[reader] else "other")
            except ManyheadsError as error:
                found.add("refused")
                if not 20 < len(str(error)) < 20_000:
                    return f"a message of {len(str(error))} letters"
            except Exception as error:  # noqa: BLE001  # the very thing that is looked for
                if show:
                    traceback.print_exc()
                return f"{type(error).__name__} in {traceback.extract_tb(error.__traceback__)[-1].name}"
        if kind.guarded and "other" in found:
            return "a damaged file passes for a whole one"
        return next(outcome for outcome in ("refused", "other", "same") if outcome in found)

    def _is_sound(self) -> bool:
        from cache.verification import verify

        return verify(self.world / "cache").sound

    def _adopt(self) -> None:
        """Let the runs look for their cache in the copy."""
        from pipeline.run_places import find_runs

        for run in find_runs([self.world / "runs"]) if (self.world / "runs").exists() else ():
            replace(run, cache=str(self.world / "cache")).write(run.path)

    def _states(self) -> dict[Path, tuple[int, ...]]:
        return {
            path: (state.st_mode, state.st_size, state.st_mtime_ns) if path.is_file() else (state.st_mode,)
            for path, state in ((path, path.lstat()) for path in self.folder.rglob("*"))
        }


def _changed(before: Mapping[Path, object], after: Mapping[Path, object]) -> list[Path]:
    return [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]


def serve(world: Path, kinds: Sequence[Kind], seed: str, numbers: range) -> None:
    """Try these inputs one after the other, and tell on stdout when each begins and what became of it."""
    with tempfile.TemporaryDirectory() as folder, os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what is read may not print
        box = Box(world, Path(folder), kinds)
        allowed = _memory("VmSize") + ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
        for number in numbers:
            kind, files = box.damage(seed, number)
            print(json.dumps({"begins": number, "seconds": kind.seconds}), file=out, flush=True)
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak
            before, started = _memory("VmRSS"), time.perf_counter()
            outcome = box.outcome(kind, files)
            seconds, megabytes = time.perf_counter() - started, max(0, _memory("VmHWM") - before) / 1e6
            if outcome in EXPECTED and megabytes > kind.megabytes:
                outcome = f"more than {kind.megabytes:g} MB"
            print(json.dumps(asdict(Result(number, outcome, seconds, megabytes))), file=out, flush=True)
            box.put_back()


def _memory(name: str) -> int:
    """Return a figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))

"""Kills and errors at every single system call with which a real `manyheads extract` touches its cache, by strace.

`python -m tests.faults.calls` prints a table. The command is run once to list its calls; then, for each of them, once
more up to that call, at which strace kills it, or lets the system answer with an error.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.faults.kills import Child, Kills, look_at, undisturbed
from tests.faults.processes import TOKEN
from tests.faults.scenarios import ROWS, Extractions

REPOSITORY = Path(__file__).parents[2]
IMAGES = 7  # two of which are broken: two shards of the images, two of their views
PROGRAM = f"import pipeline.computing; pipeline.computing.SHARD_ROWS = {ROWS}; import cli; cli.main()"
TRACED = "openat,write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,close"
# What a full disk, a quota or a broken disk may answer, and when.
ERRORS = {
    "mkdir": "ENOSPC",
    "openat": "ENOSPC",
    "write": "EDQUOT",
    "close": "EDQUOT",
    "fsync": "EIO",
    "rename": "ENOSPC",
}
KILL = "killed"


@dataclass(frozen=True)
class Call:
    """One system call of the main thread: its name, how many of that name come before it, and its line."""

    name: str
    number: int
    line: str

    @property
    def told(self) -> str:
        """The call as a person reads it."""
        return re.sub(r"\.\w+\.\d+-\d+\.tmp", ".tmp", self.line)[:120]


@dataclass
class Found:
    """What was found.

    Attributes:
        tried: (name of the call, what was done to it) -> how many.
        missed: How many of them came out elsewhere, and were looked at all the same.
        problems: Everything that was not as promised.
        seconds: How long it took.
    """

    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def command(images: Path, cache: Path) -> list[str]:
    """Return the command line of the first step of `Extractions`."""
    options = ["--base", "squeezenet1_1", "--weights", "random:0", "--device", "cpu", "--views", "2", "--workers", "1"]
    more = ["--batch-size", str(ROWS), "--on-error", "skip", "--quiet"]
    return [sys.executable, "-c", PROGRAM, "extract", str(images), str(cache), *options, *more]


def trace(work: Path, images: Path, *inject: str) -> "subprocess.CompletedProcess[str]":
    """Extract into work/cache under strace; the log lies beside `work`."""
    log = work.with_suffix(".log")
    tracing = ["strace", "-y", "-o", str(log), "-e", f"trace={TRACED}", *inject]
    environment = {**os.environ, "PYTHONHASHSEED": "0", TOKEN: work.name}
    return subprocess.run(
        [*tracing, *command(images, work / "cache")],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment,
        timeout=120,
    )


def calls(log: Path, work: Path) -> list[Call]:
    """Return the calls in a log that touch what is below a folder, but for those that only read."""
    seen: Counter[str] = Counter()
    found = []
    for line in log.read_text(errors="replace").splitlines():
        name = line.partition("(")[0]
        seen[name] += 1
        reads = "O_RDONLY" in line or (name == "close" and ".tmp>" not in line)
        if str(work) in line and not reads:
            found.append(Call(name, seen[name], line))
    return found


def try_one(work: Path, images: Path, call: Call, fault: str) -> "tuple[subprocess.CompletedProcess[str], bool]":
    """Extract with one fault at one call; say too whether it came where it should."""
    work.mkdir()
    what = "signal=KILL" if fault == KILL else f"error={fault}"
    done = trace(work, images, "-e", f"inject={call.name}:{what}:when={call.number}")
    lines = work.with_suffix(".log").read_text(errors="replace").splitlines()
    hit = [line for line in lines if "INJECTED" in line] if fault != KILL else lines[-2:]
    return done, any(line.startswith(f"{call.name}(") and str(work) in line for line in hit)


def examine(place: Path, only: Sequence[str] = ()) -> Found:
    """Try every call.

    Args:
        place: An empty folder for all of it.
        only: Names of the calls to try; all if not given.
    """
    started, found = time.perf_counter(), Found()
    scenario = Extractions(place / "images", IMAGES)
    scenario.steps = scenario.steps[:1]
    undisturbed(scenario, place)
    (place / "listed").mkdir()
    trace(place / "listed", scenario.first)
    listed = [call for call in calls(place / "listed.log", place / "listed") if not only or call.name in only]
    tries = [(call, KILL) for call in listed if call.name != "close"]
    tries += [(call, ERRORS[call.name]) for call in listed if call.name in ERRORS and "/.lock" not in call.line]
    works = [place / f"try-{number}" for number in range(len(tries))]
    # Two at once, and no fork meanwhile: a fork of a process with threads may wait for ever.
    with ThreadPoolExecutor(2) as pool:
        run = partial(_try, scenario.first)
        results = list(pool.map(run, works, tries))
    for work, (call, fault), (done, hit) in zip(works, tries, results, strict=True):
        found.tried[call.name, fault] += 1
        found.missed += not hit
        label = f"{fault} at {call.told}"
        problems = _killed(done) if fault == KILL else _explained(done, work)
        kills = Kills()
        os.environ[TOKEN] = work.name
        look_at(scenario, work, kills, label)
        if Child(partial(scenario.steps[0][1], work)).wait():
            problems.append("the same command failed")
        problems += scenario.differences(work, place / "kept" / "0")
        found.problems += [*kills.problems, *(f"{label}: {problem}" for problem in problems)]
        shutil.rmtree(work)
    found.seconds = time.perf_counter() - started
    return found


def _try(images: Path, work: Path, what: tuple[Call, str]) -> "tuple[subprocess.CompletedProcess[str], bool]":
    return try_one(work, images, *what)


def _killed(done: "subprocess.CompletedProcess[str]") -> list[str]:
    return [] if done.returncode in (-signal.SIGKILL, 0) else [f"status {done.returncode}: {done.stderr}"]


def _explained(done: "subprocess.CompletedProcess[str]", work: Path) -> list[str]:
    """Say what is wrong with the end of a command that met an error."""
    told = done.stderr.strip()
    problems = [] if done.returncode == 1 else [f"status {done.returncode}"]
    if "Traceback" in told or str(work) not in told or "could not be written" not in told or "\n\n" in told:
        problems.append(f"it said: {told}")
    problems += [f"{path.name} is left over" for path in work.rglob(".*")]
    return problems


def main() -> int:
    """Try every call; return 1 if anything is not as promised."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", nargs="*", default=(), help="Names of calls.  [default: all]")
    asked = parser.parse_args()
    if not shutil.which("strace"):
        print("strace is not installed: no call was tried")
        return 0
    os.environ[TOKEN] = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as place:
        found = examine(Path(place), asked.only)
    print(*found.problems, sep="\n")
    print("| call | what happened to it | times |\n|---|---|---|")
    print(*(f"| {name} | {fault} | {count} |" for (name, fault), count in sorted(found.tried.items())), sep="\n")
    print(
        f"\n{found.tried.total()} calls, {found.missed} of them not hit; {len(found.problems)} problems, "
        f"{found.seconds:.0f} s."
    )
    return int(bool(found.problems))


if __name__ == "__main__":
    sys.exit(main())

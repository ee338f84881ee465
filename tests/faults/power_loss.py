"""Power loss and kills at every call that writes, names or syncs: what each leaves is whole, and the work goes on.

`python -m tests.faults.power_loss` goes through every state of the scenarios below and prints a table.
"""

import argparse
import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Protocol

from tests.faults.recording import Disk, Moment, Recording, State, Tree

KILLED = "killed"
CUT = "killed in the midst of a write"
SURELY = "power lost: only what was synced is left"
EMPTY = "power lost: names kept, contents empty"
ZEROS = "power lost: names kept, contents zeros"
PERHAPS = "power lost: any part of the rest kept"
KINDS = (KILLED, CUT, SURELY, EMPTY, ZEROS, PERHAPS)
DEAD = 999_999_999  # number of no process
MOST = 64  # combinations of what was not synced, a moment


Step = tuple[str, Callable[[Path], object]]


class Scenario(Protocol):
    """Work on a folder in steps, each of which may be cut off and is then done again."""

    name: str
    steps: Sequence[Step]

    def prepare(self, step: int, folder: Path) -> None:
        """Do to the folder what somebody else did before a step, and what is on the disk."""

    def learn(self, folder: Path) -> None:
        """Take what an undisturbed step has made for right."""

    def problems(self, folder: Path) -> Iterator[str]:
        """Say what is named in the folder and is not whole."""

    def again(self, step: int, folder: Path) -> Iterator[str]:
        """Do a step again; say what work was done twice."""

    def differences(self, folder: Path, undisturbed: Path) -> Iterator[str]:
        """Say how a folder differs from that of an undisturbed step."""


@dataclass(frozen=True)
class Crash:
    """What one crash leaves."""

    kind: str
    moment: Moment
    state: State

    def __str__(self) -> str:
        return f"step {self.moment.step}, before {self.moment.call!r}, {self.kind}"


@dataclass
class Outcome:
    """What was found.

    Attributes:
        moments: How many were recorded.
        crashes: Kind -> crashes that were thought through.
        states: How many different states they leave that were looked at.
        resumed: From how many of them the step was done again.
        unsafe: Files that would not have outlived a loss of power when they should.
        torn: What was not whole after a crash.
        otherwise: Where the step, done again, failed, did work twice or ended in something else.
        seconds: How long it took.
    """

    moments: int
    crashes: Counter[str] = field(default_factory=Counter)
    states: int = 0
    resumed: int = 0
    unsafe: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    otherwise: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Everything that was not as promised."""
        return self.unsafe + self.torn + self.otherwise


def record(scenario: Scenario, folder: Path, kept: Path) -> list[Moment]:
    """Do a scenario's work undisturbed; keep a copy of the folder after each step, as 0, 1, …"""
    folder.mkdir()
    with closing(Recording(folder)) as recording:
        for number, (_, step) in enumerate(scenario.steps):
            scenario.prepare(number, folder)
            with recording.running():
                step(folder)
                recording.end_step()
            scenario.learn(folder)
            shutil.copytree(folder, kept / str(number))
    return recording.moments


def crashes(moments: Sequence[Moment]) -> Iterator[Crash]:
    """Yield what crashes at each moment leave."""
    for number, (before, moment, disk) in enumerate(_replayed(moments)):
        states = [
            (KILLED, _visible(moment.tree)),
            *((CUT, state) for state in _cut(before.tree, moment.tree)),
            (SURELY, disk.surely()),
            (EMPTY, disk.named_only(zeros=False)),
            (ZEROS, disk.named_only(zeros=True)),
            *((PERHAPS, state) for state in disk.perhaps(MOST, seed=number)),
        ]
        yield from (Crash(kind, moment, state) for kind, state in states)


def not_yet_safe(moments: Sequence[Moment]) -> Iterator[str]:
    """Say which files would not outlive a loss of power when the next one is begun, or when a step has returned."""
    for _, moment, disk in _replayed(moments):
        safe = disk.surely()
        for path, (_, content) in moment.tree.items() if moment.begins or moment.ends else ():
            hidden = any(part.startswith(".") for part in path.split("/"))
            if content is not None and not hidden and safe.get(path) != content:
                yield f"step {moment.step}, before {moment.call!r}: {path} would be lost"


def _replayed(moments: Sequence[Moment]) -> Iterator[tuple[Moment, Moment, Disk]]:
    """Yield each moment with the one before it and the disk as it is then; all is on the disk when a step begins."""
    for _, of_step in groupby(moments, lambda moment: moment.step):
        disk, before = None, None
        for moment in of_step:
            disk = disk or Disk(moment.tree)
            disk.see(moment.tree)
            yield before or moment, moment, disk
            if moment.syncs is not None:
                disk.sync(moment.syncs)
            before = moment


def examine(scenario: Scenario, place: Path, looked_at: int | None = None, resumed: int | None = None) -> Outcome:
    """Record a scenario, and look at what every crash would leave.

    Args:
        scenario: The work.
        place: An empty folder for all of it.
        looked_at: How many of the states, drawn by chance, are looked at; all if not given.
        resumed: From how many of these the step is done again; from all if not given.
    """
    started = time.perf_counter()
    moments = record(scenario, place / "work", place / "kept")
    shutil.rmtree(place / "work")
    outcome = Outcome(len(moments), unsafe=list(not_yet_safe(moments)))
    different: dict[tuple[int, bytes], Crash] = {}
    for crash in crashes(moments):
        outcome.crashes[crash.kind] += 1
        different.setdefault((crash.moment.step, _digest(crash.state)), crash)
    chosen = random.Random(0).sample(list(different.values()), len(different))[:looked_at]
    for number, crash in enumerate(chosen):
        # Under the path of the undisturbed work, since files may hold it.
        _materialise(crash.state, place / "work")
        torn = [f"{crash}: {problem}" for problem in scenario.problems(place / "work")]
        outcome.torn += torn
        outcome.states += 1
        if not torn and (resumed is None or number < resumed):
            outcome.resumed += 1
            outcome.otherwise += [f"{crash}: {problem}" for problem in _resume(scenario, crash.moment.step, place)]
        shutil.rmtree(place / "work")
    outcome.seconds = time.perf_counter() - started
    return outcome


def _resume(scenario: Scenario, step: int, place: Path) -> Iterator[str]:
    try:
        yield from scenario.again(step, place / "work")
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what was found
        yield f"the same command failed: {error!r}"
        return
    yield from scenario.differences(place / "work", place / "kept" / str(step))


def _visible(tree: Tree) -> State:
    return {path: content for path, (_, content) in tree.items() if path}


def _cut(before: Tree, after: Tree) -> Iterator[State]:
    """Yield the states in which what was written between two moments has only partly arrived."""
    old = dict(before.values())
    for path, (number, content) in after.items():
        held = old.get(number, b"")
        if not content or content == held:
            continue
        for length in sorted({len(held or b""), 1, 512, len(content) // 2, len(content) - 1}):
            if length < len(content):
                yield {**_visible(after), path: content[:length]}


def _digest(state: State) -> bytes:
    digest = hashlib.sha256()
    for path, content in sorted(state.items()):
        digest.update(repr((path, content)).encode())
    return digest.digest()


def _materialise(state: State, folder: Path) -> None:
    """Write a state into a new folder, temporary names as those of a process that is dead."""
    folder.mkdir()
    for path, content in sorted(state.items()):
        target = folder / path.replace(f".{os.getpid()}-", f".{DEAD}-")
        if content is None:
            target.mkdir()
        else:
            target.write_bytes(content)


def table(found: Sequence[tuple[Scenario, Outcome]]) -> str:
    """Return a Markdown table of what was found, a scenario a column."""
    rows: list[tuple[str, Callable[[Outcome], int]]] = [
        ("calls that open, name, remove or sync", lambda outcome: outcome.moments),
        *((kind, lambda outcome, kind=kind: outcome.crashes[kind]) for kind in KINDS),
        ("**different states that these crashes leave**", lambda outcome: outcome.states),
        ("files that were not yet on the disk when they should have been", lambda outcome: len(outcome.unsafe)),
        ("states with something torn or wrong", lambda outcome: len(outcome.torn)),
        ("states from which the same command went on", lambda outcome: outcome.resumed),
        ("of these: ended otherwise than undisturbed", lambda outcome: len(outcome.otherwise)),
    ]
    lines = [
        f"| | {' | '.join(scenario.name for scenario, _ in found)} |",
        f"|---|{'---|' * len(found)}",
        *(f"| {what} | {' | '.join(str(count(outcome)) for _, outcome in found)} |" for what, count in rows),
    ]
    return "\n".join(lines)


def main() -> int:
    """Examine every scenario; return 1 if anything is not as promised."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--states", type=int, help="Look at so many states of each scenario.  [default: all]")
    asked = parser.parse_args()
    from tests.faults.scenarios import SCENARIOS

    found = []
    for make in SCENARIOS:
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "images").mkdir()
            scenario = make(Path(place) / "images")
            outcome = examine(scenario, Path(place), asked.states)
        found.append((scenario, outcome))
        print(f"{scenario.name}: {outcome.moments} calls, {outcome.seconds:.0f} s", *outcome.problems, sep="\n- ")
    print(f"\n{table(found)}")
    return int(any(outcome.problems for _, outcome in found))


if __name__ == "__main__":
    sys.exit(main())

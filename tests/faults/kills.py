"""Real extractions that are killed: at random moments, and at every system call that concerns the cache.

`python -m tests.faults.kills` prints a table. One process has imported everything and computed nothing; each extraction
runs in a fork of it, so that hundreds of them take minutes.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

# So that sums are added in the same order, and no thread is there that a fork would lose.
os.environ["OMP_NUM_THREADS"] = "1"

import torchvision  # noqa: F401  # and torch: what every extraction imports, here once for all of them

from tests.faults.processes import TOKEN, until_alone
from tests.faults.scenarios import Extractions, files

IN_A_ROW = 5  # kills, at most, until the work is left to finish
AIMED = 0.4  # of the kills wait until something is being written
_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


@dataclass
class Kills:
    """What was found.

    Attributes:
        kills: What stood in the cache -> how many were killed then.
        unfinished: How many left a temporary file.
        finished: Extractions that were left to finish, and compared with undisturbed ones.
        workers: Seconds until the last worker of a killed process was gone, at most.
        problems: Everything that was not as promised.
        seconds: How long it took.
    """

    kills: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    finished: int = 0
    workers: float = 0.0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Child:
    """A function in a process of its own, a fork of this one."""

    def __init__(self, work: Callable[[], object]) -> None:
        sys.stdout.flush()
        self.process = os.fork()
        if not self.process:
            status = 1
            try:
                work()
                status = 0
            except BaseException:  # noqa: BLE001  # nothing may unwind into the parent's stack
                traceback.print_exc()
            finally:
                os._exit(status)

    def kill(self) -> None:
        """Kill it without warning."""
        os.kill(self.process, signal.SIGKILL)

    def await_writing(self, folder: Path) -> None:
        """Wait until it has an unfinished file in a folder, or has ended."""
        while not any(folder.rglob(".*.tmp")) and os.waitid(os.P_PID, self.process, _ENDED) is None:
            time.sleep(0.0002)

    def wait(self) -> int:
        """Wait until it has ended; return its status, or the negative number of the signal that killed it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def undisturbed(scenario: Extractions, place: Path) -> list[float]:
    """Do a scenario's work in place/work, keep place/kept/0, 1, … after each step; return the seconds of each."""
    work, took = place / "work", []
    work.mkdir()
    for number, (name, step) in enumerate(scenario.steps):
        begun = time.perf_counter()
        if Child(partial(step, work)).wait():
            raise RuntimeError(f"{name} failed undisturbed")
        took.append(time.perf_counter() - begun)
        scenario.learn(work)
        shutil.copytree(work, place / "kept" / str(number))
    shutil.rmtree(work)
    return took


def kill_at_random(place: Path, count: int, seed: int, images: int) -> Kills:
    """Kill extractions at random moments, and let every few of them finish.

    Args:
        place: An empty folder for all of it.
        count: How many kills, at least.
        seed: Of the moments.
        images: In the first image set.
    """
    started, found, chance = time.perf_counter(), Kills(), random.Random(seed)
    scenario, work = Extractions(place / "images", images), place / "work"
    took = undisturbed(scenario, place)
    while found.kills.total() < count:
        work.mkdir()
        for number, (name, step) in enumerate(scenario.steps):
            for _ in range(chance.randint(1, IN_A_ROW)):
                child = Child(partial(step, work))
                time.sleep(chance.uniform(0, took[number]))
                if chance.random() < AIMED:
                    child.await_writing(work)
                child.kill()
                if child.wait() == -signal.SIGKILL:
                    found.kills[f"{name}: {standing(work, place / 'kept' / str(number))}"] += 1
                    look_at(scenario, work, found, f"kill {found.kills.total()}")
            if Child(partial(step, work)).wait():
                found.problems.append(f"after kill {found.kills.total()}: the same command failed")
            found.finished += 1
            found.problems += [
                f"after kill {found.kills.total()}: {difference}"
                for difference in scenario.differences(work, place / "kept" / str(number))
            ]
        shutil.rmtree(work)
    found.seconds = time.perf_counter() - started
    return found


def look_at(scenario: Extractions, folder: Path, found: Kills, label: str) -> None:
    """Note what a kill has left: workers, temporary files, and whether all that is named is whole."""
    gone = until_alone(os.environ[TOKEN])
    if gone is None:
        found.problems.append(f"{label}: workers are left")
    found.workers = max(found.workers, gone or 0.0)
    found.unfinished += any(folder.rglob(".*.tmp"))
    found.problems += [f"{label}: {problem}" for problem in scenario.problems(folder)]


def standing(folder: Path, finished: Path) -> str:
    """Say in words how much of a finished work stands there under its final name."""
    found, expected = (
        {path: content for path, content in files(place).items() if "/." not in path} for place in (folder, finished)
    )
    missing = {path for path in expected if found.get(path) != expected[path]}
    shards = {path for path in expected if path.endswith(".h5") and "/shards/" in path}
    if not missing:
        return "everything"
    if "cache/recipe.json" in missing:
        return "nothing"
    there = "the recipe and " if "cache/index.h5" not in found else "the old index and "
    return there + ("no shard" if shards <= missing else "all shards" if not shards & missing else "some shards")


def main() -> int:
    """Kill extractions; return 1 if anything is not as promised."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=200, help="How many.  [default: 200]")
    parser.add_argument("--images", type=int, default=24, help="In the first image set.  [default: 24]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.environ[TOKEN] = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as place:
        found = kill_at_random(Path(place), asked.kills, asked.seed, asked.images)
    if asked.json:
        print(json.dumps(vars(found)))
    else:
        print(*found.problems, sep="\n")
        print("| in the cache when it was killed | kills |\n|---|---|")
        print(*(f"| {what} | {number} |" for what, number in sorted(found.kills.items())), sep="\n")
        print(
            f"\n{found.kills.total()} kills, {found.unfinished} of them with an unfinished file; {found.finished} "
            f"times the same command was left to finish. Workers were gone after {found.workers:.1f} s at most. "
            f"{len(found.problems)} problems, {found.seconds:.0f} s."
        )
    return int(bool(found.problems))


if __name__ == "__main__":
    sys.exit(main())

"""Ctrl-C and SIGTERM while a real command works: how long it takes to end, and what it leaves.

`python -m tests.faults.interrupts` interrupts each command some times, at random moments, and prints a table.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import BASE, WEIGHTS
from tests.faults.processes import TOKEN, until_alone
from tests.faults.scenarios import write_noise

ROOT = Path(__file__).parents[2]
STOPPED = "Stopped. All complete work is kept; run the same command again to go on."
SPLIT = ["--split", "60/20/20"]


@dataclass(frozen=True)
class Command:
    """A command that would take long.

    Attributes:
        words: Its command line; IMAGES, CACHE and OUT stand for folders.
        begun: Pattern of the first file below OUT that shows that it is in the midst of its work.
    """

    words: tuple[str, ...]
    begun: str


_MLP = ("--epochs", "100000", "--seeds", "0-3", *SPLIT)
_SCRATCH = ("--image-size", "32", "--hidden", "8", "--epochs", "1000", *SPLIT)
COMMANDS: Mapping[str, Command] = {
    "extract": Command(
        ("extract", "IMAGES", "OUT", "--base", BASE, "--weights", WEIGHTS, "--views", "40", "--device", "cpu"),
        "shards/[!.]*.h5",
    ),
    "fit-head --jobs 2": Command(("fit-head", "CACHE", "OUT", "--jobs", "2", *_MLP), "mlp/.scratch*/*"),
    "fit-head --jobs 1": Command(("fit-head", "CACHE", "OUT", "--jobs", "1", *_MLP), "mlp/.scratch*/*"),
    "fit-mlp --jobs 2": Command(
        ("fit-mlp", "IMAGES", "OUT", "--image-size", "64", "--jobs", "2", *_MLP), "pixel-mlp/.scratch*/*"
    ),
    "fit-scratch": Command(("fit-scratch", "IMAGES", "OUT", *_SCRATCH), "scratch/.seed-0000.lock"),
    "fit-scratch --workers 2": Command(
        ("fit-scratch", "IMAGES", "OUT", "--workers", "2", *_SCRATCH), "scratch/.seed-0000.lock"
    ),
}


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        seconds: Until it had ended.
        workers: Until its last worker was gone after that; None if some stayed.
        status: Its exit status.
        said: What it wrote on stderr.
        left: Temporary files that it left.
    """

    seconds: float
    workers: float | None
    status: int
    said: str
    left: tuple[str, ...]

    @property
    def is_as_promised(self) -> bool:
        """Whether it said how to go on, and left nothing; not how long it took."""
        told = STOPPED in self.said.splitlines() and "Traceback" not in self.said
        return self.status == 130 and told and self.workers is not None and not self.left


def inputs(place: Path) -> tuple[Path, Path]:
    """Write an image set and a cache of it; return both folders."""
    from pipeline.extraction import extract

    write_noise(place / "images", range(30))
    extract(place / "images", place / "cache", base=BASE, weights=WEIGHTS, device="cpu")
    return place / "images", place / "cache"


def interrupt(name: str, number: signal.Signals, after: float, images: Path, cache: Path, out: Path) -> Ended:
    """Run a command, and interrupt it some seconds after its work has begun.

    SIGINT goes to its workers too, as a terminal sends it; SIGTERM to the command alone.
    """
    asked, mark = COMMANDS[name], uuid.uuid4().hex
    named = {"IMAGES": str(images), "CACHE": str(cache), "OUT": str(out)}
    process = subprocess.Popen(
        [sys.executable, "cli.py", *(named.get(word, word) for word in asked.words)],
        cwd=ROOT,
        env={**os.environ, TOKEN: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not any(out.glob(asked.begun)):
        time.sleep(0.001)
    time.sleep(after)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    sent = time.monotonic()
    said = process.communicate(timeout=60)[1]
    took = time.monotonic() - sent
    # A checkpoint is complete work.
    left = tuple(path.name for path in out.rglob(".*") if not path.name.endswith(".checkpoint.safetensors"))
    return Ended(took, until_alone(mark), process.returncode, said, left)


def main() -> int:
    """Interrupt every command; return 1 if one did not end as promised, or took longer than two seconds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--times", type=int, default=5, help="Each command, with each signal.  [default: 5]")
    asked, chance, bad = parser.parse_args(), random.Random(0), 0
    lines = ["| command | signal | times | longest, s | workers gone after that, s | otherwise than promised |"]
    lines.append("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        images, cache = inputs(Path(folder))
        out = Path(folder) / "out"
        for name in COMMANDS:
            for number in (signal.SIGINT, signal.SIGTERM):
                ended = []
                for _ in range(asked.times):
                    ended.append(interrupt(name, number, chance.uniform(0, 3), images, cache, out))
                    shutil.rmtree(out, ignore_errors=True)
                odd = [one for one in ended if not one.is_as_promised]
                longest = max(one.seconds for one in ended)
                workers = max(one.workers or 0 for one in ended)
                lines.append(
                    f"| `{name}` | {number.name} | {len(ended)} | {longest:.2f} | {workers:.2f} | {len(odd)} |"
                )
                print(*odd, sep="\n", end="\n" if odd else "")
                bad += len(odd) + (longest > 2)
    print(*lines, sep="\n")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())

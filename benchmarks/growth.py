"""How time and memory grow with the number of images, and how long what should be quick takes to answer.

    python -m benchmarks.growth --rounds 3 --json growth.json

Draws its images itself: the same small scenes over and over, each file with other bytes. Extracts 100, 1,000 and
10,000 of them (`squeezenet1_1`, random weights); then makes a cache of 100,000 rows of random numbers and runs what
should be quick on it: a second `extract`, `cache info`, `verify`, `prune` and `export`; fits a head on 2,100 cached
rows of 1280 numbers until its first epoch is done; and asks for help. Each run is a process of its own, in turn with
the others, its stderr a terminal. Prints medians of wall time, processor time, peak memory (of the largest process)
and the longest time without a letter on that terminal; for the growing steps also the processor time per image against
that of the step before, which other work on the machine disturbs least: not above 1 where growth is no worse than
linear. Needs 1 GB of room for temporary files.
"""

import argparse
import json
import os
import pty
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import show, write
from cache import FeatureCache
from cache.shard import SHARD_ROWS
from pipeline import extract
from pipeline.environment import machine
from pipeline.image_set import fingerprint, read_image_set
from pipeline.scenes import draw_scene

CLI = Path(__file__).resolve().parents[1] / "cli.py"
BASE = ("--base", "squeezenet1_1", "--weights", "random:0")
CLASSES = 20
# Starts a command and tells what it took. A process of its own: the peak of one that is started is never less than what
# the one that starts it has at that moment.
LAUNCHER = """
import json, os, sys, time
nothing = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
started = time.monotonic()
process = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ, file_actions=[nothing])
_, status, used = os.wait4(process, 0)
ended = time.monotonic()
print(json.dumps([status, ended - started, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
# Ends when the first epoch has been trained.
FIRST_EPOCH = """
import os, sys
from contextlib import contextmanager
from pipeline.fitting import fit_head

class Ends:
    def note(self, text): pass

    @contextmanager
    def steps(self, label, total, unit):
        yield lambda done: os._exit(0) if label.startswith("fitting") else None

fit_head(sys.argv[1], sys.argv[2], seeds=(0,), jobs=1, progress=Ends())
"""


@dataclass(frozen=True)
class Spent:
    """What one process took.

    Attributes:
        wall: Seconds from its start to its end.
        processor: Seconds of processor time, of its own processes too.
        peak: Bytes of memory that the largest of them had.
        silence: Longest time in seconds without anything on its stderr.
    """

    wall: float
    processor: float
    peak: int
    silence: float


def spent(command: Sequence[str | Path]) -> Spent:
    """Run a command whose stderr is a terminal, and tell what it took.

    Raises:
        RuntimeError: It failed; says what it wrote there.
    """
    ours, theirs = pty.openpty()
    last = time.monotonic()
    line = [sys.executable, "-c", LAUNCHER, *map(str, command)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    silence, said = 0.0, b""
    while piece := _read(ours):
        now = time.monotonic()
        silence, last, said = max(silence, now - last), now, said + piece
    os.close(ours)
    silence = max(silence, time.monotonic() - last)
    status, wall, processor, peak = json.loads(process.communicate()[0])
    if status:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {status}: {said.decode()}")
    return Spent(wall, processor, peak * 1024, silence)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def draw(folder: Path, count: int) -> Path:
    """Write an image set of small JPEG files, no two of the same bytes."""
    scenes = []
    for number in range(CLASSES):
        path = folder.with_name("scene.jpg")
        draw_scene(("beach", "forest", "parkinglot")[number % 3], number, 64).save(path, quality=80)
        scenes.append(path.read_bytes())
        (folder / f"class{number:02d}").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        scene, comment = scenes[number % CLASSES], f"{number}".encode()
        # A comment, right after the mark that begins a JPEG file.
        named = scene[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + scene[2:]
        (folder / f"class{number % CLASSES:02d}" / f"{number:06d}.jpg").write_bytes(named)
    return folder


def made_up(images: Path, path: Path, base: str) -> Path:
    """Make a cache of an image set with random numbers for features, and its index."""
    few = path.with_name(f"{path.name}-few")
    for label in sorted(images.iterdir())[:2]:
        (few / label.name).mkdir(parents=True)
        shutil.copy(min(label.iterdir()), few / label.name)
    extract(few, path, base=base, weights="random:0")  # which makes the recipe
    cache, random = FeatureCache.open(path), np.random.default_rng(0)
    digests = list(dict.fromkeys(entry.digest for entry in fingerprint(read_image_set(images)).entries))
    held = cache.views()
    new = [digest for digest in digests if not held[digest]]
    for start in range(0, len(new), SHARD_ROWS):
        part = new[start : start + SHARD_ROWS]
        cache.add_shard(part, [0] * len(part), random.random((len(part), cache.recipe.dimension), np.float32), {})
    extract(images, path, base=base, weights="random:0")
    return path


def steps(folder: Path, counts: Sequence[int], many: int) -> dict[str, tuple[int, Callable[[], Spent]]]:
    """Return what is measured: name -> number of images, and what runs it once."""

    def fresh(images: Path) -> Spent:
        shutil.rmtree(folder / "fresh", ignore_errors=True)
        return spent([CLI, "extract", images, folder / "fresh", *BASE])

    def first_epoch(cache: Path) -> Spent:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        return spent(["-c", FIRST_EPOCH, cache, folder / "runs"])

    sets = {count: draw(folder / f"images-{count}", count) for count in (*counts, min(many, 2100), many)}
    cached = made_up(sets[many], folder / "cached", BASE[1])
    small = made_up(sets[min(many, 2100)], folder / "small", "mobilenet_v2")
    commands: dict[str, list[str | Path]] = {
        "extract again": ["extract", sets[many], cached, *BASE],
        "cache info": ["cache", "info", cached],
        "cache verify": ["cache", "verify", cached],
        "cache prune --dry-run": ["cache", "prune", cached, "--dry-run"],
        "cache export": ["cache", "export", cached, folder / "all.h5", "--force"],
    }
    return {
        **{f"extract {count:,}": (count, lambda count=count: fresh(sets[count])) for count in counts},  # type: ignore[misc]
        **{
            f"{name}, {many:,}": (many, lambda command=command: spent([CLI, *command]))  # type: ignore[misc]
            for name, command in commands.items()
        },
        "fit-head, to its first epoch": (min(many, 2100), lambda: first_epoch(small)),
        "manyheads --help": (0, lambda: spent([CLI, "--help"])),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="extractions of more than 1,000 images: one round")
    parser.add_argument("--short", action="store_true", help="20, 60 and 200 images, 2,100 cached, two rounds")
    parser.add_argument("--only", metavar="TEXT", default="", help="measure the steps with this in their names")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    counts, many, rounds = ((20, 60, 200), 2100, 2) if asked.short else ((100, 1000, 10_000), 100_000, asked.rounds)
    os.environ["PYTHONPATH"] = str(CLI.parent)
    with tempfile.TemporaryDirectory() as name:
        work = {what: step for what, step in steps(Path(name), counts, many).items() if asked.only in what}
        runs: dict[str, list[Spent]] = {what: [] for what in work}
        for turn in range(rounds):
            for what, (count, run) in work.items():
                if turn == 0 or not (what.startswith("extract 1") and count > 1000):
                    runs[what].append(run())
    lines = list(_lines({what: count for what, (count, _) in work.items()}, runs))
    _print(lines)
    write(asked.json, {"steps": lines, "rounds": rounds})


def _lines(counts: dict[str, int], runs: dict[str, list[Spent]]) -> Any:
    """Yield for each step its medians and, where it grows, its time per image against that of the step before."""
    before: tuple[int, float] | None = None
    for what, each in runs.items():
        middle = {name: statistics.median(asdict(one)[name] for one in each) for name in asdict(each[0])}
        growing = what.startswith("extract ") and "again" not in what
        ratio = (middle["processor"] / counts[what]) / (before[1] / before[0]) if growing and before else None
        before = (counts[what], middle["processor"]) if growing else None
        yield {"step": what, "images": counts[what], **middle, "processor time per image, times the step before": ratio}


def _print(lines: Sequence[dict[str, Any]]) -> None:
    found, rows = machine(), []
    for line in lines:
        ratio = line["processor time per image, times the step before"]
        numbers = (line["wall"], line["processor"], round(line["peak"] / 1e6), line["silence"])
        rows.append((line["step"], *numbers, "" if ratio is None else f"{ratio:.2f}"))
    columns = ("step", "s", "processor s", "peak MB", "silent s", "processor s per image, x step before")
    show("Growth", columns, rows, [f"{found['processor']}, {found['cores']} cores"])


if __name__ == "__main__":
    main()

"""A byte-level fuzzer over real files: nothing but a `ManyheadsError` comes out, in bounded time and memory.

Input number n damages a file of the kind that n chooses, as seed and number say, and calls all that reads such files.
This happens in processes of their own, which are watched: one that crashes, hangs or grows is a finding like an
exception that nobody explains, a damaged number that is taken for a right one, or a file that is written elsewhere.

    python -m tests.faults.fuzzing --inputs 20000 --seed 0
    python -m tests.faults.fuzzing --seed 0 --only 4711      repeats one input, and shows where it fails
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue

from tests.faults.sandbox import EXPECTED, Box, Kind, Result, serve

ROOT = Path(__file__).parents[2]
KINDS = "tests.faults.specimens:KINDS"
STARTING = 300.0  # seconds until the first input of a process


@dataclass
class Row:
    """What became of the inputs of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    megabytes: float = 0.0

    def add(self, result: Result) -> None:
        """Count one more."""
        self.outcomes[result.outcome] += 1
        self.seconds, self.megabytes = max(self.seconds, result.seconds), max(self.megabytes, result.megabytes)


def fuzz(
    world: Path,
    seed: str,
    inputs: range,
    tell: Callable[[Result], None],
    *,
    kinds: str = KINDS,
) -> None:
    """Try inputs in a process that is watched; another one takes over where one has died.

    Args:
        world: See `tests.faults.specimens.build`.
        seed: Of all inputs.
        inputs: Their numbers.
        tell: Told what became of each.
        kinds: Where the kinds of damage stand, as `module:name`.

    Raises:
        RuntimeError: A process ended that was not reading anything.
    """
    while inputs:
        asked = (
            "--serve",
            kinds,
            "--world",
            world,
            "--seed",
            seed,
            "--numbers",
            inputs.start,
            inputs.stop,
            inputs.step,
        )
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.fuzzing", *map(str, asked)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            try:
                left = _watch(process, inputs, tell)
            finally:
                process.kill()
                process.wait()
            if left == inputs:
                errors.seek(0)
                raise RuntimeError(f"nothing was tried: {errors.read().decode(errors='replace')[-2000:]}")
            inputs = left


def _watch(process: "subprocess.Popen[bytes]", inputs: range, tell: Callable[[Result], None]) -> range:
    """Pass on what a process tells until it ends or hangs; return the inputs that are left."""
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_collect, args=(process, lines), daemon=True).start()
    limit: float | None = None  # while an input is being read
    while True:
        try:
            line = lines.get(timeout=limit or STARTING)
        except Empty:
            died = "hang"
            break
        if not line:
            died = f"crash ({process.wait()})"
            break
        told = json.loads(line)
        limit = told["seconds"] if "begins" in told else None
        if limit is None:
            tell(Result(**told))
            inputs = inputs[1:]
    if limit is None:
        return inputs
    tell(Result(inputs[0], died, limit if died == "hang" else 0.0, 0.0))
    return inputs[1:]


def _collect(process: "subprocess.Popen[bytes]", lines: "SimpleQueue[bytes]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(b"")


def table(rows: Mapping[str, Row]) -> str:
    """Write what became of all inputs as a Markdown table."""
    lines = [
        "| damaged | inputs | refused | same result | other result | anything else | slowest | peak memory |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in {**rows, "all": _sum(rows.values())}.items():
        total = sum(row.outcomes.values())
        expected = [row.outcomes[outcome] for outcome in EXPECTED]
        counts = " | ".join(f"{count:,}" for count in (total, *expected, total - sum(expected)))
        lines.append(f"| {name} | {counts} | {row.seconds:.2f} s | {row.megabytes:.0f} MB |")
    return "\n".join(lines)


def _sum(rows: Iterable[Row]) -> Row:
    total = Row()
    for row in rows:
        total.outcomes += row.outcomes
        total.seconds, total.megabytes = max(total.seconds, row.seconds), max(total.megabytes, row.megabytes)
    return total


def load(kinds: str) -> Sequence[Kind]:
    """Import kinds of damage from `module:name`."""
    module, _, name = kinds.partition(":")
    found: Sequence[Kind] = getattr(import_module(module), name)
    return found


def main() -> None:
    """Fuzz from the command line; the exit status is 1 if anything came out that must not."""
    parser = argparse.ArgumentParser(description="Fuzz everything that manyheads reads.")
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="repeat one input, and show where it fails")
    parser.add_argument("--world", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--numbers", type=int, nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.world, load(given.serve), given.seed, range(*given.numbers))
        return
    with tempfile.TemporaryDirectory() as folder:
        world = given.world or make_world(Path(folder))
        if given.only is not None:
            box = Box(world, Path(folder) / "box", load(KINDS))
            kind, files = box.damage(given.seed, given.only)
            print(f"{kind.name}: {box.outcome(kind, files, show=True)}")
            return
        sys.exit(_report(world, given.seed, given.inputs, given.jobs))


def make_world(folder: Path) -> Path:
    """Extract, fit and evaluate a little of everything."""
    from pipeline.extraction import extract
    from pipeline.fitting import fit_head
    from pipeline.scenes import draw_scene
    from tests.faults.specimens import build

    for label in ("beach", "forest", "parkinglot"):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(10):
            draw_scene(label, number, 64).save(folder / "images" / label / f"{label}{number:02d}.png")
    extract(folder / "images", folder / "cache", base="squeezenet1_1", weights="random:0", device="cpu")
    fit_head(folder / "cache", folder / "runs", head="mlp", seeds=(0,), epochs=3, split="60/20/20", jobs=1)
    fit_head(folder / "cache", folder / "runs", head="knn", split="60/20/20", jobs=1)
    build(folder / "world", folder / "cache", folder / "runs")
    return folder / "world"


def _report(world: Path, seed: str, inputs: int, jobs: int) -> int:
    """Try all inputs, tell now and then how far it is, and print the table; return how many findings there are."""
    kinds = load(KINDS)
    rows = {kind.name: Row() for kind in kinds}
    findings: list[str] = []
    started, done = time.perf_counter(), 0

    def tell(result: Result) -> None:
        nonlocal done
        name = kinds[result.number % len(kinds)].name
        rows[name].add(result)
        done += 1
        if result.outcome not in EXPECTED:
            findings.append(f"{name}: {result.outcome} (--seed {seed} --only {result.number})")
            print(findings[-1], file=sys.stderr, flush=True)
        if done % 500 == 0:
            print(f"{done} of {inputs} inputs, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        for finished in [pool.submit(fuzz, world, seed, range(job, inputs, jobs), tell) for job in range(jobs)]:
            finished.result()
    print(table(rows))
    print(*(f"- {finding}" for finding in sorted(findings)), sep="\n")
    return bool(findings)


if __name__ == "__main__":
    main()

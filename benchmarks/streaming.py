"""Features larger than memory: time an epoch and peak memory of `fit-head --memory`, small against large.

    python -m benchmarks.streaming FOLDER --memory 1GB --json streaming.json
    python -m benchmarks.streaming FOLDER --short

Writes a cache of `--rows` random features (73 % zeros, as after a ReLU) of 25088 float16 numbers into FOLDER, 50 kB
each, and one of 1800; fits one `mlp` seed on the small one as it is and on the large one from a stream, each in a
process of its own, in turn; removes both caches. Prints seconds an epoch, what they are a row, and the largest memory
of the process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import ratio, show, write
from benchmarks.synthetic import make_cache
from cache.atomic import human_size
from cache.size import read_size

DIMENSION, SMALL = 25088, 1800
FIT = """
import json, re, resource, sys
from pipeline import fit_head
from pipeline.run import Run
asked = json.loads(sys.argv[1])
fitting = fit_head(**asked)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "seconds": [epoch["seconds"] for run in fitting.runs for epoch in run.history],
    "val_accuracy": fitting.runs[0].history[-1]["val_accuracy"],
    "rows": len(fitting.runs[0].images["train"]),
    "shuffle": fitting.runs[0].shuffle,
    # Of this program alone: ru_maxrss counts what the process was before it became this one.
    "peak": int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024,
    "processor": usage.ru_utime + usage.ru_stime,
}))
"""


def fitted(cache: Path, memory: int | None, epochs: int, seeds: int) -> dict[str, Any]:
    """Fit in a process of its own; return seconds of each epoch, peak memory and what was trained on."""
    with tempfile.TemporaryDirectory(dir=cache.parent) as runs:
        asked = {"cache": str(cache), "runs": runs, "memory": memory, "epochs": epochs, "seeds": list(range(seeds))}
        done = subprocess.run(
            [sys.executable, "-c", FIT, json.dumps({**asked, "jobs": 1})], check=True, capture_output=True, text=True
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the caches are made, and removed")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--memory", type=read_size, default=read_size("1GB"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="10,000 rows and 200 MB")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.short:
        asked.rows, asked.memory = 10_000, read_size("200MB")
    asked.folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, tuple[int, int | None]] = {"small": (SMALL, None), "large": (asked.rows, asked.memory)}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in counts}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        caches = {key: make_cache(Path(name) / key, rows, DIMENSION, "float16") for key, (rows, _) in counts.items()}
        for _ in range(asked.rounds):
            for key, (_, memory) in counts.items():
                # The small one's epochs are short: more of them, so that the first does not count for much.
                epochs = asked.epochs * (5 if key == "small" else 1)
                found[key].append(fitted(caches[key], memory, epochs, asked.seeds))
    table, each = [], {}
    for key, several in found.items():
        seconds = statistics.median(second for one in several for second in one["seconds"])
        rows, peak = several[0]["rows"], max(one["peak"] for one in several)
        each[key] = [statistics.median(one["seconds"]) / rows for one in several]
        table.append((key, rows, several[0]["shuffle"], seconds, 1e6 * seconds / rows, human_size(peak)))
    slower = ratio(each, "large", "small")
    note = f"a row of the large cache takes {slower:.2f} times what one of the small cache takes"
    columns = ("cache", "rows trained on", "shuffled", "s an epoch", "us a row", "peak memory")
    show("Features larger than memory", columns, table, [note])
    write(asked.json, {"rounds": found, "ratio": slower})


if __name__ == "__main__":
    main()

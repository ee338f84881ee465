"""What the cache saves: one head from pixels against one head from the cache, measured in turn in one process.

    python -m benchmarks.cached IMAGES --base mobilenet_v2 --weights FILE --rounds 3

Each round extracts IMAGES into a new folder and fits one `mlp` (the paper's recipe, seed 0), then extracts again into
the same folder, where nothing is left to compute, and fits another seed. Prints medians and their ratio.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.measuring import seconds
from pipeline import extract, fit_head
from pipeline.environment import machine, versions


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--base", default="mobilenet_v2")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--split", default="80/10/10")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    times: dict[str, list[float]] = {"extract": [], "extract again": [], "fit one head": []}
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as folder:
            cache, runs = Path(folder) / "cache", Path(folder) / "runs"

            def run_base(cache: Path = cache) -> None:
                extract(asked.images, cache, base=asked.base, weights=asked.weights)

            def fit(runs: Path = runs, cache: Path = cache) -> None:
                fit_head(cache, runs, seeds=(0,), split=asked.split, jobs=1)

            times["extract"].append(seconds(run_base))
            times["extract again"].append(seconds(run_base))
            times["fit one head"].append(seconds(fit))
    medians = {what: statistics.median(values) for what, values in times.items()}
    from_pixels = medians["extract"] + medians["fit one head"]
    from_cache = medians["extract again"] + medians["fit one head"]
    result = {
        "base": asked.base,
        "medians": medians,
        "from pixels / from cache": from_pixels / from_cache,
        "rounds": asked.rounds,
        "machine": machine(),
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""What augmented views do to test accuracy, and what they cost.

    python -m benchmarks.views IMAGES CACHE --split paper --views 1,4,15 --seeds 0-9 --rounds 3

CACHE holds the largest number of views already (`manyheads extract IMAGES CACHE --views 15 --split paper`), and tells
base and weights. Accuracy: `mlp` with the paper's recipe, on view 0 of the test part, with the difference to one view
and its 95 % interval over seeds and images; --epochs and --lr change the recipe. Cost: extracting a sample of IMAGES
with each number of views, in turn and in one process, and fitting one seed of the paper's recipe from CACHE with each,
in turn; medians over the rounds and their ratio to one view.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import seconds
from cache import FeatureCache
from pipeline import evaluate, extract, fit_head
from pipeline.difference import accuracy_difference
from pipeline.environment import machine, versions
from pipeline.image_set import read_image_set
from pipeline.options import seeds
from pipeline.run_places import find_runs
from pipeline.stored_predictions import stored_predictions


def sample(images: Path, per_class: int, folder: Path) -> None:
    """Copy the first images of each class."""
    taken: dict[str, int] = {}
    for image in read_image_set(images).images:
        taken[image.label] = taken.get(image.label, 0) + 1
        if taken[image.label] <= per_class:
            (folder / image.label).mkdir(parents=True, exist_ok=True)
            shutil.copy(images / image.path, folder / image.label)


def accuracy(runs: Path, counts: list[int]) -> list[dict[str, Any]]:
    """Compare runs of each number of views with those of the first, on the same test images."""
    evaluate(runs)
    correct = {}
    for count in counts:
        found = (stored_predictions(run, "test") for run in find_runs([runs / f"views-{count}"]))
        correct[count] = np.stack([one.correct for one in found if one is not None])
    first = correct[counts[0]]
    rows = []
    for count, right in correct.items():
        difference = accuracy_difference(right, first).triple[1:] if count != counts[0] else None
        means = right.mean(axis=1)
        rows.append(
            {
                "views": count,
                "test accuracy": float(means.mean()),
                "deviation": float(means.std(ddof=1)) if len(means) > 1 else None,
                "more than one view": float(right.mean() - first.mean()),
                "95 %": difference,
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--split", default="80/10/10")
    parser.add_argument("--views", default="1,4,15")
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--rounds", type=int, default=3, help="of the cost; 0 measures accuracy alone")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--per-class", type=int, default=4, help="images of each class in the extracted sample")
    asked = parser.parse_args()
    counts = [int(count) for count in asked.views.split(",")]
    recipe = FeatureCache.open(asked.cache).recipe
    spent: dict[str, dict[int, list[float]]] = {what: {count: [] for count in counts} for what in ("extract", "fit")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in counts:
            fit_head(
                asked.cache,
                folder / "runs",
                name=f"views-{count}",
                seeds=seeds(None, None, asked.seeds),  # type: ignore[arg-type]
                use_views=count,
                split=asked.split,
                epochs=asked.epochs,
                lr=asked.lr,
            )
        rows = accuracy(folder / "runs", counts)
        sample(asked.images, asked.per_class, folder / "sample")
        for turn in range(asked.rounds):
            for count in counts:

                def run_base(count: int = count, turn: int = turn) -> None:
                    cache = folder / f"cache-{count}-{turn}"
                    extract(folder / "sample", cache, base=recipe.base, weights=recipe.weights, views=count)

                def fit(count: int = count, turn: int = turn) -> None:
                    where = folder / f"fit-{count}-{turn}"
                    fit_head(asked.cache, where, seeds=(0,), use_views=count, split=asked.split, jobs=1)

                spent["extract"][count].append(seconds(run_base))
                spent["fit"][count].append(seconds(fit))
    for row in rows if asked.rounds else ():
        for what, taken in spent.items():
            of = {count: statistics.median(each) for count, each in taken.items()}
            row[f"{what}, s"] = of[row["views"]]
            row[f"{what}, times one view"] = of[row["views"]] / of[counts[0]]
    recipe_of_head = {"epochs": asked.epochs, "lr": asked.lr}
    print(
        json.dumps(
            {
                "rows": rows,
                "head": recipe_of_head,
                "rounds": asked.rounds,
                "machine": machine(),
                "versions": versions(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()

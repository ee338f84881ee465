"""What do half-precision arithmetic and half-precision storage do to features, and to the heads trained on them?

    python -m benchmarks.precision IMAGES --weights FILE [--base mobilenet_v2] [--split 80/10/10] [--seeds 10]

Extracts the images in fp32, in bf16 and fp16, and in fp32 stored as float16; compares the features with those of fp32,
number by number, and fits heads on all of them with the same seeds: the differences of their accuracies are paired.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import show, write
from cache import FeatureCache
from pipeline import evaluate, extract, fit_head

# Name -> precision, storage. fp16 is emulated by processors that do not have it: slow, and the same numbers.
KINDS = {
    "fp32": ("fp32", "float32"),
    "fp32, stored as float16": ("fp32", "float16"),
    "bf16": ("bf16", "float32"),
    "fp16": ("fp16", "float32"),
}
HEADS = ("mlp", "logistic", "knn")


def accuracies(cache: Path, runs: Path, head: str, split: str, seeds: int) -> np.ndarray:
    """Fit one head for every seed; return the accuracy of each on the test part."""
    # With the paper's 15 epochs at 1e-4 it has hardly learned.
    settings: dict[str, Any] = {"epochs": 60, "lr": 1e-3} if head == "mlp" else {}
    fit_head(cache, runs, head=head, seeds=range(seeds), split=split, **settings)
    return np.array([metrics.accuracy for metrics in evaluate(runs / head).runs.values()])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--base", default="mobilenet_v2")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--split", default="80/10/10")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    features: dict[str, np.ndarray] = {}
    scores: dict[str, dict[str, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (precision, store)) in enumerate(KINDS.items()):
            cache, runs = Path(folder) / f"cache-{number}", Path(folder) / f"runs-{number}"
            extract(
                asked.images,
                cache,
                base=asked.base,
                weights=asked.weights,
                precision=precision,
                store=store,
                device="cpu",
            )
            opened = FeatureCache.open(cache)
            features[name] = opened.read([entry.digest for entry in opened.index().entries])
            scores[name] = {head: accuracies(cache, runs, head, asked.split, asked.seeds) for head in HEADS}
    exact, rows = features["fp32"], []
    scale = np.abs(exact).max(axis=1, keepdims=True)
    for name, found in features.items():
        error = np.abs(found - exact)
        relative = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
        row: list[object] = [
            name,
            f"{(error / scale).max():.2g}",
            f"{(error / scale).mean():.2g}",
            f"{relative.mean():.2g}",
        ]
        for head in HEADS:
            differences = 100 * (scores[name][head] - scores["fp32"][head])
            spread = 1.96 * differences.std(ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
            around = f" ± {spread:.1f}" if len(differences) > 1 and name != "fp32" else ""
            row.append(
                f"{100 * scores[name][head].mean():.1f}" if name == "fp32" else f"{differences.mean():+.1f}{around}"
            )
        rows.append(row)
    show(
        f"{asked.base}, {len(exact)} images, {asked.seeds} seeds",
        ("features", "largest error", "mean error", "error of a row", *(f"{head}, %" for head in HEADS)),
        rows,
        [
            "errors: of a number, over the largest of its row; of a row, the length of the difference over the row's",
            "heads: test accuracy in fp32, then the mean of the paired differences in points, ± 1.96 standard errors",
        ],
    )
    result = {name: {head: values.tolist() for head, values in found.items()} for name, found in scores.items()}
    write(asked.json, {"base": asked.base, "seeds": asked.seeds, "rows": rows, "accuracy": result})


if __name__ == "__main__":
    main()

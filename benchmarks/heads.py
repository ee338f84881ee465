"""What a head costs: ours against a plain PyTorch loop, scikit-learn and skorch, in turn, and against the floor.

    python -m benchmarks.heads --json heads.json
    python -m benchmarks.heads --short
    python -m benchmarks.heads --device cuda --seeds 100

Trains the paper's head on 1680 x 25088 features that are random and, as after a ReLU, 73 % zeros, or on those of
`--cache`. One fit is one seed for `--epochs` epochs; several seeds of ours go through `fit-head` with its processes,
start and all, and stand against as many of the plain loop one after another. Each round measures all of them once; the
table has medians, of the rounds' ratios too. The floor is what one thread needs at least: two matrix products at the
measured rate, and the first layer's weights and both of Adam's averages read and written once.
`--accuracy N` fits N seeds of both on the cache instead, and compares their validation accuracies.
"""

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ttest_rel
from torch import nn

from benchmarks.measuring import medians, ratio, rounds, show, write
from benchmarks.synthetic import make_cache
from cache import FeatureCache
from pipeline import fit_head
from pipeline.heads.mlp import MLPHead, head_network
from pipeline.heads.together import fit_together
from pipeline.split import make_split
from pipeline.threads import one_thread

IMAGES, FEATURES = 1680, 25088
Rows = tuple[NDArray[np.float32], NDArray[np.intp]]


def cached_rows(cache: FeatureCache, part: str, split: str) -> Rows:
    """Read the features and classes of one part of a cache."""
    entries = cache.index().entries
    chosen = [entries[row] for row in make_split(cache.index(), split, 0).rows[part]]
    _, codes = np.unique([entry.label for entry in chosen], return_inverse=True)
    return cache.read([entry.digest for entry in chosen]).astype(np.float32), codes


def plain_loop(rows: Rows, epochs: int, size: int, seed: int) -> nn.Sequential:
    """Train as a tutorial would: DataLoader, nn.Dropout, autograd, Adam; torch's number of threads."""
    torch.manual_seed(seed)
    X, codes = map(torch.from_numpy, rows)
    network = head_network(X.shape[1], int(codes.max()) + 1).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, codes), batch_size=size, shuffle=True)
    for _ in range(epochs):
        for inputs, classes in loader:
            optimizer.zero_grad()
            nn.functional.nll_loss(network(inputs), classes).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network


def ours(rows: Rows, epochs: int, size: int, seeds: Sequence[int], device: str = "cpu") -> list[MLPHead]:
    """Train our head."""
    heads = [MLPHead(epochs=epochs, batch_size=size, random_state=seed, device=device) for seed in seeds]
    fit_together(heads, *rows)
    return heads


def sklearn_mlp(rows: Rows, epochs: int, size: int) -> None:
    """Train scikit-learn's perceptron of the same shape, which has no dropout."""
    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        MLPClassifier((84, 63, 42), batch_size=size, learning_rate_init=1e-4, max_iter=epochs).fit(*rows)


def skorch_net(rows: Rows, epochs: int, size: int) -> None:
    """Train the same network with skorch."""
    net = import_module("skorch").NeuralNetClassifier

    X, codes = rows
    network = head_network(X.shape[1], int(codes.max()) + 1)
    options = {"optimizer": torch.optim.Adam, "lr": 1e-4, "train_split": None, "verbose": 0}
    net(network, max_epochs=epochs, batch_size=size, **options).fit(X, codes)


def floor(n: int, wide: int, narrow: int, size: int) -> dict[str, float]:
    """Return what an epoch of n rows takes one thread at least, and the rates that say so: seconds, GFLOP/s, GB/s."""
    with one_thread():
        inputs, weights = torch.rand(size, wide), torch.rand(narrow, wide)
        scores, long, other = torch.empty(size, narrow), torch.rand(2**26), torch.empty(2**26)
        works = {"product": partial(torch.mm, inputs, weights.T, out=scores), "copy": partial(other.copy_, long)}
        least = {name: min(times) for name, times in rounds(works, 15).items()}
    work, held = 2 * size * wide * narrow, wide * narrow * 4
    products, bytes_of = work / least["product"], 2 * long.nbytes / least["copy"]
    steps = -(-n // size)
    parts = 2 * steps * work / products, 6 * steps * held / bytes_of
    return {"seconds": sum(parts), "memory alone": parts[1], "GFLOP/s": products / 1e9, "GB/s": bytes_of / 1e9}


def compare_accuracies(cache: FeatureCache, seeds: int, epochs: int, split: str) -> dict[str, Any]:
    """Fit seeds of both on the same features; return both means and a paired t-test of the difference."""
    rows, (X, codes) = cached_rows(cache, "train", split), cached_rows(cache, "val", split)
    found: dict[str, list[float]] = {"ours": [], "plain loop": []}
    for seed in range(seeds):
        head = ours(rows, epochs, 16, [seed])[0]
        found["ours"].append(float(np.mean(head.predict(X) == codes)))
        network = plain_loop(rows, epochs, 16, seed).eval()
        with torch.inference_mode():
            scores = network(torch.from_numpy(X))
        found["plain loop"].append(float(np.mean(scores.argmax(1).numpy() == codes)))
    means = {name: statistics.fmean(some) for name, some in found.items()}
    return {"seeds": seeds, **means, "p": float(ttest_rel(*found.values()).pvalue)}


def works_of(rows: Rows, size: int, asked: argparse.Namespace, folder: Path) -> dict[str, Callable[[], object]]:
    """Return what is measured at one batch size."""
    epochs, seeds = asked.epochs, list(range(asked.seeds))

    def ten() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as runs:
            options = {"epochs": epochs, "batch_size": size, "device": asked.device}
            fit_head(asked.cache, runs, seeds=seeds, split=asked.split, **options)

    works: dict[str, Callable[[], object]] = {f"ours, {len(seeds)} seeds": ten}
    if asked.device != "cpu":
        return works
    works |= {
        "ours, one seed": partial(ours, rows, epochs, size, [0]),
        "plain loop": partial(plain_loop, rows, epochs, size, 0),
        "scikit-learn": partial(sklearn_mlp, rows, epochs, size),
    }
    if find_spec("skorch"):
        works["skorch"] = partial(skorch_net, rows, epochs, size)
    return works


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="train on the features of a cache")
    parser.add_argument("--split", help="of that cache")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--accuracy", type=int, default=0, metavar="SEEDS", help="compare accuracies on --cache")
    parser.add_argument("--short", action="store_true", help="one epoch, one round, two seeds")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.short:
        asked.epochs, asked.rounds, asked.seeds = 1, 1, 2
    result: dict[str, Any] = {"threads": torch.get_num_threads()}
    result |= {name: getattr(asked, name) for name in ("device", "epochs", "seeds", "rounds")}
    if asked.accuracy:
        found = compare_accuracies(FeatureCache.open(asked.cache), asked.accuracy, asked.epochs, asked.split)
        show("Validation accuracy", list(found), [list(found.values())])
        write(asked.json, {**result, "accuracy": found})
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.cache is None:
            asked.cache = make_cache(folder / "cache", IMAGES * 30 // 28, FEATURES, "float32")
        features = cached_rows(FeatureCache.open(asked.cache), "train", asked.split)
        (n, wide), narrow = features[0].shape, 4 * (int(features[1].max()) + 1)
        table, notes = [], [] if find_spec("skorch") else ["skorch is not installed: left out"]
        for size in asked.batch_sizes:
            least = floor(n, wide, narrow, size)
            times = rounds(works_of(features, size, asked, folder), asked.rounds, warm_up=False)
            fits = {name: asked.epochs * (asked.seeds if "seeds" in name else 1) for name in times}
            each = {name: [some / fits[name] for some in several] for name, several in times.items()}
            each["floor, one thread"] = [least["seconds"]] * asked.rounds
            result[f"batch {size}"] = {"seconds": medians(each), "floor": least, "rounds": times}
            for name, some in medians(each).items():
                slower = ratio(each, "plain loop", name) if "plain loop" in each else float("nan")
                table.append((name, size, some, slower, least["seconds"] / some))
            notes.append(f"batch {size}: {least['GFLOP/s']:.0f} GFLOP/s, {least['GB/s']:.0f} GB/s in one thread")
    show("Training a head", ("what", "batch", "s an epoch and seed", "plain loop / it", "floor / it"), table, notes)
    write(asked.json, result)


if __name__ == "__main__":
    main()

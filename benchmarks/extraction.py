"""How fast are features extracted, against a plain torchvision loop, and where does the time go?

    python -m benchmarks.extraction [IMAGES] [--base vgg16] [--weights random:0] [--count 192] [--rounds 3] [--short]

Each round takes the same images in turn through: the plain loop that people write (eager, NCHW, fp32, `DataLoader` with
worker processes, features collected in memory; in a process of its own); `extract` in every precision that the
processor has of its own; and the base alone on ready tensors: as torch runs it, channels-last, compiled (with
`--compile`; needs a C++ compiler), and as `extract` runs it; by OpenVINO too if that is installed. thingsvision takes
part if `--thingsvision` says where it is, in an environment of its own, since it needs an older torch. Loading a
network is not counted, nor is, for `extract`, listing and hashing the files. Prints images/s, ratios, each piece's own
line and the limit that matrix products set; ratios are taken within rounds. Without IMAGES it draws some.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measuring import Work, images_or_drawn, medians, ratio, rounds, show, write
from pipeline import extract
from pipeline.base import PRECISIONS, Base, load_base
from pipeline.decode import decode
from pipeline.environment import native_precisions
from pipeline.fusion import FusedConvolution, fuses

BATCH = 16


def compiled(network: nn.Module, batch: Tensor) -> Callable[[Tensor], Tensor]:
    """Compile a network as torch can at best: with its weights frozen in."""
    import torch._inductor.config as settings

    settings.freezing = True
    result: Callable[[Tensor], Tensor] = torch.compile(network)
    with torch.inference_mode():
        result(batch)
    return result


def label(backend: str, precision: str) -> str:
    """Return what an extraction is called in the table."""
    return f"extract{'' if backend == 'torch' else ' --backend openvino'}, {precision}"


def over(function: Callable[[Tensor], Any], ready: Tensor) -> Work:
    """Return the work of putting ready images through, batch by batch."""

    def work() -> None:
        with torch.inference_mode():
            for batch in ready.tensor_split(-(-len(ready) // BATCH)):
                function(batch)

    return work


def told(command: Sequence[str | Path], name: str, spent: dict[str, list[float]]) -> Work:
    """Return the work of a process of its own, which tells how many seconds it took without loading anything."""

    def work() -> None:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        spent.setdefault(name, []).append(float(done.stdout.split()[-1]))

    return work


def bases_alone(
    name: str, weights: str, ready: Tensor, precisions: list[str], compile_too: bool
) -> Iterator[tuple[str, Work]]:
    """Yield every way to run the base on images that are there."""
    for precision in precisions:
        base, plain = load_base(name, weights, precision=precision), load_base(name, weights)
        cast = ready.to(getattr(torch, PRECISIONS[precision]))
        tight = cast.contiguous(memory_format=torch.channels_last)
        if precision == "fp32":
            yield "base: eager, fp32", over(plain.module.to(memory_format=torch.contiguous_format), cast)
        yield f"base: channels-last, {precision}", over(base.module, tight)
        yield f"base: ours, {precision}", over(base.compute, ready)
        if compile_too:
            yield f"base: compiled, {precision}", over(compiled(base.module, tight[:BATCH]), tight)
        if find_spec("openvino"):
            yield (
                f"base: OpenVINO, {precision}",
                over(load_base(name, weights, precision=precision, backend="openvino").compute, ready),
            )


def products(precision: str) -> float:
    """Measure how many billion operations a second matrix products do: what no base can exceed."""
    dtype = getattr(torch, PRECISIONS[precision])
    one, other = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    images = torch.randn(1, 512, 56, 56).to(dtype).contiguous(memory_format=torch.channels_last)
    # torch multiplies matrices by MKL, which is slow on some processors; oneDNN is not.
    pointwise = FusedConvolution(nn.Conv2d(512, 512, 1), dtype) if fuses(dtype) else nn.Conv2d(512, 512, 1).to(dtype)
    with torch.inference_mode():
        times = rounds({"MKL": lambda: one @ other, "oneDNN": lambda: pointwise(images)}, 15)
    operations = {"MKL": 2 * 2048**3, "oneDNN": 2 * 512 * 512 * 56 * 56}
    return max(count / min(times[name]) for name, count in operations.items()) / 1e9


def operations(base: Base, side: int) -> float:
    """Count the operations of one image, in billions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        base.module(torch.zeros(1, 3, side, side))
    return float(counter.get_total_flops()) / 1e9


def pieces(base: Base, paths: list[Path], rows: np.ndarray) -> dict[str, float]:
    """Measure what stands beside the base: milliseconds an image, in one thread."""
    from cache import Recipe
    from cache.shard import read_rows, write_shard

    data = [path.read_bytes() for path in paths]
    pictures = [decode(one) for one in data]
    pixels = np.stack([base.transform.pixels(picture) for picture in pictures])
    recipe = Recipe(base.name, base.weights_digest, {}, 1, base.dimension)
    digests = [f"{number:064x}" for number in range(len(rows))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder)
        shard = write_shard(shards, recipe, digests, [0] * len(rows), rows, {})
        works: dict[str, Work] = {
            "read and decode": lambda: [decode(path.read_bytes()) for path in paths],
            "resize and crop": lambda: [base.transform.pixels(picture) for picture in pictures],
            "normalise": lambda: base.transform.normalise(pixels),
            "write": lambda: write_shard(shards, recipe, digests, [0] * len(rows), rows, {}),
            "read": lambda: read_rows(shard, np.empty_like(rows)),
        }
        times = medians(rounds(works, 5))
    torch.set_num_threads(threads)
    return {
        name: 1000 * value / (len(rows) if name in ("write", "read") else len(paths)) for name, value in times.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--base", default="vgg16")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--count", type=int, default=192, help="Images that take part.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="Measure torch's compiler too; that takes a minute.")
    parser.add_argument("--short", action="store_true", help="Few images, one round.")
    parser.add_argument("--thingsvision", type=Path, help="Python of an environment that has thingsvision.")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with images_or_drawn(asked.images) as folder:
        measure(asked, folder)


def measure(asked: argparse.Namespace, folder: Path) -> None:
    """Measure on the images in a folder, and print."""
    count, turns = (64, 1) if asked.short else (asked.count, asked.rounds)
    everything = sorted(path for path in folder.rglob("*") if path.is_file())
    if len(everything) < count:
        sys.exit(f"{folder} has {len(everything)} files, and --count asks for {count} images: ask for fewer.")
    paths = everything[:: len(everything) // count][:count]
    base, precisions = load_base(asked.base, asked.weights), native_precisions("cpu")
    ready = torch.stack([base.transform(decode(path.read_bytes())) for path in paths])
    cores, some = os.cpu_count() or 1, ready[:BATCH]
    with torch.inference_mode():
        exact = load_base(asked.base, asked.weights).module.to(memory_format=torch.contiguous_format)(some)
    difference = float((base.compute(some) - exact.flatten(1)).abs().max() / exact.abs().max())
    with tempfile.TemporaryDirectory() as scratch:
        linked, fresh = Path(scratch) / "images", iter(range(10**6))
        for number, path in enumerate(paths):
            target = linked / path.parent.name / f"{number}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.resolve())
        spent: dict[str, list[float]] = {}

        def ours(precision: str, backend: str) -> Work:
            def work() -> None:
                done = extract(
                    linked,
                    Path(scratch) / f"cache-{next(fresh)}",
                    base=asked.base,
                    weights=asked.weights,
                    precision=precision,
                    device="cpu",
                    backend=backend,
                )
                spent.setdefault(label(backend, precision), []).append(done.working)

            return work

        # Loading the network is no part of the loop, so neither is it of the extraction: see `Extraction.working`.
        beside = Path(__file__).parent
        common = (linked, asked.base, str(BATCH))
        plain = (sys.executable, beside / "plain_loop.py", *common, str(cores))
        works: dict[str, Work] = {"plain loop, fp32": told(plain, "plain loop, fp32", spent)}
        for backend in ("torch", *(["openvino"] if find_spec("openvino") else [])):
            works |= {label(backend, precision): ours(precision, backend) for precision in precisions}
        if asked.thingsvision:
            theirs = (asked.thingsvision, beside / "thingsvision_peer.py", *common)
            works["thingsvision, fp32"] = told(theirs, "thingsvision, fp32", spent)
        works |= dict(bases_alone(asked.base, asked.weights, ready, precisions, asked.compile))
        times = rounds(works, turns)
    times |= {name: found[1:] for name, found in spent.items()}  # without the round that warmed up
    found = medians(times)
    rate = {name: len(paths) / value for name, value in found.items()}
    flops = operations(load_base(asked.base, asked.weights), base.transform.crop_size)
    limits = {precision: products(precision) / flops for precision in precisions}
    rows = []
    for name, value in rate.items():
        precision = name.rsplit(", ", 1)[1]
        rows.append((name, value, ratio(times, "plain loop, fp32", name), f"{value / limits[precision]:.0%}"))
    show(
        f"{asked.base}, {len(paths)} images, {cores} processors, median of {turns} rounds",
        ("what", "images/s", "x plain loop", "of the matrix products' rate"),
        rows,
        [
            f"{precision}: matrix products of 2048 x 2048 do {limit * flops:.0f} billion operations a second, "
            f"{asked.base} needs {flops:.1f} billion an image: at most {limit:.3g} images/s"
            for precision, limit in limits.items()
        ]
        + [f"largest difference of fp32 features from the plain loop's: {difference:.1e} of the largest feature"],
    )
    each = pieces(base, paths[:64], np.repeat(base.features(ready[:16]), 8, 0))
    each |= {f"base, {precision} (all processors)": 1000 / rate[f"base: ours, {precision}"] for precision in precisions}
    show("what an image costs, one thread", ("piece", "ms"), list(each.items()))
    write(
        asked.json,
        {"base": asked.base, "images": len(paths), "seconds": times, "images/s": rate, "limits": limits, "ms": each},
    )


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # OpenVINO's threads do not bear that the plain loop forks, and crash when they end

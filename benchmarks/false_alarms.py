"""How often does `compare` see a difference where there is none?

    python -m benchmarks.false_alarms --json false_alarms.json

Draws two configurations that are equally good on average, on images that are easy or hard for both, with images that
are easy for one of them alone, and with seeds that hardly differ, differ (a deviation of 1.5 points) or differ much
(5 points). The share of differences with p below 5 % should be 5 % at most. The last column is what a true
difference of 3 points looks like: how often it is seen.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.measuring import show, write
from pipeline.difference import accuracy_difference
from pipeline.statistics import LEVEL

IMAGES = 210
SEEDS = ((1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (5, 5), (10, 10), (10, 3), (10, 1))
# How seeds differ -> standard deviations, in logits, of what one configuration alone finds easy, and of seeds.
WORLDS = {"hardly": (0.5, 0.0), "differ": (0.5, 0.12), "much": (0.2, 0.4)}
THREE_POINTS = 0.245  # logits


def easiness(generator: np.random.Generator, images: int) -> npt.NDArray[np.float64]:
    """Draw how easy images are for every classifier, in logits: (N,)."""
    return generator.normal(1.8, 1.5, images)


def named(
    generator: np.random.Generator, easy: npt.NDArray[np.float64], seeds: int, own: float, training: float
) -> npt.NDArray[np.bool_]:
    """Draw which images the runs of one configuration name rightly, (S, N).

    Args:
        generator: Draws.
        easy: How easy the images are for every classifier.
        seeds: Runs.
        own: Deviation of what the configuration finds easy.
        training: Deviation of how good its seeds are.
    """
    ease = easy + generator.normal(0, own, len(easy)) + generator.normal(0, training, (seeds, 1))
    return np.asarray(ease + generator.normal(0, 0.7, ease.shape) > 0)


def share_seen(seeds: tuple[int, int], own: float, training: float, gap: float, rounds: int) -> float:
    """Return the share of simulated comparisons with a p-value below 5 %."""
    generator, seen = np.random.default_rng(0), 0
    for _ in range(rounds):
        easy = easiness(generator, IMAGES)
        first = named(generator, easy + gap, seeds[0], own, training)
        seen += accuracy_difference(first, named(generator, easy, seeds[1], own, training)).p < LEVEL
    return seen / rounds


def main() -> None:
    """Simulate, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = {}
    for seeds in SEEDS:
        for name, world in WORLDS.items():
            if max(seeds) > 1 or name == "hardly":
                found[f"{seeds[0]} and {seeds[1]} seeds, {name}"] = (
                    share_seen(seeds, *world, 0.0, asked.rounds),
                    share_seen(seeds, *world, THREE_POINTS, asked.rounds // 3),
                )
    rows = [(name, *shares) for name, shares in found.items()]
    show(f"{IMAGES} images, {asked.rounds} rounds", ("runs", "seen where there is none", "seen, 3 points"), rows)
    write(asked.json, {"rounds": asked.rounds, "shares": found})


if __name__ == "__main__":
    main()

"""What was run, for whoever wants to run it again: commands, machines and versions."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.options import typed
from pipeline.outcomes import Outcome
from pipeline.pixels import PIXELS
from pipeline.printable import printable
from pipeline.run import Run
from pipeline.split import DRAW
from pipeline.wording import duration, seeds_text

FEWER = re.compile(r"(?P<split>.*), (?P<each>\d+) training images of each class")
RUNS = "RUNS"  # stands for the folder of the runs, which the reader chooses


@dataclass(frozen=True)
class Made:
    """How the runs of one name came about, in words for a table.

    Attributes:
        name: The name.
        head: The head and its hyper-parameters.
        seeds: Its seeds.
        split: Its split.
        features: What it was fitted on.
        where: Folder of the cache, or of the images.
        fit: Time that all its fits took together.
    """

    name: str
    head: str
    seeds: str
    split: str
    features: str
    where: str
    fit: str


def made(outcome: Outcome) -> Made:
    """Say how the runs of a name came about."""
    run = outcome.runs[0]
    parameters = ", ".join(f"{name} {_plain(value)}" for name, value in run.parameters.items() if value is not None)
    recipe, splits = run.recipe, list(dict.fromkeys(one.split for one in outcome.runs))
    seconds = sum(one.timings.get("fit", 0.0) for one in outcome.runs)
    features = "pixels" if recipe.base == PIXELS else f"{recipe.base}, {recipe.precision}, stored as {recipe.storage}"
    return Made(
        name=printable(outcome.name),
        head=printable(f"{run.head}: {parameters}" if parameters else run.head),
        seeds=seeds_text(outcome.seeds) if run.seeded else "no influence",
        split=printable(splits[0] if len(splits) == 1 else f"{len(splits)} splits: {splits[0]} to {splits[-1]}"),
        features=features + (f", {run.views} views" if run.views > 1 else ""),
        where=printable(run.cache or run.image_set),
        fit=duration(seconds) if seconds else "",
    )


def machines(outcomes: Sequence[Outcome]) -> list[str]:
    """Say on which machines runs were fitted, each once."""
    every = (run for outcome in outcomes for run in outcome.runs)
    texts = (
        ", ".join(f"{name} {value}" for name, value in {**run.machine, "device": run.device}.items()) for run in every
    )
    return list(dict.fromkeys(map(printable, texts)))


def versions(outcomes: Sequence[Outcome]) -> list[str]:
    """Say with which versions runs were fitted, each combination once."""
    every = (run for outcome in outcomes for run in outcome.runs)
    texts = (", ".join(f"{name} {version}" for name, version in run.versions.items()) for run in every)
    return list(dict.fromkeys(map(printable, texts)))


def commands(outcomes: Sequence[Outcome], part: str) -> list[str]:
    """Write the commands that give these runs and this page again, each once.

    Args:
        outcomes: The names.
        part: The part of the split.
    """
    sizes: dict[tuple[str, ...], list[str]] = {}  # names that differ in their training images are of one command
    for outcome in outcomes:
        few = FEWER.fullmatch(outcome.runs[0].split)
        sizes.setdefault(tuple(_fit(outcome)), []).append(few["each"] if few else "")
    fits = [
        [*words, *(["--train-sizes", ",".join(sorted(each, key=int))] if all(each) else [])]
        for words, each in sizes.items()
        if words and (len(each) > 1 or each == [""])  # one size alone can be fitted from Python only
    ]
    report = ["manyheads", "report", RUNS, *([] if part == "test" else ["--on", part]), "-o", "report.html"]
    every = [*(_extract(outcome.runs[0]) for outcome in outcomes), *fits, report]
    return list(dict.fromkeys(printable(shlex.join(words)) for words in every if words))


def _extract(run: Run) -> list[str]:
    recipe = run.recipe
    if recipe.base == PIXELS:
        return []
    words = ["manyheads", "extract", run.image_set, run.cache, "--base", recipe.base]
    if recipe.random_weights or "/" in recipe.weights:
        words += ["--weights", recipe.weights]
    words += [] if recipe.precision == "fp32" else ["--precision", recipe.precision]
    words += [] if recipe.storage == "float32" else ["--store", recipe.storage]
    return words + ([] if run.views == 1 else ["--views", str(run.views)])


def _fit(outcome: Outcome) -> list[str]:
    run, parameters = outcome.runs[0], {**outcome.runs[0].parameters}
    few = FEWER.fullmatch(run.split)
    name, split, each = (run.name, run.split, "") if few is None else (run.name, few["split"], few["each"])
    asked: dict[str, Any] = {"name": name.removesuffix(f"_per-class={each}"), "seeds": outcome.seeds, **_split(split)}
    if run.views > 1:
        asked["use_views"] = run.views
    asked["device"] = run.device
    asked["calibrate"] = run.calibrated
    asked["resplits"] = len(outcome.trials) if len(outcome.trials) > 1 else None
    if run.recipe.base != PIXELS:
        asked = {"head": run.head, **asked, **_written(parameters)}
        return ["manyheads", "fit-head", run.cache, RUNS, *typed(asked)]
    command = {"scratch": "fit-scratch", "pixel-mlp": "fit-mlp"}.get(run.head)
    if command is None:  # of a newer manyheads
        return []
    own = {name: parameters.pop(name) for name in ("augment", "precision") if name in parameters}
    side = str(run.recipe.transform["crop_size"])
    parameters.pop("image_size", None)
    options = [word for name, value in own.items() for word in (f"--{name}", str(value))]
    words = [*typed({**asked, **_written(parameters)}), "--image-size", side, *options]
    return ["manyheads", command, run.image_set, RUNS, *words]


def _written(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters that an option can say; lists are defaults of heads, for which there is none."""
    return {
        name: value
        for name, value in parameters.items()
        if value is not None and (name == "hidden" or not isinstance(value, list | tuple))
    }


def _split(text: str) -> dict[str, Any]:
    """Read the words of a run about its split as the options that give it."""
    if drawn := re.fullmatch(rf"(?P<shares>{DRAW.pattern}), seed (?P<seed>\d+)", text):
        return {"split": drawn["shares"], "split_seed": int(drawn["seed"])}
    return {"split": "own" if text == "the image set's own" else text}


def _plain(value: object) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, list | tuple) else str(value)

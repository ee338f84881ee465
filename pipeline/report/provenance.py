"""What was run, for whoever wants to run it again: commands, machines and versions."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache import FeatureCache, ManyheadsError
from pipeline.options import typed
from pipeline.outcomes import Outcome
from pipeline.pixels import PIXELS
from pipeline.printable import printable
from pipeline.resplits import DRAWN, FEWER
from pipeline.run import Run
from pipeline.wording import duration, seeds_text

OWN_TRANSFORM = "the weights' own"  # as `pipeline.order` writes it into a cache
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
    recipe = run.recipe
    seconds = sum(one.timings.get("fit", 0.0) for one in outcome.runs)
    features = "pixels" if recipe.base == PIXELS else f"{recipe.base}, {recipe.precision}, stored as {recipe.storage}"
    return Made(
        name=printable(outcome.name),
        head=printable(f"{run.head}: {parameters}" if parameters else run.head),
        seeds=seeds_text(outcome.seeds) if run.seeded else "no influence",
        split=printable(_splits_text(list(dict.fromkeys(one.split for one in outcome.runs)))),
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
    sizes: dict[tuple[bool, tuple[str, ...]], list[str]] = {}  # names that differ in that size alone: one command
    for outcome in outcomes:
        few = FEWER.fullmatch(outcome.runs[0].split)
        sizes.setdefault((bool(few), tuple(_fit(outcome))), []).append(few["each"] if few else "")
    fits = [
        [*words, *(["--train-sizes", ",".join(sorted(each, key=int))] if all(each) else [])]
        for (_, words), each in sizes.items()
        if words
    ]
    report = ["manyheads", "report", RUNS, *([] if part == "test" else ["--on", part]), "-o", "report.html"]
    every = [*map(_extract, _extracted(outcomes)), *fits, report]
    return list(dict.fromkeys(printable(shlex.join(words)) for words in every if words))


def _extracted(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return of each cache the name that needs most of it: others may need fewer views, or none."""
    caches: dict[tuple[str, str], Outcome] = {}
    for outcome in outcomes:
        run = outcome.runs[0]
        if run.recipe.base != PIXELS:
            place = (run.cache, run.image_set)
            caches[place] = max(caches.get(place, outcome), outcome, key=lambda one: one.runs[0].views)
    return list(caches.values())


def _extract(outcome: Outcome) -> list[str]:
    run = outcome.runs[0]
    recipe = run.recipe
    words = ["manyheads", "extract", run.image_set, run.cache, "--base", recipe.base]
    words += [] if recipe.weights in ("", "imagenet") else ["--weights", recipe.weights]
    words += ["--transform-of", entry] if (entry := _transform_of(run)) else []
    words += [] if recipe.precision == "fp32" else ["--precision", recipe.precision]
    words += [] if recipe.storage == "float32" else ["--store", recipe.storage]
    if run.views > 1:
        words += ["--views", str(run.views)]
        if len(outcome.trials) == 1:  # of several splits, all images train in one or another
            few = FEWER.fullmatch(run.split)
            words += typed(_split(run.split if few is None else few["split"]))
    return words


def _transform_of(run: Run) -> str:
    """Return the torchvision entry whose transform was asked for; a recipe holds what it says, its cache its name."""
    try:
        cache = FeatureCache.open(run.cache)
    except ManyheadsError:  # gone or damaged: the page says so where the map would be
        return ""
    entry = cache.made_from.get("transform_of", OWN_TRANSFORM)
    return "" if entry == OWN_TRANSFORM or cache.recipe.digest != run.recipe.digest else entry


def _fit(outcome: Outcome) -> list[str]:
    run, parameters = outcome.runs[0], {**outcome.runs[0].parameters}
    few = FEWER.fullmatch(run.split)
    name, split, each = (run.name, run.split, "") if few is None else (run.name, few["split"], few["each"])
    asked: dict[str, Any] = {"name": name.removesuffix(f"_per-class={each}"), "seeds": outcome.seeds, **_split(split)}
    if few and few["seed"]:
        asked["split_seed"] = int(few["seed"])
    if run.views > 1:
        asked["use_views"] = run.views
    asked["device"] = run.device
    asked["calibrate"] = run.calibrated
    # All splits between the first and the last, also where one is no longer there.
    drawn = [trial.runs[0].resplit for trial in outcome.trials if trial.runs[0].resplit is not None]
    asked["resplits"] = max(drawn) - min(drawn) + 1 if len(drawn) > 1 else None
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


def _splits_text(texts: Sequence[str]) -> str:
    """Write the splits of a name: paper; 80/10/10, seed 0; 5 splits of 80/10/10, seeds 0 to 4."""
    drawn = [DRAWN.fullmatch(text) for text in texts]
    ways = {(one["shares"], one["rest"]) if one else None for one in drawn}
    if len(texts) == 1 or len(ways) > 1 or None in ways:
        return "; ".join(texts)
    seeds = sorted(int(one["seed"]) for one in drawn if one)
    whole = seeds == list(range(seeds[0], seeds[-1] + 1))
    said = f"{seeds[0]} to {seeds[-1]}" if whole else seeds_text(seeds)
    return "".join(f"{len(texts)} splits of {shares}, seeds {said}{rest}" for shares, rest in filter(None, ways))


def _split(text: str) -> dict[str, Any]:
    """Read the words of a run about its split as the options that give it."""
    if (drawn := DRAWN.fullmatch(text)) and not drawn["rest"]:
        return {"split": drawn["shares"], "split_seed": int(drawn["seed"])}
    return {"split": "own" if text == "the image set's own" else text}


def _plain(value: object) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, list | tuple) else str(value)

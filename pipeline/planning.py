"""Planning: which runs are asked for, which of them are missing, and whether they may stand beside those that exist."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache import CacheError, FeatureCache, Index, Recipe
from cache.atomic import remove_leftovers
from pipeline.environment import machine, versions
from pipeline.errors import HeadError, RunError
from pipeline.heads import head_parameters, head_spec, make_head
from pipeline.pixels import PIXELS
from pipeline.run import ALL_ROWS, Run, folder_name, images_of, split_folder
from pipeline.run_document import SEEDS_BELOW, are_inside, is_name
from pipeline.split import Split


@dataclass(frozen=True)
class Source:
    """What runs are trained from.

    Attributes:
        index: The images, their classes and digests.
        recipe: What their features are.
        cache: Folder of the cache that holds the features, absolute; empty where they are pixels.
    """

    index: Index
    recipe: Recipe
    cache: str

    @classmethod
    def of_cache(cls, cache: FeatureCache) -> "Source":
        """Train from a finished cache.

        Raises:
            CacheError: It has no index, a damaged one, or one that somebody made up.
        """
        index = cache.index()
        if not are_inside(text for entry in index.entries for text in (entry.path, entry.label)):
            raise CacheError(
                f"The index of {cache.path} lists images that lie in no image set, such as hidden ones or ones outside "
                "its folder: nothing that manyheads wrote. Extract into a new folder."
            )
        return cls(index, cache.recipe, str(cache.path.absolute()))


@dataclass(frozen=True)
class Plan:
    """Runs of one name on one split: one configuration, several seeds.

    Attributes:
        runs: Every run asked for, before it is fitted.
        folder: Where they stand: RUNS/NAME, or RUNS/NAME/split-0000 if the name has several splits.
        missing: Those that are not there yet.
    """

    runs: tuple[Run, ...]
    folder: Path
    missing: tuple[Run, ...]

    def folder_of(self, run: Run) -> Path:
        """Return where a run of the plan stands once it is fitted."""
        return self.folder / folder_name(run.seed)

    def fitted(self) -> tuple[Run, ...]:
        """Read every run, once all are there."""
        return tuple(Run.read(self.folder_of(run)) for run in self.runs)


def make_plan(
    source: Source,
    split: Split,
    runs: Path,
    *,
    head: str,
    name: str,
    seeds: Sequence[int],
    device: str,
    parameters: Mapping[str, Any],
    views: int = 1,
    shuffle: str = ALL_ROWS,
    resplit: int | None = None,
    calibrated: bool = False,
) -> Plan:
    """Describe the runs that are asked for, and find which are missing.

    Args:
        source: What they are trained from.
        split: Which image trains, validates and tests.
        runs: RUNS.
        head: Name of the head or baseline.
        name: Name of the configuration.
        seeds: One run for each; a head that does not depend on the seed is fitted once, as seed 0.
        device: `auto`, `cpu`, `cuda` or `cuda:1`; the CPU is used where the head knows no other.
        parameters: Hyper-parameters that differ from the head's defaults.
        views: Views of each training image that an epoch draws from.
        shuffle: What is shuffled together in an epoch, see `pipeline.run.Run`.
        resplit: Seed of the split's draw, where the name is fitted on several splits.
        calibrated: Whether a temperature is fitted on the validation part.

    Raises:
        HeadError: The head, a hyper-parameter or a seed is unfit.
        RunError: The name cannot be a folder's, or runs of that name were fitted otherwise.
    """
    require_name(name)
    spec = head_spec(name=head)
    seeds = checked_seeds(seeds) if spec.seeded else (0,)
    settings = _all_parameters(head, device, parameters)
    if views > 1 and "epochs" not in settings:
        raise HeadError(
            f"Views are drawn anew in every epoch, and {head} is not trained in epochs. Fit `mlp` on views, or leave "
            "`--use-views` out."
        )
    if calibrated and not split.rows["val"]:
        raise HeadError(
            f"The split ({split.source}) has no validation part, on which a temperature is fitted. Ask for one "
            "that has, such as `--split 80/10/10`, or leave `--calibrate` out."
        )
    where = settings.pop("device", "cpu")
    first = Run(
        name=name,
        head=head,
        seed=seeds[0],
        seeded=spec.seeded,
        device=where,
        parameters=settings,
        classes=tuple(sorted({source.index.entries[row].label for row in split.rows["train"]})),
        recipe=source.recipe,
        cache=source.cache,
        image_set=source.index.images,
        split=split.source,
        images=images_of(split, [entry.path for entry in source.index.entries]),
        digests=split.digests,
        model={},
        views=views,
        shuffle=shuffle,
        resplit=resplit,
        calibrated=calibrated,
        notes=notes_on(source, split),
        versions=versions(),
        machine=machine(where),
        timings={},
    )
    planned = tuple(replace(first, seed=seed) for seed in seeds)
    folder = runs / name / split_folder(resplit)
    remove_leftovers(folder)
    _require_one_kind(runs / name, first)
    places = {run.seed: folder / folder_name(run.seed) for run in planned}
    missing = tuple(run for run in planned if not places[run.seed].exists())
    # Runs of another configuration may not stand beside these, and what is no run may not pass for one.
    standing = {places[run.seed] for run in planned if run not in missing}
    for path in sorted(standing | {document.parent for document in folder.glob("seed-*/run.json")}):
        Run.read(path).require_same(first)
    return Plan(planned, folder, missing)


def _require_one_kind(folder: Path, asked: Run) -> None:
    """Refuse runs on several splits beside runs on one, and other configurations on other splits."""
    others = sorted(folder.glob("split-*/seed-*/run.json"))
    alone = next(iter(sorted(folder.glob("seed-*/run.json"))), None)
    strange = next(iter(others), None) if asked.resplit is None else alone
    if strange is not None:
        has, wants = ("several splits", "one") if asked.resplit is None else ("one split", "several")
        raise RunError(
            f"{folder} has runs on {has}, such as {strange.parent}, and runs on {wants} are asked for. Give these a "
            "name of their own (`--name`)."
        )
    # Those that stand were compared when they were planned: one of them speaks for all.
    for document in others[:1]:
        Run.read(document.parent).require_same(asked, any_split=True)


def checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Return seeds as whole numbers.

    Raises:
        HeadError: There is none, one is out of range, or one comes twice.
    """
    whole = tuple(operator.index(seed) for seed in seeds)
    if not whole or min(whole) < 0 or max(whole) >= SEEDS_BELOW or len(set(whole)) < len(whole):
        raise HeadError(f"The seeds {list(whole)} are not a list of different whole numbers from 0 to 2^32 - 1.")
    return whole


def require_name(name: str) -> None:
    """Refuse a name that cannot be a folder's.

    Raises:
        RunError: Says what a name may be.
    """
    if not is_name(name):
        raise RunError(
            f"{name!r} cannot name runs: a name is a folder's, of 1 to 199 bytes, without slashes, control characters "
            "or a leading dot. Choose another with `--name`."
        )


def notes_on(source: Source, split: Split) -> tuple[str, ...]:
    """Say what the user should know about figures of runs from this source and split."""
    notes = list(split.notes)
    recipe, skipped = source.recipe, len(source.index.skipped)
    if recipe.random_weights:
        notes.append(
            f"the features come from {recipe.base} with random weights ({recipe.weights}): "
            "it was never trained, so these figures show what the head alone can do, not transfer learning"
        )
    if skipped and recipe.base == PIXELS:
        notes.append(f"{skipped} images take no part: they could not be read")
    elif skipped:
        notes.append(f"{skipped} images have no features: they could not be read when they were extracted")
    return tuple(notes)


def _all_parameters(head: str, device: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return every hyper-parameter of a head, checked, with the device where it has one."""
    known = head_parameters(head)
    if "seed" in asked:
        raise HeadError("The seed of a run is no hyper-parameter: ask for `seeds`, such as `--seeds 3`.")
    if "device" in known:
        from pipeline.base import choose_device

        asked = {**asked, "device": str(choose_device(device))}
    values = make_head(head, **asked).get_params()
    return {name: _plain(values[name]) for name in known}


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers and tuples into what JSON can hold."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value

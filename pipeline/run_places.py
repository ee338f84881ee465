"""Where runs stand, and finding them all."""

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import RunError
from pipeline.run import FOLDER, Run

# Where runs stand below RUNS, RUNS/NAME, RUNS/NAME/split-0000 and their own folder.
PLACES = ("run.json", "*/run.json", "*/*/run.json", "*/split-*/*/run.json")


def find_runs(places: Iterable[Path | str]) -> list[Run]:
    """Find the runs in any mix of RUNS, RUNS/NAME and single run folders.

    Returns:
        The runs, ordered by name, split and seed, each once.

    Raises:
        RunError: A place does not exist or holds no run.
    """
    found: dict[Path, Run] = {}
    for place in map(Path, places):
        if not os.path.isdir(place):  # noqa: PTH112  # Path's raises where a folder may not be looked at
            raise RunError(
                f"{place} is not a folder. Name a folder of runs, as `manyheads fit-head CACHE RUNS` makes it."
            )
        if place.name in ("", ".."):  # a run's folder must have its name, and know RUNS/NAME above it
            place = place.resolve()
        documents = [path for pattern in PLACES for path in place.glob(pattern)]
        # A folder whose name begins with a dot is a run that is being written.
        here = [
            path.parent
            for path in documents
            if not any(part.startswith(".") for part in path.relative_to(place).parent.parts)
        ]
        if not here and (place / "recipe.json").exists():
            raise RunError(f"{place} is a feature cache, not a folder of runs. Name the RUNS of `manyheads fit-head`.")
        checkpoints = (".seed-*.checkpoint.safetensors", "*/.seed-*.checkpoint.safetensors")
        if not here and any(any(place.glob(pattern)) for pattern in checkpoints):
            raise RunError(
                f"{place} holds a training that has not finished, and no runs. Run the same `manyheads fit-scratch` "
                "again: it goes on from its checkpoint."
            )
        _require_whole(place)
        if not here:
            raise RunError(f"{place} holds no runs. Fit some with `manyheads fit-head CACHE {place}`.")
        found |= {folder.resolve(): Run.read(folder) for folder in here}
    return sorted(found.values(), key=lambda run: (run.name, run.resplit or 0, run.seed, str(run.path)))


def _require_whole(place: Path) -> None:
    """Refuse runs one of which has lost what makes it a run, rather than pass over it in silence.

    Raises:
        RunError: Names it.
    """
    for folder in (folder for pattern in PLACES[1:] for folder in place.glob(pattern.removesuffix("/run.json"))):
        if FOLDER.fullmatch(folder.name) and folder.is_dir() and not (folder / "run.json").exists():
            raise RunError(
                f"{folder} has no run.json, so it is no run any more. Remove it, and fit that seed again if it is "
                "needed."
            )

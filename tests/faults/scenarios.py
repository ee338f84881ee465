"""The work that is cut off: real extractions, fits and evaluations, small enough to be done hundreds of times."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cache import CacheError, FeatureCache, ManyheadsError
from cache.pruning import prune
from cache.verification import repair, verify
from pipeline.evaluation import evaluate
from pipeline.extraction import Extraction, extract
from pipeline.fitting import fit_head
from pipeline.heads.storage import load_head
from pipeline.run import Run
from pipeline.stored_predictions import stored_predictions
from tests.conftest import BASE, WEIGHTS

ROWS = 4  # a shard, so that a few images make several
SPLIT = "60/20/20"

Step = tuple[str, Callable[[Path], object]]
Rows = Mapping[tuple[str, int], npt.NDArray[np.floating]]


@contextmanager
def small_shards() -> Iterator[None]:
    """Cut what is computed into shards of a few rows."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.computing.SHARD_ROWS", ROWS)
        yield


def write_noise(folder: Path, numbers: Sequence[int], broken: Sequence[int] = ()) -> None:
    """Write images of noise, 32 x 32 pixels in two classes; those that are broken end in the middle."""
    for number in numbers:
        path = folder / ("ab"[number % 2]) / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:1000])


def files(folder: Path) -> Mapping[str, bytes]:
    """Return everything in a folder, hidden files too: relative path -> bytes; empty for folders."""
    return {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes() for path in sorted(folder.rglob("*"))
    }


def differing(found: Mapping[str, object], expected: Mapping[str, object]) -> Iterator[str]:
    """Say which entries of two folders are not the same."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            yield f"{name} is missing"
        elif name not in expected:
            yield f"{name} is left over"
        elif found[name] != expected[name]:
            yield f"{name} is not the same"


class Extractions:
    """Extract two views of a set with broken images, then of one where they are mended and others changed; prune."""

    name = "extract, extract more, prune"

    def __init__(self, images: Path, count: int = 11) -> None:
        """Write both image sets below a folder, the first with `count` images, at least 7."""
        self.first, self.second = images / "first", images / "second"
        write_noise(self.first, range(count), broken=(1, count - 1))
        shutil.copytree(self.first, self.second)
        write_noise(self.second, (1, *range(count - 1, count + 3)))  # the broken ones are mended
        (self.second / "a" / "02.png").unlink()
        shutil.copy(self.second / "a" / "00.png", self.second / "a" / "04.png")
        self.steps: Sequence[Step] = (
            ("extract", lambda folder: self._extract(self.first, folder)),
            ("extract more", lambda folder: self._extract(self.second, folder)),
            ("prune", lambda folder: prune(folder / "cache")),
        )
        self._rows: Rows = {}

    def _extract(self, images: Path, folder: Path) -> Extraction:
        with small_shards():
            return extract(
                images,
                folder / "cache",
                base=BASE,
                weights=WEIGHTS,
                device="cpu",
                views=2,
                batch_size=ROWS,
                workers=1,
                on_error="skip",
            )

    def prepare(self, step: int, folder: Path) -> None:
        """Nothing: it begins with an empty folder."""

    def problems(self, folder: Path) -> Iterator[str]:
        """Read all features through the cache, and those of the index with plain h5py too."""
        try:
            cache = FeatureCache.open(folder / "cache")
        except CacheError as error:
            named = [path for path in files(folder) if not any(part.startswith(".") for part in path.split("/"))]
            if "is not a feature cache" not in str(error) or set(named) > {"cache"}:
                yield f"{error} There are {named}."
            return
        try:
            held = [key for shard in cache.shards() for key in zip(shard.digests, shard.views, strict=True)]
            shown = [(entry.digest, 0) for entry in cache.index().entries] if cache.has_index() else []
            read = cache.read([digest for digest, _ in held + shown], views=[view for _, view in held + shown])
            if self._differ(read, held + shown):
                yield "the shards or the index hold other features"
            if shown:
                with h5py.File(cache.path / "index.h5") as file:
                    if self._differ(file["features"][:], shown):
                        yield "index.h5 shows plain h5py other features"
            yield from (f"{damage.file} {damage.what}" for damage in verify(cache.path).damage)
        except ManyheadsError as error:
            yield str(error)

    def _differ(self, rows: npt.NDArray[np.floating], keys: Sequence[tuple[str, int]]) -> bool:
        return not all(np.array_equal(row, self._rows[key]) for row, key in zip(rows, keys, strict=True))

    def learn(self, folder: Path) -> None:
        """Take the features of an undisturbed cache for the right ones."""
        cache = FeatureCache.open(folder / "cache")
        keys = [key for shard in cache.shards() for key in zip(shard.digests, shard.views, strict=True)]
        rows = cache.read([digest for digest, _ in keys], views=[view for _, view in keys])
        self._rows = {**self._rows, **dict(zip(keys, rows, strict=True))}

    def again(self, step: int, folder: Path) -> Iterator[str]:
        """Do a step again; features that were there are not computed a second time."""
        held, before = files(folder / "cache" / "shards"), self._count(folder)
        found = self.steps[step][1](folder)
        if isinstance(found, Extraction):
            computed, grown = found.computed + found.views_computed, self._count(folder) - before
            if computed != grown:
                yield f"{computed} features were computed, of which {computed - grown} were there"
        if changed := [
            name for name, content in files(folder / "cache" / "shards").items() if held.get(name, content) != content
        ]:
            yield f"shards have changed: {changed}"

    def _count(self, folder: Path) -> int:
        shards = FeatureCache.open(folder / "cache").shards() if (folder / "cache" / "recipe.json").exists() else []
        return sum(len(shard.digests) for shard in shards)

    def differences(self, folder: Path, undisturbed: Path) -> Iterator[str]:
        """Compare every byte; a dead process may have left its lock, which the next one that writes takes over."""
        found = {name: content for name, content in files(folder).items() if name != "cache/.lock"}
        yield from differing(found, files(undisturbed))


class Repair(Extractions):
    """A shard with a flipped bit is dropped from a finished cache, and what it held is extracted anew."""

    name = "verify --repair, extract"

    def __init__(self, images: Path) -> None:
        super().__init__(images)
        self.steps = (("repair", self._repair),)

    def _repair(self, folder: Path) -> Extraction:
        repair(folder / "cache", verify(folder / "cache"))
        return self._extract(self.first, folder)

    def prepare(self, step: int, folder: Path) -> None:
        """Extract, and flip a bit in the middle of a shard."""
        self._extract(self.first, folder)
        self.learn(folder)
        damaged = min((folder / "cache" / "shards").glob("*.h5"))
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        self._expected = (f"{damaged.name} is damaged", f"{damaged.name} is missing", "lacks the features")

    def problems(self, folder: Path) -> Iterator[str]:
        """Hear of nothing but the damaged shard, or its lack."""
        for problem in super().problems(folder):
            if not any(expected in problem for expected in self._expected):
                yield problem

    def again(self, step: int, folder: Path) -> Iterator[str]:
        """Repair and extract again."""
        self._repair(folder)
        yield from ()


class Runs:
    """Heads that are fitted and evaluated; at last, one whose predictions were removed by hand."""

    name = "fit-head, evaluate"

    def __init__(self, images: Path) -> None:
        """Extract features outside of what is recorded."""
        write_noise(images / "set", range(20))
        self.cache = images / "cache"
        extract(images / "set", self.cache, base=BASE, weights=WEIGHTS, device="cpu")
        self.steps: Sequence[Step] = (
            ("fit mlp", lambda folder: self._fit(folder, "mlp", (0, 1), epochs=1)),
            ("fit knn", lambda folder: self._fit(folder, "knn", (0,))),
            ("evaluate", lambda folder: evaluate(folder / "runs")),
            ("evaluate anew", lambda folder: evaluate(folder / "runs")),
        )

    def _fit(self, folder: Path, head: str, seeds: Sequence[int], **parameters: Any) -> None:
        fit_head(self.cache, folder / "runs", head=head, seeds=seeds, split=SPLIT, jobs=1, **parameters)

    def prepare(self, step: int, folder: Path) -> None:
        """Remove predictions before the last step, which left metrics that are not of those that will be stored."""
        if step == 3:
            # Those of another seed stand for those of another machine or version: valid, and not the same.
            one, other = (folder / "runs" / "mlp" / f"seed-000{seed}" for seed in (0, 1))
            shutil.copyfile(other / "evaluation-test.json", one / "evaluation-test.json")
            (one / "predictions-test.csv").unlink()

    def learn(self, folder: Path) -> None:
        """Nothing: what is right is told by the runs themselves."""

    def problems(self, folder: Path) -> Iterator[str]:
        """Read every run with its model, its predictions and metrics, and every picture."""
        try:
            for path in sorted((folder / "runs").glob("*/[!.]*/")):
                run = Run.read(path)
                load_head(run.head, path)
                stored_predictions(run, "test")
            for path in sorted((folder / "runs").glob("*/[!.]*/evaluation-*.json")):
                json.loads(path.read_text())
        except (ManyheadsError, ValueError) as error:
            yield str(error)
        for path in (folder / "runs").rglob("[!.]*.png"):
            try:
                Image.open(path).load()
            except (OSError, SyntaxError) as error:
                yield f"{path.name}: {error}"

    def again(self, step: int, folder: Path) -> Iterator[str]:
        """Fit or evaluate again; a run that was there is not fitted a second time."""
        kept = {path: path.stat().st_ino for path in (folder / "runs").glob("*/[!.]*/run.json")}
        self.steps[step][1](folder)
        if again := [str(path.parent) for path, number in kept.items() if path.stat().st_ino != number]:
            yield f"fitted a second time: {again}"

    def differences(self, folder: Path, undisturbed: Path) -> Iterator[str]:
        """Compare every byte, but for what holds the time that a fit took."""
        yield from differing(*(dict(self._timeless(place)) for place in (folder, undisturbed)))

    def _timeless(self, folder: Path) -> Iterator[tuple[str, object]]:
        for name, content in files(folder).items():
            if name.endswith("run.json"):
                document = json.loads(content)
                for record in document["history"]:
                    record.pop("seconds", None)
                timed = {"timings", "model"} if "model.skops" in document["model"] else {"timings"}
                yield name, {key: value for key, value in document.items() if key not in timed}
            elif not name.endswith("model.skops"):  # an archive, with the time of its making
                yield name, content


SCENARIOS = (Extractions, Repair, Runs)

"""The demo runs the whole pipeline, and is honest about random weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from pipeline.demo import HEADS, Demo, run_demo
from pipeline.progress import Silent


class Heard(Silent):
    """Progress that remembers what work was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        self.begun.append(label)
        yield lambda done: None


pytestmark = pytest.mark.slow  # 36 s on two busy cores, for the most part in starting the workers that fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "demo"


@pytest.fixture(scope="module")
def demo(folder: Path) -> Demo:
    return run_demo(folder, base="squeezenet1_1", weights="random:0", per_class=10)


def test_it_draws_extracts_fits_and_evaluates(demo: Demo, folder: Path) -> None:
    classes = [path.name for path in demo.images.iterdir() if path.is_dir()]
    assert demo.extraction.computed == demo.extraction.images == 10 * len(classes)
    assert demo.extraction.classes == len(classes) > 1
    place = folder / "seed-0-10-a-class"
    assert demo.images == place / "images"
    assert (demo.cache, demo.runs) == tuple(place / "squeezenet1_1-random" / name for name in ("cache", "runs"))
    assert {summary.name: len(summary.seeds) for summary in demo.evaluation.names} == {
        head: len(options["seeds"]) for head, options in HEADS.items()
    }
    for summary in demo.evaluation.names:
        assert 0 <= summary.metrics["accuracy"].mean <= 1
        with Image.open(summary.picture) as picture:
            assert min(picture.size) > 100


def test_it_says_that_the_weights_are_random(demo: Demo) -> None:
    assert demo.extraction.random_weights
    for summary in demo.evaluation.names:
        assert any("random" in note for note in summary.notes)


def test_a_second_call_computes_nothing_anew(demo: Demo, folder: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("model.*")}
    kept |= {path: path.stat().st_mtime_ns for path in [*demo.images.rglob("*.*"), *demo.cache.rglob("*.h5")]}
    heard = Heard()
    again = run_demo(folder, base="squeezenet1_1", weights="random:0", per_class=10, progress=heard)
    assert again.extraction.computed == 0
    assert not again.extraction.changes
    assert "extracting" not in heard.begun
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert again.evaluation.names == demo.evaluation.names

"""Several devices: each computes its share in a process of its own, and the shards are those of one device."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache import FeatureCache
from pipeline.base import choose_devices
from pipeline.errors import BaseError, UnreadableImages
from pipeline.extraction import extract
from pipeline.progress import Silent
from tests.conftest import BASE, WEIGHTS


class Counted(Silent):
    """Progress that adds up."""

    def __init__(self) -> None:
        self.done = self.total = 0

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        def advance(done: int) -> None:
            self.done += done if label == "extracting" else 0

        self.total += total if label == "extracting" else 0
        yield advance


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of images, one of which cannot be read."""
    root, random = tmp_path_factory.mktemp("many"), np.random.default_rng(0)
    for number in range(300):
        folder = root / f"class-{number % 3}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number:03}.png")
    (root / "class-1" / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture
def few(many: Path, tmp_path: Path) -> Path:
    """Five of them, in two classes."""
    for number in (0, 1, 3, 4, 6):
        source = many / f"class-{number % 3}" / f"{number:03}.png"
        (tmp_path / "few" / source.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "few" / source.parent.name)
    return tmp_path / "few"


def shards(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cache / "shards").iterdir()}


@pytest.mark.slow
def test_two_devices_write_the_shards_of_one(many: Path, tmp_path: Path) -> None:
    heard = Counted()
    settings = {"base": BASE, "weights": WEIGHTS, "on_error": "skip", "workers": 2}
    one = extract(many, tmp_path / "one", device="cpu", **settings)  # type: ignore[arg-type]
    two = extract(many, tmp_path / "two", device="cpu,cpu", progress=heard, **settings)  # type: ignore[arg-type]
    assert one.skipped == two.skipped == (("class-1/broken.png", one.skipped[0][1]),)
    assert (two.images, two.computed) == (300, 300)
    assert len(shards(tmp_path / "two")) == 3
    ones, twos = FeatureCache.open(tmp_path / "one"), FeatureCache.open(tmp_path / "two")
    assert shards(tmp_path / "one").keys() == shards(tmp_path / "two").keys()
    digests = [entry.digest for entry in ones.index().entries]
    found, expected = twos.read(digests), ones.read(digests)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()  # with other numbers of threads
    assert heard.total == 301
    assert heard.done == 301
    assert two.shares["base"] > 0


def test_what_is_one_shard_is_computed_here(few: Path, tmp_path: Path) -> None:
    done = extract(few, tmp_path / "cache", base=BASE, weights=WEIGHTS, device="cpu,cpu")
    assert done.computed == 5
    assert len(shards(tmp_path / "cache")) == 1


@pytest.mark.slow
def test_the_time_of_two_passes_is_counted_once(many: Path, tmp_path: Path) -> None:
    done = extract(many, tmp_path / "cache", base=BASE, weights=WEIGHTS, device="cpu,cpu", views=2, on_error="skip")
    assert done.views_computed == 300
    assert done.working < done.seconds


def test_what_is_asked_of_several_devices_is_refused_like_anything(many: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"device 'tpu' is none .* choose auto, cpu, cuda or cuda:1"):
        extract(many, tmp_path / "cache", base=BASE, weights=WEIGHTS, device="cpu,tpu")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_images_that_cannot_be_read_are_named_by_whoever_met_them(many: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImages, match=r"1 of 301 images .*(\n.*)*broken.png"):
        extract(many, tmp_path / "cache", base=BASE, weights=WEIGHTS, device="cpu,cpu")


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_devices("cpu, cpu") == ["cpu", "cpu"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert choose_devices("cuda:all") == ["cuda:0", "cuda:1", "cuda:2"]
    assert choose_devices("cuda:2,cuda:0") == ["cuda:2", "cuda:0"]
    with pytest.raises(BaseError, match="cuda:3 was asked for, and torch sees 3 CUDA devices"):
        choose_devices("cuda:0,cuda:3")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BaseError, match="torch sees 0 CUDA devices"):
        choose_devices("cuda:all")

"""Small real image sets, caches and runs, and the real data where an environment variable names it."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.extraction import extract
from pipeline.fitting import fit_head
from pipeline.scenes import draw_scene

# The same examples at every run, and no clock: a suite that fails must fail again.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

BASE = "squeezenet1_1"  # the fastest of torchvision's networks: 512 features
WEIGHTS = "random:0"
CLASSES = ("beach", "forest", "parkinglot")
PER_CLASS = 10


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image set of 3 classes x 10 images of 64 px; do not write to it."""
    root = tmp_path_factory.mktemp("drawn") / "images"
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for number in range(PER_CLASS):
            draw_scene(label, number, 64).save(root / label / f"{label}{number:02d}.png")
    return root


@pytest.fixture(scope="session")
def extracted(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished feature cache of `drawn`; do not write to it."""
    cache = tmp_path_factory.mktemp("extracted") / "cache"
    extract(drawn, cache, base=BASE, weights=WEIGHTS, device="cpu")
    return cache


@pytest.fixture(scope="session")
def fitted(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of `mlp` (seeds 0 and 1) and `knn` on `extracted`; do not write to them."""
    runs = tmp_path_factory.mktemp("fitted") / "runs"
    fit_head(extracted, runs, head="mlp", seeds=(0, 1), epochs=3, split="60/20/20", jobs=1)
    fit_head(extracted, runs, head="knn", seeds=(0,), split="60/20/20", jobs=1)
    return runs


@pytest.fixture
def images(drawn: Path, tmp_path: Path) -> Path:
    """A copy of `drawn` to change."""
    return Path(shutil.copytree(drawn, tmp_path / "images"))


@pytest.fixture
def cache(extracted: Path, tmp_path: Path) -> Path:
    """A copy of `extracted` to change."""
    return Path(shutil.copytree(extracted, tmp_path / "cache"))


@pytest.fixture
def runs(fitted: Path, tmp_path: Path) -> Path:
    """A copy of `fitted` to change."""
    return Path(shutil.copytree(fitted, tmp_path / "runs"))


def _named(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} names no folder of real data")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with `ucmerced`, `ucmerced-tiff` and `ucmerced-paper-split.csv`."""
    return _named("MANYHEADS_DATA")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """Folder with weights files in torchvision's names."""
    return _named("MANYHEADS_WEIGHTS")

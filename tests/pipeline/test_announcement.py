"""What would be quicker is said once, where it matters, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import announcement
from pipeline.extraction import extract
from pipeline.progress import Silent
from tests.conftest import BASE, WEIGHTS


class Noted(Silent):
    """Progress that remembers its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def images(root: Path, count: int) -> Path:
    random = np.random.default_rng(count)
    for number in range(count):
        (root / f"class-{number % 2}").mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        picture.save(root / f"class-{number % 2}" / f"{count}-{number}.png")
    return root


def quicker(root: Path, cache: Path, **options: str) -> list[str]:
    heard = Noted()
    extract(root, cache, base=BASE, weights=WEIGHTS, device="cpu", progress=heard, **options)  # type: ignore[arg-type]
    return [note for note in heard.notes if "of its own" in note]


@pytest.mark.slow
def test_a_quicker_precision_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        announcement, "quicker_precision", lambda precision, device: "bf16" if precision == "fp32" else None
    )
    root = images(tmp_path / "images", 129)
    (said,) = quicker(root, tmp_path / "cache")
    assert "cpu has bf16 of its own" in said
    assert "--precision bf16" in said
    images(root, 140)
    assert quicker(root, tmp_path / "cache") == []  # it is too late to choose
    assert quicker(images(tmp_path / "few", 5), tmp_path / "other") == []  # it would not matter
    monkeypatch.setattr(announcement, "quicker_precision", lambda precision, device: None)
    assert quicker(images(tmp_path / "more", 130), tmp_path / "third") == []

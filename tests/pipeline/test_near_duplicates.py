"""Near-duplicates: which pairs are looked at, in which order they come, and what is found in real images."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache import Entry
from pipeline.audit import audit
from pipeline.doubt import Audited
from pipeline.extraction import extract
from pipeline.near_duplicates import NEIGHBOURS, NearDuplicate, near_duplicates
from pipeline.progress import SILENT
from pipeline.scenes import draw_scene

KEPT = {1, 2, *range(20, 60), 92}  # numbers of the real images that are looked at
CLASSES = (
    *("airplane", "baseballdiamond", "parkinglot", "sparseresidential", "tenniscourt"),
    *("intersection", "overpass"),
)


def found(root: Path, images: list[Audited]) -> list[NearDuplicate]:
    """Look for near-duplicates among images whose features say nothing."""
    digests = [hashlib.sha256((root / image.path).read_bytes()).hexdigest() for image in images]
    entries = [Entry(image.path, image.label, digest) for image, digest in zip(images, digests, strict=True)]
    features = np.random.default_rng(0).normal(size=(len(images), 8)).astype(np.float32)
    pairs, notes = near_duplicates(entries, images, root, features, 0.8, SILENT)
    assert not notes
    return pairs


def test_pairs_of_test_come_before_those_of_val_and_those_within_a_part_last(tmp_path: Path) -> None:
    images: list[Audited] = []
    for number, parts in enumerate([("train", "train"), ("val", "train"), ("test", "unused"), ("train", "test")]):
        for part in parts:
            path = f"{number}-{len(images)}.png"
            draw_scene("parkinglot", number, 64).save(tmp_path / path)
            images.append(Audited(path, "parkinglot", part))
    pairs = found(tmp_path, images)
    assert [(pair.first.part, pair.second.part) for pair in pairs] == [
        ("train", "test"),
        ("val", "train"),
        ("train", "train"),
        ("test", "unused"),
    ]
    assert [pair.straddles for pair in pairs] == [True, True, False, False]
    assert all(pair.identical and pair.similarity == 1 for pair in pairs)


def test_each_of_very_many_copies_is_paired_with_the_first(tmp_path: Path) -> None:
    images = [Audited(f"{number:02d}.png", "beach", "train") for number in range(2 * NEIGHBOURS)]
    for image in images:
        draw_scene("beach", 0, 64).save(tmp_path / image.path)
    pairs = {(pair.first.path, pair.second.path) for pair in found(tmp_path, images)}
    assert pairs >= {("00.png", image.path) for image in images[1:]}
    assert len(pairs) < len(images) * (len(images) - 1) / 2


@pytest.mark.real
@pytest.mark.slow
def test_the_papers_split_keeps_near_duplicates_of_uc_merced_together(
    real_data: Path, real_weights: Path, tmp_path: Path
) -> None:
    for label in CLASSES:
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in sorted(KEPT):
            name = f"{label}/{label}{number:02d}.jpg"
            shutil.copy(real_data / "ucmerced" / name, tmp_path / "images" / name)
    weights = str(real_weights / "mobilenet_v2-imagenet-base.safetensors")
    extract(tmp_path / "images", tmp_path / "cache", base="mobilenet_v2", weights=weights, device="cpu")
    result = audit(tmp_path / "cache", split="paper")
    assert [(Path(pair.first.path).stem, Path(pair.second.path).stem) for pair in result.pairs] == [
        ("airplane01", "airplane02"),
        ("sparseresidential52", "sparseresidential55"),
        ("tenniscourt37", "tenniscourt44"),
        ("parkinglot24", "parkinglot36"),
        ("baseballdiamond41", "baseballdiamond45"),
        ("parkinglot20", "parkinglot28"),
    ]
    assert [pair.identical for pair in result.pairs] == [True] + [False] * 5
    assert [pair.similarity for pair in result.pairs] == pytest.approx([1, 0.952, 0.896, 0.879, 0.850, 0.847], abs=1e-3)
    assert not any(pair.straddles for pair in result.pairs)
    assert result.tested
    assert result.leaked == 0
    assert ("intersection/intersection92.jpg", "overpass") in {
        (one.image.path, one.suggested) for one in result.doubtful
    }

"""The audit finds what was planted in drawn scenes, and nothing else, and writes where it may."""

import csv
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image, ImageEnhance

from cache import CacheError, FeatureCache, NoRoom
from pipeline.audit import Audit, audit
from pipeline.errors import HeadError, ImageSetError, SplitError
from pipeline.extraction import extract
from pipeline.progress import Silent
from pipeline.scenes import draw_scene
from tests.conftest import BASE, CLASSES, WEIGHTS

UNTRAINED = "the base has random weights, so that a doubt about a label means little"
SIZE = 128
EACH = 8


def edited() -> dict[str, tuple[str, Image.Image]]:
    """Return near-duplicates by the name of their file, each with the name of what it was made from."""
    beach, forest, parking, other = (
        draw_scene(*scene, SIZE) for scene in (("beach", 0), ("forest", 1), ("parkinglot", 2), ("beach", 3))
    )
    crop = ImageEnhance.Brightness(parking).enhance(1.25).crop((1, 0, SIZE - 1, SIZE - 1))
    return {
        "beach/again.jpg": ("beach/0.png", beach),
        "forest/turned.png": ("forest/1.png", forest.transpose(Image.Transpose.ROTATE_90)),
        "parkinglot/cropped.jpg": ("parkinglot/2.png", crop),
        "beach/mirrored.png": ("beach/3.png", other.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        "beach/mislabelled.bmp": ("forest/4.png", draw_scene("forest", 4, SIZE)),
    }


COPIES = {(original, copy) for copy, (original, _) in edited().items()} | {("beach/5.png", "beach/same.png")}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Images, cache and split: scenes of which some come again in another part, edited, once under a wrong label."""
    root = tmp_path_factory.mktemp("planted")
    for label in CLASSES:
        (root / "images" / label).mkdir(parents=True)
        for number in range(EACH):
            draw_scene(label, number, SIZE).save(root / "images" / label / f"{number}.png")
    for name, (_, image) in edited().items():
        image.save(root / "images" / name, quality=60)
    shutil.copy(root / "images/beach/5.png", root / "images/beach/same.png")
    extract(root / "images", root / "cache", base=BASE, weights=WEIGHTS, device="cpu", workers=1)
    parts = {"beach/again.jpg": "test", "forest/turned.png": "test", "parkinglot/cropped.jpg": "val"}
    with (root / "split.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label", "split"])
        for entry in FeatureCache.open(root / "cache").index().entries:
            lines.writerow([entry.path, entry.label, parts.get(entry.path, "test" if "7" in entry.path else "train")])
    return root / "images", root / "cache", root / "split.csv"


@pytest.fixture(scope="module")
def audited(planted: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Audit:
    _, cache, split = planted
    return audit(cache, split=split, out=tmp_path_factory.mktemp("out") / "audit")


def found(result: Audit) -> set[tuple[str, str]]:
    return {(pair.first.path, pair.second.path) for pair in result.pairs}


def test_what_was_planted_is_found_and_nothing_else(audited: Audit) -> None:
    assert {frozenset(pair) for pair in found(audited)} == {frozenset(pair) for pair in COPIES}
    assert audited.notes == (UNTRAINED,)
    assert audited.images == len(CLASSES) * EACH + 6


def test_pairs_across_parts_come_first_and_the_leak_is_counted(audited: Audit) -> None:
    parts = [{pair.first.part, pair.second.part} for pair in audited.pairs]
    assert parts[:3] == [{"test", "train"}, {"test", "train"}, {"val", "train"}]
    assert [pair.straddles for pair in audited.pairs] == [True] * 3 + [False] * 3
    assert (audited.leaked, audited.tested) == (2, 5)


def test_equal_bytes_and_unequal_labels_are_told(audited: Audit) -> None:
    assert [pair.second.path for pair in audited.pairs if pair.identical] == ["beach/same.png"]
    assert [pair.first.path for pair in audited.pairs if pair.labels_differ] == ["beach/mislabelled.bmp"]
    assert [pair.similarity for pair in audited.pairs if pair.identical] == [1]


def test_a_wrong_label_is_doubted_most(audited: Audit) -> None:
    first = audited.doubtful[0]
    assert (first.image.path, first.image.label, first.suggested) == ("beach/mislabelled.bmp", "beach", "forest")
    assert first.probability < first.suggested_probability
    margins = [one.suggested_probability - one.probability for one in audited.doubtful]
    assert margins == sorted(margins, reverse=True)


def test_tables_and_sheets_hold_what_was_found(audited: Audit) -> None:
    assert audited.folder is not None
    with (audited.folder / "near-duplicates.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["path"], line["other_path"]) for line in lines] == [
        (pair.first.path, pair.second.path) for pair in audited.pairs
    ]
    assert [line["straddles"] for line in lines] == ["yes"] * 3 + ["no"] * 3
    with (audited.folder / "doubtful-labels.csv").open(encoding="utf-8", newline="") as file:
        assert [line["suggested"] for line in csv.DictReader(file)] == [one.suggested for one in audited.doubtful]
    for name in ("near-duplicates.png", "doubtful-labels.png"):
        with Image.open(audited.folder / name) as picture:
            assert min(picture.size) > 200


def test_the_same_is_found_again(planted: tuple[Path, Path, Path], audited: Audit) -> None:
    _, cache, split = planted
    again = audit(cache, split=split)
    assert again.folder is None
    assert (again.pairs, again.doubtful) == (audited.pairs, audited.doubtful)


def test_copies_in_test_of_what_is_trained_on_are_counted_however_many(images: Path, tmp_path: Path) -> None:
    for number in range(9):
        shutil.copy(images / "beach/beach00.png", images / f"beach/copy{number}.png")
    extract(images, tmp_path / "copies", base=BASE, weights=WEIGHTS, device="cpu", workers=1)
    split = tmp_path / "split.csv"
    with split.open("w", newline="") as file:
        parts = {f"beach/copy{number}.png": "test" for number in range(9)} | {"beach/beach00.png": "test"}
        parts["beach/copy8.png"] = "train"
        entries = FeatureCache.open(tmp_path / "copies").index().entries
        lines = [(entry.path, entry.label, parts.get(entry.path, "train")) for entry in entries]
        csv.writer(file).writerows([("path", "label", "split"), *lines])
    result = audit(tmp_path / "copies", split=split)
    assert (result.leaked, result.tested) == (9, 9)


def test_an_image_that_is_gone_is_a_note(planted: tuple[Path, Path, Path], tmp_path: Path) -> None:
    images, cache, split = planted
    moved = Path(shutil.copytree(images, tmp_path / "moved"))
    (moved / "beach/again.jpg").unlink()
    (moved / "beach/mislabelled.bmp").write_bytes(b"other")
    result = audit(cache, split=split, images=moved, out=tmp_path / "out")
    gone = {"beach/again.jpg", "beach/mislabelled.bmp"}
    assert {frozenset(pair) for pair in found(result)} == {frozenset(pair) for pair in COPIES if not gone & {*pair}}
    note, _ = result.notes
    assert "2 of 30 images could not be read" in note
    assert "beach/again.jpg: No such file" in note
    assert result.doubtful[0].image.path == "beach/mislabelled.bmp"
    assert (tmp_path / "out/doubtful-labels.png").exists()


def test_an_image_set_that_moved_is_asked_for(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=r"none of them could be read in .*nowhere.*--images DIR"):
        audit(cache, split="60/20/20", images=tmp_path / "nowhere")


def test_nothing_is_written_into_the_image_set(cache: Path, drawn: Path) -> None:
    with pytest.raises(ImageSetError, match="inside the image set"):
        audit(cache, split="60/20/20", out=drawn / "audit")


@pytest.mark.parametrize("inside", [".", "x", "shards/x/y"])
def test_nothing_is_written_into_the_cache(cache: Path, inside: str) -> None:
    before = sorted(cache.rglob("*"))
    with pytest.raises(CacheError) as refused:
        audit(cache, split="60/20/20", out=cache / inside)
    assert str(cache / inside) in str(refused.value)
    assert f"the cache {cache}" in str(refused.value)
    assert sorted(cache.rglob("*")) == before


def test_a_folder_that_holds_the_cache_is_none_of_its_own(cache: Path) -> None:
    assert audit(cache, split="60/20/20", out=cache.parent).folder == cache.parent
    assert (cache.parent / "near-duplicates.csv").exists()


class Idle(Silent):
    """No work may begin."""

    def steps(self, label: str, total: int, unit: str) -> NoReturn:
        """Fail."""
        raise AssertionError(f"{label} began")


@pytest.mark.parametrize("out", ["/proc/audit/deep", "/proc", "/etc/passwd/audit"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(cache: Path, out: str) -> None:
    with pytest.raises(NoRoom, match=rf"{out} (cannot be made or written to|could not be written)"):
        audit(cache, split="60/20/20", out=out, progress=Idle())


@pytest.mark.parametrize("similarity", [0, -0.5, 1.1, float("nan")])
def test_a_similarity_out_of_range_is_refused(cache: Path, similarity: float) -> None:
    with pytest.raises(HeadError, match="above 0 and at most 1"):
        audit(cache, similarity=similarity)


def test_a_cache_without_an_index_is_refused(cache: Path) -> None:
    (cache / "index.h5").unlink()
    with pytest.raises(CacheError, match="extract"):
        audit(cache)


def test_features_that_do_not_fit_into_memory_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.audit.free_memory", lambda: 1000)
    with pytest.raises(CacheError, match=r"30 images with 512 numbers each need .* are free"):
        audit(cache, split="60/20/20")


def test_one_class_is_refused(images: Path, tmp_path: Path) -> None:
    for label in CLASSES[1:]:
        shutil.rmtree(images / label)
    extract(images, tmp_path / "one", base=BASE, weights=WEIGHTS, device="cpu", workers=1)
    with pytest.raises(SplitError, match="one class"):
        audit(tmp_path / "one")


def test_classes_of_one_or_two_images_are_skipped_or_judged(images: Path, tmp_path: Path) -> None:
    for name, kept in (("beach", 1), ("forest", 2)):
        for image in sorted((images / name).iterdir())[kept:]:
            image.unlink()
    extract(images, tmp_path / "few", base=BASE, weights=WEIGHTS, device="cpu", workers=1)
    split = tmp_path / "split.csv"
    with split.open("w", newline="") as file:
        lines = [(entry.path, entry.label, "train") for entry in FeatureCache.open(tmp_path / "few").index().entries]
        csv.writer(file).writerows([("path", "label", "split"), *lines])
    result = audit(tmp_path / "few", split=split)
    assert result.notes == ("labels of classes with a single image cannot be judged: beach", UNTRAINED)
    assert result.tested == 0
    assert result.accuracy is not None

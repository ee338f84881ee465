"""The audit finds what was planted in drawn scenes, and nothing else; the measure behind it keeps its laws."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from cache import CacheError, FeatureCache
from pipeline.audit import Audit, audit
from pipeline.doubt import out_of_sample, suggestions
from pipeline.errors import HeadError, ImageSetError, SplitError
from pipeline.extraction import extract
from pipeline.perceptual import centred, details, neighbours, resemblance, thumbnail
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


# The measure

TURNS = [None, *Image.Transpose]


@given(name=st.sampled_from(CLASSES), seed=st.integers(0, 50), turn=st.sampled_from(TURNS))
@settings(max_examples=20)
def test_an_image_and_its_own_turn_are_the_same(name: str, seed: int, turn: Image.Transpose | None) -> None:
    image = draw_scene(name, seed, 64)
    turned = image if turn is None else image.transpose(turn)
    first, second = details(np.stack([thumbnail(image), thumbnail(turned)]))
    assert resemblance(first[None], second[None])[0] == pytest.approx(1, abs=1e-4)


@given(seeds=st.lists(st.integers(0, 50), min_size=2, max_size=2), names=st.tuples(*[st.sampled_from(CLASSES)] * 2))
@settings(max_examples=20)
def test_the_order_of_two_images_makes_no_difference(seeds: list[int], names: tuple[str, str]) -> None:
    looks = details(np.stack([thumbnail(draw_scene(*one, 64)) for one in zip(names, seeds, strict=True)]))
    there, back = resemblance(looks[:1], looks[1:]), resemblance(looks[1:], looks[:1])
    assert there == pytest.approx(back, abs=1e-4)
    assert 0 <= there[0] <= 1


def test_a_shifted_cut_of_the_same_ground_is_alike_and_other_ground_is_not() -> None:
    ground, other = draw_scene("parkinglot", 0, 256), draw_scene("parkinglot", 1, 256)
    cuts = [ground.crop((0, 0, 192, 192)), ground.crop((64, 30, 256, 222)), other.crop((0, 0, 192, 192))]
    looks = details(np.stack([thumbnail(cut) for cut in cuts]))
    same, different = resemblance(looks[[0, 0]], looks[[1, 2]])
    assert same > 0.8 > different


def test_what_shows_nothing_is_like_nothing() -> None:
    grey = np.full((1, 64, 64), 128, np.uint8)
    noise = np.random.default_rng(0).integers(127, 129, (1, 64, 64)).astype(np.uint8)
    for blank in (details(grey), details(noise)):
        assert not blank.any()
        assert resemblance(blank, blank) == [0]
    assert resemblance(details(grey[:0]), details(grey[:0])).shape == (0,)


@given(
    shape=st.tuples(st.integers(2, 40), st.integers(1, 8)),
    block=st.integers(1, 500),
    count=st.integers(1, 6),
)
def test_the_size_of_blocks_changes_no_neighbour(shape: tuple[int, int], block: int, count: int) -> None:
    rows = centred(np.random.default_rng(shape[0]).normal(size=shape).astype(np.float32))

    def of_all(size: int) -> list[list[float]]:
        found = np.concatenate([found for _, found in neighbours(rows, count, size)])
        return [sorted((rows[row] @ rows[others].T).tolist()) for row, others in enumerate(found)]

    np.testing.assert_allclose(of_all(block), of_all(10**6), atol=1e-5)


def test_no_image_is_its_own_neighbour() -> None:
    rows = centred(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    for start, others in neighbours(rows, 8, 30):
        for row, found in enumerate(others, start):
            assert sorted(found) == [other for other in range(9) if other != row]


# Doubt


@given(st.integers(0, 100))
def test_a_suggestion_is_likelier_than_the_label_and_sure_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, codes = rng.dirichlet(np.ones(4) / 2, 60), np.arange(60) % 4
    means = [probabilities[codes == code, code].mean() for code in range(4)]
    for row, (own, other) in enumerate(zip(codes, suggestions(probabilities, codes), strict=True)):
        doubts = [one for one in range(4) if probabilities[row, one] > probabilities[row, own]]
        sure = [one for one in doubts if probabilities[row, one] >= means[one]]
        assert other == (max(sure, key=lambda one: probabilities[row, one]) if sure else own)


def test_probabilities_are_from_models_that_did_not_see_the_image() -> None:
    rng = np.random.default_rng(0)
    rows, codes = rng.normal(size=(60, 400)).astype(np.float32), np.arange(60) % 3
    probabilities = out_of_sample(rows, codes)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(60))
    assert (probabilities.argmax(axis=1) == codes).mean() < 0.6, "400 numbers tell 60 images apart only by heart"


@pytest.mark.real
@pytest.mark.slow
def test_the_papers_split_keeps_near_duplicates_of_uc_merced_together(
    real_data: Path, real_weights: Path, tmp_path: Path
) -> None:
    weights = str(real_weights / "mobilenet_v2-imagenet-base.safetensors")
    extract(real_data / "ucmerced", tmp_path / "cache", base="mobilenet_v2", weights=weights, device="cpu")
    result = audit(tmp_path / "cache", split="paper")
    assert [(Path(pair.first.path).stem, Path(pair.second.path).stem) for pair in result.pairs] == [
        ("airplane01", "airplane02"),
        ("sparseresidential52", "sparseresidential55"),
        ("tenniscourt37", "tenniscourt44"),
        ("parkinglot24", "parkinglot36"),
        ("baseballdiamond41", "baseballdiamond45"),
        ("parkinglot20", "parkinglot28"),
    ]
    assert (result.leaked, result.tested) == (0, 210)
    assert [pair.identical for pair in result.pairs] == [True] + [False] * 5
    assert not any(pair.straddles for pair in result.pairs)
    assert ("intersection/intersection92.jpg", "overpass") in {
        (one.image.path, one.suggested) for one in result.doubtful
    }

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cache.errors import NoRoom
from pipeline.errors import ImageSetError
from pipeline.scenes import CLASSES, draw_image_set, draw_scene

SMALL = 48


def digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_there_are_ten_classes_or_more_in_the_order_of_an_image_set() -> None:
    assert len(CLASSES) >= 10
    assert list(CLASSES) == sorted(set(CLASSES))


@pytest.mark.parametrize("name", CLASSES)
def test_a_scene_is_a_picture_of_the_size_asked_for(name: str) -> None:
    image = draw_scene(name, seed=1)
    assert (image.mode, image.size) == ("RGB", (256, 256))
    assert np.asarray(image).std() > 5, "an image of nothing"


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(CLASSES), seed=st.integers(0, 2**63), size=st.integers(32, 90))
def test_a_scene_is_a_pure_function_of_its_arguments(name: str, seed: int, size: int) -> None:
    image = draw_scene(name, seed, size)
    assert image.size == (size, size)
    assert image.tobytes() == draw_scene(name, seed, size).tobytes()


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(CLASSES), seeds=st.lists(st.integers(0, 2**40), min_size=2, max_size=2, unique=True))
def test_another_seed_is_another_scene(name: str, seeds: list[int]) -> None:
    first, second = (draw_scene(name, seed, SMALL) for seed in seeds)
    assert first.tobytes() != second.tobytes()


def test_an_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ImageSetError, match=r"'volcano'.*agricultural, .*storagetanks"):
        draw_scene("volcano", 0)


@pytest.mark.parametrize(("seed", "size"), [(0, -1), (0, 31), (-1, 64)])
def test_a_size_too_small_and_a_negative_seed_are_refused(seed: int, size: int) -> None:
    with pytest.raises(ImageSetError, match=f"{size} pixels across from seed {seed};"):
        draw_scene("forest", seed, size)


def test_an_image_set_is_a_folder_a_class_with_numbered_jpegs(tmp_path: Path) -> None:
    assert draw_image_set(tmp_path / "new" / "set", per_class=2, size=SMALL) == 2 * len(CLASSES)
    expected = {f"{name}/{name}{number:02}.jpg" for name in CLASSES for number in range(2)}
    found = digests(tmp_path / "new" / "set")
    assert set(found) == expected
    assert len(set(found.values())) == len(expected), "two files hold the same image"
    with Image.open(tmp_path / "new" / "set" / "river" / "river01.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SMALL, SMALL))


def test_images_that_exist_are_left_alone_and_missing_ones_are_the_same_again(tmp_path: Path) -> None:
    draw_image_set(tmp_path, per_class=2, size=SMALL)
    before = digests(tmp_path)
    kept, lost = tmp_path / "beach" / "beach00.jpg", tmp_path / "harbor" / "harbor01.jpg"
    kept.write_bytes(b"mine")
    lost.unlink()
    assert draw_image_set(tmp_path, per_class=2, size=SMALL) == 1
    assert kept.read_bytes() == b"mine"
    after = digests(tmp_path)
    assert {path for path in before if before[path] != after[path]} == {"beach/beach00.jpg"}


def test_an_image_set_grows_and_its_seeds_share_no_image(tmp_path: Path) -> None:
    draw_image_set(tmp_path / "a", per_class=1, size=32)
    first = digests(tmp_path / "a")
    draw_image_set(tmp_path / "a", per_class=2, size=32)
    draw_image_set(tmp_path / "b", per_class=2, size=32, seed=1)
    grown, other = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert first.items() <= grown.items()
    assert not set(grown.values()) & set(other.values())


def test_images_numbered_to_another_width_are_refused(tmp_path: Path) -> None:
    draw_image_set(tmp_path, per_class=1, size=32)
    (tmp_path / "river" / "river00 copy.jpg").touch()
    before = digests(tmp_path)
    assert draw_image_set(tmp_path, per_class=1, size=32) == 0
    with pytest.raises(ImageSetError, match=r"101 images a class.*agricultural00\.jpg.*another folder"):
        draw_image_set(tmp_path, per_class=101, size=32)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("per_class", [-1, 0, 10**6 + 1])
def test_a_number_out_of_range_is_refused(per_class: int, tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=f"{per_class} images a class"):
        draw_image_set(tmp_path / "set", per_class=per_class)
    assert not (tmp_path / "set").exists()


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NoRoom, match=r"agricultural00\.jpg"):
        draw_image_set(tmp_path / "file", per_class=1, size=32)


def test_colour_helps_but_does_not_tell_the_classes() -> None:
    """Five neighbours on means, then on means and deviations, of the channels: far above chance, far below solved."""
    images = [np.asarray(draw_scene(name, seed, 96), np.float64) for name in CLASSES for seed in range(20)]
    labels = np.repeat(CLASSES, 20)
    means = np.stack([image.mean(axis=(0, 1)) for image in images])
    deviations = np.stack([image.std(axis=(0, 1)) for image in images])
    mean_accuracy, recalls = _neighbours(means, labels)
    both_accuracy, _ = _neighbours(np.hstack([means, deviations]), labels)
    chance = 1 / len(CLASSES)
    assert 2 * chance < mean_accuracy < 0.6
    assert 3 * chance < both_accuracy < 0.8
    assert max(recalls) < 0.9, f"mean colour alone tells {CLASSES[int(np.argmax(recalls))]}"


def _neighbours(features: npt.NDArray[np.float64], labels: npt.NDArray[np.str_]) -> tuple[float, list[float]]:
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(5))
    right = cross_val_predict(model, features, labels, cv=5) == labels
    return float(right.mean()), [float(right[labels == name].mean()) for name in CLASSES]

"""Which images get views, when they are computed, and that each depends on its image's content and number alone."""

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from cache import FeatureCache, RecipeMismatch
from cache.description import describe
from cache.recipe import RecipeFile
from cli import main
from pipeline.augmentation import AUGMENTATION, view_of
from pipeline.base import load_base
from pipeline.decode import decode
from pipeline.errors import ImageSetError, SplitError, UnreadableImages
from pipeline.scenes import draw_scene
from pipeline.split import make_split
from tests.conftest import BASE, CLASSES, PER_CLASS, WEIGHTS
from tests.pipeline.test_extraction import Heard, rows, shard_files, spoil, take

ROOT = Path(__file__).parents[2]
ALL = len(CLASSES) * PER_CLASS


@pytest.fixture
def six(drawn: Path, tmp_path: Path) -> Path:
    """The first two images of each class."""
    return copied(drawn, tmp_path / "six", {label: [f"{label}00.png", f"{label}01.png"] for label in CLASSES})


def copied(source: Path, target: Path, files: dict[str, list[str]]) -> Path:
    """Copy images into folders: folder of the target -> names in the class folders of the source."""
    for folder, names in files.items():
        (target / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(next(source.rglob(name)), target / folder)
    return target


def views(cache: Path) -> dict[tuple[str, int], npt.NDArray[np.floating]]:
    """Return (digest, view) -> feature, for all that the shards hold."""
    held = FeatureCache.open(cache)
    keys = [key for shard in held.shards() for key in zip(shard.digests, shard.views, strict=True)]
    assert len(set(keys)) == len(keys)
    read = held.read([digest for digest, _ in keys], views=[view for _, view in keys])
    return dict(zip(keys, read, strict=True))


def viewed(cache: Path, count: int) -> set[str]:
    """Return the paths of images that have so many views; all others must have one."""
    held = FeatureCache.open(cache)
    found = held.views()
    assert set(found.values()) <= {1, count}
    return {entry.path for entry in held.index().entries if found[entry.digest] == count}


def trained(cache: Path, split: str | Path | None, seed: int = 0) -> set[str]:
    """Return the paths of images that `fit_head` would train on."""
    index = FeatureCache.open(cache).index()
    return {index.entries[row].path for row in make_split(index, split, seed).rows["train"]}


def test_features_are_those_of_the_views_of_the_files(six: Path, tmp_path: Path) -> None:
    result = take(six, tmp_path / "cache", views=3)
    assert (result.computed, result.views, result.viewed, result.views_computed) == (6, 3, 6, 12)
    found = views(tmp_path / "cache")
    base = load_base(BASE, WEIGHTS)
    assert len(found) == 18
    for entry in FeatureCache.open(tmp_path / "cache").index().entries:
        image = decode((six / entry.path).read_bytes())
        for number in range(3):
            expected = base.features(view_of(image, entry.digest, number, base.transform)[None])[0]
            assert np.abs(found[entry.digest, number] - expected).max() <= 1e-5 * np.abs(expected).max()
    assert len({feature.tobytes() for feature in found.values()}) == 18
    with h5py.File(tmp_path / "cache" / "index.h5") as file:
        assert file["features"].shape == (6, 512)  # index.h5 holds view 0, whatever else there is


def test_more_views_reuse_those_that_are_there_and_fewer_leave_them(six: Path, tmp_path: Path) -> None:
    grown, once = tmp_path / "grown", tmp_path / "once"
    take(six, grown, batch_size=1)
    plain = shard_files(grown)
    for count, computed in ((4, 18), (6, 12)):
        result = take(six, grown, views=count, batch_size=1)
        assert (result.computed, result.views_computed, result.viewed) == (0, computed, 6)
    before = shard_files(grown) | {"index.h5": (grown / "index.h5").read_bytes()}
    assert plain.items() <= before.items()
    for count in (6, 2, 1):
        heard = Heard()
        result = take(six, grown, views=count, progress=heard)
        assert (result.computed, result.views_computed, result.viewed) == (0, 0, 6 if count > 1 else 0)
        assert [line for line in heard.said if not line.startswith("reading")] == []
    assert before == shard_files(grown) | {"index.h5": (grown / "index.h5").read_bytes()}

    take(six, once, views=6, batch_size=1)
    assert plain.items() <= shard_files(once).items()  # view 0 is cut and computed as if there were no views
    found, expected = views(grown), views(once)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert describe(grown).views == describe(once).views == {6: 6}
    assert describe(grown).features == 36


def test_a_view_depends_neither_on_names_nor_on_the_other_images(six: Path, tmp_path: Path) -> None:
    take(six, tmp_path / "one", views=3, batch_size=1)
    other = copied(six, tmp_path / "other", {"x": ["forest01.png"], "y": ["beach01.png"]})
    (other / "y" / "beach01.png").rename(other / "y" / "a.png")
    draw_scene("beach", 77, 64).save(other / "y" / "b.png")
    take(other, tmp_path / "two", views=3, batch_size=1)
    one, two = views(tmp_path / "one"), views(tmp_path / "two")
    both = one.keys() & two.keys()
    assert len(both) == 6
    assert all(np.array_equal(one[key], two[key]) for key in both)


def test_workers_change_no_bit_and_batches_the_last_ones(six: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        take(six, tmp_path / str(workers), views=3, workers=workers)
    assert shard_files(tmp_path / "1") == shard_files(tmp_path / "3")
    take(six, tmp_path / "batch", views=3, batch_size=5)
    one, other = views(tmp_path / "1"), views(tmp_path / "batch")
    assert one.keys() == other.keys()
    assert all(np.abs(one[key] - other[key]).max() <= 1e-5 * np.abs(one[key]).max() for key in one)


def test_a_removed_shard_of_views_is_computed_again(six: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    take(six, cache, views=3)
    files = shard_files(cache)
    (gone,) = (shard.path for shard in FeatureCache.open(cache).shards() if max(shard.views))
    gone.unlink()
    result = take(six, cache, views=3)
    assert (result.computed, result.views_computed) == (0, 12)
    assert shard_files(cache) == files


@pytest.mark.parametrize(("split", "seed"), [("60/20/20", 0), ("60/20/20", 3), ("paper", 0), ("csv", 0)])
def test_only_the_images_that_a_split_trains_get_views(
    drawn: Path, cache: Path, tmp_path: Path, split: str, seed: int
) -> None:
    plain = rows(cache)
    given: str | Path = split
    if split == "csv":
        given = tmp_path / "split.csv"
        lines = [
            (f"{label}/{label}{n:02d}.png", label, ("val", "test", "train")[n % 3])
            for label in CLASSES
            for n in range(10)
        ]
        with given.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "split"), *lines])
    # The paper trains on nearly all of the first ten images of a class: two views are enough to see it.
    heard = Heard()
    result = take(drawn, cache, views=2, split=given, split_seed=seed, progress=heard)
    expected = trained(cache, given, seed)
    assert viewed(cache, 2) == expected
    assert 0 < len(expected) == result.viewed == result.views_computed < ALL + (split == "paper")
    assert not any("no split is known" in line for line in heard.said)
    assert all(np.array_equal(feature, plain[path]) for path, feature in rows(cache).items())


def test_only_the_training_images_of_a_set_that_came_split_get_views(drawn: Path, tmp_path: Path) -> None:
    numbers = {"train": (0, 1), "val": (2,), "test": (3,)}
    files = {
        f"{part}/{label}": [f"{label}{n:02d}.png" for n in some] for part, some in numbers.items() for label in CLASSES
    }
    images, cache = copied(drawn, tmp_path / "split", files), tmp_path / "cache"
    result = take(images, cache, views=2)
    assert (result.images, result.viewed, result.views_computed) == (12, 6, 6)
    assert viewed(cache, 2) == trained(cache, None) == {path for path in rows(cache) if path.startswith("train/")}
    # Another split of the same images may be asked for.
    assert take(images, cache, views=2, split="50/25/25").viewed == 6
    assert viewed(cache, 2) >= trained(cache, "50/25/25")


def test_without_a_split_all_images_get_views_and_that_is_said(six: Path, tmp_path: Path) -> None:
    heard = Heard()
    take(six, tmp_path / "cache", views=2, progress=heard)
    assert "no split is known, so all images get views; with --split only the training images do" in heard.said
    assert len(viewed(tmp_path / "cache", 2)) == 6


def test_an_image_twice_gets_its_views_once(drawn: Path, tmp_path: Path) -> None:
    numbers = {"train": (0, 1), "test": (2,)}
    files = {
        f"{part}/{label}": [f"{label}{n:02d}.png" for n in some] for part, some in numbers.items() for label in CLASSES
    }
    images, cache = copied(drawn, tmp_path / "split", files), tmp_path / "cache"
    shutil.copy(images / "train" / "beach" / "beach00.png", images / "test" / "beach" / "twin.png")
    shutil.copy(images / "train" / "beach" / "beach01.png", images / "train" / "beach" / "again.png")
    result = take(images, cache, views=3)
    assert (result.images, result.computed, result.viewed, result.views_computed) == (11, 9, 7, 12)
    assert sum(number > 0 for _, number in views(cache)) == 12
    assert describe(cache).views == {3: 8, 1: 3}


def test_size_and_room_count_the_views(drawn: Path, tmp_path: Path) -> None:
    heard = Heard()
    cache = tmp_path / "cache"
    images = copied(drawn, tmp_path / "images", {label: [f"{label}00.png", f"{label}01.png"] for label in CLASSES})
    take(images, cache, views=3, progress=heard)
    said = [line for line in heard.said if "will be added" in line or line.startswith("extracting")]
    assert said[0].startswith("0 images are cached; (6 features + 6 x 2 views) x 512 float32 = 36.9 kB will be added")
    assert said[1:] == ["extracting 6 images", "extracting 12 views"]
    shutil.copy(drawn / "beach" / "beach02.png", images / "beach")
    heard = Heard()
    take(images, cache, views=4, progress=heard)
    assert any("6 images are cached; (1 features + 9 views) x 512" in line for line in heard.said)


def test_nothing_is_computed_twice_and_torch_stays_out(drawn: Path, tmp_path: Path) -> None:
    numbers = {"train": (0, 1, 2), "test": (3,)}
    files = {
        f"{part}/{label}": [f"{label}{n:02d}.png" for n in some] for part, some in numbers.items() for label in CLASSES
    }
    images, cache = copied(drawn, tmp_path / "split", files), tmp_path / "cache"
    take(images, cache, views=2)
    take(images, cache, views=2, split="75/25/0")
    before = shard_files(cache) | {"index.h5": (cache / "index.h5").read_bytes()}
    for extra, heavy in (([], "False False"), (["--split", "75/25/0"], "False True")):
        command = ["extract", str(images), str(cache), "--base", BASE, "--weights", WEIGHTS, "--views", "2", *extra]
        code = (
            f"import sys, cli; cli.main({command!r}, standalone_mode=False); "
            "print('torch' in sys.modules, 'sklearn' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "0 computed, 12 cached; 2 views of 9 images, 0 computed" in done.stdout
        assert done.stdout.splitlines()[-1] == heavy
        assert done.stderr == ""
    assert before == shard_files(cache) | {"index.h5": (cache / "index.h5").read_bytes()}


def test_the_next_command_fits_with_these_views(drawn: Path, cache: Path) -> None:
    command = ["extract", str(drawn), str(cache), "--base", BASE, "--weights", WEIGHTS, "--views", "2"]
    done = CliRunner().invoke(main, [*command, "--split", "60/20/20", "--split-seed", "3"])
    assert f"{cache}: 0 computed, {ALL} cached; 2 views of 18 images, 18 computed; 512 float32" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("next: "))
    assert line.endswith(f" fit-head {cache} RUNS --use-views 2 --split 60/20/20 --split-seed 3")
    shown = CliRunner().invoke(main, ["cache", "info", str(cache)])
    assert f"{ALL + 18} features in 2 shards" in shown.stdout
    assert "views: 2 of 18 images, 1 of 12 images" in shown.stdout


def test_a_split_that_does_not_fit_is_refused_before_the_work(six: Path, tmp_path: Path) -> None:
    for split, said in (
        ("absent.csv", "absent.csv"),
        ("own", "no split of its own"),
        ("100/0/0", "nothing to train or"),
    ):
        heard = Heard()
        with pytest.raises(SplitError, match=said):
            take(six, tmp_path / "cache", views=2, split=split, progress=heard)
        assert not any(line.startswith("extracting") for line in heard.said)
    assert not (tmp_path / "cache" / "shards").exists()


def test_views_wait_until_it_is_known_which_images_there_are(images: Path, tmp_path: Path) -> None:
    broken, cache = spoil(images), tmp_path / "cache"
    heard = Heard()
    with pytest.raises(UnreadableImages, match=f"3 of {ALL + 1} images"):
        take(images, cache, views=2, split="60/20/20", progress=heard)
    assert not any("extracting" in line and line.endswith("views") for line in heard.said)
    assert {view for _, view in views(cache)} == {0}

    result = take(images, cache, views=2, split="60/20/20", on_error="skip")
    assert (result.computed, result.images) == (0, ALL - 2)
    assert [path for path, _ in result.skipped] == sorted(broken)
    assert viewed(cache, 2) == trained(cache, "60/20/20")
    assert len(viewed(cache, 2)) == result.viewed == result.views_computed


def test_a_csv_may_leave_out_what_could_not_be_read(images: Path, cache: Path, tmp_path: Path) -> None:
    spoil(images)
    take(images, cache, on_error="skip")
    entries = FeatureCache.open(cache).index().entries
    lines = [(entry.path, entry.label, ("train", "test")[n % 2]) for n, entry in enumerate(entries)]
    with (tmp_path / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *lines])
    take(images, cache, views=2, split=tmp_path / "split.csv", on_error="skip")
    assert viewed(cache, 2) == {path for path, _, part in lines if part == "train"}


class Removing(Heard):
    """Removes a file when the views begin."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        if unit == "views":
            self.path.unlink()
        yield lambda done: None


def test_a_file_that_goes_before_its_views_is_told(six: Path, tmp_path: Path) -> None:
    cache, gone = tmp_path / "cache", six / "beach" / "beach01.png"
    kept = gone.read_bytes()
    with pytest.raises(UnreadableImages, match=r"1 of 6 images .*\n  beach/beach01.png: No such file or directory"):
        take(six, cache, views=3, progress=Removing(gone))
    assert not (cache / "index.h5").exists()
    gone.write_bytes(kept)
    result = take(six, cache, views=4, on_error="skip", progress=Removing(gone))
    assert (result.images, result.viewed, result.views_computed) == (5, 5, 5)
    assert result.skipped == (("beach/beach01.png", "No such file or directory"),)
    assert "beach/beach01.png" not in rows(cache)
    gone.write_bytes(kept)
    result = take(six, cache, views=4)
    assert (result.images, result.computed, result.viewed, result.views_computed) == (6, 0, 6, 3)
    assert describe(cache).views == {4: 6}


def test_no_readable_image_at_all(six: Path, tmp_path: Path) -> None:
    for path in six.rglob("*.png"):
        path.write_bytes(b"<html>not found</html>" + path.name.encode())
    for _ in range(2):
        with pytest.raises(ImageSetError, match="None of the 6 images"):
            take(six, tmp_path / "cache", views=2, split="50/50/0")


def test_views_of_another_meaning_are_refused(six: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    take(six, cache)
    file = RecipeFile.read(cache)
    assert file.recipe.views == AUGMENTATION.as_dict()
    older = {**AUGMENTATION.as_dict(), "version": 0}
    fields = {**file.recipe.as_dict(), "views": older}
    digest = fields.pop("digest")
    recipe = type(file.recipe)(**fields)
    assert recipe.digest != digest
    RecipeFile(recipe, {**file.made_from, "views": "0"}).write(cache)
    with pytest.raises(RecipeMismatch, match=r"views\.version is 0, asked 1"):
        take(six, cache)

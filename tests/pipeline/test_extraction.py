"""What an extraction computes, what it keeps, what it refuses; on real images, with a real network."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from cache import CacheError, FeatureCache, ManyheadsError, NoRoom, RecipeMismatch
from cache.description import describe
from cli import main
from pipeline.changes import Changes
from pipeline.errors import BaseError, ImageSetError, UnreadableImages, WeightsError
from pipeline.extraction import Extraction, extract
from pipeline.progress import Silent
from pipeline.scenes import draw_scene
from tests.conftest import BASE, CLASSES, PER_CLASS, WEIGHTS

ROOT = Path(__file__).parents[2]
ALL = len(CLASSES) * PER_CLASS


def take(images: Path, cache: Path, **options: Any) -> Extraction:
    return extract(images, cache, **{"base": BASE, "weights": WEIGHTS, "device": "cpu", **options})


def rows(cache: Path) -> dict[str, npt.NDArray[np.floating]]:
    """Return path -> feature, as another tool reads them."""
    with h5py.File(cache / "index.h5") as file:
        return dict(zip(file["paths"].asstr()[:], file["features"][:], strict=True))


def labels(cache: Path) -> dict[str, str]:
    with h5py.File(cache / "index.h5") as file:
        classes = file["labels"].attrs["classes"]
        return {path: classes[label] for path, label in zip(file["paths"].asstr()[:], file["labels"][:], strict=True)}


def shard_files(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cache / "shards").iterdir()}


class Heard(Silent):
    """Progress that remembers, in order, what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        self.said.append(f"{label} {total} {unit}")
        yield lambda done: None


@pytest.fixture
def few(drawn: Path, tmp_path: Path) -> Path:
    """The first image of each class."""
    for label in CLASSES:
        (tmp_path / "few" / label).mkdir(parents=True)
        shutil.copy(drawn / label / f"{label}00.png", tmp_path / "few" / label)
    return tmp_path / "few"


def test_features_are_those_of_torchvisions_own_network(drawn: Path, extracted: Path) -> None:
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        network = models.squeezenet1_1(weights=None).eval()
        preset = models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()
        pooled = torch.nn.AdaptiveAvgPool2d(1)
        paths = sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob("*.png"))
        some = paths[::3]
        expected = [
            pooled(network.features(preset(Image.open(drawn / path).convert("RGB"))[None])).flatten().numpy()
            for path in some
        ]
    found = rows(extracted)
    assert list(found) == paths
    features = np.stack([found[path] for path in some])
    assert features.dtype == np.float32
    assert np.abs(features - np.stack(expected)).max() <= 1e-5 * np.abs(features).max()
    assert labels(extracted) == {path: path.split("/")[0] for path in paths}
    assert not np.isnan(features).any()


def test_nothing_is_computed_twice_and_torch_stays_out(drawn: Path, cache: Path) -> None:
    before = shard_files(cache) | {"index.h5": (cache / "index.h5").read_bytes()}
    command = ["extract", str(drawn), str(cache), "--base", BASE, "--weights", WEIGHTS]
    code = f"import sys, cli; cli.main({command!r}, standalone_mode=False); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"0 computed, {ALL} cached" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
    assert "will be added" not in done.stderr
    assert before == shard_files(cache) | {"index.h5": (cache / "index.h5").read_bytes()}


def test_an_image_that_takes_anothers_place_is_known_by_its_content(images: Path, cache: Path) -> None:
    was = rows(cache)
    (images / "beach" / "beach00.png").replace(images / "beach" / "beach01.png")
    result = take(images, cache)
    assert (result.changes, result.computed) == (Changes(0, 1, 0, 1), 0)
    assert bool(result.changes)
    assert not Changes(0, 0, 0, 0)
    assert np.array_equal(rows(cache)["beach/beach01.png"], was["beach/beach00.png"])


def test_another_recipe_is_refused_by_all_its_fields(drawn: Path, cache: Path) -> None:
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    with pytest.raises(RecipeMismatch) as refused:
        take(drawn, cache, base="vgg16", precision="bf16", store="float16")
    message = str(refused.value)
    for field in ("base is squeezenet1_1, asked vgg16", "precision is fp32, asked bf16", "storage is float32, asked"):
        assert field in message
    assert message.count(", asked ") == 3
    assert str(cache) in message
    assert "another folder" in message
    assert before == {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_a_split_set_keeps_its_parts(drawn: Path, cache: Path, tmp_path: Path) -> None:
    parts = {"train": range(6), "valid": range(6, 8), "test": range(8, PER_CLASS)}
    for part, numbers in parts.items():
        for label in CLASSES:
            (tmp_path / "split" / part / label).mkdir(parents=True)
            for number in numbers:
                shutil.copy(drawn / label / f"{label}{number:02d}.png", tmp_path / "split" / part / label)
    result = take(tmp_path / "split", cache)
    assert (result.computed, result.changes) == (0, Changes(0, ALL, 0, 0))
    entries = FeatureCache.open(cache).index().entries
    assert all(entry.part == entry.path.split("/")[0].removesuffix("id") for entry in entries)
    assert {entry.label for entry in entries} == set(CLASSES)
    assert describe(cache).parts == {"train": 18, "val": 6, "test": 6}


def test_the_same_tensors_in_another_file_are_the_same_weights(few: Path, tmp_path: Path) -> None:
    state = models.squeezenet1_1(weights=None).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    save_file(state, tmp_path / "tuned.safetensors")
    first = take(few, tmp_path / "cache", weights=str(tmp_path / "weights.pth"))
    second = take(few, tmp_path / "cache", weights=str(tmp_path / "tuned.safetensors"))
    assert (first.computed, second.computed, second.cached) == (3, 0, 3)
    assert first.recipe["digest"] == second.recipe["digest"]
    assert second.recipe["weights"] == str(tmp_path / "tuned.safetensors")
    state["features.0.bias"][0] += 1
    save_file(state, tmp_path / "tuned.safetensors")
    with pytest.raises(RecipeMismatch, match="weights_digest"):
        take(few, tmp_path / "cache", weights=str(tmp_path / "tuned.safetensors"))


def test_half_storage_is_the_nearest_half_float(few: Path, extracted: Path, tmp_path: Path) -> None:
    result = take(few, tmp_path / "cache", store="float16", batch_size=1)
    assert result.recipe["storage"] == "float16"
    whole = rows(extracted)
    for path, half in rows(tmp_path / "cache").items():
        assert half.dtype == np.float16
        # Another batch size may round the last bit of a float32 otherwise.
        assert np.allclose(half.astype(np.float32), whole[path], rtol=2**-11 + 1e-5, atol=2**-24)


def test_features_do_not_depend_on_workers(drawn: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        take(drawn, tmp_path / str(workers), workers=workers)
    assert shard_files(tmp_path / "1") == shard_files(tmp_path / "3")


def test_identical_bytes_are_computed_once(few: Path, tmp_path: Path) -> None:
    shutil.copy(few / "beach" / "beach00.png", few / "forest" / "twin.png")
    result = take(few, tmp_path / "cache")
    assert (result.images, result.computed, result.cached, result.changes) == (4, 3, 1, None)
    found = rows(tmp_path / "cache")
    assert np.array_equal(found["beach/beach00.png"], found["forest/twin.png"])
    assert labels(tmp_path / "cache")["forest/twin.png"] == "forest"
    assert describe(tmp_path / "cache").features == 3


def test_removed_shards_leave_no_gap_in_the_index(few: Path, drawn: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    take(few, cache)
    shutil.copy(drawn / "beach" / "beach01.png", few / "beach")
    take(few, cache)
    whole = rows(cache)
    assert len(shard_files(cache)) == 2
    shutil.rmtree(cache / "shards")
    assert take(few, cache).computed == 4
    assert len(shard_files(cache)) == 1  # cut otherwise than before, so that the old index names shards that are gone
    for path, feature in rows(cache).items():
        assert np.allclose(feature, whole[path], rtol=1e-4, atol=1e-6)


def spoil(images: Path) -> dict[str, str]:
    """Break three images in three ways; return path -> a word of the reason."""
    (images / "beach" / "beach03.png").write_bytes((images / "beach" / "beach03.png").read_bytes()[:200])
    (images / "forest" / "forest00.png").write_bytes(b"")
    (images / "parkinglot" / "gone.png").symlink_to("nowhere.png")
    return {
        "beach/beach03.png": "cut off",
        "forest/forest00.png": "the file is empty",
        "parkinglot/gone.png": "No such file or directory",
    }


def test_unreadable_images_fail_with_the_work_kept(images: Path, tmp_path: Path) -> None:
    broken, cache = spoil(images), tmp_path / "cache"
    for known in (0, ALL - 2):
        heard = Heard()
        with pytest.raises(UnreadableImages) as failed:
            take(images, cache, progress=heard)
        message = str(failed.value)
        assert message.startswith(f"3 of {ALL + 1} images")
        listed = dict(line.strip().split(": ", 1) for line in message.splitlines()[1:])
        assert listed.keys() == broken.keys()
        assert all(broken[path] in reason for path, reason in listed.items())
        assert any(note.startswith(f"{known} images are cached") for note in heard.said)
        assert not (cache / "index.h5").exists()
        assert describe(cache).features == ALL - 2
    files = shard_files(cache)

    skipped = take(images, cache, on_error="skip")
    assert (skipped.computed, skipped.cached, skipped.images) == (0, ALL - 2, ALL - 2)
    assert shard_files(cache) == files
    assert [path for path, _ in skipped.skipped] == sorted(broken)
    assert skipped.skipped == FeatureCache.open(cache).index().skipped == describe(cache).skipped
    shown = CliRunner().invoke(main, ["cache", "info", str(cache)])
    assert shown.exit_code == 0
    assert all(f"{path} could not be read: {reason}" in shown.output for path, reason in skipped.skipped)

    draw_scene("beach", 3, 64).save(images / "beach" / "beach03.png")
    draw_scene("forest", 0, 64).save(images / "forest" / "forest00.png")
    (images / "parkinglot" / "gone.png").unlink()
    mended = take(images, cache)
    assert (mended.computed, mended.images, mended.skipped) == (2, ALL, ())
    assert mended.changes == Changes(2, 0, 0, 0)
    assert not any(np.isnan(feature).any() for feature in rows(cache).values())


def test_a_bad_image_leaves_the_older_index_as_it_was(images: Path, cache: Path) -> None:
    before = (cache / "index.h5").read_bytes()
    spoil(images)
    with pytest.raises(UnreadableImages):
        take(images, cache)
    assert (cache / "index.h5").read_bytes() == before


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_no_readable_image_at_all(few: Path, tmp_path: Path, on_error: str) -> None:
    for path in few.rglob("*.png"):
        path.write_bytes(b"<html>not found</html>")
    with pytest.raises(
        ImageSetError, match=r"None of the 3 images[^\n]+run the same command again:\n  beach/beach00.png: not a"
    ):
        take(few, tmp_path / "cache", on_error=on_error)
    assert not (tmp_path / "cache" / "index.h5").exists()
    assert describe(tmp_path / "cache").features == 0


def test_the_size_is_told_before_the_work(few: Path, tmp_path: Path) -> None:
    heard = Heard()
    take(few, tmp_path / "cache", store="float16", progress=heard)
    told = next(n for n, text in enumerate(heard.said) if "3 features x 512 float16 = 3.07 kB will be added" in text)
    assert told < heard.said.index("extracting 3 images")


def test_what_the_disk_cannot_hold_is_refused_before_the_work(drawn: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        heard = Heard()
        with pytest.raises(NoRoom, match=r"30 features of 512 float32 numbers needs 61\.4 kB .* but only .* are free"):
            take(drawn, disk / "cache", progress=heard)
        assert not any(text.startswith("extracting") for text in heard.said)
        assert not (disk / "cache" / "shards").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_write_that_fails_keeps_what_was_complete(few: Path, drawn: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    take(few, cache)
    first = shard_files(cache)
    command = ["extract", str(drawn), str(cache), "--base", BASE, "--weights", WEIGHTS, "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "cli.py", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        # A shard of 27 rows is larger: the write fails half-way, as on a full disk.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )
    assert done.returncode == 1
    error = " ".join(done.stderr.split())
    assert "could not be written: File too large. All that was complete before is kept" in error
    assert "Traceback" not in error
    assert shard_files(cache) == first  # nothing of the other shard, not even a temporary file
    assert take(drawn, cache).computed == ALL - 3


def test_a_folder_of_other_things_is_refused(few: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(CacheError, match="exists and is not a feature cache"):
        take(few, tmp_path / "mine")
    with pytest.raises(CacheError, match="exists and is not a feature cache"):
        take(few, tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("inside", [".", "cache", "beach/cache", "../few/cache"])
def test_a_cache_inside_the_image_set_is_refused(few: Path, inside: str) -> None:
    before = sorted(few.rglob("*"))
    with pytest.raises(ImageSetError, match="inside the image set"):
        take(few, few / inside)
    assert sorted(few.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"batch_size": 0}, BaseError, "Batch size 0 is not a positive number"),
        ({"workers": 0}, BaseError, "0 workers cannot decode"),
        ({"store": "float8"}, BaseError, "float8.* choose float32 or float16"),
        ({"on_error": "ignore"}, BaseError, "ignore.* neither 'fail' nor 'skip'"),
        ({"views": 0}, BaseError, "0 views are no number that a cache takes: ask for 1 to 1000"),
        ({"views": 1001}, BaseError, "1001 views are no number"),
        (
            {"split": "80/10/10"},
            BaseError,
            "The split 80/10/10 says which .* ask for more, such as --views 4, or leave",
        ),
        ({"device": "abacus"}, BaseError, "abacus.* choose auto, cpu, cuda or cuda:1"),
        ({"device": "cuda:99"}, BaseError, "cuda:99 was asked for"),
        ({"precision": "fp8"}, BaseError, "fp8.* choose fp32, tf32, bf16, fp16"),
        ({"base": "squeezenet1"}, BaseError, "did you mean squeezenet1_1"),
        ({"weights": "weights.txt"}, WeightsError, "name no source"),
        ({"weights": "absent.pth"}, WeightsError, "absent.pth not found"),
        ({"transform_of": "IMAGENET21K"}, WeightsError, "it has IMAGENET1K_V1"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    few: Path, tmp_path: Path, options: dict[str, Any], kind: type[ManyheadsError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        take(few, tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()

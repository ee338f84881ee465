"""What makes a cache stale: each row of the table in docs/cache.md, and no other."""

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from cache import CacheError, FeatureCache, ManyheadsError, RecipeMismatch
from cache.description import describe
from cache.recipe import RecipeFile
from pipeline.augmentation import AUGMENTATION
from pipeline.changes import Changes
from pipeline.extraction import Extraction, extract
from pipeline.scenes import draw_scene
from tests.conftest import BASE, CLASSES, PER_CLASS, WEIGHTS

DOCS = Path(__file__).parents[2] / "docs" / "cache.md"
ALL = len(CLASSES) * PER_CLASS
SAME = Changes(0, 0, 0, 0)


def take(images: Path, cache: Path, **options: Any) -> Extraction:
    return extract(images, cache, **{"base": BASE, "weights": WEIGHTS, "device": "cpu", **options})


@dataclass(frozen=True)
class Row:
    """A change, and what the next extraction makes of it.

    Attributes:
        change: Makes the change to an image set and its cache; where it returns a mapping, these are options of the
            extraction, `images` if they are another folder.
        computed: Features that are computed, of any view.
        changes: What is told of the image set.
        refused: The error, if there is one, and what its message holds.
    """

    change: Callable[[Path, Path], object]
    computed: int = 0
    changes: Changes | None = SAME
    refused: tuple[type[ManyheadsError], str] | None = None


def nothing(images: Path, cache: Path) -> None:
    take(images, cache)  # which notes that this copy of the set lies elsewhere


def asked(**options: Any) -> Callable[[Path, Path], dict[str, Any]]:
    return lambda images, cache: options


def draw(path: Path) -> None:
    draw_scene("beach", 99, 64).save(path)


def come_back(images: Path, cache: Path) -> None:
    kept = (images / "beach" / "beach00.png").rename(images.parent / "kept.png")
    assert take(images, cache).images == ALL - 1
    kept.rename(images / "beach" / "beach00.png")


def copy_class(images: Path, cache: Path) -> None:
    (images / "sea").mkdir()
    for number in range(3):
        draw_scene("beach", 90 + number, 64).save(images / "sea" / f"{number}.png")


def into_parts(images: Path, cache: Path) -> None:
    """Split the set, and let the cache know; then move one image to another part."""
    for label in CLASSES:
        for number in range(PER_CLASS):
            part = images / ("train" if number < 6 else "val" if number < 8 else "test") / label
            part.mkdir(parents=True, exist_ok=True)
            (images / label / f"{label}{number:02d}.png").rename(part / f"{number}.png")
        (images / label).rmdir()
    take(images, cache)
    (images / "train" / "beach" / "0.png").rename(images / "test" / "beach" / "0.png")


def elsewhere(images: Path, cache: Path) -> dict[str, Any]:
    return {"images": images.rename(images.with_name("elsewhere"))}


def another_set(images: Path, cache: Path) -> dict[str, Any]:
    other = images.with_name("other")
    (other / "water").mkdir(parents=True)
    for number in range(4):
        shutil.copy(images / "beach" / f"beach{number:02d}.png", other / "water" / f"{number}.png")
    draw(other / "water" / "new.png")
    return {"images": other}


def more_views(images: Path, cache: Path) -> dict[str, Any]:
    take(images, cache, views=2)
    return {"views": 3}


def fewer_views(images: Path, cache: Path) -> dict[str, Any]:
    take(images, cache, views=3)
    return {"views": 2}


def same_tensors(images: Path, cache: Path) -> dict[str, Any]:
    file = images.with_name("tuned.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(models.squeezenet1_1(weights=None).state_dict(), file)
    return {"weights": str(file)}


def other_transform(images: Path, cache: Path) -> dict[str, Any]:
    shutil.rmtree(cache)
    options = {"base": "mobilenet_v2", "weights": WEIGHTS}
    take(images, cache, transform_of="IMAGENET1K_V1", **options)
    return {"transform_of": "IMAGENET1K_V2", **options}


def written_otherwise(**fields: Any) -> Callable[[Path, Path], None]:
    """Let another manyheads have made the cache, which has other values in some fields of its recipe."""

    def change(images: Path, cache: Path) -> None:
        held = RecipeFile.read(cache)
        # Whatever it was made from is not what this version would make it from.
        RecipeFile(replace(held.recipe, **fields), {**held.made_from, "torchvision": "0.1"}).write(cache)

    return change


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def shard(cache: Path) -> Path:
    (only,) = (cache / "shards").iterdir()
    return only


def remove_class(images: Path, cache: Path) -> None:
    shutil.rmtree(images / "beach")


ROWS: dict[str, Row] = {
    "nothing changed": Row(nothing),
    "an image was added": Row(lambda images, _: draw(images / "beach" / "new.png"), 1, Changes(1, 0, 0, 0)),
    "an image's bytes changed": Row(lambda images, _: draw(images / "beach" / "beach00.png"), 1, Changes(0, 0, 1, 0)),
    "an image was renamed": Row(
        lambda images, _: (images / "beach" / "beach00.png").rename(images / "beach" / "z.png"),
        changes=Changes(0, 1, 0, 0),
    ),
    "an image moved to another class": Row(
        lambda images, _: (images / "beach" / "beach00.png").rename(images / "forest" / "z.png"),
        changes=Changes(0, 1, 0, 0),
    ),
    "an image moved to another part of the split": Row(into_parts, changes=Changes(0, 1, 0, 0)),
    "an image was copied": Row(
        lambda images, _: shutil.copy(images / "beach" / "beach00.png", images / "forest" / "twin.png"),
        changes=Changes(1, 0, 0, 0),
    ),
    "an image was removed": Row(
        lambda images, _: (images / "beach" / "beach00.png").unlink(), changes=Changes(0, 0, 0, 1)
    ),
    "a removed image came back": Row(come_back, changes=Changes(1, 0, 0, 0)),
    "a class was renamed": Row(
        lambda images, _: (images / "beach").rename(images / "shore"), changes=Changes(0, PER_CLASS, 0, 0)
    ),
    "a class was added": Row(copy_class, 3, Changes(3, 0, 0, 0)),
    "a class was removed": Row(remove_class, changes=Changes(0, 0, 0, PER_CLASS)),
    "the image set moved to another folder": Row(elsewhere),
    "another image set with some of the same images": Row(another_set, 1, Changes(1, 4, 0, ALL - 4)),
    "more views are asked for": Row(more_views, ALL),
    "fewer views are asked for": Row(fewer_views),
    "`--compress` is given, or left out": Row(asked(compress=True)),
    "another base": Row(
        asked(base="squeezenet1_0"), refused=(RecipeMismatch, "base is squeezenet1_1, asked squeezenet1_0")
    ),
    "other weights": Row(asked(weights="random:1"), refused=(RecipeMismatch, "weights_digest is .*…, asked .*…")),
    "the same tensors in another file": Row(same_tensors),
    "another transform": Row(other_transform, refused=(RecipeMismatch, r"transform\.resize_size is 256, asked 232")),
    "another precision": Row(asked(precision="bf16"), refused=(RecipeMismatch, "precision is fp32, asked bf16")),
    "another storage format": Row(
        asked(store="float16"), refused=(RecipeMismatch, "storage is float32, asked float16")
    ),
    "other rules of decoding": Row(written_otherwise(decoding=0), refused=(RecipeMismatch, "decoding is 0, asked 1")),
    "other rules of drawing views": Row(
        written_otherwise(views={**AUGMENTATION.as_dict(), "version": 0}),
        refused=(RecipeMismatch, r"views\.version is 0, asked 1"),
    ),
    "another format version": Row(
        written_otherwise(format_version=1),
        refused=(CacheError, r"has format version 1; this manyheads reads version \d"),
    ),
    "another version of torch or torchvision": Row(written_otherwise()),
    "the index is missing": Row(lambda _, cache: (cache / "index.h5").unlink(), changes=None),
    "the index is damaged": Row(lambda _, cache: flip(cache / "index.h5", -100), changes=None),
    "a shard is missing": Row(lambda _, cache: shard(cache).unlink(), ALL),
    "a shard is damaged": Row(
        lambda _, cache: flip(shard(cache), 600), refused=(CacheError, r"shards/.*\.h5.* `manyheads cache verify")
    ),
}


def test_the_page_has_these_rows_and_no_others() -> None:
    section = DOCS.read_text(encoding="utf-8").partition("## What makes a cache stale")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]*) \| ", section, re.MULTILINE)[1:]
    assert rows == list(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_the_change_has_its_outcome(name: str, images: Path, cache: Path) -> None:
    row = ROWS[name]
    was = dict(zip(*known(cache), strict=True))
    returned = row.change(images, cache)
    options: dict[str, Any] = returned if isinstance(returned, dict) else {}
    images = options.pop("images", images)
    before = contents(cache)
    if row.refused:
        error, said = row.refused
        with pytest.raises(error, match=said) as refused:
            take(images, cache, **options)
        assert str(cache) in str(refused.value)
        assert "extract" in str(refused.value)  # the way out
        assert contents(cache) == before
        return
    result = take(images, cache, **options)
    assert result.computed + result.views_computed == row.computed
    assert result.changes == row.changes
    assert describe(cache).source == str(images)
    if name == "nothing changed":
        assert contents(cache) == before
    entries = FeatureCache.open(cache).index().entries
    found = sorted(path.relative_to(images) for path in images.rglob("*.png"))
    assert [entry.path for entry in entries] == [path.as_posix() for path in found]
    for entry in entries:
        assert entry.digest == hashlib.sha256((images / entry.path).read_bytes()).hexdigest()
        assert entry.label == entry.path.split("/")[-2]
    digests, features = known(cache)
    assert all(
        np.allclose(feature, was[digest], atol=1e-5) if name == "a shard is missing" else (feature == was[digest]).all()
        for digest, feature in zip(digests, features, strict=True)
        if digest in was
    )


def known(cache: Path) -> tuple[list[str], Any]:
    """Return digests and features as another tool reads them."""
    with h5py.File(cache / "index.h5") as file:
        features = file["features"][:]
        assert np.isfinite(features).all()
        return list(file["digests"].asstr()[:]), features


def contents(cache: Path) -> dict[str, bytes]:
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in cache.rglob("*") if path.is_file()}

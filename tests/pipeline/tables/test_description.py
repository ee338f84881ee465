"""What `cache info` shows: all of it, in lines that fit, with names that cannot do harm."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cache.description import Description, describe
from cache.lock import Holder
from pipeline.tables import show_description
from tests.conftest import CLASSES, PER_CLASS

NAME, SHOWN = "b[/b]\x1b[31m\nc\u202e", r"b[/b]\x1b[31m\nc\u202e"


@pytest.fixture
def found(extracted: Path) -> Description:
    return describe(extracted)


def shown(result: Description, width: int = 100) -> str:
    file = io.StringIO()
    show_description(result, Console(file=file, width=width))
    return file.getvalue()


def test_packed_shards_are_counted(found: Description) -> None:
    assert "30 features in 1 shard, " in shown(found)
    assert "30 features in 9 shards (4 of them packed), " in shown(replace(found, shards=9, packed=4))


def test_a_cache_in_full(found: Description, extracted: Path, drawn: Path) -> None:
    said = shown(found)
    assert said.startswith(f"{extracted}: 30 images of 3 classes, 30 features in 1 shard, ")
    assert f"images    {drawn}\n" in said
    assert f"classes   {PER_CLASS} images each: {', '.join(CLASSES)}\n" in said
    assert "features  all of them used\n" in said
    assert f"recipe {found.recipe['digest']}\n" in said
    for name in found.recipe.keys() - {"digest", "transform", "views"}:
        assert f" {found.recipe[name]}\n" in said.split(f"\n  {name} ")[1], name
    assert "crop_size 224" in said
    assert "mean 0.485 0.456 0.406" in said
    assert f"torch         {found.made_from['torch']}\n" in said
    assert "random weights" in said
    assert "prune" not in said
    assert "{" not in said


@pytest.mark.parametrize("width", [40, 80, 140])
@pytest.mark.parametrize("count", [21, 1000])
def test_many_classes_take_lines_that_fit(found: Description, count: int, width: int) -> None:
    classes = {f"class {number}": 7 + number % 2 for number in range(count)}
    said = shown(replace(found, classes=classes), width)
    listed = said.partition("  classes ")[2].partition("  features ")[0]
    assert all(len(line) <= width for line in listed.splitlines())
    words = " ".join(listed.split())
    assert words.startswith("class 0 7, class 1 8, class 2 7, ")
    assert "class 20 7" in words
    assert ("and 900 more; --json names them" in words) == (count == 1000)
    assert len(listed) < 4000


def test_what_is_unused_and_how_it_is_freed(found: Description) -> None:
    said = shown(replace(found, unused=7, unused_size=12_800_000, views={3: 20, 1: 10}), width=200)
    assert "features  23 of them used, 7 needed by no image of the set; views: 3 of 20 images, 1 of 10 images\n" in said
    assert f"frees 12.8 MB: manyheads cache prune {found.path}\n" in said


def test_before_the_extraction_has_finished(found: Description) -> None:
    unfinished = replace(found, finished=False, images=0, classes={}, source="", views={}, features=1, shards=1)
    said = shown(unfinished)
    assert f"{found.path}: not finished yet, 1 feature in 1 shard, " in said
    assert "it goes on after the last shard" in said
    busy = shown(replace(unfinished, writer=Holder("server", 12, "2026-01-02 03:04:05")))
    assert "written  now, by process 12 on server since 2026-01-02 03:04:05\n" in busy
    assert "it goes on" not in busy


def test_skipped_images_are_named_but_not_without_end(found: Description) -> None:
    skipped = tuple((f"a/{number}.jpg", "the file is empty") for number in range(30))
    said = shown(replace(found, skipped=skipped))
    assert "note: a/19.jpg could not be read: the file is empty" in said
    assert "a/20.jpg" not in said
    assert "note: 10 more images could not be read; --json names them" in said
    assert "more images" not in shown(replace(found, skipped=skipped[:20]))


def test_names_from_files_are_escaped(found: Description) -> None:
    said = shown(
        replace(
            found,
            path=Path(NAME),
            source=NAME,
            classes={NAME: 1, "a": 2},
            parts={"train": 3},
            skipped=((NAME, NAME),),
            recipe={**found.recipe, "weights": NAME, "transform": {NAME: [NAME]}},
            made_from={NAME: NAME},
        ),
        width=400,
    )
    assert "\x1b" not in said
    assert "\u202e" not in said
    for text in (f"{SHOWN}: 30 images", f"images    {SHOWN}\n", f"{SHOWN} 1, a 2", f"transform       {SHOWN} {SHOWN}"):
        assert text in said
    assert "split     its own: train 3\n" in said
    assert f"note: {SHOWN} could not be read: {SHOWN}\n" in said

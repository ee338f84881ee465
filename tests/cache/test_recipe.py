"""A recipe's digest is its identity: it changes with all that a feature depends on, and with nothing else."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import CacheError, RecipeMismatch
from cache.recipe import FORMAT_VERSION, Recipe, RecipeFile

TRANSFORM = {
    "resize": 256,
    "crop": 224,
    "mean": [0.485, 0.456, 0.406],
    "sources": {"pillow": "13.0", "antialias": True},
}
VIEWS = {"rotation": 30.0, "scale": [0.08, 1.0]}
RECIPE = Recipe("vgg16", "a" * 64, TRANSFORM, decoding=1, dimension=25088, views=VIEWS, weights="imagenet")
MADE_FROM = {"base": "vgg16", "pillow": "13.0"}

OTHERS: dict[str, Any] = {
    "base": "resnet18",
    "weights_digest": "b" * 64,
    "transform": {**TRANSFORM, "crop": 223},
    "decoding": 2,
    "dimension": 512,
    "views": {**VIEWS, "rotation": 10.0},
    "precision": "bf16",
    "storage": "float16",
    "format_version": FORMAT_VERSION + 1,
}

leaves = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("abc", max_size=2)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner)
)
transforms = st.dictionaries(st.sampled_from("xyz"), values, max_size=3)


def written(folder: Path, change: dict[str, Any] | None = None) -> Path:
    """Write RECIPE's file, then change some of its fields."""
    RecipeFile(RECIPE, MADE_FROM).write(folder)
    path = folder / "recipe.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["recipe"].update(change or {})
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_the_identity_is_all_fields_but_weights() -> None:
    assert {field for field in RECIPE.as_dict() if field not in ("weights", "digest")} == OTHERS.keys()


@pytest.mark.parametrize("field", OTHERS)
def test_the_digest_changes_with_every_field(field: str) -> None:
    other = replace(RECIPE, **{field: OTHERS[field]})
    assert other.digest != RECIPE.digest
    named = {"transform": "transform.crop", "views": "views.rotation"}.get(field, field)
    assert RECIPE.differences(other).keys() == {named}
    with pytest.raises(RecipeMismatch, match=f"CACHE holds features of another recipe: {named} is .*, asked "):
        RECIPE.require_same(other, "CACHE")


def test_where_the_weights_came_from_is_no_part_of_the_identity() -> None:
    other = replace(RECIPE, weights="/data/vgg16.safetensors")
    assert other.digest == RECIPE.digest
    assert other == RECIPE
    RECIPE.require_same(other, "CACHE")


def test_the_digest_is_that_of_version_3() -> None:
    # A cache made today must be known tomorrow: this number may only change with the format version.
    assert RECIPE.digest == "665f3f8a833c5a28f39503b73ae27d01dd62778fd50c9e802f77aa25dbc18691"


def test_differences_name_nested_fields_and_both_values() -> None:
    other = replace(RECIPE, transform={**TRANSFORM, "sources": {"pillow": "12.0"}}, weights_digest="b" * 64)
    assert RECIPE.differences(other) == {
        "transform.sources.antialias": (True, None),
        "transform.sources.pillow": ("13.0", "12.0"),
        "weights_digest": ("a" * 64, "b" * 64),
    }
    with pytest.raises(
        RecipeMismatch, match=r"pillow is 13\.0, asked 12\.0; weights_digest is aaaaaaaaaaaa…, asked bbbb"
    ):
        RECIPE.require_same(other, "CACHE")


@given(transforms, transforms)
def test_there_are_differences_exactly_if_the_digests_differ(one: dict[str, Any], two: dict[str, Any]) -> None:
    mine, other = replace(RECIPE, transform=one), replace(RECIPE, transform=two)
    assert bool(mine.differences(other)) == (mine.digest != other.digest)
    assert mine.differences(other) == {name: pair[::-1] for name, pair in other.differences(mine).items()}


@pytest.mark.parametrize(
    ("one", "two"), [({"crop": 224}, {"crop": 224.0}), ({"a": 1}, {"a": True}), ({"a": None}, {}), ({"a": {}}, {})]
)
def test_values_that_python_holds_equal_but_json_does_not_are_different(one: Any, two: Any) -> None:
    mine, other = replace(RECIPE, transform=one), replace(RECIPE, transform=two)
    assert mine.digest != other.digest
    assert mine.differences(other)


def test_a_tuple_is_a_list() -> None:
    other = replace(RECIPE, transform={**TRANSFORM, "mean": (0.485, 0.456, 0.406)})
    assert other.digest == RECIPE.digest
    assert RECIPE.differences(other) == {}


@given(transforms)
def test_json_round_trip(transform: dict[str, Any]) -> None:
    recipe = replace(RECIPE, transform=transform)
    again = Recipe.from_dict(json.loads(json.dumps(recipe.as_dict())), "recipe.json")
    assert again == recipe
    assert again.weights == recipe.weights
    assert again.digest == recipe.digest


@pytest.mark.parametrize("weights", ["imagenet", "/données/重み.pth", "/data/caf\udce9.pth"])
def test_file_round_trip(tmp_path: Path, weights: str) -> None:
    # The last one is the name café in Latin-1, as Python spells a name that is not UTF-8.
    recipe = replace(RECIPE, weights=weights)
    RecipeFile(recipe, MADE_FROM).write(tmp_path)
    again = RecipeFile.read(tmp_path)
    assert again == RecipeFile(recipe, MADE_FROM)
    assert again.recipe.weights == weights
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


@pytest.mark.parametrize("field", [*OTHERS, "weights", "digest"])
def test_a_field_that_is_missing_or_of_another_type_is_refused(tmp_path: Path, field: str) -> None:
    wrong: tuple[Any, ...] = (None, [], 1.5)
    for value in wrong:
        path = written(tmp_path, {field: value})
        with pytest.raises(CacheError, match=str(path)):
            RecipeFile.read(tmp_path)


@pytest.mark.parametrize("field", [*OTHERS, "digest"])
def test_an_edited_field_is_refused(tmp_path: Path, field: str) -> None:
    path = written(tmp_path, {field: {**OTHERS, "digest": "c" * 64}[field]})
    with pytest.raises(CacheError, match=rf"{path}.* (own digest|format version 4; this manyheads reads version 3)"):
        RecipeFile.read(tmp_path)


def test_another_format_is_named_whatever_its_fields_are(tmp_path: Path) -> None:
    RecipeFile(RECIPE, MADE_FROM).write(tmp_path)
    (tmp_path / "recipe.json").write_text('{"recipe": {"format_version": 7}, "made_from": {}}')
    with pytest.raises(CacheError, match=r"has format version 7; .* Use the manyheads that wrote it"):
        RecipeFile.read(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"recipe": {}}', '{"recipe": [], "made_from": {}}', '"\udcff"', "[" * 100_000],
    ids=range(9),
)
def test_damage_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CacheError, match=r"recipe\.json.* extract into a new folder"):
        RecipeFile.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": True},
        {"decoding": False},
        {"dimension": 0},
        {"dimension": -1},
        {"dimension": 2**24 + 1},
        {"dimension": 10**4000},
        {"storage": "float64"},
    ],
    ids=range(7),
)
def test_values_that_no_recipe_has_are_refused_whatever_the_digests_say(tmp_path: Path, change: dict[str, Any]) -> None:
    RecipeFile(replace(RECIPE, **change), MADE_FROM).write(tmp_path)
    with pytest.raises(CacheError, match=r"recipe\.json has a recipe .* extract into a new folder"):
        RecipeFile.read(tmp_path)


@pytest.mark.parametrize("made_from", [{"pillow": 13}, {"pillow": None}, [], "13.0", None])
def test_what_it_was_made_from_is_text(tmp_path: Path, made_from: Any) -> None:
    path = written(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "made_from": made_from}))
    with pytest.raises(CacheError, match=r"recipe\.json is no recipe file \(it does not say what"):
        RecipeFile.read(tmp_path)


def test_a_flipped_bit_in_any_byte_is_refused(tmp_path: Path) -> None:
    # Where the weights came from and what the recipe was made from are in no digest of a recipe.
    RecipeFile(RECIPE, MADE_FROM).write(tmp_path)
    path = tmp_path / "recipe.json"
    whole = path.read_bytes()
    for position, byte in enumerate(whole):
        damaged = bytearray(whole)
        damaged[position] = byte ^ 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CacheError, match=r"recipe\.json "):
            RecipeFile.read(tmp_path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    with path.open("r+b") as file:
        file.truncate(10**12)  # of holes
    with pytest.raises(CacheError, match=r"recipe\.json is damaged \(it is larger than 1000000 bytes\)"):
        RecipeFile.read(tmp_path)


@pytest.mark.parametrize("depth", [400, 3000, 100_000])
def test_a_deep_file_is_refused(tmp_path: Path, depth: int) -> None:
    path = written(tmp_path)
    text = path.read_text(encoding="utf-8").replace(
        '"transform": {', '"transform": {"deep": ' + "[" * depth + "]" * depth + ", "
    )
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CacheError, match=r"recipe\.json"):
        RecipeFile.read(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.json")
    with pytest.raises(CacheError, match=r"recipe\.json is a pipe or a device"):
        RecipeFile.read(tmp_path)


def test_every_cut_off_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(CacheError):
            RecipeFile.read(tmp_path)


def test_a_folder_that_is_no_cache_is_told_how_to_become_one(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"is not a feature cache.*manyheads extract IMAGES CACHE"):
        RecipeFile.read(tmp_path)


def test_figures_that_follow_from_a_recipe() -> None:
    assert RECIPE.row_bytes == 100_352
    assert replace(RECIPE, storage="float16").row_bytes == 50_176
    assert not RECIPE.random_weights
    assert replace(RECIPE, weights="random:7").random_weights

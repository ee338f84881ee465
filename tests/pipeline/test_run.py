"""run.json read back, refused in every state of damage, and found wherever the user points."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import RunError
from pipeline.evaluation import evaluate
from pipeline.run import LIMIT, Run, folder_name
from pipeline.run_places import find_runs

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def document(fitted: Path) -> dict[str, Any]:
    text = (fitted / "mlp" / "seed-0000" / "run.json").read_text(encoding="utf-8")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def read(folder: Path, content: bytes) -> Run | None:
    """Read a run.json of any content; only a RunError may stand in the way, and what is read can be written again."""
    (folder / "run.json").write_bytes(content)
    try:
        run = Run.read(folder)
    except RunError:
        return None
    run.write(folder)
    assert Run.read(folder) == run
    return run


def test_written_and_read_is_the_same(fitted: Path, tmp_path: Path) -> None:
    run = Run.read(fitted / "mlp" / "seed-0001")
    run.write(tmp_path)
    assert Run.read(tmp_path) == run
    assert (tmp_path / "run.json").read_bytes() == (fitted / "mlp" / "seed-0001" / "run.json").read_bytes()
    assert run.label == "mlp/seed-0001"


@QUICK
@given(data=st.data())
def test_flipped_bytes_are_read_or_refused(fitted: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray((fitted / "mlp" / "seed-0000" / "run.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read(tmp_path, bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))]))


@QUICK
@given(data=st.data())
def test_edited_fields_are_read_or_refused(fitted: Path, tmp_path: Path, data: st.DataObject) -> None:
    edited = document(fitted)
    place: Any = edited
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(JSON)
    read(tmp_path, json.dumps(edited).encode())


@QUICK
@given(content=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda it: it.pop("seed"), "it lacks 'seed'"),
        (lambda it: it.update(seed=True), "'seed' is not of type int"),
        (lambda it: it.update(seed=-1), "no run has such a value of 'seed'"),
        (lambda it: it.update(seed=2**32), "no run has such a value of 'seed'"),
        (lambda it: it.update(views=0), "no run has such a value of 'views'"),
        (lambda it: it.update(name="../mlp"), "no run has such a value of 'name'"),
        (lambda it: it.update(classes=[]), "no run has such a value of 'classes'"),
        (lambda it: it.update(classes=["a", "a"]), "no run has such a value of 'classes'"),
        (lambda it: it.update(classes=["a", "b/c"]), "no run has such a value of 'classes'"),
        (lambda it: it.update(classes=["a", "\ud800"]), "no run has such a value of 'classes'"),
        (lambda it: it.update(notes=["\ud800"]), "surrogates not allowed"),
        (lambda it: it["images"]["test"].append(it["images"]["train"][0]), "no run has such a value of 'images'"),
        (lambda it: it["digests"].update(val="0" * 63), "no run has such a value of 'digests'"),
        (lambda it: it.update(model={}), "it names no model"),
        (lambda it: it.update(model={"../model.skops": "0" * 64}), "no run has such a value of 'model'"),
        (lambda it: it.update(model={"model.skops": "0" * 65}), "no run has such a value of 'model'"),
        (lambda it: it.update(timings={"fit": "1"}), "no run has such a value of 'timings'"),
        (lambda it: it.update(versions={"torch": 2}), "no run has such a value of 'versions'"),
        (lambda it: it["history"][1].pop("val_loss"), "no run has such a value of 'history'"),
        (lambda it: it["history"][1].update(val_loss=[1]), "no run has such a value of 'history'"),
        (lambda it: it["history"][1].update(val_loss=float("nan")), "its number NaN is not finite"),
        (lambda it: it.update(views=10**400), "has more than 64 bits"),
        (lambda it: it["parameters"].update(hidden=2**64), "has more than 64 bits"),
        (lambda it: it.update(head=3), "'head' is not of type str"),
        (lambda it: it.update(classes=["a", 1]), "'classes' is not a list of type str"),
        (lambda it: it.update(notes=[[]]), "'notes' is not a list of type str"),
        (lambda it: it.update(history=[1]), "'history' is not a list of type dict"),
        (lambda it: it["images"].update(test="beach/beach00.png"), "'test images' is not a list"),
        (lambda it: it["images"].pop("val"), "it lacks 'val'"),
        (lambda it: it["digests"].update(val=None), "'digests' is not a list of type str"),
        (lambda it: it["recipe"].update(precision="bf16"), "does not match its own digest"),
        (lambda it: it["recipe"].update(transform=nested(31)), "nested too deeply"),
        (lambda it: it.update(format_version=2), "format version 2; this manyheads reads version 3"),
    ],
)
def test_damage_is_named(fitted: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str) -> None:
    edited = document(fitted)
    edit(edited)
    (tmp_path / "run.json").write_text(json.dumps(edited), encoding="utf-8")
    with pytest.raises(RunError, match=message):
        Run.read(tmp_path)


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_size", 0),
        ("crop_size", 2**20),
        ("resize_size", "256"),
        ("resize_size", True),
        ("mean", 0.5),
        ("mean", [0.5, 0.5]),
        ("mean", [0.5, 0.5, "0.5"]),
        ("std", [0.5, 0, 0.5]),
        ("interpolation", "BILINEAR"),
        ("antialias", 1),
        ("another", 1),
    ],
)
def test_a_transform_that_cannot_be_applied_is_refused(fitted: Path, tmp_path: Path, field: str, value: object) -> None:
    edited = document(fitted)
    edited["recipe"]["transform"][field] = value
    (tmp_path / "run.json").write_text(json.dumps(edited), encoding="utf-8")
    with pytest.raises(RunError, match="no run has such a value of 'recipe'"):
        Run.read(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "beach/../../x.png",
        "./x.png",
        "a//x.png",
        "a/",
        "",
        "a\0.png",
        "a/.x.png",
        "..",
    ],
)
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_images_outside_the_image_set_are_refused(fitted: Path, tmp_path: Path, path: str, part: str) -> None:
    edited = document(fitted)
    edited["images"][part][0] = path
    (tmp_path / "run.json").write_text(json.dumps(edited), encoding="utf-8")
    with pytest.raises(RunError, match="no run has such a value of 'images'"):
        Run.read(tmp_path)


@pytest.mark.parametrize("path", ["beach/...png", "beach/a b\n.png", "été/\\.png", "a/b/c/d"])
def test_odd_names_of_images_are_read(fitted: Path, tmp_path: Path, path: str) -> None:
    edited = document(fitted)
    edited["images"]["test"][0] = path
    (tmp_path / "run.json").write_text(json.dumps(edited), encoding="utf-8")
    if path == "beach/...png":
        assert read(tmp_path, (tmp_path / "run.json").read_bytes()) is None, "hidden files are in no image set"
    else:
        assert Run.read(tmp_path).images["test"][0] == path


def test_a_cache_whose_name_is_no_utf8_is_written_and_read(fitted: Path, tmp_path: Path) -> None:
    odd = replace(Run.read(fitted / "mlp" / "seed-0000"), cache=os.fsdecode(b"/caf\xe9"))
    odd.write(tmp_path)
    assert os.fsencode(Run.read(tmp_path).cache) == b"/caf\xe9"


def test_a_run_under_the_name_of_another_seed_is_refused(runs: Path) -> None:
    (runs / "mlp" / "seed-0001").rename(runs / "mlp" / "seed-0002")
    with pytest.raises(RunError, match=r"holds the run of seed 1, not of .*Give it its name back, seed-0001"):
        find_runs([runs])
    (runs / "mlp" / "seed-0002").rename(runs / "mlp" / "best of all")
    assert len(find_runs([runs])) == 3


def test_what_is_no_file_of_a_sane_size_is_refused_and_not_waited_for(fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with path.open("wb") as file:
        file.truncate(LIMIT + 1)
    with pytest.raises(RunError, match=r"run\.json cannot be read \(it has 268 MB; such a file has at most 268 MB"):
        Run.read(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunError, match="it is no regular file"):
        Run.read(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(RunError, match="it is no regular file"):
        Run.read(tmp_path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path, b'{"a":' * 100_000) is None


def test_missing_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no run\.json.*RUNS/NAME/seed-0000"):
        Run.read(tmp_path)
    (tmp_path / "run.json").mkdir()
    with pytest.raises(RunError, match="cannot be read"):
        Run.read(tmp_path)


def test_configurations_differ_in_what_matters_only(fitted: Path) -> None:
    first, second = Run.read(fitted / "mlp" / "seed-0000"), Run.read(fitted / "mlp" / "seed-0001")
    first.require_same(second)
    values = document(fitted)
    for field, value in {"cache": "/elsewhere", "notes": ["x"], "timings": {}, "versions": {}, "name": "y"}.items():
        Run.from_document({**values, field: value}, Path()).require_same(first)
    with pytest.raises(RunError, match="device is cpu, asked cuda"):
        first.require_same(Run.from_document({**values, "device": "cuda:1"}, Path()))
    with pytest.raises(RunError, match="head is mlp, asked knn"):
        first.require_same(Run.read(fitted / "knn" / "seed-0000"))


def test_differing_transforms_are_named_by_the_field(fitted: Path) -> None:
    run = Run.read(fitted / "mlp" / "seed-0000")
    transform = {**run.recipe.transform, "antialias": False}
    with pytest.raises(RunError, match=r"recipe transform\.antialias is True, asked False\. "):
        run.require_same(replace(run, recipe=replace(run.recipe, transform=transform)))


def test_any_mix_of_places_finds_each_run_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = ["knn/seed-0000", "mlp/seed-0000", "mlp/seed-0001"]
    mlp, one = runs / "mlp", runs / "mlp" / "seed-0001"
    mixes: list[tuple[list[Path | str], list[str]]] = [
        ([runs], every),
        ([runs, mlp, one], every),
        ([one, runs, runs], every),
        ([mlp], every[1:]),
        ([one, runs / "knn"], [every[0], every[2]]),
        ([str(one), runs / "knn" / ".." / "mlp" / "seed-0001"], every[2:]),
    ]
    for places, found in mixes:
        assert [run.label for run in find_runs(places)] == found
    (runs.parent / "link").symlink_to(runs)
    assert [run.label for run in find_runs([runs.parent / "link", runs])] == every
    for folder, place in ((runs, "."), (mlp, ".."), (mlp, "../../runs")):
        monkeypatch.chdir(folder)
        assert {run.label for run in find_runs([place])} <= set(every)
    monkeypatch.chdir(one)
    assert [run.path for run in find_runs(["."])] == [one]


def test_unfinished_runs_are_not_found_and_hidden_places_are(runs: Path) -> None:
    shutil.copytree(runs / "mlp" / "seed-0000", runs / "mlp" / ".seed-0002.host.1.tmp")
    assert len(find_runs([runs])) == 3
    hidden = runs.rename(runs.parent / ".runs")
    assert len(find_runs([hidden])) == 3
    assert len(find_runs([hidden / "mlp" / "seed-0000"])) == 1


def test_places_without_runs_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a folder"):
        find_runs([runs, tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no runs"):
        find_runs([runs, tmp_path / "empty"])
    with pytest.raises(RunError, match="is not a folder"):
        find_runs([runs / "mlp" / "seed-0000" / "run.json"])


def test_what_is_no_run_any_more_is_not_passed_over(runs: Path) -> None:
    (runs / "knn" / "seed-0000" / "run.json").unlink()
    for place in (runs, runs / "knn"):
        with pytest.raises(RunError, match=r"knn/seed-0000 has no run\.json|knn holds no runs"):
            find_runs([place])
    assert len(find_runs([runs / "mlp"])) == 2
    (runs / "mlp" / "seed-0000" / "run.json").unlink()
    with pytest.raises(RunError, match=r"mlp/seed-0000 has no run\.json, .* Remove it"):
        find_runs([runs / "mlp"])


def test_one_damaged_run_is_refused_by_name(runs: Path) -> None:
    (runs / "mlp" / "seed-0001" / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"seed-0001/run\.json cannot be read"):
        evaluate(runs)


@given(seed=st.integers(0, 2**32 - 1))
def test_folders_sort_as_their_seeds_up_to_four_digits(seed: int) -> None:
    assert int(folder_name(seed).removeprefix("seed-")) == seed
    assert seed >= 9999 or folder_name(seed) < folder_name(seed + 1)


def test_a_training_that_has_not_finished_is_told(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / ".seed-0000.checkpoint.safetensors").touch()
    with pytest.raises(RunError, match=r"a training that has not finished.*fit-scratch"):
        find_runs([tmp_path])

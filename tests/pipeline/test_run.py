"""run.json read back, refused in every state of damage, and found wherever the user points."""

import json
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
from pipeline.run import Run, find_runs, folder_name

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
    """Read a run.json of any content; only a RunError may stand in the way."""
    (folder / "run.json").write_bytes(content)
    try:
        return Run.read(folder)
    except RunError:
        return None


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
        (lambda it: it.update(seed=-1), "'seed' is below 0"),
        (lambda it: it.update(head=3), "'head' is not of type str"),
        (lambda it: it.update(classes=["a", 1]), "'classes' is not a list of type str"),
        (lambda it: it.update(notes=[[]]), "'notes' is not a list of type str"),
        (lambda it: it.update(history=[1]), "'history' is not a list of type dict"),
        (lambda it: it["images"].update(test="beach/beach00.png"), "'test images' is not a list"),
        (lambda it: it["images"].pop("val"), "it lacks 'val'"),
        (lambda it: it["digests"].update(val=None), "'digests' is not a list of type str"),
        (lambda it: it["recipe"].update(precision="bf16"), "does not match its own digest"),
        (lambda it: it["recipe"].update(transform=nested(400)), "damaged"),
        (lambda it: it.update(format_version=1), "format version 1; this manyheads reads version 2"),
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

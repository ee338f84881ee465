"""Fitted heads as files: what comes back is what was saved, and nothing else is loaded."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

from pipeline.errors import HeadError, RunError
from pipeline.heads import HEADS, make_head
from pipeline.heads.storage import load_head, load_model, save_head
from pipeline.prediction import predict
from pipeline.reading import file_digest
from pipeline.run import Run

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 90)).astype(np.float32)
NAMES = np.array(["beach", "<b>forest</b>", "été"])[np.arange(60) % 3]
MARKER: list[str] = []


class Foreign:
    """A type that no head holds; its state would be set by a careless loader."""

    def __init__(self) -> None:
        self.value = 1

    def __setstate__(self, state: Any) -> None:
        MARKER.append("loaded")


def fitted(name: str) -> Any:
    parameters = {"epochs": 2, "hidden": (7,)} if name == "mlp" else {}
    return make_head(name, seed=5, **parameters).fit(X[:40], NAMES[:40], X[40:], NAMES[40:])


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("labels", [NAMES, np.arange(60) % 4], ids=["names", "numbers"])
def test_a_head_comes_back_bit_for_bit(name: str, labels: Any, tmp_path: Path) -> None:
    head = fitted(name).fit(X, labels)
    file = save_head(head, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert file == ("model.safetensors" if name == "mlp" else "model.skops")
    before = torch.get_rng_state()
    loaded = load_head(name, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(loaded) is type(head)
    assert loaded.get_params() == head.get_params()
    assert np.array_equal(loaded.classes_, head.classes_)
    assert loaded.n_features_in_ == 90
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
    assert np.array_equal(loaded.predict(X), head.predict(X))
    assert not hasattr(loaded, "history_")
    for learned in ("best_epoch_", "n_epochs_", "C_", "validation_scores_"):
        assert getattr(loaded, learned, None) == getattr(head, learned, None)
    assert save_head(loaded, tmp_path) == file


def test_the_tensors_explain_themselves(tmp_path: Path) -> None:
    save_head(fitted("mlp"), tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        layers = ("inputs", "hidden_layer1")
        assert set(file.keys()) == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
        metadata = json.loads(file.metadata()["head"])
    assert set(metadata) == {"classes", "n_features", "parameters", "n_epochs", "best_epoch"}
    assert metadata["classes"] == sorted(set(NAMES))
    assert metadata["n_features"] == 90
    assert metadata["parameters"]["hidden"] == [7]


def test_equal_fits_of_the_mlp_are_equal_bytes(tmp_path: Path) -> None:
    def content(head: Any) -> bytes:
        return (tmp_path / save_head(head, tmp_path)).read_bytes()

    first, second = fitted("mlp"), fitted("mlp")
    assert first.history_ != second.history_, "seconds differ"
    expected = content(first)
    assert content(second) == expected
    assert content(load_head("mlp", tmp_path)) == expected
    assert content(second.set_params(device="cuda:1")) == expected, "where it was trained is no part of what it is"
    assert content(fitted("mlp").fit(X, NAMES)) != expected


def test_numbers_of_numpy_are_stored_as_what_they_are(tmp_path: Path) -> None:
    parameters = {"lr": np.float32(0.5), "epochs": np.int64(1), "hidden": (np.int32(7),)}
    save_head(make_head("mlp", seed=np.int64(3), **parameters).fit(X, NAMES), tmp_path)
    loaded = load_head("mlp", tmp_path).get_params()
    assert (loaded["lr"], loaded["epochs"], loaded["hidden"], loaded["random_state"]) == (0.5, 1, (7,), 3)


@pytest.fixture(scope="module", params=["mlp", "logistic"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, bytes]:
    folder = tmp_path_factory.mktemp("run")
    path = folder / save_head(fitted(request.param), folder)
    return request.param, path, path.read_bytes()


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_truncated_file_is_refused(stored: tuple[str, Path, bytes], data: st.DataObject) -> None:
    name, path, content = stored
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(RunError, match=path.name):
        load_head(name, path.parent)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"model\.skops.*missing"):
        load_head("knn", tmp_path)
    with pytest.raises(HeadError, match="no head"):
        load_head("forest", tmp_path)


def test_weights_of_other_shapes_are_refused(tmp_path: Path) -> None:
    head = fitted("mlp")
    head.n_features_in_ = 91
    save_head(head, tmp_path)
    with pytest.raises(RunError, match=r"model\.safetensors.*size mismatch"):
        load_head("mlp", tmp_path)


def test_a_foreign_type_is_refused_and_named_before_it_is_loaded(tmp_path: Path) -> None:
    head = fitted("logistic")
    head.C = Foreign()
    (tmp_path / "model.skops").write_bytes(skops.io.dumps(head))
    with pytest.raises(RunError, match=rf"{__name__}\.Foreign"):
        load_head("logistic", tmp_path)
    assert MARKER == []


def test_another_estimator_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.skops").write_bytes(skops.io.dumps(LogisticRegression().fit(X, NAMES)))
    with pytest.raises(RunError, match="holds a LogisticRegression"):
        load_head("logistic", tmp_path)
    save_head(fitted("svm"), tmp_path)
    with pytest.raises(RunError, match="SVMHead"):
        load_head("knn", tmp_path)


def test_an_unfitted_head_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not fitted"):
        save_head(make_head("svm", seed=0), tmp_path)
    assert list(tmp_path.iterdir()) == []


# The model of a run


def model_of(folder: Path) -> Path:
    (path,) = folder.glob("model.*")
    return path


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def adopted(folder: Path) -> Run:
    """Let a run's run.json name the model file as it is now, as somebody could who made it up."""
    run = Run.read(folder)
    replace(run, model={model_of(folder).name: file_digest(model_of(folder))}).write(folder)
    return Run.read(folder)


@pytest.mark.parametrize("name", ["mlp", "knn"])
def test_the_model_of_a_run_is_the_head_that_was_fitted(fitted: Path, name: str) -> None:
    run = Run.read(fitted / name / "seed-0000")
    assert run.model == {model_of(run.path).name: file_digest(model_of(run.path))}
    model = load_model(run)
    rows = RNG.normal(size=(3, 512)).astype(np.float32)
    assert np.array_equal(model.predict_proba(rows), load_head(name, run.path).predict_proba(rows))
    assert model.digest == run.model[model_of(run.path).name]


@pytest.mark.parametrize("name", ["mlp", "knn"])
@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(b""),
    ],
)
def test_a_damaged_model_is_refused_by_name(runs: Path, name: str, damage: Callable[[Path], object]) -> None:
    run = Run.read(runs / name / "seed-0000")
    damage(model_of(run.path))
    refused = rf"{model_of(run.path)} is not the model that was written .* another run's\. Restore it, or remove"
    with pytest.raises(RunError, match=refused):
        load_model(run)


def test_the_model_of_another_seed_is_refused(runs: Path, drawn: Path) -> None:
    first, second = (runs / "mlp" / f"seed-000{seed}" for seed in (0, 1))
    shutil.copy(model_of(first), model_of(second))
    load_head("mlp", second)
    with pytest.raises(RunError, match=r"seed-0001/model\.safetensors is not the model that was written"):
        load_model(Run.read(second))
    with pytest.raises(RunError, match=r"seed-0001/model\.safetensors is not the model that was written"):
        predict(second, drawn / "beach" / "beach00.png", device="cpu")


def test_a_model_that_is_no_file_is_refused_and_not_waited_for(runs: Path) -> None:
    run = Run.read(runs / "mlp" / "seed-0000")
    path = model_of(run.path)
    path.unlink()
    with pytest.raises(RunError, match=r"should have its model in .*, which is missing\. Remove the run's folder"):
        load_model(run)
    os.mkfifo(path)
    with pytest.raises(RunError, match="cannot be read: it is no regular file"):
        load_model(run)


def test_a_model_for_other_classes_or_features_is_refused(runs: Path) -> None:
    run = Run.read(runs / "mlp" / "seed-0000")
    with pytest.raises(RunError, match="trained on other classes than its run"):
        load_model(replace(run, classes=("beach", "forest", "parking lot")))
    with pytest.raises(RunError, match="trained on other classes"):
        load_model(replace(run, classes=("forest", "beach", "parkinglot")))
    with pytest.raises(RunError, match="takes 512 numbers an image, but its recipe gives 511"):
        load_model(replace(run, recipe=replace(run.recipe, dimension=511)))


def test_a_made_up_model_that_gives_no_probabilities_is_refused(runs: Path) -> None:
    run = Run.read(runs / "mlp" / "seed-0000")
    tensors = load_file(model_of(run.path))
    with safe_open(model_of(run.path), framework="pt") as file:
        entries = file.metadata()
    save_file(
        {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}, model_of(run.path), entries
    )
    with pytest.raises(RunError, match=r"cannot predict \(what it gives are no probabilities\)"):
        load_model(adopted(run.path)).predict_proba(np.zeros((2, 512), dtype=np.float32))
    names = np.array(run.classes)[np.arange(60) % 3]
    logistic = make_head("logistic", seed=0).fit(RNG.normal(size=(60, 512)), names)
    logistic.coef_, logistic.intercept_ = np.zeros((5, 512)), np.zeros(5)
    file = save_head(logistic, run.path)
    other = replace(run, head="logistic", model={file: file_digest(run.path / file)})
    with pytest.raises(RunError, match=r"cannot predict \(what it gives are no probabilities\)"):
        load_model(other).predict_proba(np.zeros((2, 512), dtype=np.float32))
    knn = load_head("knn", runs / "knn" / "seed-0000")
    knn.codes_ = knn.codes_ + 7
    save_head(knn, runs / "knn" / "seed-0000")
    with pytest.raises(RunError, match=r"cannot predict .IndexError.*Remove the run's folder"):
        load_model(adopted(runs / "knn" / "seed-0000")).predict_proba(np.ones((2, 512), dtype=np.float32))


def repacked(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write a zip archive anew with its entries changed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for entry in old.namelist():
            new.writestr(entry, change(entry, old.read(entry)))
    path.write_bytes(packed.getvalue())


def test_an_archive_that_unpacks_into_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / save_head(fitted("logistic"), tmp_path)

    def bomb(name: str, content: bytes) -> bytes:
        return content + b" " * 10_000_000 if name == "schema.json" else content

    repacked(path, bomb)
    load_head("logistic", tmp_path)
    repacked(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(RunError, match=r"its entry .* is compressed, named twice or larger than the file"):
        load_head("logistic", tmp_path)


HARMFUL = ("os.system", "builtins.eval", "subprocess.Popen", "operator.call", "functools.partial", "posix.system")


@pytest.mark.parametrize("harmful", HARMFUL)
@pytest.mark.parametrize(
    "loader", ["ObjectNode", "FunctionNode", "TypeNode", "PartialNode", "MethodNode", "OperatorFuncNode"]
)
def test_a_harmful_name_in_the_schema_is_refused_unrun(tmp_path: Path, harmful: str, loader: str) -> None:
    path, mark = tmp_path / save_head(fitted("logistic"), tmp_path), tmp_path / "ran"
    module, _, name = harmful.rpartition(".")

    def planted(entry: str, content: bytes) -> bytes:
        if entry != "schema.json":
            return content
        schema = json.loads(content)
        argument = {
            "__class__": "str",
            "__module__": "builtins",
            "__loader__": "JsonNode",
            "content": json.dumps(f"touch {mark}"),
            "is_json": True,
        }
        held = {"func": name, "args": argument, "obj": argument, "attrs": argument, "namespace": None, "kwds": argument}
        node = {"__class__": name, "__module__": module, "__loader__": loader, "content": {**argument, **held}}
        schema["content"]["content"]["coef_"] = {**node, "__id__": 1}
        return json.dumps(schema).encode()

    repacked(path, planted)
    with pytest.raises(RunError, match=r"model\.skops"):
        load_head("logistic", tmp_path)
    assert not mark.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_json_beside_the_tensors_gives_a_head_or_a_refusal(tmp_path: Path, data: st.DataObject) -> None:
    tensors, learned = fitted("mlp").to_tensors()
    place = learned
    if data.draw(st.booleans()):
        place = learned["parameters"]
    place[data.draw(st.sampled_from([*place, "other"]))] = data.draw(JSON)
    document = data.draw(st.just(learned) | JSON)
    save_file(tensors, tmp_path / "model.safetensors", {"head": json.dumps(document)})
    try:
        load_head("mlp", tmp_path)
    except RunError:
        return
    assert document is learned

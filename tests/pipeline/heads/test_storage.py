"""Fitted heads as files: what comes back is what was saved, and nothing else is loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression

from pipeline.errors import HeadError, RunError
from pipeline.heads import HEADS, make_head
from pipeline.heads.storage import load_head, save_head

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

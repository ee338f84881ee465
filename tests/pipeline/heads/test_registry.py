"""The registry of `pipeline.heads`: names, parameters and what is refused."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import check_estimator

from pipeline.errors import HeadError
from pipeline.heads import HEADS, HeadSpec, HeadValueError, head_parameters, make_head
from pipeline.heads.storage import load_head, save_head

ROOT = Path(__file__).parents[3]


def test_naming_a_head_imports_neither_torch_nor_sklearn() -> None:
    code = "import sys, pipeline.heads; sys.exit(any(m in sys.modules for m in ('torch', 'sklearn', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_built_with_its_defaults(name: str) -> None:
    head, defaults = make_head(name, seed=3), head_parameters(name)
    given = head.get_params()
    assert given.pop("random_state", None) == (3 if HEADS[name].seeded else None)
    assert given == defaults
    assert clone(head).get_params() == head.get_params()
    assert set(type(head).allowed) == set(defaults)


def test_only_the_mlp_is_seeded() -> None:
    assert [name for name, spec in HEADS.items() if spec.seeded] == ["mlp"]


def test_the_recipe_of_the_paper_is_the_default() -> None:
    assert head_parameters("mlp") == {
        "hidden": None,
        "lr": 1e-4,
        "epochs": 15,
        "batch_size": 16,
        "dropout": 0.5,
        "weight_decay": 0.0,
        "patience": None,
        "device": "cpu",
    }


def test_an_unknown_head_is_refused_with_close_matches() -> None:
    with pytest.raises(HeadError, match=r"no head 'logistics' \(did you mean 'logistic'\?\).*mlp, logistic, svm, knn"):
        make_head("logistics", seed=0)


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(HeadError, match=r"'n_neighbours' \(did you mean 'n_neighbors'\?\): it has metric, n_neighbors"):
        make_head("knn", seed=0, n_neighbours=3)
    with pytest.raises(HeadError, match="the seed is given as seed"):
        make_head("mlp", seed=0, random_state=1)
    with pytest.raises(HeadValueError, match="seed of a head must be a whole number from 0 on; it is -1"):
        make_head("mlp", seed=-1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp", {"lr": 0}),
        ("mlp", {"lr": "0.1"}),
        ("mlp", {"lr": float("nan")}),
        ("mlp", {"epochs": 0}),
        ("mlp", {"epochs": 1.5}),
        ("mlp", {"epochs": True}),
        ("mlp", {"dropout": 1.0}),
        ("mlp", {"dropout": -0.1}),
        ("mlp", {"hidden": (8, 0)}),
        ("mlp", {"hidden": 8}),
        ("mlp", {"patience": 0}),
        ("mlp", {"device": "tpu"}),
        ("logistic", {"C": 0.0}),
        ("logistic", {"strengths": ()}),
        ("svm", {"C": None}),
        ("knn", {"n_neighbors": 0}),
        ("knn", {"metric": "manhattan"}),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(name: str, parameters: dict[str, Any]) -> None:
    (parameter,) = parameters
    with pytest.raises(HeadValueError, match=rf"{parameter} must be .*; it is "):
        make_head(name, seed=0, **parameters)


@pytest.mark.filterwarnings("ignore")
def test_the_head_of_the_docs_needs_one_estimator_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```py(?:thon)?\n(.*?)```", (ROOT / "docs/heads.md").read_text(encoding="utf-8"), re.DOTALL)
    (estimator,) = (block for block in blocks if "class CentroidHead" in block)
    (line,) = (block for block in blocks if '"centroid": HeadSpec(' in block)
    (tmp_path / "documented_centroid.py").write_text(estimator, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    spec = eval("{" + line + "}", {"HeadSpec": HeadSpec})["centroid"]
    monkeypatch.setitem(HEADS, "centroid", HeadSpec("documented_centroid:CentroidHead", spec.seeded, spec.about))

    X, y = load_digits(return_X_y=True)
    head = make_head("centroid", seed=0, sharpness=0.01).fit(X[:1000], y[:1000])
    assert head.score(X[1000:], y[1000:]) > 0.8
    save_head(head, tmp_path)
    assert (load_head("centroid", tmp_path).predict_proba(X) == head.predict_proba(X)).all()
    with pytest.raises(HeadValueError, match="sharpness must be a number above 0"):
        make_head("centroid", seed=0, sharpness=-1)
    check_estimator(make_head("centroid", seed=0))

"""Options as text: what is written is read back as it was, and what is given twice or unclear is refused."""

import json
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import cli
from pipeline import options
from pipeline.fitting import fit_head
from pipeline.grid import fit_grid
from pipeline.heads.mlp import MLPHead
from pipeline.wording import seeds_text

SEEDS = st.lists(st.integers(0, 999_999), min_size=1, max_size=30, unique=True).map(tuple)
SIZES = st.lists(st.integers(1, 9_999), min_size=1, max_size=5).map(tuple)
NUMBERS = st.floats(allow_nan=False)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | NUMBERS | st.text(), lambda some: st.lists(some))
CONTEXT = click.Context(cli.main)
OPTION = cli.main.commands["fit-head"].params[0]


def read(callback: Callable[[click.Context, click.Parameter, Any], Any], value: Any) -> Any:
    return callback(CONTEXT, OPTION, value)


def shown(value: Any) -> str:
    """Tell 1, 1.0 and True apart."""
    return repr(value)


@given(SEEDS)
@example((0, 1, 2, 5, 7, 8))
def test_seeds_are_read_as_they_were_written(seeds: tuple[int, ...]) -> None:
    assert read(options.seeds, seeds_text(seeds)) == seeds


def test_seeds_as_people_write_them() -> None:
    assert read(options.seeds, "0-3") == (0, 1, 2, 3)
    assert read(options.seeds, "7,0-2,1") == (7, 0, 1, 2)
    assert seeds_text((0, 1, 2, 5, 7, 8)) == "0-2,5,7-8"


@pytest.mark.parametrize("text", ["", "9-0", "x", "1,", "-1", "1-2-3", "1000000", "1.5"])
def test_what_is_no_seeds_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        read(options.seeds, text)


@given(st.text() | JSON.map(json.dumps) | st.sampled_from(["None", "1e-4", "NaN", "007", "[1", "euclidean", '"1"', ""]))
def test_a_value_is_read_as_it_was_written(text: str) -> None:
    value = read(options.settings, (f"C={text}",))["C"]
    again = read(options.settings, (f"C={options.value_text('C', value)}",))["C"]
    assert shown(again) == shown(value)


@given(SIZES)
def test_sizes_are_read_as_they_were_written(sizes: tuple[int, ...]) -> None:
    text = options.value_text("hidden", sizes)
    assert read(options.sizes, text) == read(options.settings, (f"hidden={text}",))["hidden"] == sizes
    assert options.value_text("hidden", list(sizes)) == text


def test_what_values_become() -> None:
    given = ("C=0.1", "metric=euclidean", "n_neighbors=5", "strengths=[0.1,1]", "balanced=true", "patience=None")
    assert read(options.settings, given) == {
        "C": 0.1,
        "metric": "euclidean",
        "n_neighbors": 5,
        "strengths": [0.1, 1],
        "balanced": True,
        "patience": None,
    }
    axes = ("lr=1e-4,3e-4,1e-3", "hidden=84-63-42,128,none")
    assert read(options.grid, axes) == {"lr": (1e-4, 3e-4, 1e-3), "hidden": ((84, 63, 42), (128,), None)}


@pytest.mark.parametrize("callback", [options.settings, options.grid])
@pytest.mark.parametrize("given", [("C",), ("=1",), ("a-b=1",), ("C=1", "lr=2", "C=3"), ("hidden=84;63",)])
def test_what_is_no_value_or_given_twice_is_refused(
    callback: Callable[[click.Context, click.Parameter, Any], Any], given: tuple[str, ...]
) -> None:
    with pytest.raises(click.BadParameter):
        read(callback, given)


@given(
    st.fixed_dictionaries(
        {"head": st.sampled_from(["mlp", "knn"]), "seeds": SEEDS},
        optional={
            "name": st.text(min_size=1),
            "use_views": st.integers(2, 100),
            "split": st.sampled_from(["60/20/20", "paper", "my split.csv"]),
            "split_seed": st.integers(1),
            "device": st.sampled_from(["auto", "cuda:1"]),
            "epochs": st.integers(1),
            "lr": NUMBERS,
            "dropout": NUMBERS,
            "batch_size": st.integers(1),
            "hidden": SIZES,
            "weight_decay": NUMBERS,
            "patience": st.integers(1),
            "C": JSON,
            "n_neighbors": JSON,
        },
    )
)
def test_the_commands_own_options_read_what_was_typed(settings: dict[str, Any]) -> None:
    words = ["CACHE", "RUNS", *options.typed(settings)]
    given = cli.main.commands["fit-head"].make_context("fit-head", words).params
    found = given | given["other"]
    for name, value in settings.items():
        assert shown(found[name]) == shown(value), name


def test_what_is_none_is_left_to_its_default() -> None:
    assert options.typed({"head": "mlp", "hidden": None, "split": None, "C": None}) == [
        "--head",
        "mlp",
        "--set",
        "C=none",
    ]


def test_only_hyper_parameters_are_set_and_each_once() -> None:
    assert options.merged({"lr": 1}, {"C": 2}) == {"lr": 1, "C": 2}
    with pytest.raises(click.UsageError, match="lr is given twice"):
        options.merged({"lr": 1}, {"lr": 1})
    for name in ("jobs", "device", "grid", "seeds"):
        with pytest.raises(click.UsageError, match=f"of the head, which {name} is not"):
            options.merged({}, {name: 1})


def test_the_lists_of_names_are_those_of_the_function_and_the_head() -> None:
    taken = [*signature(fit_grid).parameters.values(), *signature(fit_head).parameters.values()]
    assert set(options.NO_HYPER_PARAMETERS) == {one.name for one in taken if one.kind != Parameter.VAR_KEYWORD}
    assert set(options.OWN) == set(signature(MLPHead).parameters) - {"random_state", "device"}
    own = {one.name for one in cli.main.commands["fit-head"].params}
    assert {*options.OWN, *options.TYPED} <= own

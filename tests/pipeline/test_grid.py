"""A grid: all combinations, ranked on validation images alone, and a winner that is there already."""

import io
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

import cli
from cache import CacheError
from pipeline.errors import HeadError, RunError
from pipeline.evaluation import evaluate
from pipeline.extraction import extract
from pipeline.fitting import fit_head
from pipeline.grid import GridSearch, fit_grid
from pipeline.run import Run
from pipeline.run_places import find_runs
from pipeline.stored_predictions import stored_predictions
from pipeline.tables import show_grid
from tests.conftest import BASE, CLASSES, WEIGHTS

GRID = {"lr": (1e-7, 1e-2), "hidden": ((16, 8), (4,))}
FIXED: dict[str, Any] = {"seeds": (0, 1), "split": "60/20/20", "epochs": 8, "dropout": 0.0, "jobs": 1}


@pytest.fixture(scope="module")
def runs_of_a_grid(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GridSearch]:
    """The runs of a grid, and what it found; do not write to them."""
    runs = tmp_path_factory.mktemp("grid") / "runs"
    return runs, fit_grid(extracted, runs, GRID, **FIXED)


@pytest.fixture
def search(runs_of_a_grid: tuple[Path, GridSearch]) -> GridSearch:
    return runs_of_a_grid[1]


@pytest.fixture
def runs(runs_of_a_grid: tuple[Path, GridSearch], tmp_path: Path) -> Path:
    """A copy of the runs to change."""
    return Path(shutil.copytree(runs_of_a_grid[0], tmp_path / "runs"))


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_combination_has_every_seed_and_is_a_configuration_like_any_other(search: GridSearch) -> None:
    found = {(run.name, run.seed) for run in find_runs([search.runs])}
    names = {f"mlp_hidden={hidden}_lr={lr}" for lr in ("1e-07", "0.01") for hidden in ("16-8", "4")}
    assert found == {(name, seed) for name in names for seed in (0, 1)}
    assert {candidate.name for candidate in search.candidates} == names
    assert search.fitted == 8
    for candidate in search.candidates:
        run = Run.read(search.runs / candidate.name / "seed-0001")
        assert {name: run.parameters[name] for name in ("lr", "epochs")} == {"lr": candidate.values["lr"], "epochs": 8}
        assert run.parameters["hidden"] == list(candidate.values["hidden"])
        assert candidate.seeds == 2
        assert candidate.curves is not None
        with Image.open(candidate.curves) as picture:
            picture.load()


def test_candidates_are_ranked_by_what_their_stored_predictions_say(search: GridSearch) -> None:
    totals = []
    for candidate in search.candidates:
        found = [stored_predictions(run, "val") for run in find_runs([search.runs / candidate.name])]
        right = [one.correct for one in found if one]
        assert len(right) == 2
        accuracies = [float(one.mean()) for one in right]
        assert candidate.accuracy.mean == pytest.approx(sum(accuracies) / 2)
        assert (candidate.accuracy.smallest, candidate.accuracy.largest) == (min(accuracies), max(accuracies))
        totals.append((-sum(int(one.sum()) for one in right), candidate.log_loss.mean))
    assert totals == sorted(totals)
    assert search.images == len(right[0]) == 6


def test_ties_in_accuracy_are_broken_by_log_loss(extracted: Path, tmp_path: Path) -> None:
    # What is hardly trained is equally right or wrong whatever the rate; only the probabilities move.
    search = fit_grid(extracted, tmp_path, {"lr": (1e-9, 1e-5, 1e-8)}, **{**FIXED, "seeds": (0,), "epochs": 2})
    assert len({candidate.accuracy.mean for candidate in search.candidates}) == 1
    losses = [candidate.log_loss.mean for candidate in search.candidates]
    assert losses == sorted(losses)
    assert len(set(losses)) == 3


def test_the_rate_that_learns_wins(search: GridSearch) -> None:
    assert [candidate.values["lr"] for candidate in search.candidates] == [1e-2, 1e-2, 1e-7, 1e-7]
    first, *others = search.candidates
    assert search.winner["lr"] == 1e-2
    assert first.behind is None
    for candidate in others:
        assert candidate.behind is not None
        found = candidate.behind
        assert found.value == pytest.approx(first.accuracy.mean - candidate.accuracy.mean)
        assert found.low <= found.value <= found.high
        assert found.value >= 0
        assert candidate.adjusted == pytest.approx(min(6 * found.p, 1))
        assert candidate.shown == (6 * found.p < 0.05)


def test_the_winners_arguments_fit_nothing_new(extracted: Path, search: GridSearch, runs: Path) -> None:
    fitting = fit_head(extracted, runs, **search.winner)
    assert (fitting.fitted, len(fitting.runs)) == (0, 2)
    more = fit_head(extracted, runs, **{**search.winner, "seeds": (0, 1, 2), "jobs": 1})
    assert (more.fitted, len(more.runs)) == (1, 3)


def test_the_printed_commands_can_be_typed(
    extracted: Path, search: GridSearch, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    show_grid(fit_grid(extracted, runs, GRID, **FIXED), Console(file=file, width=140))
    lines = dict(line.split(": ", 1) for line in file.getvalue().splitlines() if ": manyheads " in line)
    typed = {label: shlex.split(line)[1:] for label, line in lines.items()}
    before = files(runs)
    done = CliRunner().invoke(cli.main, typed["fits the best"])
    assert "0 runs fitted, 2 kept" in done.stdout
    assert files(runs) == before
    assert f"test, {search.images} images" in CliRunner().invoke(cli.main, typed["its test figures"]).stdout


def test_a_grid_goes_on_where_it_stopped(extracted: Path, search: GridSearch, runs: Path) -> None:
    before = files(runs)
    victim = runs / search.candidates[-1].name / "seed-0001"
    shutil.rmtree(victim)
    again = fit_grid(extracted, runs, GRID, **FIXED)
    assert again.fitted == 1
    assert [(one.name, one.accuracy) for one in again.candidates] == [
        (one.name, one.accuracy) for one in search.candidates
    ]
    after = files(runs)
    weights = victim.relative_to(runs) / "model.safetensors"
    assert after[weights] == before[weights]
    assert fit_grid(extracted, runs, GRID, **FIXED).fitted == 0
    assert files(runs) == after


def test_a_larger_grid_keeps_what_a_smaller_one_fitted(extracted: Path, runs: Path) -> None:
    larger = {"lr": (1e-7, 1e-2), "hidden": ((4,), (16, 8), (6,))}
    assert fit_grid(extracted, runs, larger, **FIXED).fitted == 4


def test_the_order_of_the_axes_and_their_values_makes_no_difference(
    extracted: Path, search: GridSearch, runs: Path
) -> None:
    turned = {name: values[::-1] for name, values in reversed(GRID.items())}
    again = fit_grid(extracted, runs, turned, **FIXED)
    assert again.fitted == 0
    assert again.candidates[0].name == search.candidates[0].name


def test_any_parameter_of_any_head_can_be_an_axis(extracted: Path, tmp_path: Path) -> None:
    search = fit_grid(extracted, tmp_path, {"n_neighbors": (18, 1)}, head="knn", split="60/20/20", jobs=1)
    # With all 18 training images as neighbours, every class has as many votes.
    assert [candidate.name for candidate in search.candidates] == ["knn_n_neighbors=1", "knn_n_neighbors=18"]
    assert [(candidate.seeds, candidate.curves) for candidate in search.candidates] == [(1, None), (1, None)]
    assert "seeds" not in search.winner, "the seed has no influence on this head"
    assert fit_head(extracted, tmp_path, **search.winner).fitted == 0


def parted(drawn: Path, root: Path, parts: dict[str, range], test_classes: tuple[str, ...] = CLASSES) -> Path:
    """Lay the images out with a split of their own, those of test in folders of these classes."""
    for part, numbers in parts.items():
        for label, shown in zip(CLASSES, test_classes if part == "test" else CLASSES, strict=True):
            (root / part / shown).mkdir(parents=True, exist_ok=True)
            for number in numbers:
                shutil.copy(drawn / label / f"{label}{number:02d}.png", root / part / shown)
    return root


def ranking(search: GridSearch) -> list[tuple[object, ...]]:
    return [(one.name, one.accuracy, one.log_loss, one.behind) for one in search.candidates]


def test_classes_of_test_images_make_no_difference(drawn: Path, tmp_path: Path) -> None:
    parts = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}
    found = []
    for name, classes in (("right", CLASSES), ("wrong", CLASSES[1:] + CLASSES[:1])):
        images = parted(drawn, tmp_path / name / "images", parts, classes)
        extract(images, tmp_path / name / "cache", base=BASE, weights=WEIGHTS, device="cpu")
        found.append(fit_grid(tmp_path / name / "cache", tmp_path / name / "runs", GRID, **{**FIXED, "split": "own"}))
        assert not list(tmp_path.rglob("*-test.*"))
    assert ranking(found[0]) == ranking(found[1])
    with pytest.raises(RunError, match="test images"):  # they are others indeed
        fit_head(tmp_path / "wrong" / "cache", tmp_path / "right" / "runs", **found[0].winner)


def test_features_of_test_images_are_not_read(drawn: Path, tmp_path: Path) -> None:
    images, cache = tmp_path / "images", tmp_path / "cache"
    recipe: dict[str, Any] = {"base": BASE, "weights": WEIGHTS, "device": "cpu"}
    extract(parted(drawn, images, {"train": range(6), "val": range(6, 8)}), cache, **recipe)
    others = set((cache / "shards").iterdir())
    extract(parted(drawn, images, {"test": range(8, 10)}), cache, **recipe)
    (shard,) = set((cache / "shards").iterdir()) - others
    whole = fit_grid(cache, tmp_path / "whole", GRID, **{**FIXED, "split": None})
    shard.unlink()
    search = fit_grid(cache, tmp_path / "runs", GRID, **{**FIXED, "split": None})
    assert ranking(search) == ranking(whole)
    with pytest.raises(CacheError):
        evaluate(tmp_path / "runs" / search.candidates[0].name, on="test")


@pytest.mark.parametrize(
    ("grid", "options", "said"),
    [
        ({}, {}, "nothing to compare.*--grid lr="),
        ({"lr": ()}, {}, "no value of lr"),
        ({"lr": (1e-3, 1e-2, 1e-3)}, {}, "values of lr must be different; they are 0.001, 0.01, 0.001"),
        ({"lr": (1, 1.0)}, {}, "values of lr must be different"),
        ({"hidden": ((4,), [4])}, {}, "values of hidden must be different"),
        ({"lr": (1e-3,), "rate": (1,)}, {}, "no parameter 'rate'"),
        ({"epochs": (3, 4)}, {}, "epochs is given once for all combinations"),
        ({"device": ("cpu", "auto")}, {}, "device is given once for all combinations"),
        ({"seed": (1, 2)}, {}, "is no hyper-parameter.*--seeds"),
        ({"dropout": (0.5, 1.5)}, {"dropout": None}, "dropout must be a number from 0 on and below 1; it is 1.5"),
        ({"lr": (1e-3, "fast")}, {}, "lr must be a number"),
        ({"n_neighbors": (1, 0)}, {"head": "knn", "epochs": None, "dropout": None}, "n_neighbors must be"),
        ({"lr": (1e-3,)}, {"split": "80/0/20"}, "no validation part.*never chosen on test images.*--split 80/10/10"),
        ({"lr": (1e-3,)}, {"use_views": 0}, "0 views are none"),
        ({"lr": (1e-3,)}, {"head": "forest"}, "no head 'forest'"),
        ({"lr": (1e-3,)}, {"head": "scratch"}, "a baseline with a stage of its own"),
        ({"lr": (1e-3,)}, {"seeds": (1, 1)}, r"seeds \[1, 1\] are not"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_anything_is(
    extracted: Path, tmp_path: Path, grid: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    given = {name: value for name, value in {**FIXED, **options}.items() if value is not None}
    with pytest.raises(HeadError, match=said):
        fit_grid(extracted, tmp_path / "runs", grid, **given)
    assert not (tmp_path / "runs").exists()


def test_runs_of_another_configuration_are_not_taken_for_those_of_a_grid(extracted: Path, runs: Path) -> None:
    before = files(runs)
    with pytest.raises(RunError, match="parameter epochs is 8, asked 9"):
        fit_grid(extracted, runs, GRID, **{**FIXED, "epochs": 9})
    assert files(runs) == before

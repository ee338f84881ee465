"""Learning curves: what is drawn is what the histories say, for any seeds, epochs and names."""

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from pipeline.figures import curves_figure, draw_curves, save_figure
from pipeline.figures.curves import ABREAST, KINDS, History
from pipeline.run_places import find_runs


def history(seed: int, epochs: int = 15, validated: bool = True) -> History:
    """Draw a history as `Run.history` has it."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, float | None]] = []
    for epoch in range(1, epochs + 1):
        losses = (3 * np.exp(-epoch / 4) * generator.uniform(0.8, 1.2, 2) + 0.2).tolist()
        accuracies = (1 - np.exp(-epoch / 4) * generator.uniform(0.8, 1.0, 2)).tolist()
        val_loss, val_accuracy = (losses[1], accuracies[1]) if validated else (None, None)
        rows.append(
            {
                "epoch": epoch,
                "train_loss": losses[0],
                "train_accuracy": accuracies[0],
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "seconds": 0.1,
            }
        )
    return rows


def panels(figure: Figure) -> tuple[Sequence[Axes], Sequence[Axes]]:
    """Return the panels of the losses and those of the accuracies."""
    return figure.axes[::2], figure.axes[1::2]


def line(axes: Axes, label: str) -> npt.NDArray[np.float64]:
    """Return the (epochs, 2) points of a line."""
    (found,) = (one for one in axes.get_lines() if one.get_label() == label)
    return np.asarray(found.get_xydata())


def band(axes: Axes, kind: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the lower and the upper edge of a band, by epoch."""
    found = [one for one in axes.collections if isinstance(one, PolyCollection)][list(KINDS).index(kind)]
    points = np.asarray(found.get_paths()[0].vertices)
    epochs = sorted(set(points[:, 0]))
    edges = [points[points[:, 0] == epoch, 1] for epoch in epochs]
    return np.array([edge.min() for edge in edges]), np.array([edge.max() for edge in edges])


def number(record: Mapping[str, float | None], quantity: str) -> float:
    found = record[quantity]
    assert found is not None
    return found


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_lines_are_means_and_bands_reach_from_the_smallest_seed_to_the_largest(lengths: list[int]) -> None:
    seeds = [history(seed, epochs) for seed, epochs in enumerate(lengths)]
    figure = curves_figure({"mlp": seeds}, "")
    for axes, what in zip(figure.axes, ("loss", "accuracy"), strict=True):
        for kind, (label, *_) in KINDS.items():
            reached = [
                [number(one[epoch], f"{kind}_{what}") for one in seeds if epoch < len(one)]
                for epoch in range(max(lengths))
            ]
            points = line(axes, label)
            assert points[:, 0].tolist() == list(range(1, max(lengths) + 1))
            assert points[:, 1] == pytest.approx([np.mean(numbers) for numbers in reached])
            if len(lengths) > 1 and max(lengths) > 1:
                low, high = band(axes, kind)
                assert low == pytest.approx([min(numbers) for numbers in reached])
                assert high == pytest.approx([max(numbers) for numbers in reached])


@pytest.mark.parametrize("names", [1, 2, 3, 4, 5, 9])
def test_two_panels_a_name_on_the_same_scales_without_overlap(names: int) -> None:
    figure = curves_figure({f"name {number}": [history(number, 3 + number)] for number in range(names)}, "")
    assert len(figure.axes) == 2 * names
    for row in panels(figure):
        assert len({axes.get_ylim() for axes in row}) == 1
    boxes = [axes.get_position() for axes in figure.axes]
    assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])
    everything = Bbox.union(boxes)
    assert min(everything.min) > 0
    assert max(everything.max) < 1
    assert len({round(box.x0, 6) for box in boxes}) <= ABREAST
    assert [text for text in texts(figure) if text.startswith("name")] == [f"name {number}" for number in range(names)]


def test_scales_hold_all_that_is_drawn() -> None:
    figure = curves_figure({"a": [history(0)], "b": [history(1), history(2)]}, "")
    for axes in figure.axes:
        low, high = axes.get_ylim()
        for one in axes.get_lines():
            assert low <= np.min(one.get_ydata()) <= np.max(one.get_ydata()) < high
    losses, accuracies = panels(figure)
    assert losses[0].get_ylim()[0] == 0
    assert accuracies[0].get_ylim()[0] == 0
    assert 1 in accuracies[0].get_yticks()


def test_high_accuracies_are_drawn_large() -> None:
    good = [{"train_loss": 0.1, "train_accuracy": 0.93, "val_loss": 0.1, "val_accuracy": 0.95} for _ in range(3)]
    _, (axes,) = panels(curves_figure({"a": [good]}, ""))
    low, high = axes.get_ylim()
    assert 0.8 <= low < 0.93
    assert 1 < high < 1.02


@pytest.mark.parametrize("epochs", [1, 2, 15, 200])
def test_epochs_are_whole_numbers(epochs: int) -> None:
    figure = curves_figure({"mlp": [history(0, epochs)]}, "")
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert (low, high) == (0.5, epochs + 0.5)
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)


def test_one_epoch_is_a_dot_and_its_band_a_bar() -> None:
    figure = curves_figure({"mlp": [history(seed, 1) for seed in range(3)], "b": [history(0, 1)]}, "")
    assert all(one.get_marker() == "o" for axes in figure.axes for one in axes.get_lines())
    bars = [one for one in figure.axes[1].collections if isinstance(one, LineCollection)]
    ends = [number(history(seed, 1)[0], "train_accuracy") for seed in range(3)]
    assert bars[0].get_segments()[0][:, 1] == pytest.approx([min(ends), max(ends)])
    assert not figure.axes[3].collections


def test_one_seed_has_no_band() -> None:
    figure = curves_figure({"mlp": [history(0)]}, "")
    assert not any(axes.collections for axes in figure.axes)
    assert "1 seed, 15 epochs" in texts(figure)
    assert not any("band" in text for text in texts(figure))


def test_seeds_that_stopped_early_are_told() -> None:
    figure = curves_figure({"mlp": [history(0, 7), history(1, 12)]}, "")
    assert "2 seeds, 7 to 12 epochs" in texts(figure)
    assert any(
        "over the seeds that reached the epoch; band: from the smallest" in _flat(text) for text in texts(figure)
    )


def _flat(text: str) -> str:
    return text.replace("\n", " ")


def test_why_training_may_be_worse_is_told() -> None:
    figure = curves_figure({"mlp": [history(0)]}, "")
    assert any("with dropout: they may well be worse than validation figures" in _flat(text) for text in texts(figure))


def test_without_validation_there_is_no_line_of_it() -> None:
    figure = curves_figure({"mlp": [history(0, validated=False), history(1, validated=False)]}, "")
    assert [[one.get_label() for one in axes.get_lines()] for axes in figure.axes] == [["training"], ["training"]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training"]
    both = curves_figure({"mlp": [history(0)], "b": [history(0, validated=False)]}, "")
    assert [text.get_text() for text in both.legends[0].get_texts()] == ["training", "validation"]


def test_what_is_no_number_is_a_gap(tmp_path: Path) -> None:
    odd: list[dict[str, float | None]] = [
        {"train_loss": float("nan"), "train_accuracy": 0.1},
        {"train_loss": 10**400, "train_accuracy": 0.2, "val_loss": float("inf")},
        {"train_loss": 2.0, "train_accuracy": None},
    ]
    figure = curves_figure({"mlp": [odd, history(0, 2)]}, "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "a.png")
    second = history(0, 2)
    assert line(figure.axes[0], "training")[:, 1] == pytest.approx(
        [second[0]["train_loss"], second[1]["train_loss"], 2.0]
    )
    assert np.isnan(line(figure.axes[1], "training")[:, 1]).tolist() == [False, False, True]


def test_names_without_epochs_are_left_out() -> None:
    figure = curves_figure({"knn": [[], []], "mlp": [history(0), []], "none": []}, "")
    assert len(figure.axes) == 2
    assert "mlp" in texts(figure)
    assert "1 seed, 15 epochs" in texts(figure)
    with pytest.raises(ValueError, match="no history of epochs"):
        curves_figure({"knn": [[]]}, "")


@pytest.mark.parametrize(
    "name", ["$x$", r"$\frac{1}$", "two\nlines", "森" * 40, "🌲", "W" * 300, "\x1b[31m", " ", "_a^b%"]
)
def test_any_name_and_title_is_drawn_as_it_is(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = curves_figure({name: [history(0, 2)], "b": [history(0, 2)]}, f"{name}, {name}")
        path = save_figure(figure, tmp_path / "a.png")
        written = Bbox.union([text.get_window_extent() for text in figure.texts])
    shown = texts(figure)[0]
    assert shown.isprintable()
    assert shown == name or not name.isprintable() or (shown.endswith("…") and name.startswith(shown[:-1]))
    with Image.open(path) as picture:
        assert min(written.min) >= 0
        assert max(written.max - picture.size) <= 0


def test_a_picture_is_drawn_anew_only_when_its_histories_changed(tmp_path: Path) -> None:
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    histories: dict[str, Sequence[History]] = {"mlp": [history(0), history(1)], "b": [history(2)]}
    assert draw_curves(histories, "title", path) == path
    drawn = path.stat().st_mtime_ns
    # Seconds differ from fit to fit, and are not drawn.
    slower = {name: [[{**row, "seconds": 9.0} for row in one] for one in every] for name, every in histories.items()}
    draw_curves(slower, "title", path)
    assert path.stat().st_mtime_ns == drawn
    assert draw_curves(histories, "title", other).read_bytes() == path.read_bytes()
    for changed, title in (
        (histories, "other"),
        (histories | {"mlp": [history(0)]}, "title"),
        (dict(reversed(histories.items())), "title"),
        ({"mlp": histories["mlp"], "c": histories["b"]}, "title"),
    ):
        before = path.read_bytes()
        draw_curves(changed, title, path)
        assert path.read_bytes() != before


def test_histories_of_real_runs_are_drawn(fitted: Path, tmp_path: Path) -> None:
    histories: dict[str, list[History]] = {}
    for run in find_runs([fitted]):
        histories.setdefault(run.name, []).append(run.history)
    figure = curves_figure(histories, "")
    assert "mlp" in texts(figure)
    assert "2 seeds, 3 epochs" in texts(figure)
    accuracies = [[record["val_accuracy"] for record in one] for one in histories["mlp"]]
    assert line(figure.axes[1], "validation")[:, 1] == pytest.approx(np.mean(np.array(accuracies, dtype=float), axis=0))


def test_drawing_is_quick(tmp_path: Path) -> None:
    draw_curves({"mlp": [history(0)]}, "", tmp_path / "first.png")  # imports matplotlib
    before = time.process_time()
    draw_curves({name: [history(seed) for seed in range(10)] for name in "abc"}, "", tmp_path / "second.png")
    assert time.process_time() - before < 1.5

"""Which name is better: ranked, tested pair by pair, and refused where figures cannot be set against each other."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.comparison import compare
from pipeline.difference import CROSSED, MCNEMAR
from pipeline.errors import RunError
from pipeline.evaluation import evaluate
from pipeline.extraction import extract
from pipeline.fitting import fit_head
from pipeline.outcomes import METRICS
from pipeline.statistics import holm
from tests.conftest import BASE, CLASSES, WEIGHTS


@pytest.mark.parametrize("metric", METRICS)
def test_names_are_ranked_and_every_pair_is_tested(runs: Path, extracted: Path, metric: str) -> None:
    fit_head(extracted, runs, head="mlp", name="short", seeds=(0, 1), epochs=1, split="60/20/20", jobs=1)
    result = compare(runs, metric=metric)
    assert (result.part, result.metric, result.images) == ("test", metric, 6)
    assert {standing.name for standing in result.names} == {"mlp", "knn", "short"}
    sign = -1 if metric == "log_loss" else 1
    figures = [sign * standing.figure.value for standing in result.names]
    assert figures == sorted(figures, reverse=True)
    assert {(pair.first, pair.second) for pair in result.pairs} == {
        (one.name, other.name) for place, one in enumerate(result.names) for other in result.names[place + 1 :]
    }
    by_name = {standing.name: standing.figure.value for standing in result.names}
    for pair in result.pairs:
        apart = by_name[pair.first] - by_name[pair.second]
        assert pair.difference.value == pytest.approx(sign * apart, abs=1e-6)
        assert pair.difference.value >= -1e-9
        assert pair.tests == 3
        assert pair.detectable is None or pair.detectable > 0
    adjusted = [pair.adjusted for pair in result.pairs]
    assert adjusted == pytest.approx(holm([pair.difference.p for pair in result.pairs]))
    assert [pair.shown for pair in result.pairs] == [p < 0.05 for p in adjusted]


def test_figures_and_verdicts_are_those_of_evaluate(runs: Path, extracted: Path) -> None:
    evaluation, result = evaluate(runs), compare(runs)
    for summary, standing in zip(evaluation.names, result.names, strict=True):
        assert standing.name == summary.name
        assert standing.figure.value == pytest.approx(summary.metrics["accuracy"].mean)
        assert (standing.figure.low, standing.figure.high) == summary.interval
        assert standing.deviation.seeds == summary.metrics["accuracy"].deviation
        assert (standing.seeds, standing.fits) == (summary.seeds, summary.fits)
    fit_head(extracted, runs, head="logistic", split="60/20/20", jobs=1)
    of_best = {pair.second: pair for pair in compare(runs).pairs[:2]}
    assert {one.name: one.behind for one in evaluate(runs).names[1:]} == of_best  # one verdict, wherever one looks


def test_the_design_follows_the_runs(runs: Path, extracted: Path) -> None:
    fit_head(extracted, runs, head="logistic", split="60/20/20", jobs=1)
    methods = {(pair.first, pair.second): pair.method for pair in compare(runs).pairs}
    for names, method in methods.items():
        assert method == (CROSSED if "mlp" in names else MCNEMAR)


def test_what_the_tests_cannot_know_is_noted(runs: Path) -> None:
    assert compare(runs).notes[0].startswith("one split")
    shutil.rmtree(runs / "mlp" / "seed-0001")
    assert compare(runs).notes[0].startswith("mlp: one seed says nothing of training noise")
    assert any(note.startswith("these images were trained on") for note in compare(runs, on="train").notes)


def test_few_images_of_a_class_are_noted_where_classes_count_alike(runs: Path) -> None:
    note = "classes with fewer than 5 images here: 3 of 3. How much macro F1 varies"
    assert compare(runs, metric="macro_f1").notes[0].startswith(note)
    assert not any("images here" in note for note in compare(runs).notes)


def test_both_pictures_are_drawn_once(runs: Path, tmp_path: Path) -> None:
    result = compare(runs)
    assert result.picture == runs / "comparison-test.png"
    with Image.open(result.picture) as picture:
        assert picture.width > 600
    vector = result.picture.with_suffix(".svg")
    assert vector.read_text(encoding="utf-8").startswith("<?xml")
    before = [path.stat().st_mtime_ns for path in (result.picture, vector)]
    compare(runs)
    assert [path.stat().st_mtime_ns for path in (result.picture, vector)] == before
    vector.unlink()
    compare(runs)
    assert vector.exists()
    elsewhere = compare(runs, on="val", metric="macro_f1", out=tmp_path / "new" / "place").picture
    assert elsewhere == tmp_path / "new" / "place" / "comparison-val-macro_f1.png"
    assert elsewhere.exists()


def test_one_name_alone_is_refused(runs: Path) -> None:
    with pytest.raises(RunError, match=r"of one name, mlp: there is nothing to compare .*`manyheads evaluate"):
        compare(runs / "mlp")


def test_other_test_images_are_refused_by_name(runs: Path, extracted: Path) -> None:
    fit_head(extracted, runs, head="knn", name="elsewhere", split="60/20/20", split_seed=7, jobs=1)
    said = r"(elsewhere and knn|knn and elsewhere) saw other test images \(6 and 6, \d of the same name\).*--split-seed"
    with pytest.raises(RunError, match=said):
        compare(runs / "knn", runs / "elsewhere")


def test_other_classes_are_refused_by_name(runs: Path, drawn: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    for label in CLASSES[:2]:
        shutil.copytree(drawn / label, fewer / label)
    extract(fewer, tmp_path / "two", base=BASE, weights=WEIGHTS, device="cpu")
    fit_head(tmp_path / "two", runs, head="knn", name="two", split="60/20/20", jobs=1)
    with pytest.raises(RunError, match=re.escape("know other classes (3 and 2, 2 in common)")):
        compare(runs / "knn", runs / "two")


def test_an_unknown_metric_is_refused(runs: Path) -> None:
    with pytest.raises(RunError, match="no metric 'f2': choose accuracy"):
        compare(runs, metric="f2")

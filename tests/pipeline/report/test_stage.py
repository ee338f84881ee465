"""`report`: what it returns, what it refuses, and what it does without cache, images or a second name."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from cache import CacheError
from pipeline.baselines import fit_mlp
from pipeline.comparison import compare
from pipeline.errors import RunError
from pipeline.fitting import fit_head
from pipeline.report import report


def data_of(page: Path) -> Any:
    """Read the data that a page holds."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"))
    return json.loads(text)


def test_it_says_what_it_wrote(runs: Path, tmp_path: Path) -> None:
    done = report(runs, out=tmp_path / "new" / "report.html")
    assert done.path == tmp_path / "new" / "report.html"
    assert done.size == done.path.stat().st_size
    assert done.names == tuple(standing.name for standing in compare(runs).names)
    assert done.images == 6
    assert [path.name for path in done.path.parent.iterdir()] == ["report.html"]


def test_figures_are_those_of_compare(runs: Path, tmp_path: Path) -> None:
    done, comparison = report(runs, out=tmp_path / "report.html"), compare(runs)
    page, data = done.path.read_text("utf-8"), data_of(done.path)
    for standing in comparison.names:
        assert f"{standing.figure.value:.4f}" in page
    for number, standing in enumerate(comparison.names):
        own = [run for run in data["runs"] if run["name"] == number]
        right = [sum(n for row, column, n in run["cells"] if row == column) for run in own]
        assert sum(right) / len(own) / 6 == pytest.approx(standing.figure.value)


def test_one_name_alone_is_enough(runs: Path, tmp_path: Path) -> None:
    done = report(runs / "mlp", out=tmp_path / "report.html")
    assert done.names == ("mlp",)
    page = done.path.read_text("utf-8")
    assert "nothing to compare it with" in page
    assert 'id="pairs"' not in page


def test_several_splits_are_told_apart(runs: Path, extracted: Path, tmp_path: Path) -> None:
    for head, seeds in (("mlp", (0, 1)), ("knn", (0,))):
        options: dict[str, Any] = {"epochs": 1} if head == "mlp" else {}
        fit_head(
            extracted, tmp_path / "several", head=head, seeds=seeds, split="60/20/20", resplits=3, jobs=1, **options
        )
    done = report(tmp_path / "several", out=tmp_path / "report.html")
    data = data_of(done.path)
    assert {run["label"] for run in data["runs"] if run["name"] == done.names.index("mlp")} == {
        f"split {split}, seed {seed}" for split in (1, 2, 3) for seed in (0, 1)
    }
    for run in data["runs"]:
        assert len(run["images"] or run["named"]) == len(run["named"]) == 6
    assert "--resplits 3" in done.path.read_text("utf-8")


def test_names_that_cannot_be_compared_are_refused(runs: Path, extracted: Path, tmp_path: Path) -> None:
    fit_head(extracted, runs, head="knn", name="other", split="40/30/30", jobs=1)
    with pytest.raises(RunError, match="saw other test images"):
        report(runs, out=tmp_path / "report.html")
    assert list(tmp_path.glob("*.html")) == []


def test_what_is_no_report_is_not_replaced(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("my notes")
    with pytest.raises(RunError, match="--force"):
        report(runs, out=file)
    assert file.read_text() == "my notes"
    first = report(runs, out=file, force=True)
    assert report(runs / "mlp", out=file).size != first.size
    with pytest.raises(RunError, match="is a folder"):
        report(runs, out=tmp_path)


@pytest.mark.parametrize(("name", "said"), [("", "An empty name"), (".", "An empty name"), ("-", "standard output")])
@pytest.mark.parametrize("force", [False, True])
def test_a_report_needs_a_file(
    runs: Path, name: str, said: str, force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(RunError, match=said):
        report(runs, out=name, force=force)
    assert list(Path().iterdir()) == []


def test_without_cache_and_images_the_page_says_so(runs: Path, extracted: Path, drawn: Path, tmp_path: Path) -> None:
    compare(runs)
    for document in runs.glob("*/*/run.json"):
        text = document.read_text("utf-8")
        document.write_text(text.replace(str(extracted), "/gone/cache").replace(str(drawn), "/gone/images"))
    done = report(runs, out=tmp_path / "report.html")
    assert done.images == 0
    assert any("/gone/images is no folder" in note for note in done.notes)
    assert any("no map" in note and "/gone/cache" in note for note in done.notes)
    back = report(runs, out=tmp_path / "report.html", cache=extracted, images=drawn)
    assert back.images == 6
    assert not any("gone" in note for note in back.notes)
    with pytest.raises(CacheError):
        report(runs, out=tmp_path / "report.html", cache=drawn)


def test_a_baseline_has_pictures_and_no_map(runs: Path, drawn: Path, tmp_path: Path) -> None:
    fit_mlp(drawn, runs, seeds=(0,), epochs=1, image_size=8, split="60/20/20", jobs=1)
    shutil.rmtree(runs / "mlp")
    done = report(runs, out=tmp_path / "report.html")
    assert set(done.names) == {"pixel-mlp", "knn"}
    (only,) = data_of(done.path)["maps"]
    assert [done.names[number] for number in only["names"]] == ["knn"]
    alone = report(runs / "pixel-mlp", out=tmp_path / "report.html")
    assert alone.images == 6
    assert "there is no map" in alone.path.read_text("utf-8")
    assert "manyheads fit-mlp" in alone.path.read_text("utf-8")

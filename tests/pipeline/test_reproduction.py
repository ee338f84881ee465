"""The paper, whole and small: figures that follow from stored predictions, and nothing done or written twice."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from PIL import Image

from pipeline.errors import HeadError, RunError, SplitError, UnreadableImages
from pipeline.paper import mean_of_batch_means
from pipeline.progress import Silent
from pipeline.reading import file_digest
from pipeline.reproduction import Reproduction, reproduce
from pipeline.run_places import find_runs
from tests.pipeline.conftest import SMALL

pytestmark = pytest.mark.slow  # 18 s on two busy cores, nearly all of it in the one reproduction that all look at

PICTURES = {"table-iv.png", "table-v.png", "figure-5.png", "learning-curves.png"}
# As printed in the paper, and as its own confusion matrices correct it (shared/facts.md).
PUBLISHED = {
    "pretrained": (0.9464, 0.8661, (187 / 210,)),
    "scratch": (0.4509, 0.4598, (89 / 210,)),
    "pixel-mlp": (0.3125, 0.3170, (57 / 210, 64 / 210, 71 / 210)),
}


class Heard(Silent):
    """Progress that remembers what work was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        self.begun.append(label)
        yield lambda done: None


@pytest.fixture
def out(reproduced: Reproduction, tmp_path: Path) -> Path:
    """A copy of OUT to change: files are replaced, never written into, so that links to them do."""
    return Path(shutil.copytree(reproduced.out, tmp_path / "out", copy_function=os.link))


def moments(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def right(run: Path, part: str) -> list[bool]:
    """Read from a run's stored predictions which images it named rightly."""
    with (run / f"predictions-{part}.csv").open(encoding="utf-8", newline="") as file:
        return [line["label"] == line["predicted"] for line in csv.DictReader(file)]


def cells(page: str) -> list[dict[str, str]]:
    """Read the one table of a page."""
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")
    ]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_three_models_stand_in_the_papers_order_with_their_seeds(reproduced: Reproduction) -> None:
    assert [row.name for row in reproduced.rows] == list(PUBLISHED)
    assert [row.seeds for row in reproduced.rows] == [(0, 1), (0,), (0,)]
    found = {(run.name, run.seed) for run in find_runs([reproduced.out / "runs"])}
    assert found == {(row.name, seed) for row in reproduced.rows for seed in row.seeds}
    assert {run.views for run in reproduced.runs["pretrained"]} == {2}
    assert all(len(run.history) == 2 for runs in reproduced.runs.values() for run in runs)
    same = {run.digests["test"] for runs in reproduced.runs.values() for run in runs}
    assert len(same) == 1


def test_published_and_corrected_figures_are_the_papers(reproduced: Reproduction) -> None:
    found = {row.name: (row.published.validation, row.published.test, row.corrected) for row in reproduced.rows}
    assert found == PUBLISHED


def test_measured_figures_follow_from_stored_predictions(reproduced: Reproduction) -> None:
    assert reproduced.images == 6
    for row in reproduced.rows:
        runs = [reproduced.out / "runs" / row.name / f"seed-{seed:04d}" for seed in row.seeds]
        for spread, part in ((row.test, "test"), (row.validation, "val")):
            accuracies = [fmean(right(run, part)) for run in runs]
            assert spread.mean == pytest.approx(fmean(accuracies))
            assert spread.deviation == (pytest.approx(stdev(accuracies)) if len(runs) > 1 else None)
        assert row.batch_means.mean == pytest.approx(fmean(mean_of_batch_means(right(run, "test")) for run in runs))
        assert row.interval[0] <= row.test.mean <= row.interval[1]
    for row, follows in pairwise(reproduced.rows):
        assert row.ahead is not None
        assert row.ahead.value == pytest.approx(row.test.mean - follows.test.mean)
        assert row.ahead.low <= row.ahead.value <= row.ahead.high
    assert reproduced.rows[-1].ahead is None
    best = max(row.test.mean for row in reproduced.rows)
    behind = [row.behind for row in reproduced.rows]
    assert behind.count(None) == 1
    for row in reproduced.rows:
        assert row.behind is None or row.behind.difference.value == pytest.approx(best - row.test.mean)


def test_the_page_shows_these_figures(reproduced: Reproduction) -> None:
    found = cells(reproduced.page.read_text(encoding="utf-8"))
    assert len(found) == len(reproduced.rows)
    for line, row in zip(found, reproduced.rows, strict=True):
        assert f"(`{row.name}`)" in line["model"]
        assert (line["published val"], line["published test"]) == tuple(f"{one:.4f}" for one in PUBLISHED[row.name][:2])
        corrected = re.findall(r"0\.\d{4}", line["corrected test"])
        assert corrected == [f"{one:.4f}" for one in PUBLISHED[row.name][2]]
        for name, spread in (("test", row.test), ("val", row.validation), ("mean of batch means", row.batch_means)):
            figures = [float(one) for one in line[name].strip("*").split(" ± ")]
            assert figures == [
                pytest.approx(one, abs=5e-5) for one in (spread.mean, spread.deviation) if one is not None
            ]
        assert line["95 % of test"] == f"{row.interval[0]:.3f} to {row.interval[1]:.3f}"
        assert line["seeds"] == str(len(row.seeds))


def test_pictures_are_there_and_the_page_leads_to_them(reproduced: Reproduction) -> None:
    page = reproduced.page.read_text(encoding="utf-8")
    assert reproduced.page == reproduced.out / "README.md"
    targets = re.findall(r"\]\(([^)]+)\)", page)
    local = {target for target in targets if "://" not in target}
    assert local == {path.name for path in reproduced.pictures.values()}
    assert local == {path.name for path in reproduced.out.glob("*.png")} <= PICTURES
    assert PICTURES - local <= {"figure-5.png"}
    for name in local:
        with Image.open(reproduced.out / name) as picture:
            picture.load()
            assert min(picture.size) > 100


def test_a_second_call_computes_and_writes_nothing(reproduced: Reproduction, drawn: Path) -> None:
    before = moments(reproduced.out)
    heard = Heard()
    again = reproduce(drawn, reproduced.out, **SMALL, progress=heard)
    assert moments(reproduced.out) == before
    # Images are read, so that a changed one is found; nothing is extracted or fitted.
    assert set(heard.begun) <= {"reading", "checking", "evaluating", "comparing", "drawing"}
    assert replace(again, seconds=0) == replace(reproduced, seconds=0)


def test_a_stage_that_is_gone_is_done_again_to_the_same_result(
    reproduced: Reproduction, drawn: Path, out: Path
) -> None:
    for gone in ("table-v.png", "README.md"):
        (out / gone).unlink()
    shutil.rmtree(out / "runs" / "pixel-mlp")
    (out / "runs" / "pretrained" / "seed-0001" / "predictions-test.csv").unlink()
    again = reproduce(drawn, out, **SMALL)
    assert again.rows == reproduced.rows
    for name in ("table-v.png", "learning-curves.png"):
        assert (out / name).exists()
    weights = Path("runs", "pixel-mlp", "seed-0000", "model.safetensors")
    assert (out / weights).read_bytes() == (reproduced.out / weights).read_bytes()


def test_another_place_for_out_and_images_changes_nothing(
    reproduced: Reproduction, images: Path, out: Path, tmp_path: Path
) -> None:
    moved = out.rename(tmp_path / "moved")
    for path in moved.glob("runs/*/seed-*/predictions-*"):
        path.unlink()
    assert reproduce(images, moved, **SMALL).rows == reproduced.rows


def test_without_the_papers_metric_it_is_not_spoken_of(reproduced: Reproduction, drawn: Path, out: Path) -> None:
    shown = "mean of batch means"
    assert reproduced.page.read_text(encoding="utf-8").lower().count(shown) == 2  # a column, and what it means
    result = reproduce(drawn, out, **{**SMALL, "paper_metric": False})
    assert shown not in result.page.read_text(encoding="utf-8").lower()
    assert result.rows == reproduced.rows


def test_without_a_test_image_named_rightly_there_is_no_figure_5(drawn: Path, out: Path) -> None:
    run = out / "runs" / "pretrained" / "seed-0000"
    with (run / "predictions-test.csv").open(encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    classes = head[3:]
    for line in lines:
        wrong = classes.index(line[1]) - 1
        line[2] = classes[wrong]
        line[3:] = ["1" if name == line[2] else "0" for name in classes]
    evaluation = json.loads((run / "evaluation-test.json").read_text(encoding="utf-8"))
    for name in ("predictions-test.csv", "evaluation-test.json"):
        (run / name).unlink()  # links
    with (run / "predictions-test.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *lines])
    forged = {**evaluation, "predictions_sha256": file_digest(run / "predictions-test.csv")}
    (run / "evaluation-test.json").write_text(json.dumps(forged), encoding="utf-8")
    result = reproduce(drawn, out, **SMALL)
    page = result.page.read_text(encoding="utf-8")
    assert "Fig. 5" not in result.pictures
    assert "named no test image rightly" in page
    assert "figure-5.png" not in page
    assert not (out / "figure-5.png").exists()


def test_somebody_elses_page_is_not_written_over(drawn: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# My thesis\n")
    with pytest.raises(RunError, match=r"begins with '# My thesis'.*write over it.*another OUT"):
        reproduce(drawn, tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == [readme]
    assert readme.read_text() == "# My thesis\n"


def test_other_options_need_another_out(drawn: Path, out: Path) -> None:
    before = moments(out)
    with pytest.raises(RunError, match=r"parameter epochs is 2, asked 3.*name another OUT\."):
        reproduce(drawn, out, **{**SMALL, "epochs": 3})
    with pytest.raises(RunError, match=r"recipe transform.crop_size is 32, asked 40.*name another OUT\."):
        reproduce(drawn, out, **{**SMALL, "image_size": 40})
    assert moments(out) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "70/0/30"}, "no val part.*--split 80/10/10"),
        ({"split": "70/30/0"}, "no test part.*--split 80/10/10"),
        ({"split": "own"}, "no split of its own"),
        ({"split": "gone.csv"}, "gone.csv"),
        ({"split": "98/1/1"}, "every part needs an image of each class"),
        ({"split": "98/1/1", "views": 1}, "every part needs an image of each class"),
    ],
)
def test_a_split_that_does_not_fit_is_refused_before_any_work(
    drawn: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SplitError, match=said):
        reproduce(drawn, tmp_path / "out", **{**SMALL, **options})
    assert not (tmp_path / "out").exists()


def test_the_papers_split_is_that_of_uc_merceds_names(drawn: Path, images: Path, tmp_path: Path) -> None:
    next(images.glob("beach/*")).rename(images / "beach" / "holiday.png")
    with pytest.raises(SplitError, match=r"holiday\.png.*--split 80/10/10"):
        reproduce(images, tmp_path / "out", **{**SMALL, "split": "paper"})


@pytest.mark.parametrize("seeds", ["seeds", "mlp_seeds", "scratch_seeds"])
def test_seeds_of_every_model_are_checked_before_any_work(drawn: Path, tmp_path: Path, seeds: str) -> None:
    with pytest.raises(HeadError, match=r"The seeds \[1, 1\]"):
        reproduce(drawn, tmp_path / "out", **{**SMALL, seeds: (1, 1)})
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_read_is_named_with_a_way_out(images: Path, tmp_path: Path) -> None:
    (images / "beach" / "beach03.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableImages, match=r"--on-error skip(.|\n)*beach03\.png"):
        reproduce(images, tmp_path / "out", **SMALL)
    assert not (tmp_path / "out" / "README.md").exists()

"""Results as text: what a person may type next, what ties are called, and names that cannot do harm."""

import csv
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.evaluation import evaluate
from pipeline.prediction import Prediction, PredictionList
from pipeline.tables import _next, csv_predictions, program, show_evaluation, show_predictions

ROOT = Path(__file__).parent.parent.parent
NAME, SHOWN = "b[/b]\x1b[31m\nc\u202e", r"b[/b]\x1b[31m\nc\u202e"
PREDICTED = PredictionList(
    run=f"{NAME}/seed-0000",
    images=(Prediction(f"{NAME}.png", ((NAME, 0.75), ("forest", 0.25))),),
    skipped=((f"torn {NAME}.png", "cut off"),),
    notes=(f"note of {NAME}",),
)


def console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=200), file


def test_names_from_files_are_escaped() -> None:
    where, file = console()
    show_predictions(PREDICTED, where)
    said = file.getvalue()
    assert "\x1b" not in said
    assert "\u202e" not in said
    for text in (f"predicted by {SHOWN}", f"{SHOWN}.png", f"{SHOWN} 75.0%", f"note of {SHOWN}", f"torn {SHOWN}.png"):
        assert text in said


def test_csv_keeps_names_and_remarks_go_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    where, file = console()
    csv_predictions(PREDICTED, where)
    assert list(csv.reader(io.StringIO(capsys.readouterr().out, newline=""))) == [
        ["path", "rank", "class", "probability"],
        [f"{NAME}.png", "1", NAME, "0.75"],
        [f"{NAME}.png", "2", "forest", "0.25"],
    ]
    assert file.getvalue() == f"note: note of {SHOWN}\nnote: torn {SHOWN}.png could not be read: cut off\n"


@pytest.mark.parametrize("show", [show_predictions, csv_predictions])
def test_what_an_error_lists_is_not_listed_twice(show: object) -> None:
    where, file = console()
    assert callable(show)
    show(PREDICTED, where, failed=True)
    assert "torn" not in file.getvalue()
    where, file = console()
    show(replace(PREDICTED, images=()), where, failed=True)
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        ((0.0, -0.01, 0.01), "is level with best (95 %: -1.0 to 1.0;"),
        ((-0.0, 0.0, 0.0), "is level with best (95 %: 0.0 to 0.0;"),
        ((-0.0004, -0.01, 0.0004), "is level with best (95 %: 0.0 to 1.0;"),
        ((-0.021, -0.03, -0.01), "is 2.1 points behind best (95 %: 1.0 to 3.0;"),
    ],
)
def test_a_tie_is_called_level(runs: Path, behind: tuple[float, float, float], said: str) -> None:
    evaluation = evaluate(runs / "knn")
    best = replace(evaluation.names[0], name="best")
    where, file = console()
    show_evaluation(replace(evaluation, names=(best, replace(best, name="other", behind=behind))), where)
    assert said in file.getvalue()
    assert "-0.0" not in file.getvalue()
    assert file.getvalue().count("within noise") == (behind[1] <= 0 <= behind[2])


def test_the_line_to_type_next_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "venv" / "bin" / "manyheads"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)

    def called(as_: str, path: str) -> str:
        monkeypatch.setattr(sys, "argv", [as_])
        monkeypatch.setenv("PATH", path)
        return program()

    found = os.pathsep.join([str(script.parent), "/usr/bin"])
    assert called("cli.py", "/usr/bin") == "python cli.py"
    assert called("my code/cli.py", found) == "python 'my code/cli.py'"
    assert called(str(script), found) == "manyheads"
    assert called("venv/bin/manyheads", found) == "manyheads"
    assert called("venv/bin/manyheads", "/usr/bin") == "venv/bin/manyheads"
    assert called("/usr/lib/python3/pytest", "/usr/bin") == "manyheads"

    called("venv/bin/manyheads", "/usr/bin")
    where, file = console()
    _next(where, "evaluate", Path("my runs"))
    assert file.getvalue() == "next: venv/bin/manyheads evaluate 'my runs'\n"


def test_tables_alone_import_no_stage() -> None:
    stages = [f"pipeline.{name}" for name in ("demo", "evaluation", "extraction", "fitting", "prediction")]
    program = (
        f"import sys, pipeline.tables\nprint([name for name in {[*stages, 'numpy', 'joblib']} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_narrow_terminal_gets_fewer_columns_but_whole_figures(runs: Path, width: int) -> None:
    file = io.StringIO()
    result = evaluate(runs)
    show_evaluation(result, Console(file=file, width=width))
    said = file.getvalue()
    assert "…" not in said
    for summary in result.names:
        assert f"{summary.metrics['accuracy'].mean:.4f}" in said
        assert f"{summary.interval[0]:.3f} to {summary.interval[1]:.3f}" in said
    assert ("macro F1" in said) == (width == 140)

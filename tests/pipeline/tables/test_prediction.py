"""Predictions as text and as CSV: names that cannot do harm, and nothing said twice."""

import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from pipeline.prediction import Prediction, PredictionList
from pipeline.tables import csv_predictions, show_predictions

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

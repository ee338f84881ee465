"""What is said of an extraction: its rate, where the time went, and what held it up."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.extraction import Extraction, extract
from pipeline.tables import show_extraction
from tests.conftest import BASE, WEIGHTS


def shown(result: Extraction) -> str:
    file = io.StringIO()
    show_extraction(result, Console(file=file, width=200))
    return file.getvalue()


@pytest.fixture(scope="module")
def done(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(drawn, tmp_path_factory.mktemp("said") / "cache", base=BASE, weights=WEIGHTS, device="cpu")


def test_the_rate_is_that_of_the_working_time(done: Extraction) -> None:
    said = shown(replace(done, computed=30, views_computed=12, working=4.0, seconds=100.0))
    assert "10.5 features/s. Time went to: base" in said
    assert 0 < done.working < done.seconds


def test_decoding_is_named_where_it_is_the_bottleneck(done: Extraction) -> None:
    slow = {"base": 0.5, "decoding": 0.49, "writing": 0.01}
    assert "decoding is the bottleneck: the base waited for it 49% of the time" in shown(
        replace(done, shares=slow, working=60.0)
    )
    quick = {"base": 0.9, "decoding": 0.09, "writing": 0.01}
    assert "bottleneck" not in shown(replace(done, shares=quick, working=60.0))
    assert "bottleneck" not in shown(replace(done, shares=slow, working=4.0))


def test_nothing_is_said_of_time_that_was_not_spent(done: Extraction) -> None:
    said = shown(replace(done, computed=0, working=0.0, shares={}))
    assert "features/s" not in said

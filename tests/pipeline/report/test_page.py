"""The page: one file, closed to the network, in which texts stay texts."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison import compare
from pipeline.report import report
from pipeline.report.page import coded, embedded, headline
from tests.pipeline.report.conftest import ODD

JSON = st.recursive(
    st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(JSON)
def test_data_comes_back_and_cannot_end_its_element(data: object) -> None:
    text = embedded(data)
    assert json.loads(text) == data
    assert not set("<>&\u2028\u2029") & set(text)


def test_notes_show_code_and_nothing_else() -> None:
    assert coded("try `--images <DIR>` & <b>") == "try <code>--images &lt;DIR&gt;</code> &amp; &lt;b&gt;"


def test_the_policy_allows_our_script_alone(reported: Path) -> None:
    page = reported.read_text("utf-8")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert "innerHTML" not in script
    assert "document.write" not in script


def test_nothing_is_asked_of_the_network(reported: Path) -> None:
    page = reported.read_text("utf-8")
    outside = set(re.findall(r"https?://[^\s\"'<>)]+", page))
    assert all(address.startswith("http://www.w3.org/") for address in outside), outside  # names of XML, never fetched
    assert not re.search(r"<(link|iframe|object|embed|base|form)\b", page)


def test_odd_names_are_escaped(odd_reported: Path) -> None:
    page = odd_reported.read_text("utf-8")
    for name in ODD:
        assert name not in page
    assert "onmouseover=alert(1)>" not in page
    assert page.count("</script>") == page.count("<script") == 2


def test_ids_are_unique(reported: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', reported.read_text("utf-8"))
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([(0.0, 1.0)], "A and B came out level"),
        ([(0.0004, 1.0)], "A and B came out level"),
        ([(0.0006, 1.0)], "A is ahead, but B may be as good"),
        ([(0.01, 0.01)], "A is better than B"),
        ([(0.0004, 0.01)], "A is better than B"),
        ([(0.01, 0.01), (0.02, 0.01)], "A is better than all others"),
        ([(0.01, 0.5), (0.02, 0.5)], "A is ahead, but B and C may be as good"),
        ([(0.01, 0.5), (0.02, 0.01)], "A is ahead, but B may be as good"),
        ([(0.0, 1.0), (0.0, 1.0)], "A, B and C came out level"),
        ([(0.0, 1.0), (0.01, 0.5)], "A and B came out level, and C may be as good"),
        ([(0.0, 1.0), (0.01, 0.01)], "A and B came out level, ahead of C"),
        ([(0.0, 1.0), (0.01, 0.01), (0.02, 0.01)], "A and B came out level, ahead of all others"),
        ([(0.0, 1.0)] * 4, "A and 4 others came out level"),
        ([(0.01, 0.5)] * 4, "A is ahead, but 4 others may be as good"),
    ],
)
def test_the_headline_claims_what_was_found(runs: Path, found: list[tuple[float, float]], said: str) -> None:
    comparison = compare(runs)
    names, (pair,) = "ABCDE"[: len(found) + 1], comparison.pairs
    pairs = [
        replace(pair, first="A", second=second, difference=replace(pair.difference, value=value), adjusted=p)
        for second, (value, p) in zip(names[1:], found, strict=True)
    ]
    standings = tuple(replace(comparison.names[0], name=name) for name in names)
    assert headline(replace(comparison, names=standings, pairs=tuple(pairs))) == said


def test_of_many_pairs_those_of_the_best_are_said(
    reported: Path, reported_runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = reported.read_text("utf-8")
    assert "<details open>" in whole
    assert whole.count('<li class="noise">') + whole.count('<li class="shown">') == 3
    monkeypatch.setattr("pipeline.comparison.MOST_TOLD", 2)
    few = report(reported_runs, on="train", out=tmp_path / "report.html").path.read_text("utf-8")
    assert "<details open>" not in few
    assert few.count('<li class="noise">') + few.count('<li class="shown">') == 2
    assert "Of 3 pairs, only those of the best name" in few


@pytest.mark.parametrize("part", ["test", "train"])
def test_the_same_runs_give_the_same_bytes(runs: Path, part: str, tmp_path: Path) -> None:
    files = [tmp_path / "one.html", tmp_path / "other.html"]
    for file in files:
        report(runs, on=part, out=file)  # type: ignore[arg-type]  # a part
    one, other = (file.read_bytes() for file in files)
    assert one == other

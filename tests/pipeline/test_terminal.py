"""How commands speak: one answer, whoever listens, and nothing that a file could say to the terminal."""

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.terminal import Output, Watched, _Lines
from pipeline.wording import duration, pace

ROOT = Path(__file__).parent.parent.parent
NAME = "a[/b]:smile:\x1b[31m"
SHOWN = r"a[/b]:smile:\x1b[31m"


@dataclass(frozen=True)
class Answer:
    name: str


def run_program(code: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> tuple[int, bytes, bytes]:
    """Run code that has an `output` in a process of its own."""
    program = f"from pipeline.terminal import Output\noutput = Output(as_json=False, quiet=False)\n{code}"
    done = subprocess.run([sys.executable, "-c", program], stdout=stdout, stderr=stderr, cwd=ROOT, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def nobody() -> int:
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("terminal", [True, False])
def test_labels_and_notes_are_no_markup(terminal: bool) -> None:
    file = io.StringIO()
    watched = Watched(Console(file=file, force_terminal=terminal, width=200, color_system=None))
    watched.note(f"{NAME}\nsecond line")
    with watched.steps(NAME, 2, "runs") as advance:
        advance(1)
    said = file.getvalue()
    assert f"{SHOWN}\nsecond line\n" in said
    assert "\x1b[31m" not in said
    assert not terminal or said.count(SHOWN) >= 2


def test_plain_lines_say_how_fast_and_how_long() -> None:
    file = io.StringIO()
    watched = Watched(Console(file=file, width=200))
    lines = _Lines(watched, "a[/b]", 10, "runs")
    lines.started -= 40
    watched.spoke -= 40
    lines.advance(4)
    lines.finish()
    assert file.getvalue().splitlines() == [
        "a[/b]: 4/10 runs, 10 s/run, 1 min 0 s left",
        "a[/b]: 4/10 runs in 40 s, 10 s/run",
    ]


def test_many_short_pieces_of_work_are_not_silent_together() -> None:
    file = io.StringIO()
    watched = Watched(Console(file=file, width=200))
    for _ in range(4):
        with watched.steps("fitting", 1, "runs") as advance:
            watched.spoke -= 4
            advance(1)
    assert file.getvalue().count("fitting: 1/1 runs in") == 1  # once in ten seconds


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (12.34, "12.3 images/s"),
        (1, "1.0 images/s"),
        (0.5, "2.0 s/image"),
        (0.04, "25 s/image"),
        (0.005, "3 min 20 s/image"),
    ],
)
def test_a_pace_is_never_rounded_to_nothing(rate: float, said: str) -> None:
    assert pace(rate, "images") == said


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.42, 42, 200, 7500, 1e9)] == [
        "0.4 s",
        "42 s",
        "3 min 20 s",
        "2 h 5 min",
        "a long time",
    ]
    assert [duration(seconds) for seconds in (59.7, 119.6, 3599.8)] == ["1 min 0 s", "2 min 0 s", "1 h 0 min"]


def test_a_reader_that_left_is_no_failure(nobody: int) -> None:
    code = (
        "output.show(None, lambda result, console: [console.print('x' * 99) for _ in range(999)])\n"
        "output.progress.note('still here')"
    )
    status, _, said = run_program(code, stdout=nobody)
    assert (status, said) == (0, b"still here\n")
    os.close(nobody)


def test_the_work_goes_on_when_nobody_reads_of_it(nobody: int) -> None:
    code = (
        "for number in range(99):\n    output.progress.note(f'note {number}')\n"
        "with output.progress.steps('working', 1, 'runs') as advance:\n    advance(1)\n"
        "output.show(None, lambda result, console: console.print('all done'))"
    )
    assert run_program(code, stderr=nobody)[:2] == (0, b"all done\n")
    assert run_program(code + "\noutput.fail('too bad')", stderr=nobody)[:2] == (1, b"all done\n")
    os.close(nobody)


def test_errors_are_escaped_but_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        Output(as_json=False, quiet=True).fail(f"2 images:\n  {NAME}\n  \udce9.png")
    assert capsys.readouterr().err == f"Error: 2 images:\n  {SHOWN}\n  \\udce9.png\n"


def test_json_is_one_document_that_keeps_names(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True, quiet=True)
    name = "forêt\x1b\x9b\u202e\U000e0001"
    output.show(Answer(name), lambda result, console: None, failure="half of it")
    with pytest.raises(SystemExit):
        output.fail("half of it")
    said = capsys.readouterr()
    assert json.loads(said.out) == {"name": name, "error": "half of it"}
    assert {one for one in said.out if not one.isprintable()} == {"\n"}
    assert "ê" in said.out
    assert said.err == "Error: half of it\n"


def test_a_name_that_is_no_utf8_survives_json_and_csv() -> None:
    code = (
        "from dataclasses import make_dataclass\nanswer = make_dataclass('Answer', ['name'])('\\udce9.png')\n"
        "Output(True, False).show(answer, print)\n"
        "output.show(answer, lambda result, console: (print(result.name), console.print('remark')), machine=True)\n"
        "output.show(answer, lambda result, console: console.print(result.name))"
    )
    status, said, remarks = run_program(code)
    assert (status, remarks) == (0, b"remark\n")
    document, csv, shown = said.replace(b"}\n", b"}\0").replace(b".png\n", b".png\0").rstrip(b"\0").split(b"\0")
    assert json.loads(document) == {"name": "\udce9.png"}
    assert csv == b"\xe9.png"
    assert shown == rb"\udce9.png"

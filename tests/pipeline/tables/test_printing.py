"""What a person may type next, tables that fit, and nothing imported that is not needed."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from pipeline.tables.printing import print_fitting, print_lines, print_next, print_notes, program

ROOT = Path(__file__).parent.parent.parent.parent


def console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=200), file


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
    print_next(where, "evaluate", Path("my runs"))
    assert file.getvalue() == "next: venv/bin/manyheads evaluate 'my runs'\n"


@given(
    st.lists(st.text("abc", min_size=1, max_size=12), min_size=1, max_size=8), st.integers(1, 120), st.integers(1, 3)
)
def test_as_many_columns_as_fit_and_the_first_ones(columns: list[str], width: int, least: int) -> None:
    least = min(least, len(columns))
    drawn: list[int] = []

    def draw(shown: Sequence[str]) -> Table:
        assert shown == columns[: len(shown)]
        drawn.append(len(shown))
        return table(shown)

    def table(shown: Sequence[str]) -> Table:
        made = Table()
        for heading in shown:
            made.add_column(heading, no_wrap=True)
        return made

    def widest(count: int) -> int:
        lines = io.StringIO()
        Console(file=lines, width=1000).print(table(columns[:count]))
        return max(map(len, lines.getvalue().splitlines()))

    file = io.StringIO()
    print_fitting(Console(file=file, width=width), columns, draw, least)
    shown = drawn[-1]
    assert shown == least or widest(shown) <= width
    assert shown == len(columns) or widest(shown + 1) > width


def test_what_comes_from_files_is_printed_as_it_is() -> None:
    where, file = console()
    print_lines(where, ["[red]a[/red] \x1b[31mb\nc"])
    print_notes(where, ["[b]d\u202e"])
    print_next(where, "evaluate", "a b[/b]\x1b", label="[i]")
    assert file.getvalue().splitlines() == [
        r"[red]a[/red] \x1b[31mb\nc",
        r"note: [b]d\u202e",
        r"[i]: manyheads evaluate 'a b[/b]\x1b'",
    ]


def test_tables_alone_import_no_stage() -> None:
    stages = [
        f"pipeline.{name}"
        for name in ("demo", "evaluation", "extraction", "fitting", "grid", "prediction", "reproduction")
    ]
    program = (
        f"import sys, pipeline.tables\nprint([name for name in {[*stages, 'numpy', 'joblib']} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"

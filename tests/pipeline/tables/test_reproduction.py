"""Table III in a terminal: as much of it as there is room for, and all that differs."""

import io

import pytest
from rich.console import Console

from pipeline.reproduction import Reproduction
from pipeline.reproduction_page import differences, verdict
from pipeline.tables import show_reproduction

pytestmark = pytest.mark.slow  # 18 s on two busy cores, all of it in the one reproduction that several files look at


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_table_fits_with_whole_figures(reproduced: Reproduction, width: int) -> None:
    file = io.StringIO()
    show_reproduction(reproduced, Console(file=file, width=width))
    text = file.getvalue()
    assert "…" not in text
    table = [line for line in text.splitlines() if line.startswith("│")]
    assert max(map(len, table)) <= width
    for row in reproduced.rows:
        (line,) = [line for line in table if f" {row.name} " in line]
        assert f"{row.published.test:.4f}" in line
        assert f"{row.test.mean:.4f}" in line
    for figure in ("0.8905", "0.4238", "0.2714", "0.3048", "0.3381"):
        assert figure in "".join(table)
    heading = next(line for line in text.splitlines() if "published" in line)
    assert ("batch means" in heading) == (width >= 80)
    assert ("95 %" in heading) == (width >= 100)
    assert ("val" in heading) == ("seeds" in heading) == (width == 140)


def test_what_holds_and_what_differs_is_said(reproduced: Reproduction) -> None:
    file = io.StringIO()
    show_reproduction(reproduced, Console(file=file, width=140))
    lines = file.getvalue().splitlines()
    for one in (*verdict(reproduced), *(f"  {one}" for one in differences(reproduced))):
        assert one in lines
    assert lines[-1].startswith(f"tables and figures: {reproduced.page} (")

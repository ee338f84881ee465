"""The examples in README and docs run as written, page by page, in a folder that holds `images/`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli import main

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(page: Path, language: str) -> str:
    """Join the fenced blocks of one language on a page."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_examples_run(page: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    # In a process of their own, as a reader would run them: workers need a main module that can be imported.
    program = images.parent / "example.py"
    body = "\n".join("    " + line for line in blocks(page, "python").splitlines())
    program.write_text(f"if __name__ == '__main__':\n{body}\n")
    command = [sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=_environment(), check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page_exist(page: Path) -> None:
    text = page.read_text()
    typed = re.findall(r"^(?:\$ )?manyheads ([a-z-]+)", blocks(page, ""), flags=re.MULTILINE)
    for name in [*typed, *re.findall(r"`manyheads ([a-z-]+)", text)]:
        assert name in main.commands, f"{page.name} speaks of manyheads {name}"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}

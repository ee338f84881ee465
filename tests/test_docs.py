"""The examples in README and docs run as written, page by page, in a folder that holds `images/`."""

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
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_named_cache_does_not_hide_the_package(tmp_path: Path) -> None:
    for name in ("cache", "pipeline"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", "from pipeline import extract, fit_head; from cache import FeatureCache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_no_page_has_a_gap() -> None:
    for page in PAGES:
        assert not re.search(r"^[A-Z]{5,}$", page.read_text(), flags=re.MULTILINE), f"{page.name} is not finished"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page_exist(page: Path) -> None:
    text = page.read_text()
    typed = re.findall(r"^(?:\$ )?manyheads ([a-z][a-z-]*)", blocks(page, ""), flags=re.MULTILINE)
    for name in [*typed, *re.findall(r"`manyheads ([a-z][a-z-]*)", text)]:
        assert name in main.commands, f"{page.name} speaks of manyheads {name}"

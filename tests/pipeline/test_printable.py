"""What comes from a file cannot speak to the terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.printable import printable

ANY = st.text(st.characters(codec=None) | st.characters(categories=["Cs", "Cc", "Cf"]))


@given(ANY)
def test_what_is_shown_is_printable_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert printable(shown) == shown
    assert not text.isprintable() or shown == text


@given(st.lists(ANY))
def test_our_own_newlines_are_kept(lines: list[str]) -> None:
    shown = printable("\n".join(lines), keep="\n")
    assert shown == "\n".join(printable(line, keep="\n") for line in lines)
    assert printable(shown.replace("\n", "")) == shown.replace("\n", "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("latin\udce9.png", r"latin\udce9.png"),
        ("forêt 森 🌲 [/b]", "forêt 森 🌲 [/b]"),
    ],
)
def test_escapes_are_as_in_python(name: str, shown: str) -> None:
    assert printable(name) == shown

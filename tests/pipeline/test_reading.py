"""Files that may be anybody's: regular ones of a sane size, JSON that all can bear, archives that are no bombs."""

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reading import LEVELS, brief, file_digest, open_regular, parse_json, read_bytes, require_stored

SOUND = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(SOUND)
def test_what_can_be_borne_is_read_as_python_reads_it(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=40) | st.text('[]{}0123456789.eE+-",: truefalsnNI\\u', max_size=40).map(str.encode))
def test_any_bytes_are_a_value_or_a_value_error(content: bytes) -> None:
    try:
        value = parse_json(content)
    except ValueError:
        return
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "[-1e400]", '{"a": NaN}'])
def test_numbers_that_are_not_finite_are_refused(text: str) -> None:
    json.loads(text)
    with pytest.raises(ValueError, match="is not finite"):
        parse_json(text)


@pytest.mark.parametrize("text", [str(2**64), str(-(2**63) - 1), str(10**25), "1" * 100_000], ids=len)
def test_huge_integers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than 64 bits"):
        parse_json(f'{{"a": [{text}]}}')


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_has_an_end(opening: str, closing: str) -> None:
    def nested(levels: int) -> str:
        return opening * levels + "1" + closing * levels

    parse_json(nested(LEVELS))
    for levels in (LEVELS + 1, 500, 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(nested(levels))


def test_bytes_must_be_utf8() -> None:
    for content in ("[1]".encode("utf-16"), "[1]".encode("utf-32"), b'"\xff"'):
        with pytest.raises(UnicodeDecodeError):
            parse_json(content)


def test_a_regular_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    assert file_digest(path) == hashlib.sha256(b"12345").hexdigest()
    with pytest.raises(ValueError, match="it has 5 B; such a file has at most 4 B"):
        read_bytes(path, 4)
    (tmp_path / "link").symlink_to(path)
    assert read_bytes(tmp_path / "link", 5) == b"12345"


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (open_regular, file_digest, lambda place: read_bytes(place, 5)):
            with pytest.raises(ValueError, match="it is no regular file"):
                read(path)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path, 5)
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "missing")


def archive(compression: int, **entries: bytes) -> zipfile.ZipFile:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return zipfile.ZipFile(packed)


def test_an_archive_holds_no_more_than_its_bytes() -> None:
    require_stored(archive(zipfile.ZIP_STORED, a=bytes(1000), b=bytes(1000)), 3000)
    with pytest.raises(ValueError, match="entry 'b' is compressed, named twice or larger than the file"):
        require_stored(archive(zipfile.ZIP_STORED, a=bytes(1000), b=bytes(1000)), 1999)
    with pytest.raises(ValueError, match="entry 'a' is compressed"):
        require_stored(archive(zipfile.ZIP_DEFLATED, a=b"1"), 3000)
    twice = archive(zipfile.ZIP_STORED, a=b"1", b=b"2")
    twice.infolist()[1].filename = "a"
    with pytest.raises(ValueError, match="entry 'a' is compressed, named twice"):
        require_stored(twice, 3000)


def test_long_words_are_cut_and_an_error_without_words_has_a_name() -> None:
    assert brief(ValueError("one\n  two")) == "one two"
    assert brief(KeyError()) == "KeyError"
    assert brief("") == ""
    assert len(brief("x" * 10**6)) == 1001

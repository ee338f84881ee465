"""What is written as a size is read as one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.atomic import human_size
from cache.size import read_size


@given(st.integers(min_value=0, max_value=10**18 - 10**16))
def test_what_is_written_is_read_back(count: int) -> None:
    written = human_size(count)
    read = read_size(written)
    assert abs(read - count) <= 0.005 * count
    assert human_size(read) == written


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0 B", 0),
        ("512B", 512),
        ("1kB", 1000),
        ("500MB", 500_000_000),
        ("1.5 gb", 1_500_000_000),
        (" 2 TB ", 2 * 10**12),
        ("0.1 kB", 100),
        ("0.123456789 GB", 123_456_789),
        ("123456789.123456789 GB", 123_456_789_123_456_789),
        ("999.999999999999999 PB", 10**18 - 1),
    ],
)
def test_sizes_as_people_write_them(text: str, count: int) -> None:
    assert read_size(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "GB",
        "-5 GB",
        "5 GiB",
        "5G",
        "1e3 MB",
        "5  GB",
        "5 GB free",
        "1,5 GB",
        ".5 GB",
        "nan MB",
        "\u0665 GB",
        "5\nGB",
    ],
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no size: .*such as 500MB or 1\.5GB"):
        read_size(text)

"""Rows in any order are shown by few mappings, each of them one that HDF5 can hold."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cache.mapping import rising

places = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 12)), max_size=40)


@given(places)
def test_each_row_is_in_one_mapping_and_all_of_them_rise(rows: list[tuple[str, int]]) -> None:
    shown: dict[int, tuple[str, int]] = {}
    for shard, stretches in rising(rows):
        pairs = [(start + n, first + n) for start, first, count in stretches for n in range(count)]
        assert pairs == sorted(pairs)
        assert len({row for _, row in pairs}) == len(pairs)  # a row twice would be taken once
        shown |= {position: (shard, row) for position, row in pairs}
    assert [shown[position] for position in range(len(rows))] == rows


def test_rows_in_order_are_one_stretch_a_shard_and_interleaved_ones_one_mapping() -> None:
    ordered = [("a", row) for row in range(5)] + [("b", row) for row in range(2, 4)]
    assert list(rising(ordered)) == [("a", [(0, 0, 5)]), ("b", [(5, 2, 2)])]
    interleaved = [("a", 0), ("b", 7), ("a", 1), ("b", 9)]
    assert list(rising(interleaved)) == [("a", [(0, 0, 1), (2, 1, 1)]), ("b", [(1, 7, 1), (3, 9, 1)])]


def test_there_are_as_few_mappings_as_can_be() -> None:
    rows = [("a", row) for row in range(128)]
    assert len(list(rising(rows[::-1]))) == 128  # none of them can share one
    random.Random(0).shuffle(rows)
    # The longest falling sequence, of which each needs a mapping of its own.
    longest: list[int] = []
    for _, row in rows:
        longest.append(1 + max((longest[n] for n in range(len(longest)) if rows[n][1] > row), default=0))
    assert len(list(rising(rows))) == max(longest) < 30
    assert len(list(rising([("a", 3)] * 20_000))) == 20_000  # one image, many times: in no time

"""A seal is over every bit of a file, its own included."""

from hypothesis import given
from hypothesis import strategies as st

from cache.recipe import FORMAT_VERSION
from cache.seal import SIZE, is_sealed, seal

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing


def test_it_says_what_a_file_is() -> None:
    block = seal("shard", b"")
    assert len(block) == SIZE == 512
    assert block.rstrip(b"\n").decode() == f"manyheads shard\nformat {FORMAT_VERSION}\nsha256 {EMPTY}"
    assert is_sealed("shard", block)


@given(body=st.binary(max_size=200), data=st.data())
def test_any_flipped_bit_any_other_length_and_any_other_kind_is_refused(body: bytes, data: st.DataObject) -> None:
    whole = seal("shard", body) + body
    assert is_sealed("shard", whole)
    assert not is_sealed("index", whole)
    flipped = bytearray(whole)
    flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not is_sealed("shard", bytes(flipped))
    assert not is_sealed("shard", whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert not is_sealed("shard", whole + data.draw(st.binary(min_size=1, max_size=9)))


def test_every_bit_of_the_block_counts() -> None:
    whole = seal("index", b"body") + b"body"
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not is_sealed("index", bytes(flipped))

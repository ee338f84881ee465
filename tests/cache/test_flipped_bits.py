"""Whatever byte of a shard or an index is damaged: it is found, and nothing wrong is ever read."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.errors import CacheError
from cache.feature_cache import FeatureCache
from cache.verification import verify
from tests.cache.test_shard import digest
from tests.cache.test_verification import FEATURES, RECIPE, make, read, said


@pytest.fixture
def smallest(tmp_path: Path) -> FeatureCache:
    """The first of the shards of `small`, and an index of it."""
    return make(tmp_path / "smallest", images=(1, 0))


@pytest.fixture
def packed(tmp_path: Path) -> FeatureCache:
    """The same, packed."""
    return make(tmp_path / "packed", images=(1, 0), compress=True)


# Every byte of a file, damaged one after the other in a process of its own, which must neither hang nor grow.
DAMAGED = """
import resource, sys
from pathlib import Path
from tests.cache.test_flipped_bits import {how}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print({how}(Path(sys.argv[1]), Path(sys.argv[2])))
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
"""


def in_a_process(how: Callable[[Path, Path], int], cache: FeatureCache, path: Path) -> int:
    command = [sys.executable, "-c", DAMAGED.format(how=how.__name__), str(cache.path), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


def listed_and_read(cache: FeatureCache, listed: bool) -> None:
    if listed:  # which does not look at every byte: what it gives must be right all the same
        assert cache.views() == {digest(0): 1, digest(1): 2}
    read(cache)


def refused(cache: FeatureCache, path: Path) -> None:
    """Require that reading names the damaged file and the command that mends it."""
    is_index = path.name == "index.h5"
    way = "extract` again" if is_index else f"cache verify {cache.path} --repair`"
    with pytest.raises(CacheError, match=f"{re.escape(str(path))} .*{re.escape(way)}"):
        listed_and_read(cache, not is_index)


def found_alone(cache: FeatureCache, path: Path) -> None:
    found = verify(cache.path)
    assert list(said(found)) == [path.relative_to(cache.path).as_posix()], found
    assert found.damage[0].droppable


def flip_each_byte(folder: Path, path: Path) -> int:
    cache, whole = FeatureCache.open(folder), path.read_bytes()
    with path.open("r+b") as file:
        for position, byte in enumerate(whole):
            file.seek(position)
            file.write(bytes([byte ^ 1 << position % 8]))
            file.flush()
            refused(cache, path)
            if position % 13 == 0:
                found_alone(cache, path)
            file.seek(position)
            file.write(bytes([byte]))
            file.flush()
    np.testing.assert_array_equal(read(cache), FEATURES[[1, 0]])
    assert verify(folder).sound
    return len(whole)


def cut_at_each_length(folder: Path, path: Path) -> int:
    cache, whole = FeatureCache.open(folder), path.read_bytes()
    for length in [*range(0, len(whole), 5), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(cache, path)
        if length % 13 == 0:
            found_alone(cache, path)
    return len(whole)


def test_a_flipped_bit_in_any_byte_of_a_shard_is_found_and_never_read(smallest: FeatureCache) -> None:
    path = smallest.shards()[0].path
    assert in_a_process(flip_each_byte, smallest, path) == path.stat().st_size


def test_a_flipped_bit_in_any_byte_of_a_packed_shard_is_found_and_never_read(packed: FeatureCache) -> None:
    path = packed.shards()[0].path
    assert packed.shards()[0].packed
    assert in_a_process(flip_each_byte, packed, path) == path.stat().st_size


def test_a_flipped_bit_in_any_byte_of_the_index_is_found_and_never_read(smallest: FeatureCache) -> None:
    path = smallest.path / "index.h5"
    assert in_a_process(flip_each_byte, smallest, path) == path.stat().st_size


@pytest.mark.parametrize("name", ["index", "shard"])
def test_a_file_that_is_cut_anywhere_is_found_and_never_read(smallest: FeatureCache, name: str) -> None:
    path = smallest.path / "index.h5" if name == "index" else smallest.shards()[0].path
    size = path.stat().st_size
    assert in_a_process(cut_at_each_length, smallest, path) == size


def test_every_class_of_bytes_is_among_them(smallest: FeatureCache) -> None:
    # That the two tests above look at what they say: where HDF5 puts each thing in a shard.
    path = smallest.shards()[0].path
    whole = path.read_bytes()
    with h5py.File(path) as file:
        assert file.userblock_size == 512
        for name in ("features", "digests", "views", "failures/digests", "failures/reasons"):
            chunks = [file[name].id.get_chunk_info(n) for n in range(file[name].id.get_num_chunks())]
            for chunk in chunks:  # the data, and behind it the checksum
                assert 512 < chunk.byte_offset < chunk.byte_offset + chunk.size <= len(whole)
    for signature in (b"\x89HDF", b"OHDR", b"FAHD", b"FADB"):  # superblock, object headers, the index of the chunks
        assert signature in whole[512:]
    assert RECIPE.digest.encode() in whole  # an attribute


SEALED_AGAIN = """
import sys
from pathlib import Path
from cache.errors import CacheError
from cache.feature_cache import FeatureCache
from cache.index import WRITER, read_listing
from cache.verification import verify
from tests.cache.test_hdf5 import sealed_again
cache, path = FeatureCache.open(sys.argv[1]), Path(sys.argv[1]) / "index.h5"
whole = path.read_bytes()
for position in range(512, len(whole), int(sys.argv[2])):
    damaged = bytearray(whole)
    damaged[position] ^= 1 << position % 8
    path.write_bytes(damaged)
    sealed_again(path, "index")
    try:
        if read_listing(path, cache.recipe).writer != WRITER:
            continue  # other versions of HDF5 may write so
    except CacheError as error:
        assert str(error).startswith(str(path))
    assert [damage.file for damage in verify(cache.path).damage] == ["index.h5"], position
"""


def test_an_index_that_somebody_made_up_is_bounded_in_time_and_found(smallest: FeatureCache) -> None:
    # HDF5 itself loops for ever or crashes the process at some of these, where it follows pointers without a checksum.
    command = [sys.executable, "-c", SEALED_AGAIN, str(smallest.path), "23"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")

"""A shard gives back exactly what was written, or refuses."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cache.errors import CacheError
from cache.recipe import Recipe
from cache.seal import SIZE, seal
from cache.shard import (
    SHARD_ROWS,
    Shard,
    check_shard,
    complete_views,
    held_views,
    read_rows,
    read_shard,
    shard_paths,
    write_shard,
)

RECIPE = Recipe("squeezenet1_1", "a" * 64, {"crop": 224}, decoding=1, dimension=32, weights="random:0")


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def rows(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, RECIPE.dimension), dtype=np.float32)


def content(shard: Shard, recipe: Recipe = RECIPE) -> npt.NDArray[np.floating]:
    out = np.empty((len(shard.digests), recipe.dimension), dtype=recipe.storage)
    read_rows(shard, out)
    return out


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """Four rows, two of them views of one image, and one failure."""
    digests = [digest(0), digest(1), digest(1), digest(2)]
    return write_shard(tmp_path, RECIPE, digests, [0, 0, 300, 65535], rows(4), {digest(4): "the file is empty"})


names = st.integers(0, 99).map(digest)


@given(data=st.data(), width=st.sampled_from([16, 32]), compress=st.booleans())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, width: Literal[16, 32], compress: bool
) -> None:
    storage = f"float{width}"
    recipe = replace(RECIPE, storage=storage)
    keys = data.draw(st.lists(st.tuples(names, st.integers(0, 65535)), max_size=5, unique=True))
    finite = st.floats(width=width, allow_nan=False, allow_infinity=False)
    features = data.draw(arrays(storage, (len(keys), RECIPE.dimension), elements=finite))
    failures = data.draw(
        st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
    )
    digests, views = [name for name, _ in keys], [view for _, view in keys]
    folder = tmp_path_factory.getbasetemp() / "cache" / "shards"
    written = write_shard(folder, recipe, digests, views, features, failures, compress)
    assert shard_paths(folder).count(written.path) == 1
    again = read_shard(written.path, recipe)
    assert again == check_shard(written.path, recipe) == written
    assert written == Shard(written.path, tuple(digests), tuple(views), failures, compress and bool(keys))
    assert content(again, recipe).dtype == storage
    assert content(again, recipe).tobytes() == features.tobytes()  # -0.0 is not 0.0


@pytest.mark.parametrize(("reason", "kept"), [("caf\udce9.jpg", "caf\\udce9.jpg"), ("a\0b\0", "a\\0b\\0"), ("", "")])
def test_reasons_that_hdf5_cannot_hold_are_written_with_backslashes(tmp_path: Path, reason: str, kept: str) -> None:
    written = write_shard(tmp_path, RECIPE, [digest(0)], [0], rows(1), {digest(1): reason})
    assert read_shard(written.path, RECIPE) == written
    assert written.failures == {digest(1): kept}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65520.0])
def test_numbers_that_are_not_finite_as_they_are_stored_are_not_written(tmp_path: Path, value: float) -> None:
    features = rows(3)
    features[1, 2] = value
    recipe = replace(RECIPE, storage="float16")
    with pytest.raises(ValueError, match="finite"):
        write_shard(tmp_path, recipe, [digest(n) for n in range(3)], [0] * 3, features, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(2, 32), (4, 32), (3, 31), (96,), (3, 32, 1)])
def test_features_of_another_shape_are_not_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3 finite features"):
        write_shard(tmp_path, RECIPE, [digest(n) for n in range(3)], [0] * 3, np.zeros(shape, np.float32), {})
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_is_not_finite_is_not_read(shard: Shard) -> None:
    # Nobody writes one: this file was made up, and its seal is whole.
    with h5py.File(shard.path, "r+") as file:
        file["features"][2, 5] = np.nan
    body = shard.path.read_bytes()[SIZE:]
    shard.path.write_bytes(seal("shard", body) + body)
    assert read_shard(shard.path, RECIPE) == shard
    with pytest.raises(CacheError, match=rf"{shard.path} is damaged \(its row 2 is not finite.* --repair"):
        content(shard)


@pytest.mark.parametrize("out", [np.empty((3, 32), "f4"), np.empty((4, 32), "f8"), np.empty((4, 31), "f4")])
def test_rows_are_read_only_into_their_own_shape(shard: Shard, out: npt.NDArray[np.floating]) -> None:
    with pytest.raises(CacheError, match=r"its features are \(4, 32\) float32, not "):
        read_rows(shard, out)


def test_shards_are_listed_by_name_and_nothing_else_is(tmp_path: Path) -> None:
    assert shard_paths(tmp_path / "shards") == []
    for name in ("b.h5", "a.h5", ".c.h5", "d.h5.tmp", "e.txt"):
        (tmp_path / name).touch()
    assert shard_paths(tmp_path) == [tmp_path / "a.h5", tmp_path / "b.h5"]
    with pytest.raises(CacheError, match=r"a\.h5 cannot be listed: it is no folder"):
        shard_paths(tmp_path / "a.h5")


def test_a_shard_opens_with_plain_h5py(shard: Shard) -> None:
    with h5py.File(shard.path) as file:
        np.testing.assert_array_equal(file["features"][:], rows(4))
        assert file["features"].chunks == (1, RECIPE.dimension)  # any row costs one read
        assert file["features"].fletcher32
        assert file["digests"][:].tolist() == [digest(n).encode() for n in (0, 1, 1, 2)]
        assert file["views"][:].tolist() == [0, 0, 300, 65535]
        assert (file["views"].dtype, file["views"].fletcher32) == (np.uint16, True)
        assert file.attrs["recipe"] == RECIPE.digest.encode()


def sparse(count: int, dimension: int) -> npt.NDArray[np.float32]:
    """Features as a ReLU leaves them."""
    numbers = np.random.default_rng(0).normal(-1, 1, (count, dimension)).astype(np.float32)
    return np.maximum(numbers, 0, out=numbers)


def test_a_packed_shard_has_the_same_name_and_rows_and_takes_less_room(tmp_path: Path) -> None:
    recipe, features = replace(RECIPE, dimension=5000), sparse(20, 5000)
    digests = [digest(n) for n in range(20)]
    plain = write_shard(tmp_path / "plain", recipe, digests, [0] * 20, features, {digest(77): "torn"})
    packed = write_shard(tmp_path / "packed", recipe, digests, [0] * 20, features, {digest(77): "torn"}, compress=True)
    assert (plain.packed, packed.packed) == (False, True)
    assert packed == replace(plain, path=packed.path, packed=True) == read_shard(packed.path, recipe)
    assert packed.path.name == plain.path.name
    np.testing.assert_array_equal(content(packed, recipe), features)
    assert packed.path.stat().st_size < 0.4 * plain.path.stat().st_size
    with h5py.File(packed.path) as file:  # without a plugin
        np.testing.assert_array_equal(file["features"][3], features[3])
        assert file["features"].chunks == (1, 5000)
        assert (file["features"].compression, file["features"].fletcher32) == ("gzip", True)


def test_a_packed_shard_has_no_more_rows_than_a_shard_should_have(tmp_path: Path) -> None:
    digests, features = [digest(n) for n in range(SHARD_ROWS + 1)], rows(SHARD_ROWS + 1)
    with pytest.raises(ValueError, match="129 rows are too many for one packed shard, which has up to 128"):
        write_shard(tmp_path, RECIPE, digests, [0] * len(digests), features, {}, compress=True)
    assert list(tmp_path.iterdir()) == []
    shard = write_shard(tmp_path, RECIPE, digests, [0] * len(digests), features, {})
    with h5py.File(shard.path, "r+") as file:  # made up
        del file["features"]
        file.create_dataset("features", data=features, chunks=(1, 32), compression="gzip", fletcher32=True)
    with pytest.raises(CacheError, match=r"it has 129 packed rows"):
        read_shard(shard.path, RECIPE)


def test_what_cannot_be_packed_grows_by_less_than_what_is_reckoned_for_a_row(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2**31, (4, 25088)).astype(np.uint32) & 0xBFFFFFFF
    recipe, features = replace(RECIPE, dimension=25088), noise.view(np.float32)
    digests = [digest(n) for n in range(4)]
    plain = write_shard(tmp_path / "plain", recipe, digests, [0] * 4, features, {})
    packed = write_shard(tmp_path / "packed", recipe, digests, [0] * 4, features, {}, compress=True)
    np.testing.assert_array_equal(content(packed, recipe), features)
    assert packed.path.stat().st_size - plain.path.stat().st_size < 4 * 100


def test_float16_halves_the_room(tmp_path: Path) -> None:
    sizes = {}
    for storage in ("float32", "float16"):
        recipe = replace(RECIPE, storage=storage, dimension=25088)
        features = np.ones((20, 25088), dtype=np.float32)
        path = write_shard(tmp_path, recipe, [digest(n) for n in range(20)], [0] * 20, features, {}).path
        sizes[storage] = path.stat().st_size
    assert 20 * 25088 * 4 <= sizes["float32"] < 20 * 25088 * 4 * 1.01
    assert 20 * 25088 * 2 <= sizes["float16"] < 20 * 25088 * 2 * 1.01


def test_the_name_says_what_is_in_it(tmp_path: Path) -> None:
    def name(
        digests: Sequence[str], failures: dict[str, str], recipe: Recipe = RECIPE, views: Sequence[int] = (0, 0)
    ) -> str:
        views = views[: len(digests)]
        return write_shard(tmp_path, recipe, digests, views, rows(len(digests)), failures).path.name

    one = name([digest(1), digest(2)], {digest(3): "empty"})
    others = [
        name([digest(2), digest(1)], {digest(3): "empty"}),
        name([digest(1), digest(2)], {}),
        name([digest(1)], {digest(2): "empty", digest(3): "empty"}),
        name([digest(1), digest(2)], {digest(3): "empty"}, replace(RECIPE, precision="bf16")),
        name([digest(1), digest(2)], {digest(3): "empty"}, views=[0, 1]),
        name([digest(1), digest(2)], {digest(3): "empty"}, views=[1, 0]),
    ]
    assert len({one, *others}) == 7
    assert name([digest(1), digest(2)], {digest(3): "another reason"}) == one


def test_a_flipped_bit_in_any_row_is_refused(shard: Shard) -> None:
    with h5py.File(shard.path) as file:
        data = file["features"].id
        chunks = [data.get_chunk_info(number) for number in range(data.get_num_chunks())]
    assert len(chunks) == 4
    whole = shard.path.read_bytes()
    for chunk in chunks:
        for position in range(chunk.byte_offset, chunk.byte_offset + chunk.size, 11):
            flip(shard.path, whole, position)
            with pytest.raises(CacheError, match=r"is damaged .* only the images that it held are computed anew"):
                content(read_shard(shard.path, RECIPE))
    shard.path.write_bytes(whole)
    np.testing.assert_array_equal(content(shard), rows(4))


def test_a_flipped_bit_in_the_digests_or_views_is_refused(shard: Shard) -> None:
    whole = shard.path.read_bytes()
    first = whole.index("".join(shard.digests).encode())
    views = whole.index(np.array(shard.views, dtype="<u2").tobytes())
    for position in (*range(first, first + 4 * 64, 5), *range(views, views + 4 * 2)):
        flip(shard.path, whole, position)
        with pytest.raises(CacheError, match="is damaged"):
            read_shard(shard.path, RECIPE)


def flip(path: Path, data: bytes, position: int) -> None:
    damaged = bytearray(data)
    damaged[position] ^= 1 << position % 8
    path.write_bytes(damaged)


def test_a_truncated_shard_is_refused(shard: Shard) -> None:
    whole = shard.path.read_bytes()
    for length in range(0, len(whole), 97):
        shard.path.write_bytes(whole[:length])
        with pytest.raises(CacheError, match="is damaged"):
            read_shard(shard.path, RECIPE)


def test_other_files_are_refused(tmp_path: Path, shard: Shard) -> None:
    with pytest.raises(CacheError, match=r"is missing\. .* the same `manyheads extract` again"):
        read_shard(tmp_path / "missing.h5", RECIPE)
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(CacheError, match="is damaged"):
        read_shard(tmp_path / "empty.h5", RECIPE)
    for other in (replace(RECIPE, precision="bf16"), replace(RECIPE, dimension=33)):
        with pytest.raises(CacheError, match=f"is a shard of recipe .*…, but the cache's is {other.digest[:12]}…"):
            read_shard(shard.path, other)


@pytest.mark.parametrize("wrong", [np.zeros(3, np.uint16), np.zeros(4, np.int64), np.zeros((4, 1), np.uint16)])
def test_a_shard_whose_views_do_not_fit_is_refused(shard: Shard, wrong: npt.NDArray[np.integer]) -> None:
    with h5py.File(shard.path, "a") as file:
        del file["views"]
        file["views"] = wrong
    with pytest.raises(CacheError, match=rf"its views are \({len(wrong)},.*\) {wrong.dtype}, not \(4,\) uint16"):
        read_shard(shard.path, RECIPE)
    with h5py.File(shard.path, "a") as file:
        del file["views"]
    with pytest.raises(CacheError, match="is damaged"):
        read_shard(shard.path, RECIPE)


@pytest.mark.parametrize("views", [[0], [0, 1, 2], [0, -1], [0, 65536]])
def test_views_that_no_shard_can_hold_are_not_written(tmp_path: Path, views: list[int]) -> None:
    with pytest.raises((ValueError, OverflowError)):
        write_shard(tmp_path, RECIPE, [digest(0), digest(1)], views, rows(2), {})
    assert list(tmp_path.iterdir()) == []


def test_what_shards_hold_of_each_image() -> None:
    one = Shard(Path("a.h5"), ("x", "x", "y", "z"), (0, 1, 0, 1), {})
    two = Shard(Path("b.h5"), ("x", "x", "y"), (4, 2, 0), {"w": "empty"})
    held = held_views([one, two])
    assert {name: sorted(views) for name, views in held.items()} == {"x": [0, 1, 2, 4], "y": [0, 0], "z": [1]}
    complete = complete_views([one, two])
    assert complete == {"x": 3, "y": 1, "z": 0}
    assert complete["w"] == 0
    assert complete_views([]) == {}


def test_a_shard_whose_parts_do_not_fit_is_refused(shard: Shard) -> None:
    with h5py.File(shard.path, "a") as file:
        del file["digests"]
        file["digests"] = np.array([digest(0)], dtype="S64")
    with pytest.raises(CacheError, match=r"is damaged \(its features are \(4, 32\) float32, not \(1, 32\) float32\)"):
        read_shard(shard.path, RECIPE)


def test_a_shard_that_another_program_writes_to_is_not_called_damaged(shard: Shard) -> None:
    # Who looks into a shard with HDFView may not know that it opens files for writing.
    script = """
import h5py, sys
file = h5py.File(sys.argv[1], "r+", locking=True)
file["views"][0] = 5
file.flush()
print("open", flush=True)
input()
file["views"][0] = 0
file.close()
"""
    command = [sys.executable, "-c", script, str(shard.path)]
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": "TRUE"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        for read in (lambda: read_shard(shard.path, RECIPE), lambda: content(shard)):
            with pytest.raises(CacheError, match=r"cannot be opened: .*\. Close the program that has it open"):
                read()
        process.communicate("\n")
    assert read_shard(shard.path, RECIPE) == shard


FULL = """
import resource, sys
from pathlib import Path
from cache.errors import NoRoom
from tests.cache.test_shard import RECIPE, digest, rows, write_shard
folder = Path(sys.argv[1])
for limit in range(0, 200_000, 3_333):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        path = write_shard(folder, RECIPE, [digest(n) for n in range(1000)], [0] * 1000, rows(1000), {}).path
    except NoRoom:
        assert not list(folder.iterdir()), list(folder.iterdir())
    else:
        assert path.stat().st_size <= limit
        path.unlink()
"""


def test_a_full_disk_at_any_point_leaves_nothing_and_says_nothing_else(tmp_path: Path) -> None:
    # HDF5 itself fills stderr when it cannot flush a file, and crashes the process at its end.
    (tmp_path / "shards").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "shards")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_threads_may_write_at_the_same_time(tmp_path: Path) -> None:
    plans = [[digest(10 * plan + n) for n in range(8)] for plan in range(8)] * 2
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda digests: write_shard(tmp_path, RECIPE, digests, range(8), rows(8), {}), plans))
    for shard in written:
        np.testing.assert_array_equal(content(read_shard(shard.path, RECIPE)), rows(8))
    assert len(list(tmp_path.iterdir())) == 8

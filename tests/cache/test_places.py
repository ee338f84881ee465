"""Where a feature stands."""

from pathlib import Path

from cache.places import places
from cache.shard import Shard


def test_a_place_is_that_of_digest_and_view_and_the_first_of_two_equal_ones(tmp_path: Path) -> None:
    shards = [
        Shard(tmp_path / "a.h5", ("x", "y", "y"), (0, 0, 1), {}),
        Shard(tmp_path / "b.h5", ("y", "z", "x"), (0, 1, 2), {}),
    ]
    every = {("x", 0): (0, 0), ("y", 0): (0, 1), ("y", 1): (0, 2), ("z", 1): (1, 1), ("x", 2): (1, 2)}
    assert places(shards, [*every, ("z", 0)]) == every
    assert places(shards, [("y", 0)]) == {("y", 0): (0, 1)}

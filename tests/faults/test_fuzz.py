"""What is read may be anything: a seeded sample of the fuzzer's inputs, and that it sees what it looks for."""

import signal
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.faults.fuzzing import Row, fuzz, table
from tests.faults.mutations import damaged, damaged_json
from tests.faults.planted import PLANTED
from tests.faults.sandbox import EXPECTED, Result
from tests.faults.specimens import KINDS, build

INPUTS = 10 * len(KINDS)


@pytest.fixture(scope="module")
def world(extracted: Path, fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed") / "world"
    build(folder, extracted, fitted)
    return folder


@pytest.mark.slow
def test_a_sample_of_damaged_files_is_refused_or_read_for_what_it_is(world: Path) -> None:
    results: list[Result] = []
    fuzz(world, "suite", range(INPUTS), results.append)
    assert [result.number for result in results] == list(range(INPUTS))
    assert [result for result in results if result.outcome not in EXPECTED] == []
    noticed = Counter(result.number % len(KINDS) for result in results if result.outcome != "same")
    assert [kind.name for number, kind in enumerate(KINDS) if not noticed[number]] == []


def test_the_same_seed_and_number_give_the_same_damage(world: Path, tmp_path: Path) -> None:
    files = {str(path.relative_to(world)): path.read_bytes() for path in world.rglob("*") if path.is_file()}
    for kind in KINDS:
        first, second, other = (kind.damage(Random(seed), files) for seed in ("1", "1", "2"))
        assert first == second, kind.name
        assert any(files.get(name) != content for name, content in first.items()), kind.name
        assert first != other, kind.name


def test_every_edit_changes_something() -> None:
    others = [b"another file, long enough to take something from"]
    for seed in range(300):
        assert damaged(Random(seed), b"some bytes", others) != b"some bytes"
        damaged_json(Random(seed), b'{"a": [1, 2.5, "x", null, {"b": {}}], "c": "text"}')


def test_the_fuzzer_sees_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "file").write_bytes(b"whole")
    found: dict[int, str] = {}

    def tell(result: Result) -> None:
        found[result.number] = result.outcome

    fuzz(tmp_path / "world", "0", range(len(PLANTED) + 1), tell, kinds="tests.faults.planted:PLANTED")
    assert list(found.values()) == [
        "refused",
        "ZeroDivisionError in _careless",
        "hang",
        f"crash ({-signal.SIGSEGV})",
        "more than 300 MB",
        "written: outside/canary",
        "a damaged file passes for a whole one",
        "a message of 7 letters",
        "MemoryError in _endless",
        "refused",
    ]


def test_the_table_counts_every_outcome_once() -> None:
    rows = {"one": Row(), "two": Row()}
    for outcome in ("refused", "refused", "same", "other", "hang"):
        rows["one"].add(Result(0, outcome, 0.5, 3.0))
    rows["two"].add(Result(1, "crash (-11)", 0.25, 70.0))
    assert table(rows).splitlines()[2:] == [
        "| one | 5 | 2 | 1 | 1 | 1 | 0.50 s | 3 MB |",
        "| two | 1 | 0 | 0 | 0 | 1 | 0.25 s | 70 MB |",
        "| all | 6 | 2 | 1 | 1 | 2 | 0.50 s | 70 MB |",
    ]

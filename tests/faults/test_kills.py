"""Extractions that are killed at random moments, and then finished, end as undisturbed ones."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.faults.processes import TOKEN, others, until_alone
from tests.faults.scenarios import Extractions

ROOT = Path(__file__).parents[2]
KILLS = 10


@pytest.mark.slow
def test_killed_at_random_moments_and_finished_it_ends_in_the_same_bytes() -> None:
    command = [sys.executable, "-m", "tests.faults.kills", "--kills", str(KILLS), "--images", "12", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    assert (found["problems"], done.returncode) == ([], 0)
    assert sum(found["kills"].values()) >= KILLS
    assert found["finished"] >= 2
    assert found["unfinished"] >= 1  # some were hit while they were writing


def test_a_cache_that_is_not_whole_or_not_right_is_seen(tmp_path: Path) -> None:
    scenario = Extractions(tmp_path / "images")
    scenario.steps[0][1](tmp_path)
    scenario.learn(tmp_path)
    assert list(scenario.problems(tmp_path)) == []
    shard = min((tmp_path / "cache" / "shards").glob("*.h5"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert any(f"{shard.name} is damaged" in problem for problem in scenario.problems(tmp_path))
    shard.write_bytes(content)
    (tmp_path / "cache" / "recipe.json").unlink()
    assert any("is not a feature cache" in problem for problem in scenario.problems(tmp_path))


def test_processes_are_found_by_their_mark_whoever_is_their_parent() -> None:
    mark = uuid.uuid4().hex
    child = "import sys; sys.stdin.read()"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    parent = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, TOKEN: mark}, stdin=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.wait() == 0
    assert len(others(mark)) == 1
    parent.stdin.close()
    assert until_alone(mark) is not None

"""A checkpoint: what was written is what is read, of this run and seed and no other, and damage is told."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cache import NoRoom
from pipeline.checkpoint import DIGEST, ENTRY, Checkpoint, _digest
from pipeline.errors import RunError
from pipeline.run import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(fitted: Path) -> Run:
    """A run with a history of three epochs; that it is of a head makes no difference here."""
    return Run.read(fitted / "mlp" / "seed-0001")


@pytest.fixture
def held(run: Run) -> Checkpoint:
    weights = torch.arange(24, dtype=torch.float32).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    tensors = {"last.a": weights, "best.a": weights + 0.1, "adam.0.step": torch.tensor(7.0), "empty": torch.zeros(0)}
    return Checkpoint(run, 2, tensors)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scratch" / ".seed-0001.checkpoint.safetensors"


def test_what_is_written_is_read(held: Checkpoint, run: Run, path: Path) -> None:
    held.write(path)
    found = Checkpoint.read(path, run)
    assert found is not None
    assert (found.run, found.best_epoch, found.epoch) == (replace(run, images=found.run.images), 2, 3)
    assert found.run.images == {"train": [], "val": [], "test": []}, "paths would swell the header; digests suffice"
    assert found.tensors.keys() == held.tensors.keys()
    for name, tensor in held.tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_there_is_none_before_the_first(run: Run, path: Path) -> None:
    assert Checkpoint.read(path, run) is None


def test_the_next_one_replaces_it(held: Checkpoint, run: Run, path: Path) -> None:
    held.write(path)
    replace(held, best_epoch=3).write(path)
    found = Checkpoint.read(path, run)
    assert found is not None
    assert found.best_epoch == 3


KILLED = """
import os, signal, sys
from pathlib import Path
from cache.atomic import writing_file
with writing_file(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_while_the_next_one_is_written_it_is_still_there(held: Checkpoint, run: Run, path: Path) -> None:
    held.write(path)
    done = subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 2
    found = Checkpoint.read(path, run)
    assert found is not None
    assert torch.equal(found.tensors["best.a"], held.tensors["best.a"])


def test_another_configuration_is_refused_naming_the_field(held: Checkpoint, run: Run, path: Path) -> None:
    held.write(path)
    other = {
        r"parameter lr is 0\.0001, asked 0\.5": replace(run, parameters={**run.parameters, "lr": 0.5}),
        "parameter epochs is 3, asked 15": replace(run, parameters={**run.parameters, "epochs": 15}),
        "device is cpu, asked cuda": replace(run, device="cuda:1"),
        "train images are others": replace(run, digests={**run.digests, "train": "0" * 64}),
        "recipe dimension is 512, asked 3": replace(run, recipe=replace(run.recipe, dimension=3)),
    }
    for message, asked in other.items():
        with pytest.raises(RunError, match=f"{path.name} was begun otherwise: {message}.*--name.*remove this one file"):
            Checkpoint.read(path, asked)
    # What the training has added since it was planned, and where it ran, make no other configuration of it.
    assert Checkpoint.read(path, replace(run, history=(), timings={}, machine={}, versions={})) is not None


def test_a_checkpoint_of_another_seed_is_refused(held: Checkpoint, run: Run, path: Path) -> None:
    held.write(path)
    with pytest.raises(RunError, match=f"{path.name} is of seed 1, not 0: it was renamed.*remove it"):
        Checkpoint.read(path, replace(run, seed=0))


def refused(path: Path, run: Run) -> None:
    with pytest.raises(RunError, match=f"{path.name} cannot be read .*damaged.*Remove it to train from the start"):
        Checkpoint.read(path, run)


def test_truncated_anywhere_it_is_refused(held: Checkpoint, run: Run, path: Path) -> None:
    held.write(path)
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(200, len(whole), len(whole) // 20), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path, run)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(held: Checkpoint, run: Run, path: Path) -> None:
    held.write(path)
    whole = path.read_bytes()
    numbers = 8 + int.from_bytes(whole[:8], "little")
    read = []
    for place in [*range(0, numbers, 37), *range(numbers, len(whole), 5)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with suppress(RunError):
            found = Checkpoint.read(path, run)
            assert found is not None
            assert (found.run.history, found.best_epoch) == (run.history, held.best_epoch)
            assert all(torch.equal(found.tensors[name], tensor) for name, tensor in held.tensors.items())
            read.append(place)
    assert len(read) < 5, "such as a blank in the header that became another blank"
    assert all(place < numbers for place in read)


def test_a_checkpoint_that_is_no_file_is_refused_and_not_waited_for(run: Run, path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(RunError, match=r"cannot be read \(it is no regular file\)"):
        Checkpoint.read(path, run)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_json_in_a_checkpoint_is_read_or_refused(run: Run, tmp_path: Path, data: st.DataObject) -> None:
    document = json.loads(json.dumps({"run": run.document(), "best_epoch": 2}))
    place = document if data.draw(st.booleans()) else document["run"]
    place[data.draw(st.sampled_from([*place, "other"]))] = data.draw(JSON)
    text, tensors = json.dumps(data.draw(st.just(document) | JSON)), {"a": torch.zeros(3)}
    save_file(tensors, tmp_path / "made.up", {ENTRY: text, DIGEST: _digest(text, tensors)})
    with suppress(RunError):
        Checkpoint.read(tmp_path / "made.up", run)


def test_what_is_no_checkpoint_is_refused(held: Checkpoint, run: Run, path: Path) -> None:
    path.parent.mkdir()
    document = {"run": json.loads(json.dumps(run.document())), "best_epoch": 2}
    without_name = {**document["run"], "classes": None}
    entries = [None, {}, {"checkpoint": "{"}, {"checkpoint": "[]"}, {"checkpoint": json.dumps({"best_epoch": 2})}]
    entries += [{"checkpoint": json.dumps({**document, "run": without_name})}]
    entries += [{"checkpoint": json.dumps({**document, "best_epoch": None})}]
    tensors = {"a": torch.zeros(3)}
    for entry in entries:
        save_file(tensors, path, entry)
        refused(path, run)
        if entry:
            save_file(tensors, path, {**entry, DIGEST: _digest(entry["checkpoint"], tensors)})
            refused(path, run)
    path.write_bytes(b"PK\3\4" + b"\0" * 100)
    refused(path, run)
    path.write_text("<html>not found</html>")
    refused(path, run)


def test_it_is_an_ordinary_safetensors_file(held: Checkpoint, path: Path) -> None:
    held.write(path)
    assert load_file(path).keys() == held.tensors.keys()


def test_no_place_for_it_is_explained(held: Checkpoint, path: Path) -> None:
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(NoRoom, match="could not be written"):
        held.write(path)

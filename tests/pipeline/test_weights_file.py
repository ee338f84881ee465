"""Weights files that somebody made up: nothing runs, nothing is waited for, and memory stays within the file's size."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import WeightsError
from pipeline.weights import WeightsSource, load_state
from pipeline.weights_file import read_tensors

STATE = OrderedDict({"features.0.weight": torch.arange(12.0).reshape(1, 3, 2, 2), "features.0.bias": torch.ones(1)})
FORMS = pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def saved(path: Path, state: Any, *, old: bool) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    return path


def repacked(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip archive anew with its entries changed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for entry in old.namelist():
            new.writestr(entry, change(entry, old.read(entry)))
    path.write_bytes(packed.getvalue())
    return path


@FORMS
def test_a_state_dict_is_read_with_what_torch_saves_beside_it(tmp_path: Path, old: bool) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    read = read_tensors(saved(tmp_path / "a.pth", network.state_dict(), old=old))
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        name: tensor.tolist() for name, tensor in network.state_dict().items()
    }
    parameters = dict(network.named_parameters())
    assert read_tensors(saved(tmp_path / "b.pth", parameters, old=old)).keys() == parameters.keys()


@FORMS
@pytest.mark.parametrize("function", [os.system, eval, exec, print, bytearray, torch.ones, torch.Tensor, torch.load])
def test_a_file_that_calls_anything_is_refused_uncalled(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], old: bool, function: Callable[..., Any]
) -> None:
    mark = tmp_path / "ran"
    argument = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    path = saved(tmp_path / "evil.pth", {"x": Calls(function, argument)}, old=old)
    with pytest.raises(
        WeightsError, match=r"evil\.pth holds a Python object \(\S+\); such a file can run code and was"
    ):
        load_state(WeightsSource.parse(str(path)), "vgg16")
    assert not mark.exists()
    assert capfd.readouterr().out == ""


def test_the_refused_file_would_have_run_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {mark}")))
    assert mark.exists()


@pytest.mark.parametrize("opcodes", [b"ios\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"\x82\x01", b"\x92"])
def test_other_ways_to_name_something_are_refused(tmp_path: Path, opcodes: bytes) -> None:
    path = saved(tmp_path / "evil.pth", STATE, old=False)
    repacked(path, lambda name, content: b"\x80\x02(" + opcodes + b"." if name.endswith("data.pkl") else content)
    with pytest.raises(WeightsError, match=r"evil\.pth holds a Python object \((INST|STACK_GLOBAL|EXT1|NEWOBJ_EX)\)"):
        read_tensors(path)


@FORMS
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(1).expand(10**12),
        lambda: torch.ones(1, dtype=torch.float16).expand(10**6, 10**6),
        lambda: torch.ones(1, dtype=torch.int64).expand(500),
        lambda: torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (10**9,)),
        lambda: torch.empty(10**9, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
    ],
    ids=["float32", "float16", "int64", "sparse", "meta", "quantised"],
)
@pytest.mark.filterwarnings("ignore")
def test_numbers_that_a_file_does_not_hold_are_refused(
    tmp_path: Path, old: bool, make: Callable[[], torch.Tensor]
) -> None:
    try:
        path = saved(tmp_path / "big.pth", {"x": make()}, old=old)
    except NotImplementedError:  # not in every form
        return
    assert path.stat().st_size < 5000
    with pytest.raises(
        WeightsError, match=r"big\.pth (claims numbers for 'x' that it does not hold|holds a Python obj)"
    ):
        load_state(WeightsSource.parse(str(path)), "vgg16")


def test_many_views_of_the_same_numbers_are_refused(tmp_path: Path) -> None:
    one = torch.ones(10_000)
    path = saved(tmp_path / "big.pth", {f"{number}": one for number in range(100)}, old=False)
    with pytest.raises(WeightsError, match=r"claims numbers for '\d+' that it does not hold"):
        read_tensors(path)


def test_a_compressed_or_ambiguous_archive_is_refused(tmp_path: Path) -> None:
    def bomb(name: str, content: bytes) -> bytes:
        return content + b"\0" * 50_000_000 if name.endswith("data.pkl") else content

    path = repacked(saved(tmp_path / "bomb.pth", STATE, old=False), bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(WeightsError, match=r"bomb\.pth is no complete torch file \(its entry .* is compressed"):
        read_tensors(path)
    saved(path, STATE, old=False)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("bomb/data.pkl", pickle.dumps(1, protocol=2))
    with pytest.raises(WeightsError, match=r"its entry 'bomb/data\.pkl' is compressed, named twice or larger"):
        read_tensors(path)


def test_a_second_pickle_hidden_in_the_archive_is_read_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "evil.pth", STATE, old=False)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("evil/DATA.PKL", pickle.dumps(Calls(os.system, "true"), protocol=2))
    with pytest.raises(WeightsError, match=r"holds a Python object \(\w+\.system\)"):
        read_tensors(path)


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


SHAPE = (
    b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[%d,%d]},"b":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}}'
)


@pytest.mark.parametrize(
    "content",
    [
        header(b"{}", 2**63),
        header(b"{}", 2**40),
        header(b"{}", 99_999_999),
        header(b'{"a":' * 50_000),
        header(SHAPE % (1, 0, 4, 0, 4)) + bytes(8),
        header(SHAPE % (1, 0, 4, 2, 6)) + bytes(8),
        header(SHAPE % (1, 0, 4, 8, 12)) + bytes(12),
        header(SHAPE % (10**12, 0, 4 * 10**12, 4 * 10**12, 4 * 10**12 + 4)) + bytes(8),
        header(SHAPE % (2**62, 0, 0, 0, 4)) + bytes(8),
        header(SHAPE.replace(b"F32", b"F4") % (1, 0, 4, 4, 8)) + bytes(8),
    ],
)
def test_a_made_up_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.safetensors is no complete safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"endless{suffix}").symlink_to("/dev/zero")
    (tmp_path / f"nowhere{suffix}").symlink_to("nothing")
    for name, found in (
        ("pipe", "is no regular"),
        ("folder", "is no regular"),
        ("endless", "is no reg"),
        ("nowhere", "not"),
    ):
        with pytest.raises(WeightsError, match=f"{name}{suffix} {found}.*: check the path"):
            load_state(WeightsSource.parse(str(tmp_path / f"{name}{suffix}")), "vgg16")


def test_a_storage_of_a_size_that_is_made_up_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "huge.pth", {"x": torch.ones(7)}, old=True)
    content = path.read_bytes()
    assert content.count(b"K\x07") >= 2
    path.write_bytes(content.replace(b"K\x07", b"J" + struct.pack("<i", 2**30)))  # 4 GB
    with pytest.raises(WeightsError, match=r"huge\.pth is no complete torch file"):
        read_tensors(path)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(dict(STATE), tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors").keys() == STATE.keys()

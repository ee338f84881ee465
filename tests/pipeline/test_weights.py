"""Sources, fingerprints, files of every kind, and downloads that fail."""

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torchvision.models import SqueezeNet1_1_Weights

from pipeline import weights
from pipeline.base import load_base
from pipeline.errors import BaseError, WeightsError
from pipeline.weights import WeightsSource, entry, fingerprint, load_state, tensor_digest

STATE = {"features.0.weight": torch.arange(12.0).reshape(1, 3, 2, 2) / 7, "features.0.bias": torch.ones(1)}
ENTRY = SqueezeNet1_1_Weights.IMAGENET1K_V1


@given(
    st.one_of(
        st.just("imagenet"),
        st.from_regex(r"imagenet:[A-Z][A-Z0-9_]*", fullmatch=True),
        st.integers(0, 2**64 - 1).map("random:{}".format),
        st.builds("{}{}".format, st.text(min_size=1), st.sampled_from([".pth", ".pt", ".safetensors"])).filter(
            lambda text: Path(text).suffix != ""
        ),
    )
)
def test_a_source_reads_back_what_it_writes(text: str) -> None:
    assert str(WeightsSource.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "imagenette", "imagenet:", "random", "random:", "random:-1", "random:1.5", "random:²", "net.onnx"]
)
def test_bad_text_is_refused_with_all_forms(text: str) -> None:
    with pytest.raises(WeightsError, match=r"imagenet:NAME .* random:SEED, or the path of a \.safetensors, \.pth or"):
        WeightsSource.parse(text)


def test_a_missing_file_is_named() -> None:
    source = WeightsSource.parse("nowhere/absent.pth")
    for use in (fingerprint, load_state):
        with pytest.raises(WeightsError, match=r"nowhere/absent\.pth not found"):
            use(source, "vgg16")


def test_fingerprints_need_no_torch(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    file.write_bytes(b"bytes")
    code = f"""
import sys
import pipeline.base
from pipeline.weights import WeightsSource, fingerprint
for text in ("imagenet", "random:3", {str(file)!r}):
    fingerprint(WeightsSource.parse(text), "vgg16")
sys.exit("torch" in sys.modules)
"""
    root = Path(weights.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_fingerprints_differ_exactly_where_recipes_can(tmp_path: Path) -> None:
    one, same, other = tmp_path / "a.pth", tmp_path / "sub" / "a.pth", tmp_path / "b.pth"
    same.parent.mkdir()
    one.write_bytes(b"x")
    same.write_bytes(b"x")
    other.write_bytes(b"x")
    of = {text: fingerprint(WeightsSource.parse(text), "vgg16") for text in map(str, (one, same, other))}
    assert of[str(one)] == of[str(same)]
    assert of[str(one)] != of[str(other)], "the name can select the transform"
    same.write_bytes(b"y")
    assert fingerprint(WeightsSource.parse(str(same)), "vgg16")["sha256"] == sha256(b"y").hexdigest()
    random = [fingerprint(WeightsSource.parse(f"random:{seed}"), base) for seed in (0, 1) for base in ("vgg16", "x")]
    assert len({tuple(each.items()) for each in random}) == 4


def test_unknown_entries_and_bases_name_what_there_is() -> None:
    with pytest.raises(WeightsError, match="'IMAGENET1K_V9' in torchvision; it has IMAGENET1K_V1, IMAGENET1K_FEATURES"):
        entry("vgg16", "IMAGENET1K_V9")
    with pytest.raises(BaseError, match="did you mean vgg16"):
        entry("VGG-16")


def save(path: Path, state: dict[str, torch.Tensor], *, old: bool = False) -> WeightsSource:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=not old)
    return WeightsSource.parse(str(path))


def test_the_digest_does_not_depend_on_the_file_format(tmp_path: Path) -> None:
    sources = [
        save(tmp_path / "a.safetensors", STATE),
        save(tmp_path / "a.pth", STATE),
        save(tmp_path / "a.pt", STATE),
        save(tmp_path / "old.pth", STATE, old=True),
    ]
    assert {tensor_digest(load_state(source, "vgg16")) for source in sources} == {tensor_digest(STATE)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_other_floats_become_float32_and_integers_stay(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    state = {"x": torch.tensor([0.5, -2.0], dtype=dtype), "n": torch.tensor([3])}
    loaded = load_state(save(tmp_path / name, state), "vgg16")
    assert loaded["x"].dtype == torch.float32
    assert loaded["x"].tolist() == [0.5, -2.0]
    assert loaded["n"].dtype == torch.int64


def test_names_of_older_torchvision_files_are_todays_names(tmp_path: Path) -> None:
    old = {
        "features.denseblock1.denselayer2.norm.1.running_mean": "features.denseblock1.denselayer2.norm1.running_mean",
        "encoder.layers.encoder_layer_11.mlp.linear_1.bias": "encoder.layers.encoder_layer_11.mlp.0.bias",
        "encoder.layers.encoder_layer_11.mlp.linear_2.bias": "encoder.layers.encoder_layer_11.mlp.3.bias",
    }
    source = save(tmp_path / "old.safetensors", {name: torch.zeros(1) for name in old})
    assert set(load_state(source, "densenet121")) == set(old.values())


tensors = st.dictionaries(
    st.text(min_size=1, max_size=5),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6).map(torch.tensor),
    min_size=1,
    max_size=5,
)


@given(tensors)
def test_the_digest_depends_on_values_not_on_order_or_layout(state: dict[str, torch.Tensor]) -> None:
    reordered = {name: state[name].repeat_interleave(2)[::2] for name in reversed(list(state))}
    counted = {**reordered, "bn.num_batches_tracked": torch.tensor(5)}
    assert tensor_digest(counted) == tensor_digest(state)
    name = next(iter(state))
    assert tensor_digest({**state, name: state[name] + state[name].abs() + 1}) != tensor_digest(state)
    assert tensor_digest({**state, name: state[name][None]}) != tensor_digest(state)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("form", ["torch", "old torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_unrun(tmp_path: Path, form: str) -> None:
    path, mark = tmp_path / "evil.pth", tmp_path / "ran"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"x": Evil(mark)}, protocol=2))
    else:
        torch.save({"x": Evil(mark)}, path, _use_new_zipfile_serialization=form == "torch")
    # A bare pickle is no torch file; it fails before its code is looked at.
    with pytest.raises(WeightsError, match=r"evil\.pth .*(run code and was not loaded|no complete torch file)"):
        load_state(WeightsSource.parse(str(path)), "vgg16")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "the file would have run code"


def test_a_whole_network_or_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"):
        load_state(WeightsSource.parse(str(tmp_path / "net.pth")), "vgg16")
    torch.save({"model": STATE, "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match=r"else than tensors under model, epoch: .*state_dict\(\)"):
        load_state(WeightsSource.parse(str(tmp_path / "checkpoint.pth")), "vgg16")
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        load_state(WeightsSource.parse(str(tmp_path / "tensor.pth")), "vgg16")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "old.pth"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    source = save(tmp_path / name, STATE, old=name == "old.pth")
    whole = source.path.read_bytes()
    for length in {*range(0, len(whole), 97), len(whole) - 1}:
        source.path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"complete|damaged|run code"):
            load_state(source, "vgg16")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["a.safetensors", "a.pth"]))
def test_garbage_never_ends_in_another_error(tmp_path: Path, garbage: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(garbage)
    with pytest.raises(WeightsError, match=name):
        load_state(WeightsSource.parse(str(tmp_path / name)), "vgg16")


class Listener:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.pieces: list[tuple[str, int, str]] = []
        self.done: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        self.pieces.append((label, total, unit))
        yield self.done.append


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def send_header(self, keyword: str, value: str) -> None:
            size = {"/unsized": None, "/short": 10**7}.get(self.path[: self.path.rfind("-")], value)
            if keyword != "Content-Length" or size is not None:
                super().send_header(keyword, str(size if keyword == "Content-Length" else value))

    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_is_checked_and_kept(
    checkpoints: Path,
    served: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder, address = served
    content = save(tmp_path / "plain.pth", STATE).path.read_bytes()
    name = f"net-{sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    monkeypatch.setattr(ENTRY.value, "url", f"{address}/{name}")
    source = WeightsSource.parse("imagenet")
    assert tensor_digest(load_state(source, "squeezenet1_1")) == tensor_digest(STATE)
    (folder / name).unlink()
    assert tensor_digest(load_state(source, "squeezenet1_1")) == tensor_digest(STATE)
    assert capfd.readouterr() == ("", "")
    with (checkpoints / name).open("ab") as file:
        file.write(b"more")
    with pytest.raises(WeightsError, match=f"{name} is damaged.*delete it"):
        load_state(source, "squeezenet1_1")


def published(folder: Path, size: int, stem: str = "net") -> tuple[str, WeightsSource]:
    """Put a file of about `size` bytes where it is served, under its hash; return its name and its source on disk."""
    source = save(folder / "unnamed.pth", {"x": torch.zeros(size // 4)})
    name = f"{stem}-{sha256(source.path.read_bytes()).hexdigest()[:8]}.pth"
    source.path.rename(folder / name)
    return name, WeightsSource.parse(str(folder / name))


@pytest.mark.parametrize("size", [100, 2_500_000])
def test_a_download_tells_its_name_its_size_and_how_far_it_is(
    checkpoints: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    folder, address = served
    name, source = published(folder, size)
    monkeypatch.setattr(ENTRY.value, "url", f"{address}/{name}")
    told, megabytes = Listener(), -(-source.path.stat().st_size // 10**6)
    load_state(WeightsSource.parse("imagenet"), "squeezenet1_1", told)
    assert told.notes == [f"downloading {name}, {megabytes} MB, to {checkpoints}"]
    assert told.pieces == [(f"downloading {name}", megabytes, "MB")]
    assert sum(told.done) == megabytes
    assert len(told.done) >= megabytes
    assert (checkpoints / name).read_bytes() == source.path.read_bytes()
    again = Listener()
    load_state(WeightsSource.parse("imagenet"), "squeezenet1_1", again)
    assert (again.notes, again.pieces) == ([], []), "it is there, nothing is downloaded"


def test_loading_a_base_passes_the_news_on(
    checkpoints: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    name, _ = published(folder, 100)
    monkeypatch.setattr(ENTRY.value, "url", f"{address}/{name}")
    told = Listener()
    with pytest.raises(WeightsError, match="another network's weights"):
        load_base("squeezenet1_1", progress=told)
    assert told.notes == [f"downloading {name}, 1 MB, to {checkpoints}"]


def test_a_download_of_unknown_size_is_kept_and_one_cut_short_goes_on(
    checkpoints: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    name, _ = published(folder, 100, "unsized")
    monkeypatch.setattr(ENTRY.value, "url", f"{address}/{name}")
    told = Listener()
    load_state(WeightsSource.parse("imagenet"), "squeezenet1_1", told)
    assert told.notes == [f"downloading {name}, size unknown, to {checkpoints}"]
    assert told.pieces == []
    short, _ = published(folder, 100, "short")
    monkeypatch.setattr(ENTRY.value, "url", f"{address}/{short}")
    monkeypatch.setattr(weights, "PAUSES", (0.0,))
    whole = (folder / short).read_bytes()
    (folder / short).write_bytes(whole[:-1])
    with pytest.raises(WeightsError, match=r"could not be downloaded .*the connection broke after .* are kept"):
        load_state(WeightsSource.parse("imagenet"), "squeezenet1_1")
    assert {path.name for path in checkpoints.iterdir()} == {name, f"{short}.partial"}
    (folder / short).write_bytes(whole)
    load_state(WeightsSource.parse("imagenet"), "squeezenet1_1")
    assert {path.name for path in checkpoints.iterdir()} == {name, short}


def test_wrong_bytes_are_refused_and_not_kept(
    checkpoints: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    (folder / "net-00000000.pth").write_bytes(b"a login page")
    monkeypatch.setattr(ENTRY.value, "url", f"{address}/net-00000000.pth")
    with pytest.raises(WeightsError, match="invalid hash value"):
        load_state(WeightsSource.parse("imagenet"), "squeezenet1_1")
    assert list(checkpoints.iterdir()) == []


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "never answers"])
def test_offline_says_which_file_to_put_where(checkpoints: Path, monkeypatch: pytest.MonkeyPatch, silent: bool) -> None:
    monkeypatch.setattr(weights, "CONNECT_SECONDS", 0.3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if silent:
            server.listen()
        monkeypatch.setattr(ENTRY.value, "url", f"http://127.0.0.1:{server.getsockname()[1]}/net-00000000.pth")
        with pytest.raises(WeightsError) as caught:
            load_state(WeightsSource.parse("imagenet:IMAGENET1K_V1"), "squeezenet1_1")
    assert f"put the file net-00000000.pth into {checkpoints}, or name a file of weights with --weights FILE" in str(
        caught.value
    )
    assert list(checkpoints.iterdir()) == []
    assert socket.getdefaulttimeout() is None

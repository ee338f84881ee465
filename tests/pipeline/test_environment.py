"""What a result was made with is told without importing anything; what a device computes natively, as it is."""

import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import environment
from pipeline.environment import OPTIONAL, PACKAGES, last_cache, machine, native_precisions, quicker_precision, versions

ROOT = Path(__file__).parents[2]
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
def test_float32_is_always_native_and_whatever_is_native_computes(device: str) -> None:
    native = native_precisions(device)
    assert native[0] == "fp32"
    assert len(set(native)) == len(native)
    layer = torch.nn.Conv2d(3, 4, 3).to(device)
    images = torch.ones(2, 3, 8, 8, device=device)
    for name in native:
        with torch.autocast(device, DTYPES[name], enabled=DTYPES[name] != torch.float32):
            scores = layer(images)
        assert scores.dtype == DTYPES[name]
        torch.autograd.backward(scores.float().sum())


@pytest.mark.skipif(not hasattr(torch.cpu, "_is_avx512_bf16_supported"), reason="this torch does not tell")
def test_torch_agrees_about_bfloat16_on_the_cpu() -> None:
    torchs_own = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert not torchs_own or "bf16" in native_precisions("cpu")


def test_a_quicker_precision_is_named_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, quicker in ((["fp32"], None), (["fp32", "fp16"], "fp16"), (["fp32", "fp16", "bf16", "tf32"], "bf16")):
        monkeypatch.setattr(environment, "native_precisions", lambda device, found=native: found)
        assert quicker_precision("fp32", "cpu") == quicker
        assert {quicker_precision(fast, "cpu") for fast in ("tf32", "bf16", "fp16")} == {None}


def caches(root: Path, *found: tuple[int, str, str, str, str]) -> Path:
    for number, (cpu, level, kind, size, shared) in enumerate(found):
        folder = root / f"cpu{cpu}/cache/index{number}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            (folder / name).write_text(f"{text}\n")
    return root


def test_the_last_cache_is_counted_once_for_all_processors_that_share_it(tmp_path: Path) -> None:
    small = [(cpu, "1", kind, "32K", str(cpu)) for cpu in range(4) for kind in ("Data", "Instruction")]
    large = [(cpu, "3", "Unified", "4096K", "0-1" if cpu < 2 else "2-3") for cpu in range(4)]
    assert last_cache(caches(tmp_path / "a", *small, *large)) == 2 * 4 * 2**20
    assert last_cache(caches(tmp_path / "b", *small)) == 4 * 32 * 1024
    assert last_cache(caches(tmp_path / "c", (0, "1", "Data", "odd", "0"))) == 16 * 2**20
    assert last_cache(tmp_path / "nothing") == 16 * 2**20
    assert last_cache() >= 2**16


def test_versions_are_the_libraries_own() -> None:
    found = versions()
    assert found.keys() - set(OPTIONAL) == {"python", *PACKAGES}
    assert found["numpy"] == np.__version__
    assert found["torch"] == torch.__version__.split("+")[0]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_every_library_that_is_required_is_told() -> None:
    required = [line.split(";")[0] for line in requires("manyheads") or () if "extra ==" not in line]
    names = {line.split(">=")[0].strip().lower() for line in required}
    assert names
    assert names <= set(PACKAGES)


def test_the_machine_is_told() -> None:
    found = machine()
    assert found.keys() == {"processor", "cores", "system"}
    assert found["cores"] == os.cpu_count()
    assert found["processor"]


def test_nothing_is_imported_for_it() -> None:
    code = (
        "import sys; from pipeline.environment import machine, native_precisions, versions; "
        "machine(), versions(), native_precisions('cpu'); print({'torch', 'numpy', 'sklearn'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

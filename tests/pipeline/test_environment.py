"""What a result was made with is told without importing anything; what a device computes natively, as it is."""

import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.environment import PACKAGES, machine, native_precisions, versions

ROOT = Path(__file__).parents[2]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
def test_float32_is_always_native_and_whatever_is_native_computes(device: str) -> None:
    native = native_precisions(device)
    assert native[0] == "fp32"
    assert len(set(native)) == len(native)
    layer = torch.nn.Conv2d(3, 4, 3).to(device)
    images = torch.ones(2, 3, 8, 8, device=device)
    for name in native:
        with torch.autocast(device, DTYPES[name], enabled=name != "fp32"):
            scores = layer(images)
        assert scores.dtype == DTYPES[name]
        torch.autograd.backward(scores.float().sum())


@pytest.mark.skipif(not hasattr(torch.cpu, "_is_avx512_bf16_supported"), reason="this torch does not tell")
def test_torch_agrees_about_bfloat16_on_the_cpu() -> None:
    torchs_own = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert not torchs_own or "bf16" in native_precisions("cpu")


def test_versions_are_the_libraries_own() -> None:
    found = versions()
    assert found.keys() == {"python", *PACKAGES}
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

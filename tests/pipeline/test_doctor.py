"""What `doctor` tells is true of this machine."""

import json
import os
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cli import main
from pipeline.doctor import diagnose
from pipeline.environment import OPTIONAL, PACKAGES
from pipeline.terminal import as_plain


def test_every_field_is_filled_and_json_can_hold_it() -> None:
    found = diagnose()
    assert found.versions.keys() - set(OPTIONAL) == {"python", *PACKAGES}
    assert found.versions["torch"] == version("torch")
    assert found.machine["cores"] == os.cpu_count()
    assert found.memory_free is None or found.memory_free > 0
    assert str(Path.cwd()) in found.disk_free
    assert all(free > 0 for free in found.disk_free.values())
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert list(found.devices) == list(found.precisions) == ["cpu", *(f"cuda:{number}" for number in range(gpus))]
    assert all(natively[0] == "fp32" for natively in found.precisions.values())
    assert json.loads(json.dumps(as_plain(found))) == as_plain(found)


def test_every_dependency_is_listed() -> None:
    configuration = ConfigParser()
    configuration.read(Path(__file__).parent.parent.parent / "setup.cfg", encoding="utf-8")
    lines = configuration["options"]["install_requires"].splitlines()
    needed = {line.partition(">")[0].strip() for line in lines if line and not line.startswith("#")}
    assert needed
    assert needed <= set(PACKAGES)
    assert "not installed" not in diagnose().versions.values()


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="not Linux")
def test_memory_that_the_file_cache_would_give_back_counts_as_free() -> None:
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(facts["MemAvailable"].split()[0]) * 1024
    assert diagnose().memory_free == pytest.approx(available, rel=0.5)


def test_weights_are_found_where_torchvision_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert diagnose().weights == {}
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "vgg16-397923af.pth").touch()
    (folder / "notes.txt").touch()
    found = diagnose()
    assert found.weights_folder == str(folder)
    assert found.weights == {"vgg16-397923af.pth": "vgg16, IMAGENET1K_V1"}


def test_the_command_prints_it() -> None:
    shown = CliRunner().invoke(main, ["doctor", "--json"])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout).keys() == as_plain(diagnose()).keys()
    plain = CliRunner().invoke(main, ["doctor"])
    assert plain.exit_code == 0
    assert f"torch: {version('torch')}" in plain.stdout
    assert "device cpu: " in plain.stdout

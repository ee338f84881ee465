"""An allocator's words become the caller's; everything else passes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import ManyheadsError
from pipeline.memory import enough_memory, free_memory

ROOT = Path(__file__).parents[2]


def from_a_gpu() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(2**50),
        lambda: torch.empty(2**62),
        lambda: torch.empty(10**30),
        lambda: np.empty(2**50),
        from_a_gpu,
    ],
    ids=["no room", "too many bytes", "no integer", "NumPy", "GPU"],
)
def test_a_lack_of_memory_is_explained(ask: Callable[[], object]) -> None:
    with pytest.raises(ManyheadsError, match="lower it") as caught, enough_memory(ManyheadsError("lower it")):
        ask()
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("ask", [lambda: torch.zeros(2) @ torch.zeros(3), lambda: torch.tensor("a")])
def test_other_errors_stay_what_they_are(ask: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, TypeError)), enough_memory(ManyheadsError("lower it")):
        ask()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell what a process holds")
def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    code = """
import ctypes, re
import numpy as np
from pipeline.memory import keep_freed_memory

def held():
    pieces = [np.ones(2**20) for _ in range(20)]  # of 8 MiB
    del pieces
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

if hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
    ctypes.CDLL(None).mallopt(-3, 2**20)  # every piece goes back to the system
    print(held(), end=" ")
keep_freed_memory()  # elsewhere it does nothing, and breaks nothing
print(held())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *without, kept = map(int, done.stdout.split())
    assert not without or kept > without[0] + 100_000


def system(root: Path, available: str, **cgroup: str) -> Path:
    for name, text in {
        "proc/meminfo": available,
        **{f"sys/fs/cgroup/{name}": text for name, text in cgroup.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_free_memory_is_what_the_system_would_give_within_the_limits_of_the_group(tmp_path: Path) -> None:
    info = "MemTotal:       9000 kB\nMemFree:        10 kB\nMemAvailable:   4000 kB\n"
    assert free_memory(system(tmp_path / "plain", info)) == 4000 * 1024
    unlimited = {"memory.max": "max\n", "memory.current": "5000\n"}
    assert free_memory(system(tmp_path / "unlimited", info, **unlimited)) == 4000 * 1024
    limited = {"memory.max": "9000\n", "memory.current": "5000\n"}
    assert free_memory(system(tmp_path / "limited", info, **limited)) == 4000
    full = {"memory/memory.limit_in_bytes": "9000\n", "memory/memory.usage_in_bytes": "9500\n"}
    assert free_memory(system(tmp_path / "full", info, **full)) == 0
    cached = {**limited, "memory.stat": "file 3000\ninactive_file 2500\nactive_file 500\n"}
    assert free_memory(system(tmp_path / "cached", info, **cached)) == 6500
    older = {**full, "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 2500\n"}
    assert free_memory(system(tmp_path / "older", info, **older)) == 2000
    assert free_memory(tmp_path / "nothing") > 0  # then the free pages
    assert free_memory() > 2**20


@pytest.mark.parametrize(
    ("own", "free"),
    [
        ("0::/job/step\n", 300),
        ("0::/job\n", 700),
        ("0::/other\n", 900),  # which a container hides
        ("0::/../job\n", 900),  # which it does not see
        ("nonsense\n", 900),
        ("5:cpu,memory:/a:b\n1:name=systemd:/\n0::/\n", 100),
    ],
)
def test_every_group_above_the_process_has_its_say(tmp_path: Path, own: str, free: int) -> None:
    root = system(
        tmp_path,
        "MemAvailable:   4000 kB\n",
        **{
            "memory.max": "1000\n",
            "memory.current": "100\n",
            "job/memory.max": "800\n",
            "job/memory.current": "100\n",
            "job/step/memory.max": "300\n",
            "job/step/memory.current": "50\n",
            "job/step/memory.stat": "inactive_file 50\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": "100\n",
            "memory/a:b/memory.limit_in_bytes": "300\n",
            "memory/a:b/memory.usage_in_bytes": "200\n",
        },
    )
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text(own)
    assert free_memory(root) == free

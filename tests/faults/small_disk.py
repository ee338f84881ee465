"""Commands on a small disk of their own, which nobody else sees: a tmpfs that grows, or is read-only, when it should.

`unshare --mount --map-root-user python -m tests.faults.small_disk FOLDER` mounts it at FOLDER, reads a JSON list of
steps from stdin and writes a list of what came of them to stdout:

    {"room": 300000}                       leaves room for so much more
    {"read_only": true}                    forbids writing
    {"copy": "FROM", "to": "NAME"}         copies a folder onto it
    {"empty": true}                        removes all that is there
    {"run": ["extract", …]}                runs a command in this process
"""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import cli

LARGE = 64 << 20
PRIVATE = ["unshare", "--mount", "--map-root-user"]


def step(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Do one step; return what became of it, for a command with all that is on the disk then."""
    if "room" in wanted:
        gc.collect()  # a file that is gone takes its room as long as a failed command still has it mapped
        state = os.statvfs(folder)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        _mount(folder, f"remount,size={used + wanted['room']}")
    elif "read_only" in wanted:
        _mount(folder, f"remount,{'ro' if wanted['read_only'] else 'rw'}")
    elif "copy" in wanted:
        shutil.copytree(wanted["copy"], folder / wanted["to"])
    elif "empty" in wanted:
        _mount(folder, f"remount,size={LARGE}")
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        done = CliRunner().invoke(cli.main, wanted["run"])
        there = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        return {"status": done.exit_code, "said": done.stderr, "files": there}
    return {}


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    _mount(place, f"size={LARGE}")
    os.chdir("/")
    print(json.dumps([step(place, wanted) for wanted in json.load(sys.stdin)]))

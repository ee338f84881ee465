"""Two extractions at once, readers beside a writer, read-only caches, and the limit of a cache's size."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache import FeatureCache, ManyheadsError, NoRoom
from cache.lock import writing
from pipeline import computing
from pipeline.errors import UnreadableImages
from pipeline.extraction import Extraction, extract
from pipeline.scenes import draw_scene
from tests.conftest import BASE, CLASSES, PER_CLASS, WEIGHTS

ROOT = Path(__file__).parents[2]
ALL = len(CLASSES) * PER_CLASS


def take(images: Path, cache: Path, **options: Any) -> Extraction:
    return extract(images, cache, **{"base": BASE, "weights": WEIGHTS, "device": "cpu", **options})


def start(images: Path, cache: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "cli.py", "extract", str(images), str(cache), "--base", BASE, "--weights", WEIGHTS]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def contents(cache: Path) -> dict[str, bytes]:
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_two_extractions_at_once_compute_each_image_once(drawn: Path, extracted: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with writing(cache):  # until both are at the door
        both = [start(drawn, cache) for _ in range(2)]
        for process in both:
            assert process.stderr is not None
            while "is being written by process" not in process.stderr.readline():
                pass
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert f"{ALL} computed, 0 cached" in "".join(out for out, _ in said)
    assert f"0 computed, {ALL} cached" in "".join(out for out, _ in said)
    assert contents(cache).keys() == contents(extracted).keys()
    found, expected = (FeatureCache.open(each) for each in (cache, extracted))
    digests = [entry.digest for entry in expected.index().entries]
    assert found.index().entries == expected.index().entries
    assert np.allclose(found.read(digests), expected.read(digests), atol=1e-5)


def test_where_nothing_is_to_be_done_nobody_waits(drawn: Path, cache: Path) -> None:
    before = contents(cache)
    with writing(cache):
        result = take(drawn, cache)
    assert (result.computed, result.cached, result.images) == (0, ALL, ALL)
    assert result.changes is not None
    assert not result.changes
    assert contents(cache) == before


def test_what_cannot_be_read_is_told_again_without_waiting(images: Path, cache: Path) -> None:
    (images / "beach" / "gone.png").symlink_to("nowhere")
    take(images, cache, on_error="skip")
    with writing(cache), pytest.raises(UnreadableImages, match=r"(?s)1 of 31 images .* beach/gone\.png"):
        take(images, cache)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_cache_that_may_not_be_written_to_still_answers(drawn: Path, cache: Path, tmp_path: Path) -> None:
    for folder in (*tmp_path.parents[:2], tmp_path, cache, cache / "shards", *drawn.parents[:2]):
        folder.chmod(0o755)
    draw_scene("beach", 99, 64).save(tmp_path / "new.png")
    grown = Path(shutil.copytree(drawn, tmp_path / "grown"))
    shutil.copy(tmp_path / "new.png", grown / "beach")
    os.seteuid(65534)
    try:
        assert take(drawn, cache).cached == ALL
        with pytest.raises(NoRoom, match=r"\.lock could not be opened for writing: Permission denied"):
            take(grown, cache)
    finally:
        os.seteuid(0)


def test_readers_see_the_old_state_or_the_new_one(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "SHARD_ROWS", 3)
    images, cache = tmp_path / "images", tmp_path / "cache"
    for label in CLASSES:
        (images / label).mkdir(parents=True)
        shutil.copy(drawn / label / f"{label}00.png", images / label)
    take(images, cache, batch_size=2)
    stop = threading.Event()
    seen: list[int] = []
    wrong: list[str] = []

    def read() -> None:
        while not stop.is_set():
            try:
                opened = FeatureCache.open(cache)
                entries = opened.index().entries
                rows = opened.read([entry.digest for entry in entries])
                with h5py.File(cache / "index.h5") as file:
                    plain = file["features"][:]
            except ManyheadsError as error:
                wrong.append(str(error))
                return
            if not np.isfinite(rows).all() or not np.isfinite(plain).all() or not rows.any(axis=1).all():
                wrong.append("a row without its numbers")
            seen.append(len(rows))

    reader = threading.Thread(target=read)
    reader.start()
    sizes = [3]
    for number in range(1, 6):
        for label in CLASSES:
            shutil.copy(drawn / label / f"{label}{number:02d}.png", images / label)
        sizes.append(take(images, cache, batch_size=2).images)
    stop.set()
    reader.join(60)
    assert wrong == []
    assert sizes == [3, 6, 9, 12, 15, 18]
    assert set(seen) <= set(sizes)
    assert len(set(seen)) > 1


def test_a_cache_does_not_grow_beyond_its_limit(drawn: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    few = Path(shutil.copytree(drawn, tmp_path / "few"))
    for path in [*few.rglob("*0[2-9].png")]:
        path.unlink()
    size = take(few, cache).size
    with pytest.raises(NoRoom, match=r"takes .* and would grow by up to .*, to more than the .* Nothing was computed"):
        take(drawn, cache, max_size=size + 10_000)
    assert FeatureCache.open(cache).size() == size
    limit = size + 200_000
    assert size < take(drawn, cache, max_size=limit).size <= limit
    assert take(drawn, cache, max_size=1).computed == 0  # what is there already is never refused


def test_the_limit_names_what_could_be_freed(drawn: Path, images: Path, cache: Path) -> None:
    for path in (images / "beach").iterdir():
        path.unlink()
    draw_scene("beach", 99, 64).save(images / "beach" / "only.png")
    take(images, cache)
    with pytest.raises(
        NoRoom, match=r"20\.5 kB belong to images that are in the set no longer: `manyheads cache prune"
    ):
        take(drawn, Path(cache), max_size=1, views=2)

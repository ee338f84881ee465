"""Features larger than memory: every row once an epoch, the same run whatever is trained beside it, refusals."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file

from cache import CacheError, Entry, FeatureCache, Index, NoRoom
from cli import main
from pipeline import stream, streaming
from pipeline.calibration import fitted_temperature
from pipeline.errors import HeadError, RunError
from pipeline.evaluation import evaluate
from pipeline.fitting import fit_head
from pipeline.grid import fit_grid
from pipeline.heads.descent import Pool
from pipeline.heads.mlp import MLPHead
from pipeline.heads.storage import load_head
from pipeline.planning import Source
from pipeline.run import ALL_ROWS, Run
from pipeline.split import make_split
from pipeline.stored_predictions import stored_predictions
from pipeline.stream import Part, Streamed

D, SHARD, CLASSES = 32, 16, ("a", "b", "c")
MEMORY = 8192  # two shards and more in half of it: 32 rows of 32 float32 numbers


def row(number: int) -> Any:
    """Return a feature that names its image: its number first, then a centre of its class and noise."""
    noise = np.random.default_rng(number).normal(size=D)
    return (np.random.default_rng(1000 + number % 3).normal(size=D) * 3 + noise).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PIECE", 16)
    monkeypatch.setattr(streaming, "LEAST_ROWS", 16)


@pytest.fixture(scope="module")
def cache(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 150 images in 10 shards, every tenth of which validates and every next tests."""
    folder = tmp_path_factory.mktemp("stream") / "cache"
    made = FeatureCache.open(extracted)
    some = FeatureCache.create(folder, replace(made.recipe, dimension=D), made.made_from)
    entries = []
    for start in range(0, 150, SHARD):
        numbers = range(start, min(150, start + SHARD))
        digests = [f"{number:064x}" for number in numbers]
        some.add_shard(digests, [0] * len(digests), np.stack([row(number) for number in numbers]), {})
        for number, digest in zip(numbers, digests, strict=True):
            part = {0: "val", 1: "test"}.get(number // 3 % 10, "train")
            name = CLASSES[number % 3]
            entries.append(Entry(f"{part}/{name}/{number:03}.png", name, digest, part))
    entries.sort(key=lambda entry: entry.path)
    some.write_index(Index(tuple(entries), CLASSES, (), str(folder), some.recipe.digest))
    return folder


def fit(cache: Path, runs: Path, **options: Any) -> list[Run]:
    asked: dict[str, Any] = {"memory": MEMORY, "epochs": 3, "lr": 1e-2, "seeds": (0,), **options}
    return list(fit_head(cache, runs, **asked).runs)


def weights(run: Run) -> list[bytes]:
    return [tensor.tobytes() for _, tensor in sorted(load_file(run.path / "model.safetensors").items())]


def losses(run: Run) -> list[tuple[Any, Any]]:
    return [(epoch["train_loss"], epoch["val_loss"]) for epoch in run.history]


def streamed(cache: Path, folder: Path, buffer: int, size: int, seeds: tuple[int, ...] = (0, 1)) -> Streamed:
    opened = FeatureCache.open(cache)
    index = opened.index()
    split = make_split(index, None)
    entries = {part: [index.entries[row] for row in split.rows[part]] for part in ("train", "val")}
    parts = {part: Part(folder / part, opened, some, CLASSES) for part, some in entries.items()}
    heads = [MLPHead(batch_size=size, random_state=seed) for seed in seeds]
    for head in heads:
        head.classes_, head.n_features_in_ = np.array(CLASSES), D
    starts = [head.begin() for head in heads]
    return Streamed(starts, parts["train"], parts["val"], buffer, Pool(1), lambda rows: None)


@pytest.mark.parametrize(("buffer", "size"), [(32, 16), (40, 7), (17, 50), (1000, 16), (16, 200)])
def test_an_epoch_shows_every_row_once_in_whole_batches_and_another_order(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int, size: int
) -> None:
    some = streamed(cache, tmp_path, buffer, size)
    numbers = {row(number).tobytes(): number for number in range(150)}
    expected = [number for number in range(150) if number // 3 % 10 not in (0, 1)]
    shown: list[list[int]] = []

    def watch(batches: Any) -> tuple[float, int]:
        for pieces, codes in batches:
            rows = torch.cat([source[chosen] for source, chosen in pieces])
            found = [numbers[one.numpy().tobytes()] for one in rows]
            assert codes.tolist() == [one % 3 for one in found]
            shown[-1] += found
            assert len(found) == size or len(shown[-1]) == len(expected)  # only the last batch may be smaller
        return 0.0, 0

    for number, descent in enumerate(some.descents):
        monkeypatch.setattr(descent, "train", watch)
        for _ in range(2):
            shown.append([])
            some.epoch([number])
            assert sorted(shown[-1]) == expected
    assert len({tuple(order) for order in shown}) == 4


def test_it_learns_and_the_validation_figures_are_those_of_the_whole_part(cache: Path, tmp_path: Path) -> None:
    (run,) = fit(cache, tmp_path, epochs=8)
    assert run.shuffle == "32 rows at a time"
    assert run.history[-1]["val_accuracy"] == 1.0
    loaded = load_head("mlp", run.path)
    val = [number for number in range(150) if number // 3 % 10 == 0]
    probabilities = loaded.predict_proba(np.stack([row(number) for number in val]))
    expected = -np.log(probabilities[range(len(val)), [number % 3 for number in val]]).mean()
    assert run.history[-1]["val_loss"] == pytest.approx(expected, abs=1e-6)


def test_the_copy_holds_every_row_beside_its_class_in_an_order_of_chance(cache: Path, tmp_path: Path) -> None:
    part = streamed(cache, tmp_path, 32, 16).train
    numbers = {row(number).tobytes(): number for number in range(150)}
    pieces = [(rows.clone(), codes.tolist()) for rows, codes in part.read()]
    assert [len(codes) for _, codes in pieces] == [16] * 7 + [8]
    found = [numbers[one.numpy().tobytes()] for rows, _ in pieces for one in rows]
    assert [number % 3 for number in found] == [code for _, codes in pieces for code in codes]
    assert all(len(set(codes)) > 1 for _, codes in pieces)  # the cache holds one class after the other
    backwards = [codes.tolist() for _, codes in part.read(range(7, -1, -1))]
    assert backwards == [codes for _, codes in reversed(pieces)]


def test_a_run_does_not_depend_on_what_is_trained_beside_it(cache: Path, tmp_path: Path) -> None:
    alone = [fit(cache, tmp_path / f"{seed}", seeds=(seed,))[0] for seed in (0, 1, 2)]
    together = fit(cache, tmp_path / "all", seeds=(2, 0, 1))
    by_seed = {run.seed: run for run in together}
    for run in alone:
        assert weights(by_seed[run.seed]) == weights(run)
        assert losses(by_seed[run.seed]) == losses(run)
    assert len({str(weights(run)) for run in alone}) == 3


def test_runs_that_are_missing_are_added_and_those_of_another_shuffle_refused(cache: Path, tmp_path: Path) -> None:
    (first,) = fit(cache, tmp_path)
    before = (first.path / "run.json").stat().st_mtime_ns
    fit(cache, tmp_path, seeds=(0, 1))
    assert (first.path / "run.json").stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"shuffle is 32 rows at a time, asked all rows"):
        fit(cache, tmp_path, seeds=(2,), memory=10**9)
    with pytest.raises(RunError, match=r"shuffle is 32 rows at a time, asked 64 rows"):
        fit(cache, tmp_path, seeds=(2,), memory=16384)
    assert not (tmp_path / "mlp" / "seed-0002").exists()


def test_heads_that_do_not_fit_beside_each_other_take_another_pass(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(cache, tmp_path / "whole", seeds=(0, 1, 2))
    made: list[int] = []
    plain = stream.Streamed.__init__

    def counted(self: Any, starts: Any, *rest: Any, **options: Any) -> None:
        made.append(len(starts))
        plain(self, starts, *rest, **options)

    monkeypatch.setattr(stream.Streamed, "__init__", counted)
    # 7 kB for each head of 32, 12, 9, 6 and 3 numbers, held three times.
    monkeypatch.setattr(streaming, "COPIES", 3)
    cut = fit(cache, tmp_path / "cut", seeds=(0, 1, 2))
    assert made == [1, 1, 1]
    assert [weights(run) for run in cut] == [weights(run) for run in whole]


def test_every_combination_of_a_grid_shares_the_pass(cache: Path, tmp_path: Path) -> None:
    search = fit_grid(cache, tmp_path, {"lr": (1e-2, 1e-3)}, seeds=(0,), epochs=3, memory=MEMORY)
    assert search.winner["memory"] == MEMORY
    assert fit_head(cache, tmp_path, **search.winner).fitted == 0
    (alone,) = fit(cache, tmp_path / "alone")
    assert weights(Run.read(tmp_path / "mlp_lr=0.01" / "seed-0000")) == weights(alone)


class Watched:
    """Progress that is written down."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[int] = []
        self.copied: list[int] = []
        self.total = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        if label.startswith("fitting"):
            self.total = total
            yield self.done.append
        else:
            yield self.copied.append


def test_a_short_write_is_gone_on_with_and_a_full_disk_told(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, written = fit(cache, tmp_path / "whole"), []
    plain = os.pwrite

    def short(file: int, data: Any, at: int) -> int:
        written.append(len(data))
        return plain(file, data[:50], at)

    monkeypatch.setattr(os, "pwrite", short)
    assert weights(fit(cache, tmp_path / "short")[0]) == weights(whole[0])
    assert written == [128, 78, 28] * 135

    def full(file: int, data: Any, at: int) -> int:
        if len(data) < 128:
            raise OSError(errno.ENOSPC, "full")
        return short(file, data, at)

    for fails in (full, lambda *_: 0):
        monkeypatch.setattr(os, "pwrite", fails)
        with pytest.raises(NoRoom, match="No space left on device"):
            fit(cache, tmp_path / "full")
    assert not list((tmp_path / "full" / "mlp").iterdir())


def test_a_copy_that_was_cut_short_is_told(cache: Path, tmp_path: Path) -> None:
    part = streamed(cache, tmp_path, 32, 16).train
    os.truncate(part.path, 100 * 128 + 5)
    with pytest.raises(CacheError, match=r"train was cut short .* hold 15360 bytes, and has 12805\. Run the same"):
        list(part.read())


def test_the_shards_are_listed_once_for_each_part(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FeatureCache.open(cache)
    found = [opened.shards()]  # to be had once
    monkeypatch.setattr(opened, "shards", found.pop)
    Part(tmp_path / "part", opened, opened.index().entries, CLASSES)
    assert not found


@pytest.mark.parametrize("patience", [None, 1])
def test_progress_moves_with_every_piece_and_batch_and_comes_to_its_end(
    cache: Path, tmp_path: Path, patience: int | None
) -> None:
    progress = Watched()
    fit(cache, tmp_path, seeds=(0, 1), epochs=12, lr=0.3, patience=patience, progress=progress)
    assert progress.total == 2 * (32 + 12 * 120) == sum(progress.done)  # two groups of one head
    assert progress.done[:6] == [16] * 6  # two pieces fill the buffer, and batches are of 16 too
    assert len(progress.copied) == 10 + 6  # shards that hold training and validation images
    assert sum(progress.copied) == 135
    assert any("32 rows at a time" in note for note in progress.notes)
    assert not any("jobs" in note for note in progress.notes)


def test_jobs_are_checked_and_told_to_change_nothing(cache: Path, tmp_path: Path) -> None:
    progress = Watched()
    with pytest.raises(HeadError, match="0 jobs cannot fit anything"):
        fit(cache, tmp_path, jobs=0)
    fit(cache, tmp_path, jobs=2, progress=progress)
    assert any("`--jobs 2` changes nothing" in note for note in progress.notes)


def test_memory_that_holds_all_changes_nothing(cache: Path, tmp_path: Path) -> None:
    (plain,) = fit(cache, tmp_path / "plain", memory=None)
    (given,) = fit(cache, tmp_path / "given", memory=10**9)
    assert plain.shuffle == given.shuffle == "all rows"
    assert weights(plain) == weights(given)


def test_what_is_free_decides_if_nothing_is_said(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "free_memory", lambda: 2 * MEMORY)
    (run,) = fit(cache, tmp_path, memory=None)
    assert run.shuffle == "32 rows at a time"
    assert fit_head(cache, tmp_path, head="knn").runs[0].shuffle == "all rows"  # which cannot stream, and goes on


def test_runs_that_stand_decide_if_nothing_is_said(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(cache, tmp_path / "streamed")
    monkeypatch.setattr(streaming, "free_memory", lambda: 8 * MEMORY)  # all features fit
    assert [run.shuffle for run in fit(cache, tmp_path / "streamed", memory=None, seeds=(0, 1))] == [
        "32 rows at a time",
        "32 rows at a time",
    ]
    fit(cache, tmp_path / "held", memory=None)
    asked: dict[str, Any] = {"seeds": (0,), "epochs": 3, "memory": None}
    fit_grid(cache, tmp_path / "grid", {"lr": (1e-2,)}, **asked)
    monkeypatch.setattr(streaming, "free_memory", lambda: MEMORY)
    assert fit(cache, tmp_path / "held", memory=None, seeds=(1,))[0].shuffle == "all rows"
    fit_grid(cache, tmp_path / "grid", {"lr": (1e-2, 1e-3)}, **asked)
    assert Run.read(tmp_path / "grid" / "mlp_lr=0.001" / "seed-0000").shuffle == "all rows"
    monkeypatch.setattr(streaming, "free_memory", lambda: 4000)
    with pytest.raises(HeadError, match=r"32 rows at a time, which take 4\.1 kB of memory, and 4 kB are free"):
        fit(cache, tmp_path / "streamed", memory=None, seeds=(2,))


def test_no_more_is_taken_than_is_free(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "free_memory", lambda: MEMORY)
    assert fit(cache, tmp_path, memory=10**9)[0].shuffle == "32 rows at a time"


def test_no_gpu_is_streamed_to(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FeatureCache.open(cache)
    source, split = Source.of_cache(opened), make_split(opened.index(), None)
    monkeypatch.setattr(streaming, "free_memory", lambda: MEMORY)
    asked: dict[str, Any] = {"head": "mlp", "views": 1, "device": "auto"}
    for gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert (streaming.buffer_for(source, split, memory=None, **asked) is None) == gpu
    with pytest.raises(HeadError, match=r"to a GPU.*--device cpu"):
        streaming.buffer_for(source, split, memory=MEMORY, **asked)


def test_memory_that_does_not_do_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HeadError, match=r"4 kB of memory are too little .* hold 16 rows of 128 B\. Give 4\.1 kB"):
        fit(cache, tmp_path, memory=4000)
    fit(cache, tmp_path, memory=4096)
    with monkeypatch.context() as short:
        short.setattr(streaming, "free_memory", lambda: 4000)
        with pytest.raises(HeadError, match=r"4 kB of memory are too little .* Only 4 kB are free: free as much first"):
            fit(cache, tmp_path, memory=MEMORY)
    with pytest.raises(HeadError, match=r"135 rows take .* limit is 8\.19 kB .*knn is not trained batch by batch"):
        fit_head(cache, tmp_path, head="knn", memory=MEMORY)
    with pytest.raises(HeadError, match="cannot be streamed from several views"):
        fit(cache, tmp_path, use_views=2)


def test_patience_without_validation_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="patience needs a validation part"):
        fit(cache, tmp_path, split="80/0/20", patience=2)
    (run,) = fit(cache, tmp_path, split="80/0/20")
    assert run.history[0]["val_loss"] is None


def test_a_diverging_run_is_named(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=r"mlp/seed-0000 cannot be fitted.*diverged.*lower lr"):
        fit(cache, tmp_path, lr=1e30, epochs=30)


@pytest.mark.parametrize("copies", [6, 1000])
def test_a_diverging_run_ends_alone(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: int) -> None:
    monkeypatch.setattr(streaming, "COPIES", copies)  # all in one group, or each in its own
    with pytest.raises(HeadError, match=r"^mlp_lr=1e\+30/seed-0000 cannot be fitted.*diverged.*lower lr"):
        fit_grid(cache, tmp_path, {"lr": (1e-3, 1e30, 1e-2)}, seeds=(0, 1), epochs=30, memory=MEMORY)
    assert {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("run.json")} == {
        f"mlp_lr={lr}/seed-000{seed}" for lr in ("0.001", "0.01") for seed in (0, 1)
    }
    assert weights(Run.read(tmp_path / "mlp_lr=0.01" / "seed-0000")) == weights(
        fit(cache, tmp_path / "alone", epochs=30)[0]
    )


def test_too_little_memory_is_explained(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(stream.Streamed, "__init__", none)
    with pytest.raises(HeadError, match=r"seed-0000 cannot be fitted: There is not enough memory .* Lower hidden"):
        fit(cache, tmp_path)


def test_the_copy_is_gone_whatever_happened(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(cache, tmp_path)
    with pytest.raises(HeadError, match="diverged"):
        fit(cache, tmp_path, lr=1e30, epochs=30, name="wild")
    monkeypatch.setattr(FeatureCache, "read", lambda *_: (_ for _ in ()).throw(CacheError("gone")))
    with pytest.raises(CacheError, match="gone"):
        fit(cache, tmp_path, seeds=(1,))
    assert {path.name for path in tmp_path.rglob("*") if path.name[0] == "."} == set()
    assert not (tmp_path / "mlp" / "seed-0001").exists()


def test_the_command_takes_a_size(cache: Path, tmp_path: Path) -> None:
    words = ["fit-head", str(cache), str(tmp_path), "--memory", "8.192kB", "--epochs", "1", "--seeds", "0"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert Run.read(tmp_path / "mlp" / "seed-0000").shuffle == "32 rows at a time"
    refused = CliRunner().invoke(main, [*words[:4], "much"])
    assert refused.exit_code == 2
    assert "'much' is no size" in refused.output


def test_half_of_the_memory_is_the_buffer_in_a_power_of_two(cache: Path) -> None:
    opened = FeatureCache.open(cache)
    source, split = Source.of_cache(opened), make_split(opened.index(), None)
    asked: dict[str, Any] = {"head": "mlp", "views": 1, "device": "cpu"}
    for memory, rows in ((MEMORY, 32), (2 * MEMORY - 2, 32), (MEMORY - 2, 16)):
        buffer = streaming.buffer_for(source, split, memory=memory, **asked)
        assert buffer == streaming.Buffer(rows, memory // 2)


def test_a_calibrated_run_has_the_temperature_of_its_validation_part(cache: Path, tmp_path: Path) -> None:
    plain, scaled = fit(cache, tmp_path), fit(cache, tmp_path, name="scaled", calibrate=True)
    evaluate(tmp_path, on="val")
    predictions = stored_predictions(plain[0], "val")
    assert predictions is not None
    codes = np.array([CLASSES.index(label) for label in predictions.labels])
    assert scaled[0].shuffle != ALL_ROWS
    assert weights(scaled[0]) == weights(plain[0])
    assert scaled[0].temperature != 1
    assert scaled[0].temperature == pytest.approx(fitted_temperature(predictions.probabilities, codes), rel=0.01)

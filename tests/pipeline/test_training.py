"""Training: an interrupted one ends in the bits of an undisturbed one, and says what it does before it does it."""

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cache import Index
from pipeline.baselines import pictures_of
from pipeline.errors import HeadError, RunError
from pipeline.pixels import Pictures, pixel_blocks, pixel_recipe, pixel_transform, read_index
from pipeline.planning import Source, make_plan
from pipeline.progress import SILENT, Progress, Silent
from pipeline.run import Run
from pipeline.split import Split, make_split
from pipeline.training import Trained, train

SIDE = 32
TRANSFORM = pixel_transform(SIDE)
STEPS = 3  # of an epoch: 18 training images in batches of 8


@dataclass(frozen=True)
class Asked:
    """A training that is asked for: the planned run and its images, or the first few of each part."""

    run: Run
    index: Index
    split: Split
    first: int | None = None
    draws: list[tuple[str, str]] = field(default_factory=list)

    def pictures(self, part: str, draw: str) -> Pictures:
        self.draws.append((part, draw))
        some = pictures_of(self.run, self.index, self.split, part, draw)
        return replace(some, entries=some.entries[: self.first], codes=some.codes[: self.first])

    def train(self, checkpoint: Path, workers: int = 0, progress: Progress = SILENT) -> Trained:
        return train(self.run, self.pictures, checkpoint, workers, progress)


def ask(images: Path, *, split: str = "60/20/20", **parameters: Any) -> Asked:
    index = read_index(images, TRANSFORM)
    parts = make_split(index, split)
    plan = make_plan(
        Source(index, pixel_recipe(SIDE), ""),
        parts,
        images / "no runs are written here",
        head="scratch",
        name="scratch",
        seeds=(0,),
        device="cpu",
        parameters={"image_size": SIDE, "epochs": 2, "batch_size": 8, "lr": 1e-3, **parameters},
    )
    return Asked(plan.runs[0], index, parts)


class Heard(Silent):
    """Progress that keeps all that it is told, in its order; breaks off after so many steps, if asked to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.said: list[str] = []
        self.done = 0

    def note(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        self.said.append(f"{label}: {total} {unit}")
        yield self.advance

    def advance(self, count: int) -> None:
        self.done += count
        self.said.append("step")
        if self.done == self.stop_after:
            raise KeyboardInterrupt


def weights(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in tensors.items()}


def last_state(trained: Trained) -> dict[str, torch.Tensor]:
    return dict(trained.model.network_.state_dict())


def last(trained: Trained) -> dict[str, bytes]:
    return weights(last_state(trained))


def without_seconds(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in run.history]


def assert_same(one: Trained, other: Trained) -> None:
    assert last(one) == last(other)
    assert weights(one.best_weights) == weights(other.best_weights)
    assert one.best_epoch == other.best_epoch
    assert without_seconds(one.run) == without_seconds(other.run)


@pytest.fixture(scope="module")
def asked(drawn: Path) -> Asked:
    return ask(drawn)


@pytest.fixture(scope="module")
def heard() -> Heard:
    """What `undisturbed` told."""
    return Heard()


@pytest.fixture(scope="module")
def undisturbed(asked: Asked, heard: Heard, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two epochs without a break, with the paper's augmentation; do not change it."""
    return asked.train(tmp_path_factory.mktemp("training") / "checkpoint", progress=heard)


def test_it_says_how_long_it_will_take_and_then_counts_every_step(undisturbed: Trained, heard: Heard) -> None:
    rehearsal, estimate, label, *steps = heard.said
    assert rehearsal == "timing a few steps, to say how long it will take"
    assert estimate.startswith("6 steps of 8 images of 32 x 32 pixels in fp32 on cpu, about ")
    assert "each: about" in estimate
    assert "a checkpoint after each of 2 epochs; interrupted, the same command goes on from the last one" in estimate
    assert label == "training scratch/seed-0000: 6 steps"
    assert steps == ["step"] * 6
    assert heard.done == 6


def test_every_epoch_draws_other_pictures_to_train_on_and_none_to_validate_on(
    asked: Asked, undisturbed: Trained
) -> None:
    assert undisturbed.run.seed == 0
    assert {draw for part, draw in asked.draws if part == "train"} - {"", "rehearsal"} == {
        "seed 0, epoch 1",
        "seed 0, epoch 2",
    }
    assert {draw for part, draw in asked.draws if part == "val"} == {""}
    one, two = (asked.pictures("train", f"seed 0, epoch {epoch}") for epoch in (1, 2))
    assert not torch.equal(one[0][0], two[0][0])  # type: ignore[arg-type]  # both can be read
    assert asked.pictures("val", "").augmentation is None


def test_every_epoch_is_recorded(undisturbed: Trained) -> None:
    assert [epoch["epoch"] for epoch in undisturbed.run.history] == [1, 2]
    for epoch in undisturbed.run.history:
        assert epoch.keys() == {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"}
        assert (epoch["train_accuracy"] or 0) * 18 == pytest.approx(round((epoch["train_accuracy"] or 0) * 18))
    assert undisturbed.run.timings == {"fit": sum(epoch["seconds"] or 0 for epoch in undisturbed.run.history)}


class Removing(Heard):
    """Progress that removes a file when so many steps are done."""

    def __init__(self, path: Path, after: int) -> None:
        super().__init__()
        self.path, self.after = path, after

    def advance(self, count: int) -> None:
        super().advance(count)
        if self.done == self.after:
            self.path.unlink()


def test_broken_off_by_an_image_that_is_gone_it_ends_in_the_same_bits_once_it_is_back(
    asked: Asked, undisturbed: Trained, images: Path, tmp_path: Path
) -> None:
    path, moved = tmp_path / "checkpoint", replace(asked, index=replace(asked.index, images=str(images)))
    gone = images / asked.run.images["val"][2]
    kept = gone.read_bytes()
    # Two processes decode, and the second epoch ends in a validation that cannot be made.
    with pytest.raises(RunError, match=f"{gone} could be read before and now cannot: No such file.*same command"):
        moved.train(path, 2, Removing(gone, after=STEPS + 2))
    gone.write_bytes(kept)

    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state(), torch.get_num_threads()
    heard = Heard()
    resumed = moved.train(path, 0, heard)
    assert (random.getstate(), str(np.random.get_state())) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])  # of which it takes nothing either: `undisturbed` had another
    assert torch.get_num_threads() == states[3]
    assert_same(resumed, undisturbed)
    assert heard.said[1].startswith("going on after epoch 1 of 2: 3 steps of 8 images")
    assert heard.done == STEPS


def test_all_epochs_trained_nothing_is_left_but_to_keep_it(
    asked: Asked, undisturbed: Trained, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, heard = next(tmp_path_factory.getbasetemp().glob("training*/checkpoint")), Heard()
    before = path.read_bytes()
    assert_same(asked.train(path, progress=heard), undisturbed)
    assert heard.said[0] == "going on after epoch 2 of 2: all epochs are trained"
    assert heard.said[1:] == ["training scratch/seed-0000: 0 steps"]
    assert path.read_bytes() == before
    # What may round otherwise is noted, and nothing else of the machine.
    run = asked.run
    assert (
        resumed_with(asked, path, versions={**run.versions, "click": "0"}, machine={**run.machine, "system": "x"})
        == run.notes
    )
    (note,) = resumed_with(asked, path, versions={**run.versions, "torch": "0"}, machine={**run.machine, "threads": 99})
    assert note.startswith("the first 2 epochs were trained with another torch, threads: ")


def resumed_with(asked: Asked, path: Path, **changed: Any) -> tuple[str, ...]:
    """Return the notes of a run that goes on where something else than in `asked` is installed or at work."""
    return replace(asked, run=replace(asked.run, **changed)).train(path).run.notes


def loss(asked: Asked, part: str, trained: Trained, state: dict[str, torch.Tensor]) -> float:
    """Return the loss of weights on images as the evaluation transform shows them."""
    some = asked.pictures(part, "")
    (rows,) = pixel_blocks(some.root, some.entries, TRANSFORM)
    model = type(trained.model).from_tensors(state, trained.model.to_tensors()[1])
    probabilities = model.predict_proba(rows)
    return float(-np.log(probabilities[np.arange(len(some)), list(some.codes)]).mean())


def test_validation_is_on_plain_images_and_the_best_epoch_has_its_lowest_loss(
    asked: Asked, undisturbed: Trained
) -> None:
    losses = [epoch["val_loss"] or 0.0 for epoch in undisturbed.run.history]
    assert losses[0] != losses[1]
    assert undisturbed.best_epoch == int(np.argmin(losses)) + 1
    assert loss(asked, "val", undisturbed, last_state(undisturbed)) == pytest.approx(losses[-1], rel=1e-4)
    assert loss(asked, "val", undisturbed, undisturbed.best_weights) == pytest.approx(min(losses), rel=1e-4)


def test_without_augmentation_it_trains_on_the_plain_images(drawn: Path, undisturbed: Trained, tmp_path: Path) -> None:
    plain = ask(drawn, augment="none", split="60/0/40", epochs=1, lr=1e-30, dropout=0.0)
    trained = plain.train(tmp_path / "checkpoint")
    # Nothing is learnt, so the pass over the training images is an evaluation of the initial weights.
    (epoch,) = trained.run.history
    assert epoch["train_loss"] == pytest.approx(loss(plain, "train", trained, last_state(trained)), rel=1e-5)
    assert epoch["train_loss"] != pytest.approx(undisturbed.run.history[0]["train_loss"], rel=1e-3)
    # Without a validation part the last epoch is the best.
    assert epoch["val_loss"] is epoch["val_accuracy"] is None
    assert trained.best_epoch == 1
    assert weights(trained.best_weights) == last(trained)


def two_images(drawn: Path, **parameters: Any) -> Asked:
    """A training on two images, one a step, and validated on two."""
    return replace(ask(drawn, batch_size=1, dropout=0.0, **parameters), first=2)


def assert_nearly_exact(asked: Asked, trained: Trained) -> None:
    """Weights are float32, and the last validation in half precision is not far from one in float32."""
    state = last_state(trained)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    exact = loss(asked, "val", trained, state)
    assert trained.run.history[-1]["val_loss"] == pytest.approx(exact, rel=0.05)
    assert trained.run.history[-1]["val_loss"] != exact


@contextmanager
def interrupted_often() -> Iterator[set[str]]:
    """Raise a signal every millisecond; yield the names of the functions in which Python answered it."""
    where: set[str] = set()
    before = signal.signal(signal.SIGALRM, lambda _, frame: where.add(frame.f_code.co_name if frame else ""))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        yield where
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_bfloat16_trains_float32_weights_and_a_signal_is_answered_between_the_layers(
    drawn: Path, tmp_path: Path
) -> None:
    asked = two_images(drawn, precision="bf16", epochs=1)
    with interrupted_often() as where:
        trained = asked.train(tmp_path / "checkpoint")
    assert "_give_way" in where  # in the midst of a pass back through the layers
    assert_nearly_exact(asked, trained)
    assert not any(name.startswith("scaler.") for name in load_file(tmp_path / "checkpoint"))


@pytest.mark.slow
def test_float16_goes_on_with_the_scale_that_it_had(drawn: Path, tmp_path: Path) -> None:
    asked, path = two_images(drawn, precision="fp16"), tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        asked.train(path, 0, Heard(stop_after=3))
    held = load_file(path)
    assert_nearly_exact(asked, asked.train(path))
    # The scale doubles after 2000 steps without an overflow, and halves at each: both epochs' steps are counted, and
    # none of those that were timed beforehand.
    states = [
        [float(tensors[f"scaler.{key}"]) for key in ("scale", "_growth_tracker")] for tensors in (held, load_file(path))
    ]
    assert states == [[65536.0, 2.0], [65536.0, 4.0]]


def test_a_training_that_diverges_is_explained(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(
        HeadError, match=r"scratch/seed-0000 .* in epoch 1 at lr=1e\+30: the training diverged.*lower --lr"
    ):
        two_images(drawn, lr=1e30).train(tmp_path / "checkpoint")
    assert list(tmp_path.glob("**/*checkpoint*")) == []


def test_a_network_without_room_is_explained(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=r"not enough memory on cpu .* 8 images of 32 x 32 .*--batch-size.*--hidden"):
        ask(drawn, hidden=(10**11,)).train(tmp_path / "checkpoint")

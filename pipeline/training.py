"""The training of a whole network from pixels, epoch by epoch, with a checkpoint after each.

All that is random in an epoch is drawn from the run's seed and the epoch's number alone: an interrupted training that
goes on from a checkpoint ends in the same weights as an undisturbed one.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cache.atomic import require_room
from pipeline.checkpoint import Checkpoint
from pipeline.errors import HeadError
from pipeline.heads.vgg import VGGNetwork
from pipeline.memory import enough_memory
from pipeline.pixels import Pictures, picture_batches
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.wording import counted, duration

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
REHEARSED = 3  # steps timed before the start


@dataclass(frozen=True)
class Trained:
    """A trained network: the last epoch's weights in `model`, and the best epoch's.

    Attributes:
        model: The network after the last epoch.
        best_weights: Name -> weights after the epoch with the lowest validation loss.
        best_epoch: That epoch, from 1 on; the last one without a validation part.
        run: The run with its history.
    """

    model: VGGNetwork
    best_weights: dict[str, Tensor]
    best_epoch: int
    run: Run


def train(
    run: Run,
    pictures: Callable[[str, str], Pictures],
    checkpoint: Path,
    workers: int,
    progress: Progress,
) -> Trained:
    """Train the network of a planned run, going on from its checkpoint if there is one.

    Args:
        run: What is to be trained: parameters, seed, classes, device.
        pictures: Gives the images of a part (`train` or `val`) under the name of a draw.
        checkpoint: The file.
        workers: Processes that decode; 0 decodes between the steps.
        progress: Told of an estimate of the duration, then of every step.

    Raises:
        RunError: The checkpoint is damaged or belongs to another configuration, or an image is gone.
        HeadError: The training diverged, the device has not enough memory, or a process that decodes was killed.
        NoRoom: The disk cannot hold the checkpoint.
    """
    model = VGGNetwork(**{**run.parameters, "hidden": _sizes(run)}, random_state=run.seed, device=run.device)
    epochs, steps = int(model.epochs), -(-len(pictures("train", "")) // int(model.batch_size))
    no_room = HeadError(
        f"There is not enough memory on {run.device} to train on {model.batch_size} images of {model.image_size} x "
        f"{model.image_size} pixels at once. Lower --batch-size, --image-size or --hidden."
    )
    with enough_memory(no_room), _living_workers():
        held = Checkpoint.read(checkpoint, run)
        training = _Training(model.build(run.classes), run, workers)
        if held is not None:
            training.restore(held)
        with training.deterministic():
            left = (epochs - training.done) * steps
            training.require_room(checkpoint.parent)
            if left:
                progress.note("timing a few steps, to say how long it will take")
            progress.note(training.announce(left, epochs, pictures))
            # What an earlier call has done would show as an impossible rate.
            with progress.steps(f"training {run.label}", left, "steps") as advance:
                while training.done < epochs:
                    training.epoch(pictures, advance)
                    training.checkpoint().write(checkpoint)
        return training.result()


class _Training:
    """A network on its device, its optimiser, and what was learnt of it so far."""

    def __init__(self, model: VGGNetwork, run: Run, workers: int) -> None:
        self.model, self.run, self.workers = model, replace(run, history=()), workers
        self.device = torch.device(run.device)
        self.network = model.network_.to(self.device)
        self.dtype = DTYPES.get(model.precision)
        self._prepare()
        self.best_epoch, self.best_weights = 0, self._weights()

    @property
    def done(self) -> int:
        """Complete epochs."""
        return len(self.run.history)

    def require_room(self, folder: Path) -> None:
        """Refuse a disk that cannot hold a checkpoint beside the one that it replaces, nor then the run.

        Raises:
            NoRoom: Says how much is needed.
        """
        weights = sum(tensor.nbytes for tensor in self.best_weights.values())
        require_room(
            folder, 2 * 4 * weights, "a checkpoint (weights, best weights, Adam's two moments) and its successor"
        )

    def announce(self, steps: int, epochs: int, pictures: Callable[[str, str], Pictures]) -> str:
        """Time a few steps on a copy, with the reading of their images, and say how long the rest will take."""
        begun = f"going on after epoch {self.done} of {epochs}: " if self.done else ""
        if not steps:
            return f"{begun}all epochs are trained"
        seconds = self._rehearse(pictures("train", "rehearsal"))
        return (
            f"{begun}{steps} steps of {self.model.batch_size} images of {self.model.image_size} x "
            f"{self.model.image_size} pixels in {self.model.precision} on {self.run.device}, about "
            f"{duration(seconds)} each: about {duration(steps * seconds)}. There is a checkpoint after each of "
            f"{epochs} epochs; interrupted, the same command goes on from the last one"
        )

    def epoch(self, pictures: Callable[[str, str], Pictures], advance: Callable[[int], None]) -> None:
        """Train for one epoch, and measure on the validation part."""
        started, number = time.perf_counter(), self.done + 1
        draw = f"seed {self.run.seed}, epoch {number}"
        seed = int.from_bytes(hashlib.sha256(draw.encode()).digest()[:7], "big")
        training = pictures("train", draw)
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.network.train()
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)  # of dropout, on every device
            for images, codes in self._batches(training, order.tolist()):
                total += self._step(images, codes)
                advance(1)
            val_loss, val_accuracy = self._validate(pictures("val", ""))
        train_loss, train_accuracy = (total / len(order)).tolist()
        if not (math.isfinite(train_loss) and math.isfinite(val_loss or 0)):
            raise HeadError(
                f"The losses of {self.run.label} are {train_loss} in training and {val_loss} in validation in epoch "
                f"{number} at lr={self.model.lr:g}: the training diverged. Use a lower --lr, or --precision fp32."
            )
        record = {
            "epoch": number,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "seconds": time.perf_counter() - started,
        }
        before = self.run.history[self.best_epoch - 1]["val_loss"] if self.best_epoch else None
        if val_loss is None or before is None or val_loss < before:
            self.best_epoch, self.best_weights = number, self._weights()
        self.run = replace(self.run, history=(*self.run.history, record))

    def checkpoint(self) -> Checkpoint:
        """Return all that `restore` needs."""
        state = self.optimizer.state_dict()["state"]
        tensors = {
            **{f"last.{name}": tensor for name, tensor in self._weights().items()},
            **{f"best.{name}": tensor for name, tensor in self.best_weights.items()},
            **{f"adam.{number}.{key}": value for number, values in state.items() for key, value in values.items()},
        }
        if self.scaler.is_enabled():
            scaled = self.scaler.state_dict()
            tensors |= {f"scaler.{key}": torch.tensor(scaled[key]) for key in ("scale", "_growth_tracker")}
        return Checkpoint(self.run, self.best_epoch, tensors)

    def restore(self, held: Checkpoint) -> None:
        """Go back to the state of a checkpoint."""
        tensors = held.tensors
        self.network.load_state_dict(_below("last.", tensors))
        self.best_epoch, self.best_weights = held.best_epoch, _below("best.", tensors)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("adam.", tensors).items():
            number, _, key = name.partition(".")
            # The fused step walks weights and moments side by side: they must lie in memory alike.
            layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
            state.setdefault(int(number), {})[key] = tensor.contiguous(memory_format=layout)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if self.scaler.is_enabled():
            scaled = {key: tensor.item() for key, tensor in _below("scaler.", tensors).items()}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **scaled})
        notes = dict.fromkeys((*self.run.notes, *held.run.notes, *self._changed(held.run)))
        self.run = replace(self.run, history=held.run.history, notes=tuple(notes))

    def _changed(self, begun: Run) -> list[str]:
        """Say if the training was begun with what may round otherwise, so that it is not an undisturbed one's twin."""
        versions = {name for name, version in begun.versions.items() if self.run.versions.get(name) != version}
        differing = sorted(versions & {"python", "torch", "torchvision", "numpy", "pillow"})
        differing += [
            name for name in ("processor", "gpu", "threads") if begun.machine.get(name) != self.run.machine.get(name)
        ]
        if not differing:
            return []
        return [
            f"the first {counted(len(begun.history), 'epoch')} were trained with another {', '.join(differing)}: an "
            "undisturbed training may end in other bits"
        ]

    def result(self) -> Trained:
        """Return the trained network, on the CPU."""
        self.network.zero_grad()
        self.model.network_ = self.network.cpu().eval()
        seconds = sum(record["seconds"] or 0 for record in self.run.history)
        return Trained(self.model, self.best_weights, self.best_epoch, replace(self.run, timings={"fit": seconds}))

    @contextmanager
    def deterministic(self) -> Iterator[None]:
        """On a GPU, choose the same algorithms every time; float32 there means float32."""
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        if self.device.type != "cuda":
            yield
            return
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            with exact:
                yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    def _prepare(self) -> None:
        """Begin the optimiser's state anew."""
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.model.lr, fused=True)
        # float16 alone needs its small gradients scaled up.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.model.precision == "fp16")

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}

    def _batches(self, pictures: Pictures, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        size = int(self.model.batch_size)
        for images, codes in picture_batches(pictures, order, size, self.workers, self.device.type == "cuda"):
            yield (
                images.to(self.device, non_blocking=True, memory_format=torch.channels_last),
                codes.to(self.device, non_blocking=True),
            )

    def _scores(self, images: Tensor) -> Tensor:
        """Return log probabilities; the convolutions alone, nearly all of the work, are in autocast."""
        features, *head = self.network.children()
        scores = images
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            for layer in features.children():
                scores = layer(scores)
                if scores.requires_grad and not isinstance(layer, nn.Conv2d):  # whose output is changed in place
                    scores.register_hook(_give_way)
        scores = scores.float()
        for layer in head:
            scores = layer(scores)
        return scores

    def _step(self, images: Tensor, codes: Tensor) -> Tensor:
        """Make one step; return the sum of the losses and the number of images named rightly."""
        self.optimizer.zero_grad()
        scores = self._scores(images)
        loss = nn.functional.nll_loss(scores, codes)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack((loss.detach().double() * len(codes), (scores.argmax(1) == codes).sum().double()))

    def _validate(self, pictures: Pictures) -> tuple[float | None, float | None]:
        if not len(pictures):
            return None, None
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.network.eval()
        with torch.inference_mode():
            for images, codes in self._batches(pictures, range(len(pictures))):
                scores = self._scores(images)
                losses = nn.functional.nll_loss(scores, codes, reduction="sum").double()
                total += torch.stack((losses, (scores.argmax(1) == codes).sum().double()))
        loss, accuracy = (total / len(pictures)).tolist()
        return loss, accuracy

    def _rehearse(self, pictures: Pictures) -> float:
        """Return the median seconds of a step, its images read as in training, of a copy that is thrown away."""
        actor = copy.copy(self)
        actor.network = copy.deepcopy(self.network).train()
        actor._prepare()
        some = [number % len(pictures) for number in range((REHEARSED + 1) * int(self.model.batch_size))]
        ends = []
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            for images, codes in actor._batches(pictures, some):  # the first one warms up
                float(actor._step(images, codes)[0])  # waits for a GPU
                ends.append(time.perf_counter())
        return sorted(end - start for start, end in pairwise(ends))[REHEARSED // 2]


def _give_way(_: Tensor) -> None:
    """Let Python look for Ctrl-C between the layers on the way back, which is else one call of many seconds."""


@contextmanager
def _living_workers() -> Iterator[None]:
    """Say what it means that a process that decodes is gone, which torch's loader tells by raising anywhere."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise HeadError(
            "A process that was decoding images was killed from outside, most likely because memory, or the shared "
            "memory that a container grants, ran out. Complete epochs are kept: run the same command again with fewer "
            "of them (`--workers 0`)."
        ) from error


def _below(prefix: str, tensors: Any) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _sizes(run: Run) -> tuple[int, ...] | None:
    hidden = run.parameters["hidden"]
    return None if hidden is None else tuple(hidden)

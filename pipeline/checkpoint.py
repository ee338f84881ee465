"""A checkpoint: what a training that was interrupted goes on from, as one file that appears whole or not at all."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.atomic import scratch_folder, writing_file
from pipeline.errors import RunError
from pipeline.reading import brief, parse_json
from pipeline.run import Run
from pipeline.weights import tensor_digest

if TYPE_CHECKING:
    from torch import Tensor

ENTRY, DIGEST = "checkpoint", "sha256"  # of the file's metadata


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after an epoch.

    Attributes:
        run: The run that is being trained, with the history so far.
        best_epoch: The epoch whose weights are the best so far, from 1 on.
        tensors: Name -> weights, the best epoch's weights, and the optimiser's state.
    """

    run: Run
    best_epoch: int
    tensors: "Mapping[str, Tensor]"

    @property
    def epoch(self) -> int:
        """The last epoch that is complete, from 1 on."""
        return len(self.run.history)

    def write(self, path: Path) -> None:
        """Write the checkpoint atomically.

        Raises:
            NoRoom: The disk is full or read-only.
        """
        from safetensors.torch import save_file

        # The paths of the images would swell the header; the digests of the parts tell whether they are the same.
        document = {
            "run": {**self.run.document(), "images": {part: [] for part in self.run.images}},
            "best_epoch": self.best_epoch,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        text = json.dumps(document)
        # safetensors writes under a name of its own beside the one that it is given; after a kill, only what lies in a
        # scratch folder is known for a leftover.
        with scratch_folder(path.parent) as scratch, writing_file(path) as temporary:
            with _system_errors():
                save_file(tensors, scratch / path.name, {ENTRY: text, DIGEST: _digest(text, tensors)})
            (scratch / path.name).replace(temporary)

    @classmethod
    def read(cls, path: Path, planned: Run) -> "Checkpoint | None":
        """Read the checkpoint of a run, if there is one.

        Args:
            path: The file.
            planned: The run as it is asked for now.

        Raises:
            RunError: The file is damaged, or the training was begun with another configuration or seed.
        """
        from safetensors import safe_open

        if not path.exists():
            return None
        try:
            if not path.is_file():  # a pipe would be waited for
                raise ValueError("it is no regular file")
            with safe_open(path, framework="pt") as file:
                entries = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            if entries[DIGEST] != _digest(entries[ENTRY], tensors):
                raise ValueError("it does not match its own SHA-256")
            document: dict[str, Any] = parse_json(entries[ENTRY])
            begun = Run.from_document(document["run"], path)
            best_epoch = int(document["best_epoch"])
        except Exception as error:  # a damaged file can break its reader anywhere
            raise RunError(
                f"The checkpoint {path} cannot be read ({brief(error)}): it is damaged or was written "
                "by another version. Remove it to train from the start."
            ) from error
        try:
            begun.require_same(planned)
        except RunError as error:
            differing = str(error).partition(" was fitted otherwise: ")[2].partition(". Give the new")[0]
            raise RunError(
                f"The training that left the checkpoint {path} was begun otherwise: {differing}. Give the new "
                "configuration a name of its own (`--name`), or remove this one file to train that seed from the start."
            ) from error
        if begun.seed != planned.seed:
            raise RunError(
                f"The checkpoint {path} is of seed {begun.seed}, not {planned.seed}: it was renamed. Give it its name "
                "back, or remove it to train from the start."
            )
        return cls(replace(begun, path=Path()), best_epoch, tensors)


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raise what the system refused as `OSError`: safetensors tells it in its own words alone."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if not found:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def _digest(text: str, tensors: "Mapping[str, Tensor]") -> str:
    """Return SHA-256 over all that a checkpoint holds."""
    return hashlib.sha256(f"{text}\0{tensor_digest(tensors)}".encode()).hexdigest()

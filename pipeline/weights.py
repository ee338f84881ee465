"""Where a base's tensors come from: a torchvision download, a file, or a seed.

Nothing here imports torch until tensors are asked for, so that a command that finds its work done never pays for it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from cache.errors import NoRoom
from pipeline.errors import BaseError, DownloadError, WeightsError
from pipeline.progress import SILENT, Progress
from pipeline.reading import brief, file_digest
from pipeline.transfer import PAUSES, SECONDS, Checksum, fetch
from pipeline.weights_file import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

FORMS = (
    "imagenet, imagenet:NAME (an entry of torchvision, e.g. imagenet:IMAGENET1K_V1), random:SEED, "
    "or the path of a .safetensors, .pth or .pt file"
)
SUFFIXES = (".safetensors", ".pth", ".pt")
CONNECT_SECONDS = SECONDS

# Names that older torchvision files use; torchvision itself renames them while it loads.
_OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)


@dataclass(frozen=True)
class WeightsSource:
    """Where the weights of a base come from, as `--weights` names it.

    Args:
        kind: `imagenet` for a torchvision entry, `file` for a file, `random` for a seed.
        detail: The entry's name (empty for torchvision's own choice), the file's path, or the seed in digits.
    """

    kind: Literal["imagenet", "file", "random"]
    detail: str = ""

    @classmethod
    def parse(cls, text: str) -> WeightsSource:
        """Read `imagenet`, `imagenet:NAME`, `random:SEED` or the path of a file; `str` of the result gives it back.

        Args:
            text: What the user wrote.

        Returns:
            The source; a file is not looked for yet.

        Raises:
            WeightsError: The text has none of these forms.
        """
        if text == "imagenet":
            return cls("imagenet")
        if re.fullmatch(r"imagenet:[A-Z][A-Z0-9_]*", text):
            return cls("imagenet", text.partition(":")[2])
        if re.fullmatch(r"random:(0|[1-9][0-9]*)", text) and int(text[7:]) < 2**64:
            return cls("random", text[7:])
        if Path(text).suffix.lower() in SUFFIXES:
            return cls("file", text)
        raise WeightsError(f"weights {brief(text)!r} name no source: write {FORMS}")

    def __str__(self) -> str:
        if self.kind == "file":
            return self.detail
        return f"{self.kind}:{self.detail}" if self.detail else self.kind

    @property
    def seed(self) -> int:
        """The seed of a random source."""
        return int(self.detail)

    @property
    def path(self) -> Path:
        """The path of a file source.

        Raises:
            WeightsError: There is no such file.
        """
        path = Path(self.detail)
        if not os.path.isfile(path):  # noqa: PTH113  # Path's raises where a folder may not be looked at
            found = "is no regular file" if os.path.exists(path) else "not found"  # noqa: PTH110  # likewise
            raise WeightsError(f"weights file {self.detail} {found}: check the path, or write {FORMS}")
        return path


def fingerprint(source: WeightsSource, base: str) -> dict[str, str]:
    """State what determines tensors and transform, without torch: equal fingerprints mean equal recipes.

    A file counts with its name as well as its bytes, because the name can select the transform.

    Args:
        source: Where the weights come from.
        base: Name of the torchvision network.

    Returns:
        Field to value; torchvision's own entries are pinned by its version, which pins the hash in their address.

    Raises:
        WeightsError: The file is missing, or cannot be read.
    """
    found = {"base": base, "torch": version("torch"), "torchvision": version("torchvision")}
    if source.kind == "file":
        try:
            return found | {"file": source.path.name, "sha256": file_digest(source.path)}
        except OSError as error:
            raise WeightsError(f"weights file {source} cannot be read ({error.strerror}): mend that first") from error
    return found | {"weights": str(source)}


def entries(base: str) -> Any:
    """Look up torchvision's pretrained entries of a classification network.

    Args:
        base: Name of the torchvision network, e.g. `vgg16`.

    Returns:
        The network's `WeightsEnum` class.

    Raises:
        BaseError: torchvision has no such classification network; the message names the closest ones.
    """
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    if base not in names:
        close = get_close_matches(base.lower(), names, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "pipeline.base.base_names() lists all bases"
        raise BaseError(
            f"base {brief(base)!r} is no classification network of torchvision {version('torchvision')}: {hint}"
        )
    return models.get_model_weights(base)


def entry(base: str, name: str = "DEFAULT") -> Any:
    """Look up one pretrained entry of a network.

    Args:
        base: Name of the torchvision network.
        name: The entry's name; `DEFAULT` is torchvision's own choice.

    Returns:
        The `WeightsEnum` member.

    Raises:
        BaseError: There is no such network.
        WeightsError: The network has no such entry; the message lists those it has.
    """
    table = entries(base).__members__
    if name not in table:
        raise WeightsError(f"{base} has no weights entry {name!r} in torchvision; it has {', '.join(table)}")
    return table[name]


def load_state(source: WeightsSource, base: str, progress: Progress = SILENT) -> dict[str, Tensor]:
    """Load the tensors that a file or a torchvision entry holds; nothing in them can run code.

    Args:
        source: An `imagenet` or `file` source; random weights come from building the network, not from here.
        base: Name of the torchvision network.
        progress: Told of a download: the file's name and size, and every megabyte.

    Returns:
        Name (as torchvision spells it today) to tensor on the CPU, floating-point ones as float32. Tensors may be
        mapped from the file, which must not change while they are in use.

    Raises:
        BaseError: There is no such network.
        WeightsError: The file is missing, damaged, would run code or holds no tensors, or the download failed.
    """
    if source.kind == "random":
        raise ValueError("random weights have no file: pipeline.base.load_base builds them from their seed")
    from_file = source.kind == "file"
    path = source.path if from_file else _downloaded(base, entry(base, source.detail or "DEFAULT"), progress)
    state = read_tensors(path).items()
    return {_todays_name(name): tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state}


def tensor_digest(state: Mapping[str, Tensor]) -> str:
    """Digest tensors by name, type, shape and values, whatever file they came from.

    `num_batches_tracked` is left out: batch normalisation does not read it in evaluation mode.

    Args:
        state: Name to tensor, on any device and in any memory layout.

    Returns:
        SHA-256 in hexadecimal.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        if name.rpartition(".")[2] == "num_batches_tracked":
            continue
        tensor = state[name].detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _todays_name(name: str) -> str:
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name


def _downloaded(base: str, chosen: Any, progress: Progress) -> Path:
    import torch

    folder = Path(torch.hub.get_dir(), "checkpoints")
    path = folder / Path(urlsplit(chosen.url).path).name
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    start = found.group(1) if found else ""
    if path.exists():
        # torchvision checks the hash only while it downloads; a copy made by hand can be cut short.
        if not file_digest(path).startswith(start):
            raise WeightsError(f"{path} is damaged, its SHA-256 does not start with {start}: delete it and try again")
        return path
    try:
        # Not `chosen.get_state_dict`: it prints to stdout, unpickles without a guard, and cannot report to `progress`.
        checksum = Checksum("sha256", start) if start else None
        fetch(chosen.url, path, checksum, progress, timeout=CONNECT_SECONDS, pauses=PAUSES)
    except (DownloadError, NoRoom) as error:
        raise WeightsError(
            f"{base} weights {chosen.name} could not be downloaded from {chosen.url} ({error}): put the file "
            f"{path.name} into {folder}, or name a file of weights with --weights FILE"
        ) from error
    return path

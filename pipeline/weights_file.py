"""Files of weights, read so that nothing in them can run code or take more memory than they are large."""

from __future__ import annotations

import io
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.errors import WeightsError
from pipeline.reading import brief, open_regular, require_stored

if TYPE_CHECKING:
    from torch import Tensor

# Files from before torch 1.6: a number as a pickle, then version, system, the state_dict and the keys of its numbers.
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_LEGACY_PICKLES = 5
# All that the pickle of a state_dict names (QUInt8Storage and its like are none of plain numbers).
_TENSORS = re.compile(
    r"collections\.OrderedDict|torch\.(storage\.)?[A-PR-Z]\w+Storage|"
    r"torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter\.Parameter"
)
# Other steps of a pickle that name something than GLOBAL, which alone torch writes.
_NAMING = {"INST", "OBJ", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or a `.pth` or `.pt` file that holds a state_dict and nothing else.

    Returns:
        Name to tensor on the CPU. Tensors may be mapped from the file, which must not change while they are in use.

    Raises:
        WeightsError: The file is damaged, would run code, or holds anything but plain tensors of its own size.
    """
    kind, read = (
        ("safetensors", _read_safetensors) if path.suffix.lower() == ".safetensors" else ("torch", _read_pickle)
    )
    try:
        state = read(path)
    except WeightsError:
        raise
    except Exception as error:  # damaged bytes can fail anywhere in a reader, with any exception
        raise WeightsError(
            f"weights file {path} is no complete {kind} file ({brief(error)}): copy or download it again"
        ) from error
    _require_held(path, state)
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    state: dict[str, Tensor] = load_file(path)
    return state


def _read_pickle(path: Path) -> dict[str, Tensor]:
    import torch

    packed = _require_plain(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=packed)
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"weights file {path} holds no tensors by name: save the network's state_dict()")
    strange = [str(name) for name, tensor in state.items() if not isinstance(tensor, torch.Tensor)]
    if strange:
        raise WeightsError(
            f"weights file {path} holds something else than tensors under {brief(', '.join(strange[:8]))}: "
            "save the network's state_dict() alone"
        )
    return {str(name): tensor for name, tensor in state.items()}


def _require_plain(path: Path) -> bool:
    """Refuse a torch file that could run code or unpack into more than it is, before torch looks at it.

    torch's own guard has had holes (CVE-2025-32434, CVE-2026-24747), and lets objects be made of any size.

    Returns:
        Whether it is a zip archive.

    Raises:
        WeightsError: It names something else than tensors, or is compressed.
        ValueError: It is damaged.
    """
    with open_regular(path) as file:
        start = file.read(len(_LEGACY))
        file.seek(0)
        if start == _LEGACY:
            for _ in range(_LEGACY_PICKLES):
                _require_tensors(path, file)
            return False
        if not start.startswith(b"PK\3\4"):
            raise ValueError("it begins otherwise")
        with zipfile.ZipFile(file) as archive:
            require_stored(archive, os.fstat(file.fileno()).st_size)
            for name in archive.namelist():
                if name.lower().endswith(".pkl"):  # torch's own search does not tell cases apart
                    _require_tensors(path, io.BytesIO(archive.read(name)))
    return True


def _require_tensors(path: Path, file: IO[bytes]) -> None:
    """Refuse a pickle that names anything but what a state_dict of tensors is made of; reads it, and runs nothing."""
    for step, argument, _ in pickletools.genops(file):
        named = str(argument).replace(" ", ".") if step.name == "GLOBAL" else ""
        if step.name in _NAMING or (named and not _TENSORS.fullmatch(named)):
            raise WeightsError(
                f"weights file {path} holds a Python object ({brief(named or step.name)}); such a file can run code "
                "and was not loaded: save the network's state_dict() alone, best as .safetensors"
            )


def _require_held(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors of more numbers than the file has room for, such as a single one repeated a trillion times.

    Raises:
        WeightsError: Names one of them.
    """
    left = path.stat().st_size
    for name, tensor in state.items():
        left -= tensor.nbytes
        if left < 0:
            raise WeightsError(
                f"weights file {path} claims numbers for {brief(name)!r} that it does not hold: copy or download it "
                "again"
            )

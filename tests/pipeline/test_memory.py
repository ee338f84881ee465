"""An allocator's words become the caller's; everything else passes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cache.errors import ManyheadsError
from pipeline.memory import enough_memory


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

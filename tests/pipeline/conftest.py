"""One small reproduction of the paper, which several files of tests look at."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.reproduction import Reproduction, reproduce
from tests.conftest import BASE, WEIGHTS

SMALL: dict[str, Any] = {
    "base": BASE,
    "weights": WEIGHTS,
    "views": 2,
    "seeds": (0, 1),
    "mlp_seeds": (0,),
    "epochs": 2,
    "image_size": 32,
    "split": "60/20/20",
    "device": "cpu",
    "jobs": 1,
    "paper_metric": True,
}


@pytest.fixture(scope="session")
def reproduced(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    """The whole reproduction, small, with the paper's metric; do not write to its folder."""
    return reproduce(drawn, tmp_path_factory.mktemp("reproduced") / "out", **SMALL)

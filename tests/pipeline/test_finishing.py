"""Which run it is that cannot be fitted."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import HeadError
from pipeline.finishing import named
from pipeline.heads import Diverged, HeadValueError

RUNS: list[Any] = [SimpleNamespace(label=f"mlp/seed-000{seed}") for seed in range(3)]


@pytest.mark.parametrize(
    ("error", "runs", "which"),
    [
        (Diverged("It diverged.", 1), RUNS, "mlp/seed-0001"),
        (Diverged("It diverged."), RUNS[2:], "mlp/seed-0002"),
        (HeadValueError("It diverged."), RUNS, "One of mlp/seed-0000 to mlp/seed-0002"),
        (HeadValueError("It diverged."), RUNS[:1], "mlp/seed-0000"),
    ],
)
def test_the_run_is_named_where_it_is_known(error: HeadError, runs: list[Any], which: str) -> None:
    with pytest.raises(HeadError, match=rf"^{which} cannot be fitted: It diverged\. Runs that are"), named(*runs):
        raise error

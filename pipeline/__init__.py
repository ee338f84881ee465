"""The stages as functions: `extract`, `fit_head`, `evaluate`, `predict`, and what they return.

A name is imported when it is first used, so that `import pipeline` costs nothing. The modules are named for nouns
(`extraction`, `fitting`, …), so that none of them hides the function of the same name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.baselines import fit_mlp as fit_mlp
    from pipeline.baselines import fit_scratch as fit_scratch
    from pipeline.comparison import compare as compare
    from pipeline.data_set import download as download
    from pipeline.demo import run_demo as run_demo
    from pipeline.doctor import diagnose as diagnose
    from pipeline.evaluation import evaluate as evaluate
    from pipeline.extraction import extract as extract
    from pipeline.fitting import fit_head as fit_head
    from pipeline.grid import fit_grid as fit_grid
    from pipeline.prediction import predict as predict
    from pipeline.reproduction import reproduce as reproduce
    from pipeline.sizes import fit_sizes as fit_sizes

_HOMES = {
    "compare": "pipeline.comparison",
    "diagnose": "pipeline.doctor",
    "download": "pipeline.data_set",
    "evaluate": "pipeline.evaluation",
    "extract": "pipeline.extraction",
    "fit_grid": "pipeline.grid",
    "fit_head": "pipeline.fitting",
    "fit_mlp": "pipeline.baselines",
    "fit_scratch": "pipeline.baselines",
    "fit_sizes": "pipeline.sizes",
    "predict": "pipeline.prediction",
    "reproduce": "pipeline.reproduction",
    "run_demo": "pipeline.demo",
}

__all__ = [
    "compare",
    "diagnose",
    "download",
    "evaluate",
    "extract",
    "fit_grid",
    "fit_head",
    "fit_mlp",
    "fit_scratch",
    "fit_sizes",
    "predict",
    "reproduce",
    "run_demo",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

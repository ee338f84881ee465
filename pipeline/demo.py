"""`demo`: the whole pipeline on images that the program draws itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import WeightsError
from pipeline.evaluation import Evaluation, evaluate
from pipeline.extraction import Extraction, extract
from pipeline.fitting import fit_head
from pipeline.progress import SILENT, Progress
from pipeline.scenes import draw_image_set

RANDOM = "random:0"
SPLIT = "60/20/20"  # so few images need a larger test part
# The paper's recipe is made for 1680 training images: with 288, its 15 epochs at 1e-4 hardly move the weights.
HEADS: dict[str, dict[str, Any]] = {
    "mlp": {"seeds": (0, 1, 2), "lr": 1e-3, "epochs": 30},
    "logistic": {"seeds": (0,)},
    "knn": {"seeds": (0,)},
}


@dataclass(frozen=True)
class Demo:
    """What the demo made: folders of images, cache and runs, and what the stages returned."""

    images: Path
    cache: Path
    runs: Path
    extraction: Extraction
    evaluation: Evaluation


def run_demo(
    folder: Path | str = "demo",
    *,
    base: str = "vgg16",
    weights: str | None = None,
    per_class: int = 40,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Demo:
    """Draw images, extract their features, fit heads and evaluate them; what is there already is kept.

    Args:
        folder: Where images, cache and runs go.
        base: Name of a torchvision classification network.
        weights: As `extract` takes them; if not given, ImageNet's where torchvision has or can download them, and
            otherwise random ones (the evaluation's notes then say so).
        per_class: Images of each class.
        seed: Of the drawing.
        progress: Told what happens.

    Raises:
        ManyheadsError: A stage failed.
    """
    # Other images are another demo: what is there already is never drawn, computed or fitted again.
    folder = Path(folder) / f"seed-{seed}-{per_class}-a-class"
    images = folder / "images"
    draw_image_set(images, per_class, seed, progress=progress)
    extraction = _extract(images, folder, base, weights, progress)
    runs = extraction.cache.parent / "runs"
    for head, options in HEADS.items():
        fit_head(extraction.cache, runs, head=head, split=SPLIT, progress=progress, **options)
    evaluation = evaluate(*(runs / head for head in HEADS), progress=progress)
    return Demo(images, extraction.cache, runs, extraction, evaluation)


def _extract(images: Path, folder: Path, base: str, weights: str | None, progress: Progress) -> Extraction:
    """Extract with ImageNet weights if they can be had; other weights have a folder of their own."""
    if weights is None:
        try:
            return extract(images, folder / f"{base}-imagenet" / "cache", base=base, progress=progress)
        except WeightsError as error:
            progress.note(
                f"{error}\nThe demo goes on with random weights: such a base was never trained, so its features are "
                "random projections of the pixels, and the figures below show a floor, not what transfer learning does."
            )
            weights = RANDOM
    kind = weights.partition(":")[0] if weights.startswith(("random:", "imagenet")) else "file"
    return extract(images, folder / f"{base}-{kind}" / "cache", base=base, weights=weights, progress=progress)

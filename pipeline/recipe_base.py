"""The base of a recipe that is already written down: loaded again, or refused where it would give other features."""

from pathlib import Path
from typing import TYPE_CHECKING

from cache import Recipe
from pipeline.decode import DECODE_VERSION
from pipeline.errors import RunError, WeightsError
from pipeline.pixels import PIXELS, pixel_base
from pipeline.progress import SILENT, Progress
from pipeline.run_document import is_transform
from pipeline.transform import Transform
from pipeline.weights import WeightsSource

if TYPE_CHECKING:
    from pipeline.base import Base


def base_of(
    recipe: Recipe, weights: str | None = None, device: str = "auto", progress: Progress = SILENT, *, whose: str
) -> "Base":
    """Load the base of a recipe, and refuse one that would give other features.

    Args:
        recipe: The recipe of features that are there, or of a run that was fitted on them.
        weights: Where the base's weights are now, if not where the recipe says; they must be the same tensors.
        device: Where the base is to run: `auto`, `cpu`, `cuda` or `cuda:1`.
        progress: Told what is loaded.
        whose: What needs it, to begin a message with, such as the run's label or the cache's folder.

    Raises:
        RunError: The recipe's images were decoded by other rules than this manyheads has.
        WeightsError: The weights cannot be had, or are not those of the recipe.
        BaseError: The device is unknown or absent.
    """
    from pipeline.base import choose_device, load_base

    if recipe.decoding != DECODE_VERSION:
        raise RunError(
            f"{whose} needs images decoded by version {recipe.decoding} of the rules; this manyheads has version "
            f"{DECODE_VERSION}. Extract again (and fit again what was fitted on it), or use the manyheads that made it."
        )
    if not is_transform(recipe.transform):
        raise RunError(
            f"{whose} has a recipe with a transform that no manyheads wrote: it was damaged or edited. Restore it, or "
            "extract and fit again."
        )
    transform = Transform.from_dict(recipe.transform)
    if recipe.base == PIXELS:
        if weights is not None:
            raise WeightsError(f"{whose} sees pixels, not features: it has no base that needs weights.")
        return pixel_base(transform)
    source = WeightsSource.parse(weights or recipe.weights)
    if source.kind == "file" and not Path(source.detail).is_file():
        raise WeightsError(
            f"{whose} needs {recipe.base} with the weights {recipe.weights}, and there is no file {source.detail}. "
            "Name where it is now: `--weights FILE`."
        )
    progress.note(f"loading {recipe.base} with weights {source}")
    target = str(choose_device(device))
    # TF32 is a GPU's: a CPU computes what it rounds, in fp32.
    precision = "fp32" if recipe.precision == "tf32" and target == "cpu" else recipe.precision
    base = load_base(recipe.base, source, transform=transform, precision=precision, device=target)
    if base.weights_digest != recipe.weights_digest:
        raise WeightsError(
            f"{whose} needs {recipe.base} with weights {recipe.weights} (digest {recipe.weights_digest[:12]}…), but "
            f"{source} holds other tensors (digest {base.weights_digest[:12]}…). Name the file that the features were "
            "extracted with: `--weights FILE`."
        )
    return base

"""The page that `reproduce` writes: OUT/README.md, in Markdown."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.paper import BATCH, DOI, IMAGES, TABLE_III, possible_counts
from pipeline.pixels import SIDE
from pipeline.printable import printable
from pipeline.wording import counted, duration, interval_text, points_text, seeds_text, spread_text, standing

if TYPE_CHECKING:
    from pipeline.reproduction import Reproduction, Row
    from pipeline.run import Run
    from pipeline.statistics import Difference

TITLE = "# The paper, reproduced"
PAPER_EPOCHS = 15
PAPER_IMAGES, PAPER_CLASSES = 2100, 21


def page(result: "Reproduction") -> str:
    """Write the page.

    Args:
        result: What was measured and drawn.
    """
    parts = [
        TITLE,
        f"C. Iorga, V.-E. Neagoe, *A Deep CNN Approach with Transfer Learning for Image Recognition*, ECAI 2019, "
        f"[doi {DOI}](https://doi.org/{DOI}): what it published, what its own confusion matrices correct, and what "
        f"manyheads measured here on {counted(result.images, 'test image')}.",
        *(f"**Note:** {escaped(note)}." for note in result.notes),
        "## Does it hold?",
        bullets(map(escaped, verdict(result))),
        "## Table III",
        _table(result),
        _reading(result),
        "## Tables IV and V",
        "Confusion matrices on the test images, measured: of the pretrained model (IV) and of the one trained from "
        "scratch (V), a mean over the seeds where there are several.",
        *(_picture(result, name) for name in ("Table IV", "Table V")),
        "## Fig. 5: detection examples",
        *_detections(result),
        "## Learning curves",
        "The paper chose its hyper-parameters by them: loss and accuracy of training and validation after each epoch.",
        _picture(result, "Learning curves"),
        "## What differs from the paper",
        bullets(map(escaped, differences(result))),
        "## What was run",
        bullets(_provenance(result)),
        "The same again, or with other options:",
        f"```\n{_command(result)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(result: "Reproduction") -> list[str]:
    """Say in sentences whether the paper's claims hold, and which differences are more than noise."""
    # Means over different numbers of seeds may differ in their last bits where they tie; the best is behind none.
    ranked = sorted(result.rows, key=lambda row: (-round(row.test.mean, 9), row.behind is not None))
    papers = sorted(result.rows, key=lambda row: -row.published.test)
    order = " > ".join(row.name for row in papers)
    steps = [row.ahead for row in papers if row.ahead]
    if any(step.clear and step.value < 0 for step in steps):
        held = "does not hold here"
    elif len(steps) < len(papers) - 1:
        held = "cannot be told here: not all were tested on the same images"
    elif all(step.clear for step in steps):
        held = "holds here, and every step of it is more than noise"
    else:
        held = "is neither shown nor refuted here: a step of it is within noise"
    best = ranked[0]
    return [
        f"The paper's order, {order}, {held}: " + ", ".join(f"{row.name} {row.test.mean:.4f}" for row in ranked) + ".",
        *(f"{standing(row.name, best.name, row.behind, result.images)}." for row in ranked if row.behind),
        *(
            f"{one.name} is {_ahead(one.ahead)} {other.name}, which follows it in the paper."
            for one, other in pairwise(papers)
            if one.ahead and best.name not in (one.name, other.name)
        ),
        *(
            f"The paper's true test accuracy of {row.name}, {row.corrected[0]:.4f}, lies "
            f"{'inside' if row.interval[0] <= row.corrected[0] <= row.interval[1] else 'outside'} the 95 % interval "
            f"measured here, {row.interval[0]:.4f} to {row.interval[1]:.4f}."
            for row in result.rows
            if row.published.correct is not None and _is_the_papers(result)
        ),
    ]


def _ahead(difference: "Difference") -> str:
    if difference.value >= 0:
        return f"{points_text(difference.triple)} ahead of"
    return f"{points_text(difference.turned().triple)} behind"


def _is_the_papers(result: "Reproduction") -> bool:
    """Whether images and split are the paper's: accuracies on others are not to be compared with its own."""
    run = result.runs["pretrained"][0]
    size = sum(map(len, run.images.values())), len(run.classes)
    return result.asked["split"] == "paper" and size == (PAPER_IMAGES, PAPER_CLASSES)


def differences(result: "Reproduction") -> list[str]:
    """Say what was done otherwise than in the paper."""
    asked, said = result.asked, []
    pretrained, scratch = result.runs["pretrained"][0], result.runs["scratch"][0]
    images = sum(map(len, pretrained.images.values()))
    if (images, len(pretrained.classes)) != (PAPER_IMAGES, PAPER_CLASSES):
        said.append(
            f"The image set has {counted(images, 'image')} of {len(pretrained.classes)} classes; the paper's has "
            f"{PAPER_IMAGES} of {PAPER_CLASSES}."
        )
    if asked["split"] != "paper":
        said.append(f"The split is {pretrained.split}, not the paper's.")
    if asked["base"] != "vgg16":
        said.append(f"The pretrained base is {asked['base']}, not VGG16.")
    if pretrained.recipe.random_weights:
        said.append("The base has random weights: it was never trained, and this is no transfer learning.")
    elif not asked["weights"].startswith("imagenet"):
        name = PurePosixPath(pretrained.recipe.weights).name
        said.append(f"The base's weights come from the file {name}, not from torchvision's own download.")
    if asked["views"] > 1:
        said.append(
            f"The pretrained head draws one of {asked['views']} cached views of each training image an epoch, view 0 "
            "being the plain image; the paper drew a new augmentation every time."
        )
    else:
        said.append("The pretrained head is trained on the plain images; the paper augmented them.")
    said.append("The perceptron is trained on the plain images, without augmentation.")
    said += [
        f"{name} sees images of {size} x {size} pixels instead of {SIDE} x {SIDE}."
        for name, size in (("pixel-mlp", asked["image_size"]), ("scratch", asked["scratch_image_size"]))
        if size != SIDE
    ]
    if asked["epochs"] != PAPER_EPOCHS:
        said.append(f"{counted(asked['epochs'], 'epoch')} instead of {PAPER_EPOCHS}.")
    if scratch.parameters["precision"] != "fp32":
        said.append(
            f"The network from scratch is trained in {scratch.parameters['precision']} autocast, not in float32."
        )
    files = {PurePosixPath(path).suffix.lower() for paths in pretrained.images.values() for path in paths}
    if others := sorted(files - {".tif", ".tiff"}):
        said.append(f"The images are {', '.join(others)} files; the data set's own are TIFF.")
    said.append(
        "The paper set no seed and shows one run of each model; here every figure has its seeds, and is correct "
        "divided by total."
    )
    return said


def escaped(text: str) -> str:
    """Make a text from outside harmless in Markdown: on one line, with nothing in it that means markup."""
    plain = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", printable(text).strip())
    if re.match(r"[-+=]|\d+[.)](\s|$)", plain):  # would begin a list, or underline a heading
        plain = re.sub(r"([-+=.)])", r"\\\1", plain, count=1)
    # An address is a link wherever it stands.
    return plain.replace("://", "\\://").replace("www.", "www\\.")


def bullets(lines: Iterable[str]) -> str:
    """Write a list."""
    return "\n".join(f"- {line}" for line in lines)


def _table(result: "Reproduction") -> str:
    heads = ["model", "published val", "published test", "corrected test", "val", "test", "95 % of test", "seeds"]
    cells = [_cells(row) for row in result.rows]
    if result.paper_metric:
        heads.append("mean of batch means")
        cells = [[*line, spread_text(row.batch_means)] for line, row in zip(cells, result.rows, strict=True)]
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: "Row") -> list[str]:
    published = row.published
    counts = "" if published.correct is None else f" ({published.correct}/{IMAGES})"
    return [
        f"{published.model} (`{row.name}`)",
        f"{published.validation:.4f}",
        f"{published.test:.4f}",
        " or ".join(f"{accuracy:.4f}" for accuracy in row.corrected) + counts,
        spread_text(row.validation),
        f"**{spread_text(row.test)}**",
        interval_text(row.interval),
        str(len(row.seeds)),
    ]


def _reading(result: "Reproduction") -> str:
    counts = "; ".join(
        f"{name} {row.published.validation:.4f} is {' or '.join(map(str, possible_counts(row.published.validation)))}"
        for name, row in zip(TABLE_III, result.rows, strict=True)
    )
    said = (
        "*Published* figures are means over 14 batch means (13 batches of 16 images and one of 2, in which an image "
        "weighs eight times as much), so multiples of 1/224. *Corrected* is correct / total as the paper's own "
        "confusion matrix counts it; where it prints none, all that the published figure allows. For validation no "
        f"matrix is printed: {counts} of {IMAGES}. *Measured* figures are correct / total: mean ± standard deviation "
        "over seeds; the 95 % interval is that of the mean over seeds and images."
    )
    if result.paper_metric:
        said += (
            f" *Mean of batch means* is the paper's metric on the measured predictions, in batches of {BATCH} in the "
            "order of the split. It is shown to be compared with the published column, and is no accuracy."
        )
    return said


def _detections(result: "Reproduction") -> list[str]:
    if "Fig. 5" not in result.pictures:
        return ["The pretrained model named no test image rightly, so there is nothing to show."]
    left, right = (result.runs[name][0].seed for name in ("pretrained", "scratch"))
    return [
        "Test images that the pretrained model names rightly, one a class, of classes spread evenly over all; beside "
        f"each the five likeliest classes of both models (pretrained: seed {left}, scratch: seed {right}).",
        _picture(result, "Fig. 5"),
    ]


def _picture(result: "Reproduction", name: str) -> str:
    return f"![{name}]({result.pictures[name].name})"


def _provenance(result: "Reproduction") -> list[str]:
    pretrained, scratch = result.runs["pretrained"][0], result.runs["scratch"][0]
    sizes = " / ".join(str(len(paths)) for paths in pretrained.images.values())
    digest = pretrained.recipe.weights_digest[:16]
    weights = PurePosixPath(pretrained.recipe.weights).name
    return [
        f"Base: {escaped(pretrained.recipe.base)} with weights {escaped(weights)} (digest of the tensors `{digest}…`), "
        f"{pretrained.recipe.dimension} features in {pretrained.recipe.precision}; recipe "
        f"`{pretrained.recipe.digest[:16]}…`.",
        f"Split: {escaped(pretrained.split)}, {sizes} images to train, validate and test.",
        *(_fit_time(name, result.runs[name]) for name in TABLE_III),
        f"Scratch: {scratch.parameters['precision']} on {escaped(scratch.device)}; the last epoch is evaluated, as in "
        "the paper.",
        *_distinct("Machine", {name: runs[0].machine for name, runs in result.runs.items()}),
        *_distinct("Versions", {name: runs[0].versions for name, runs in result.runs.items()}),
        "`cache/` holds the features, `runs/` all runs with their predictions: other commands of manyheads take them.",
    ]


def _distinct(what: str, values: "Mapping[str, Mapping[str, object]]") -> list[str]:
    """Write what the models were made with: one line for all that share it; threads are told where they matter."""
    told: dict[str, list[str]] = {}
    for model, found in values.items():
        text = ", ".join(f"{name} {value}" for name, value in found.items() if name != "threads")
        told.setdefault(text, []).append(model)
    if len(told) == 1:
        return [f"{what}: {escaped(text)}." for text in told]
    return [f"{what} of {', '.join(models)}: {escaped(text)}." for text, models in told.items()]


def _fit_time(name: str, runs: "Sequence[Run]") -> str:
    mean = sum(run.timings.get("fit", 0.0) for run in runs) / len(runs)
    seeds, each = ("seeds", " each") if len(runs) > 1 else ("seed", "")
    return f"`{name}`: {seeds} {seeds_text([run.seed for run in runs])}, {duration(mean)} of training{each}."


def _command(result: "Reproduction") -> str:
    words = ["manyheads", "reproduce", "IMAGES", "OUT"]
    for name, value in result.asked.items():
        text = seeds_text(value) if name.endswith("seeds") else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    return printable(shlex.join([*words, *(["--paper-metric"] if result.paper_metric else [])]))

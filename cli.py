"""The command line: each command parses, calls one function of `pipeline` or `cache`, and prints what it returned.

Nothing heavy is imported before a command needs it: `manyheads --help` loads neither torch nor scikit-learn.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import options
from pipeline.commands import command
from pipeline.data_set import DATA_SETS
from pipeline.heads import HEADS
from pipeline.wording import METRICS

if TYPE_CHECKING:
    from pipeline.terminal import Output


FOLDER = click.Path(path_type=Path, file_okay=False)
HELP = """One frozen base, many heads.

Extract the features of labelled images once, fit any number of heads from them in seconds, and see which is better.

\b
  manyheads extract  IMAGES CACHE     run the base over the images, once
  manyheads fit-head CACHE RUNS       train heads, one run a seed
  manyheads evaluate RUNS             metrics, ranking, confusion matrices
  manyheads compare  RUNS             which is better, and what of it is noise
  manyheads report   RUNS             all of it as one HTML page
  manyheads predict  RUN IMAGE...     name what is on new images

\b
  manyheads fit-scratch IMAGES RUNS   a baseline: VGG16, trained from scratch
  manyheads fit-mlp     IMAGES RUNS   a baseline: a perceptron on raw pixels
  manyheads reproduce   IMAGES OUT    the paper's tables and figures, anew

No images at hand? Try `manyheads demo`.
"""


def _version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        from pipeline.environment import versions

        click.echo(f"manyheads {versions()['manyheads']}")
        context.exit()


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main() -> None:
    """Say in one screen what there is."""


@command(main, "extract")
@click.argument("images", type=FOLDER)
@click.argument("cache", type=FOLDER)
@click.option("--base", default="vgg16", show_default=True, help="Any classification network of torchvision.")
@click.option(
    "--weights",
    default="imagenet",
    show_default=True,
    help="imagenet, imagenet:NAME (an entry of torchvision), a .safetensors or .pth FILE, or random:SEED.",
)
@click.option("--transform-of", metavar="NAME", help="Use the transform of this torchvision weights entry.")
@click.option(
    "--views",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Views of each training image: the plain one, and seeded augmentations.",
)
@click.option(
    "--split",
    help="Whose training images get views: 80/10/10, paper, own, a CSV.  [default: the set's own, else all get them]",
)
@click.option("--split-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--store", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--compress", is_flag=True, help="Pack what is computed now: less room, slower to read.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, or several: cuda:all.")
@click.option("--backend", type=click.Choice(["torch", "openvino"]), default="torch", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Processes that decode.  [default: as many as processors]")
@options.MAX_SIZE
@options.ON_ERROR
def extract_command(output: "Output", images: Path, cache: Path, **given: Any) -> None:
    """Run the base over an image set, once, and keep the features.

    The features go into the folder CACHE. IMAGES has one sub-folder per class, or train/, val/ and test/ above the
    classes. What is cached is not computed again; killed at any moment, the same command goes on.
    """
    from pipeline.extraction import extract
    from pipeline.tables import show_extraction

    output.show(extract(images, cache, progress=output.progress, **given), show_extraction)


@command(main, "fit-head")
@click.argument("cache", type=FOLDER)
@click.argument("runs", type=FOLDER)
@click.option(
    "--head",
    type=click.Choice(list(HEADS)),
    default="mlp",
    show_default=True,
    help="; ".join(f"{name}: {spec.about}" for name, spec in HEADS.items()) + ".",
)
@click.option("--name", help="Name of the configuration.  [default: the head's]")
@options.seeds_option("0-9")
@options.recipe("mlp")
@options.STOPPING
@click.option(
    "--set",
    "other",
    metavar="NAME=VALUE",
    callback=options.settings,
    multiple=True,
    help="Any other hyper-parameter, such as C=0.1.",
)
@click.option(
    "--grid",
    metavar="NAME=VALUES",
    callback=options.grid,
    multiple=True,
    help="Values of a hyper-parameter to try, such as lr=1e-4,1e-3; several --grid: every combination.",
)
@options.USE_VIEWS
@options.SPLIT
@options.RESPLITS
@click.option(
    "--train-sizes",
    callback=options.counts,
    metavar="N,N,...",
    help="Fit on so many training images of each class, such as 5,10,20, and draw the learning curve.",
)
@click.option("--calibrate", is_flag=True, help="Scale probabilities by a temperature fitted on validation.")
@options.JOBS
@options.MEMORY
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or auto.")
def fit_head_command(
    output: "Output",
    cache: Path,
    runs: Path,
    other: dict[str, Any],
    grid: dict[str, Any],
    train_sizes: tuple[int, ...] | None,
    **given: Any,
) -> None:
    """Train a head on cached features, once per seed.

    The features are those in CACHE; each run is a folder RUNS/NAME/seed-0000. Runs that exist are kept. A seed
    gives the same weights bit for bit, whatever --jobs is. With --grid, every combination is fitted and ranked on
    the validation part; the test part is not looked at.
    """
    from pipeline.fitting import fit_head
    from pipeline.grid import fit_grid
    from pipeline.sizes import fit_sizes
    from pipeline.tables import show_fitting, show_grid, show_sizes

    asked = {name: value for name, value in given.items() if value is not None}
    asked = options.merged(asked, other)
    options.merged(asked, grid)
    if grid:
        if train_sizes:
            raise click.UsageError("--grid and --train-sizes are two questions: ask one after the other.")
        if "resplits" in asked:
            raise click.UsageError("--grid chooses on one validation part, --resplits draws several: give one of them.")
        if asked.pop("calibrate"):
            raise click.UsageError("--grid ranks by accuracy, which --calibrate does not change: calibrate the winner.")
        output.show(fit_grid(cache, runs, grid, progress=output.progress, **asked), show_grid)
    elif train_sizes:
        output.show(fit_sizes(cache, runs, train_sizes, progress=output.progress, **asked), show_sizes)
    else:
        output.show(fit_head(cache, runs, progress=output.progress, **asked), show_fitting)


@command(main, "fit-scratch")
@click.argument("images", type=FOLDER)
@click.argument("runs", type=FOLDER)
@click.option("--name", default="scratch", show_default=True, help="Name of the configuration.")
@options.seeds_option("0")
@options.recipe("default")
@click.option(
    "--augment",
    type=click.Choice(["paper", "none"]),
    default="paper",
    show_default=True,
    help="paper: rotation, random resized crop and flip, drawn anew in every epoch.",
)
@click.option("--image-size", type=click.IntRange(32), default=224, show_default=True, help="Side in pixels.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="auto: bf16, else fp16, where the device has it natively.",
)
@options.SPLIT
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option(
    "--workers", type=click.IntRange(0), help="Processes that decode.  [default: none on a CPU, else one a processor]"
)
@options.ON_ERROR
def fit_scratch_command(output: "Output", images: Path, runs: Path, **given: Any) -> None:
    """Train VGG16 on an image set, every weight from scratch.

    Its head is the paper's; each run is a folder RUNS/NAME/seed-0000. Long work: its duration is estimated before
    it starts, and every epoch leaves a checkpoint, from which the same command goes on to the same result.
    """
    from pipeline.baselines import fit_scratch
    from pipeline.tables import show_fitting

    asked = {name: value for name, value in given.items() if value is not None}
    output.show(fit_scratch(images, runs, progress=output.progress, **asked), show_fitting)


@command(main, "fit-mlp")
@click.argument("images", type=FOLDER)
@click.argument("runs", type=FOLDER)
@click.option("--name", default="pixel-mlp", show_default=True, help="Name of the configuration.")
@options.seeds_option("0-9")
@options.recipe("default")
@options.STOPPING
@click.option("--image-size", type=click.IntRange(1), default=224, show_default=True, help="Side in pixels.")
@options.USE_VIEWS
@options.SPLIT
@options.RESPLITS
@options.JOBS
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or auto.")
@options.ON_ERROR
def fit_mlp_command(output: "Output", images: Path, runs: Path, **given: Any) -> None:
    """Train a perceptron of three hidden layers on raw pixels.

    It is trained on the image set IMAGES once per seed; each run is a folder RUNS/NAME/seed-0000. Every view is
    decoded once, whatever the number of epochs and seeds.
    """
    from pipeline.baselines import fit_mlp
    from pipeline.tables import show_fitting

    asked = {name: value for name, value in given.items() if value is not None}
    output.show(fit_mlp(images, runs, progress=output.progress, **asked), show_fitting)


@command(main, "evaluate")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--on", type=click.Choice(["test", "val", "train"]), default="test", show_default=True)
@click.option("--cache", type=FOLDER, help="The feature cache, if it was moved.")
@click.option("--images", type=FOLDER, help="The image set, if it was moved: baselines see its pixels.")
def evaluate_command(output: "Output", runs: tuple[Path, ...], **given: Any) -> None:
    """Evaluate runs: metrics, confusion matrices, a ranking.

    RUNS are any mix of folders of runs, RUNS/NAME and single run folders. Beside each run: predictions as CSV,
    metrics as JSON, the confusion matrix as PNG. On stdout: the ranking.
    """
    from pipeline.evaluation import evaluate
    from pipeline.tables import show_evaluation

    output.show(evaluate(*runs, progress=output.progress, **given), show_evaluation)


@command(main, "compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--on", type=click.Choice(["test", "val", "train"]), default="test", show_default=True)
@click.option("--metric", type=click.Choice(list(METRICS)), default="accuracy", show_default=True)
@click.option("--cache", type=FOLDER, help="The feature cache, if it was moved.")
@click.option("--images", type=FOLDER, help="The image set, if it was moved: baselines see its pixels.")
@click.option("--out", type=FOLDER, help="Folder of the picture.  [default: the RUNS of the best name]")
def compare_command(output: "Output", runs: tuple[Path, ...], **given: Any) -> None:
    """Say which name is really better, and what of it is noise.

    RUNS are any mix of folders of runs, RUNS/NAME and single run folders; a name is compared with all its seeds and
    splits. On stdout: the ranking, and every pair's difference with its interval and p-value. Beside the runs: both
    as a picture.
    """
    from pipeline.comparison import compare
    from pipeline.tables import show_comparison

    output.show(compare(*runs, progress=output.progress, **given), show_comparison)


@command(main, "report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="The file."
)
@click.option("--on", type=click.Choice(["test", "val", "train"]), default="test", show_default=True)
@click.option("--cache", type=FOLDER, help="The feature cache, if it was moved.")
@click.option("--images", type=FOLDER, help="The image set, if it was moved: the page shows its images.")
@click.option("--force", is_flag=True, help="Replace the file also where it is no report.")
def report_command(output: "Output", runs: tuple[Path, ...], **given: Any) -> None:
    """Write one HTML page: the ranking, and every mistake.

    RUNS are any mix of folders of runs, RUNS/NAME and single run folders. The file opens from disk, needs no network,
    and can be sent and printed.
    """
    from pipeline.report import report
    from pipeline.tables import show_report

    output.show(report(*runs, progress=output.progress, **given), show_report)


@command(main, "audit")
@click.argument("cache", type=FOLDER)
@options.SPLIT
@click.option("--out", type=FOLDER, help="Folder for contact sheets and tables of all that is found.  [default: none]")
@click.option(
    "--similarity",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    help="Of the pixels of two images that are listed.",
)
@click.option("--images", type=FOLDER, help="The image set, if it was moved.")
def audit_command(output: "Output", cache: Path, **given: Any) -> None:
    """Find near-duplicate images and labels that may be wrong.

    Looks at the features in CACHE and at the images that they were extracted from: above all for images that are nearly
    the same in different parts of the split, from which an accuracy looks better than it is. Nothing is changed. With
    --out, all that is found is written there as pictures and tables.
    """
    from pipeline.audit import audit
    from pipeline.tables import show_audit

    output.show(audit(cache, progress=output.progress, **given), show_audit)


@command(main, "predict")
@click.argument("run", type=FOLDER)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top-k", type=click.IntRange(1), default=5, show_default=True)
@click.option("--weights", help="Where the base's weights are now, if they were moved.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@options.ON_ERROR
@click.option("--csv", "as_csv", is_flag=True, help="Print path,rank,class,probability as CSV.")
def predict_command(output: "Output", run: Path, images: tuple[Path, ...], as_csv: bool, **given: Any) -> None:
    """Name what is on image files, and on all images in folders.

    RUN is the folder of one run, such as RUNS/mlp/seed-0000.
    """
    from pipeline.errors import UnreadableImages
    from pipeline.prediction import predict
    from pipeline.tables import csv_predictions, show_predictions

    if as_csv and output.as_json:
        raise click.UsageError("--csv and --json are two forms of one answer: choose one.")
    render = csv_predictions if as_csv else show_predictions
    try:
        output.show(predict(run, *images, progress=output.progress, **given), render, machine=as_csv)
    except UnreadableImages as error:
        if error.result:
            listed_below = functools.partial(render, failed=True)
            output.show(error.result, listed_below, machine=as_csv, failure=str(error))
        raise


@command(main, "reproduce")
@click.argument("images", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--base", default="vgg16", show_default=True, help="Of the pretrained model.")
@click.option("--weights", default="imagenet", show_default=True, help="As for extract.")
@click.option(
    "--views",
    type=click.IntRange(1, 1000),
    default=15,
    show_default=True,
    help="Of each training image, for the pretrained model.",
)
@options.seeds_option("0-9", about="Of the pretrained model's head, such as 0-9 or 0,3,5-7.")
@options.seeds_option("0-4", "--mlp-seeds", "Of the MLP on pixels.")
@options.seeds_option("0", "--scratch-seeds", "Of VGG16 from scratch.")
@click.option("--epochs", type=click.IntRange(1), default=15, show_default=True, help="Of all three models.")
@click.option(
    "--image-size", type=click.IntRange(32), default=224, show_default=True, help="Of the baselines, in pixels."
)
@click.option("--scratch-image-size", type=click.IntRange(32), help="Of VGG16 from scratch.  [default: --image-size]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of VGG16 from scratch.",
)
@click.option("--split", default="paper", show_default=True, help="paper, 80/10/10, own, or a CSV.")
@click.option("--split-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--paper-metric", is_flag=True, help="Add the mean of batch means, which the paper published.")
@options.JOBS
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@options.ON_ERROR
def reproduce_command(output: "Output", images: Path, out: Path, **given: Any) -> None:
    """Measure the paper's tables and figures anew.

    Trains its three models on IMAGES, and writes tables, figures and a README.md into OUT, beside what it published.
    Each stage is skipped where its result is there. In full it is long work without a GPU; a small version for two
    cores:

    --views 1 --seeds 0-2 --mlp-seeds 0 --image-size 64
    """
    from pipeline.reproduction import reproduce
    from pipeline.tables import show_reproduction

    output.show(reproduce(images, out, progress=output.progress, **given), show_reproduction)


@command(main, "download")
@click.argument("name", type=click.Choice(list(DATA_SETS)))
@click.argument("folder", type=FOLDER)
@click.option("--url", help="Another address of the same archive, such as a mirror's; its hash is checked too.")
def download_command(output: "Output", name: str, folder: Path, url: str | None) -> None:
    """Download a data set and unpack it as an image set.

    FOLDER is then what `manyheads extract` takes. ucmerced: UC Merced Land Use, 2100 images of 21 classes, 332 MB.
    Broken off at any moment, the same command goes on; FOLDER appears whole or not at all.
    """
    from pipeline.data_set import download
    from pipeline.tables import show_download

    output.show(download(name, folder, url=url, progress=output.progress), show_download)


@main.group("cache")
def cache_group() -> None:
    """Look into feature caches, check, prune and export them."""


@command(cache_group, "info")
@click.argument("cache", type=FOLDER)
def info_command(output: "Output", cache: Path) -> None:
    """Tell what CACHE is, from which images, and how large.

    Also how much of it is used, who is writing into it, and its recipe in full.
    """
    from cache.description import describe
    from pipeline.tables import show_description

    output.show(describe(cache), show_description)


@command(cache_group, "verify")
@click.argument("cache", type=FOLDER)
@click.option("--repair", "mend", is_flag=True, help="Drop what is damaged, so that extract computes it anew.")
@click.option(
    "--recompute", "rows", metavar="N", type=click.IntRange(0), default=0, help="Also compute N random rows again."
)
@click.option("--images", type=FOLDER, help="The image set, if it was moved.")
@click.option("--weights", help="Where the base's weights are now, if they were moved.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1; for --recompute.")
def verify_command(output: "Output", cache: Path, **given: Any) -> None:
    """Check every byte of CACHE.

    Ends with status 1 if anything is damaged, missing, swapped or foreign. With --recompute, some features are
    computed again from their images and compared.
    """
    from pipeline.tables import show_verification
    from pipeline.verification import Unsound, verify

    try:
        output.show(verify(cache, progress=output.progress, **given), show_verification)
    except Unsound as error:
        output.show(error.result, show_verification, failure=str(error))
        raise


@command(cache_group, "prune")
@click.argument("cache", type=FOLDER)
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@click.option(
    "--max-size",
    metavar="SIZE",
    callback=options.size,
    help="Drop no more than gets the cache down to this, such as 5GB.  [default: all that is unused]",
)
def prune_command(output: "Output", cache: Path, **given: Any) -> None:
    """Drop the features of images that are no longer in the set.

    All of their views go from CACHE. What will be freed is said before. Killed at any moment, the same command ends
    the work; readers are not disturbed.
    """
    from cache.pruning import StillTooLarge, prune
    from pipeline.tables import show_pruning

    try:
        pruned = prune(cache, tell=output.progress.note, steps=output.progress.steps, **given)
    except StillTooLarge as error:
        output.show(error.result, show_pruning, failure=str(error))
        raise
    output.show(pruned, show_pruning)


@command(cache_group, "export")
@click.argument("cache", type=FOLDER)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--all-views", is_flag=True, help="A row for each view of an image.  [default: for view 0]")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def export_command(output: "Output", cache: Path, file: Path, **given: Any) -> None:
    """Write the features into one file that opens without manyheads.

    FILE ends in .h5 or .hdf5 for HDF5, or in .npz for NumPy. It holds features, labels, classes, paths, digests, parts
    where the set came split, and the recipe of CACHE.
    """
    from cache.export import export
    from pipeline.tables import show_export

    output.show(export(cache, file, steps=output.progress.steps, **given), show_export)


@command(main, "demo")
@click.argument("folder", type=FOLDER, default="demo")
@click.option("--base", default="vgg16", show_default=True)
@click.option("--weights", help="As for extract.  [default: imagenet, or random weights where they cannot be had]")
@click.option("--per-class", type=click.IntRange(10), default=40, show_default=True, help="Images of each class.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the drawn images.")
def demo_command(output: "Output", folder: Path, **given: Any) -> None:
    """Run the whole pipeline on images that it draws itself.

    They are aerial scenes; all goes into FOLDER.
    """
    from pipeline.demo import run_demo
    from pipeline.tables import show_demo

    output.show(run_demo(folder, progress=output.progress, **given), show_demo)


@command(main, "doctor")
def doctor_command(output: "Output") -> None:
    """Tell what to paste into a bug report.

    Versions, devices, native precisions, room on disk and in memory, and the weights found.
    """
    from pipeline.doctor import diagnose
    from pipeline.tables import show_diagnosis

    output.show(diagnose(), show_diagnosis)


if __name__ == "__main__":
    main()

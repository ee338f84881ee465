"""The command line: each command parses, calls one function of `pipeline` or `cache`, and prints what it returned.

Nothing heavy is imported before a command needs it: `manyheads --help` loads neither torch nor scikit-learn.
"""

import functools
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cache.errors import ManyheadsError
from pipeline.heads import HEADS

if TYPE_CHECKING:
    from pipeline.terminal import Output

ON_ERROR = click.Choice(["fail", "skip"])
FOLDER = click.Path(path_type=Path, file_okay=False)
UNEXPECTED = (
    "An error that should not happen: {0!r}. Nothing complete is lost. `--debug` shows where it came from; please "
    "report it with what `manyheads doctor` prints."
)


HELP = """One frozen base, many heads.

Extract the features of labelled images once, fit any number of heads from them in seconds, and see which is better.

\b
  manyheads extract  IMAGES CACHE     run the base over the images, once
  manyheads fit-head CACHE RUNS       train heads, one run a seed
  manyheads evaluate RUNS             metrics, ranking, confusion matrices
  manyheads predict  RUN IMAGE...     name what is on new images

No images at hand? Try `manyheads demo`.
"""


def seeds(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """Read seeds as people write them: `0-9`, or `0,3,5-7`."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", value):
        raise click.BadParameter(f"{value!r} is not a list of seeds such as 0-9 or 0,3,5-7.")
    if any(len(number) > 6 for number in re.findall(r"\d+", value)):
        raise click.BadParameter(f"{value!r} holds a seed above 999999, the largest that this option takes.")
    spans = [[int(end) for end in piece.split("-")] for piece in value.split(",")]
    found = tuple(dict.fromkeys(seed for span in spans for seed in range(span[0], span[-1] + 1)))
    if not found:
        raise click.BadParameter(f"{value!r} holds no seed: write the smaller one first.")
    return found


def sizes(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read the sizes of hidden layers: `84-63-42`."""
    if value is None:
        return None
    if not re.fullmatch(r"\d+(-\d+)*", value):
        raise click.BadParameter(f"{value!r} is not a list of layer sizes such as 84-63-42.")
    return tuple(int(size) for size in value.split("-"))


def settings(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """Read hyper-parameters by name: `C=0.1`, `metric=euclidean`; a value is a number where it reads as one."""
    found: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{value!r} is not of the form name=value.")
        if name == "hidden":
            found[name] = sizes(context, option, text)
            continue
        try:
            found[name] = json.loads("null" if text.lower() == "none" else text)
        except ValueError:
            found[name] = text
    return found


def _version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        from pipeline.environment import versions

        click.echo(f"manyheads {versions()['manyheads']}")
        context.exit()


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main() -> None:
    """Say in one screen what there is."""


def command(group: click.Group, name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function: with --json, --quiet and --debug, and with failures explained."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @group.command(name)
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
        @click.option("--quiet", is_flag=True, help="Print errors only.")
        @click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
        @functools.wraps(function)
        def run(*args: Any, as_json: bool, quiet: bool, debug: bool, **options: Any) -> None:
            from pipeline.terminal import Output

            output = Output(as_json, quiet)
            with _Interrupts() as interrupts:
                try:
                    function(output, *args, **options)
                except BaseException as error:
                    # An interrupt that hits an import can come out as any other exception.
                    if interrupts.came:
                        output.stop("Stopped. All complete work is kept; run the same command again to go on.")
                    if debug or not isinstance(error, Exception) or isinstance(error, click.ClickException):
                        raise
                    output.fail(_reason(error))

        return run

    return decorate


def _reason(error: BaseException) -> str:
    """Word a failure: our own say it themselves, and what the system refused has a file and a reason."""
    if isinstance(error, ManyheadsError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        reason = f"{error.filename}: {error.strerror}."
        return (
            f"{reason} Check the path and its permissions, then run the same command again; nothing complete is lost."
        )
    return UNEXPECTED.format(error)


class _Interrupts:
    """Ctrl-C and SIGTERM alike raise KeyboardInterrupt inside the block, and are remembered."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> "_Interrupts":
        # What a shell ignores for its background jobs stays ignored.
        handled = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
        self.before = {one: signal.signal(one, self._handle) for one in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, *_: object) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt


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
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--store", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Threads that decode.  [default: as many as processors]")
@click.option(
    "--on-error", type=ON_ERROR, default="fail", show_default=True, help="What unreadable images mean in the end."
)
def extract_command(output: "Output", images: Path, cache: Path, **options: Any) -> None:
    """Run the base over the image set IMAGES and keep the features in the folder CACHE.

    IMAGES has one sub-folder per class, or train/, val/ and test/ above the classes. What is cached is not computed
    again; killed at any moment, the same command goes on.
    """
    from pipeline.extraction import extract
    from pipeline.tables import show_extraction

    output.show(extract(images, cache, progress=output.progress, **options), show_extraction)


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
@click.option("--seeds", callback=seeds, default="0-9", show_default=True, help="Such as 0-9 or 0,3,5-7.")
@click.option("--epochs", type=click.IntRange(1), help="[mlp: 15]")
@click.option("--lr", type=float, help="Learning rate of Adam.  [mlp: 1e-4]")
@click.option("--dropout", type=float, help="Share of features dropped in training.  [mlp: 0.5]")
@click.option("--batch-size", type=click.IntRange(1), help="[mlp: 16]")
@click.option(
    "--hidden",
    callback=sizes,
    help="Sizes of the hidden layers, such as 84-63-42.  [mlp: 4, 3 and 2 times the classes]",
)
@click.option("--weight-decay", type=float, help="[mlp: 0]")
@click.option("--patience", type=click.IntRange(1), help="Stop early after so many epochs without a lower val loss.")
@click.option("--set", "other", callback=settings, multiple=True, help="Any hyper-parameter, such as C=0.1.")
@click.option("--split", help="80/10/10, paper, own, or a CSV.  [default: the image set's own, else 80/10/10]")
@click.option("--split-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--jobs", type=click.IntRange(1), help="Runs fitted side by side.  [default: one a processor]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or auto.")
def fit_head_command(output: "Output", cache: Path, runs: Path, other: dict[str, Any], **options: Any) -> None:
    """Train a head on the features in CACHE once per seed; each run is a folder RUNS/NAME/seed-0000.

    Runs that exist are kept. A seed gives the same weights bit for bit, whatever --jobs is.
    """
    from pipeline.fitting import fit_head
    from pipeline.tables import show_fitting

    given = {name: value for name, value in options.items() if value is not None}
    if clash := other.keys() & {
        "progress",
        "cache",
        "runs",
        "head",
        "name",
        "seeds",
        "split",
        "split_seed",
        "jobs",
        "device",
    }:
        raise click.UsageError(f"--set takes hyper-parameters of the head, which {min(clash)} is not.")
    if twice := other.keys() & given.keys():
        raise click.UsageError(f"{min(twice)} is given twice, by its own option and by --set.")
    given |= other
    output.show(fit_head(cache, runs, progress=output.progress, **given), show_fitting)


@command(main, "evaluate")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--on", type=click.Choice(["test", "val", "train"]), default="test", show_default=True)
@click.option("--cache", type=FOLDER, help="The feature cache, if it was moved.")
def evaluate_command(output: "Output", runs: tuple[Path, ...], **options: Any) -> None:
    """Evaluate RUNS: any mix of folders of runs, RUNS/NAME and single run folders.

    Beside each run: predictions as CSV, metrics as JSON, the confusion matrix as PNG. On stdout: the ranking.
    """
    from pipeline.evaluation import evaluate
    from pipeline.tables import show_evaluation

    output.show(evaluate(*runs, progress=output.progress, **options), show_evaluation)


@command(main, "predict")
@click.argument("run", type=FOLDER)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top-k", type=click.IntRange(1), default=5, show_default=True)
@click.option("--weights", help="Where the base's weights are now, if they were moved.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option("--on-error", type=ON_ERROR, default="fail", show_default=True)
@click.option("--csv", "as_csv", is_flag=True, help="Print path,rank,class,probability as CSV.")
def predict_command(output: "Output", run: Path, images: tuple[Path, ...], as_csv: bool, **options: Any) -> None:
    """Name what is on image files, and on all images in folders, with the run folder RUN."""
    from pipeline.errors import UnreadableImages
    from pipeline.prediction import predict
    from pipeline.tables import csv_predictions, show_predictions

    if as_csv and output.as_json:
        raise click.UsageError("--csv and --json are two forms of one answer: choose one.")
    render = csv_predictions if as_csv else show_predictions
    try:
        output.show(predict(run, *images, progress=output.progress, **options), render, machine=as_csv)
    except UnreadableImages as error:
        if error.result:
            listed_below = functools.partial(render, failed=True)
            output.show(error.result, listed_below, machine=as_csv, failure=str(error))
        raise


@main.group("cache")
def cache_group() -> None:
    """Look into feature caches."""


@command(cache_group, "info")
@click.argument("cache", type=FOLDER)
def info_command(output: "Output", cache: Path) -> None:
    """Tell what CACHE is, from which images, and how large."""
    from cache.description import describe
    from pipeline.tables import show_description

    output.show(describe(cache), show_description)


@command(main, "demo")
@click.argument("folder", type=FOLDER, default="demo")
@click.option("--base", default="vgg16", show_default=True)
@click.option("--weights", help="As for extract.  [default: imagenet, or random weights where they cannot be had]")
@click.option("--per-class", type=click.IntRange(10), default=40, show_default=True, help="Images of each class.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the drawn images.")
def demo_command(output: "Output", folder: Path, **options: Any) -> None:
    """Run the whole pipeline on aerial scenes that the program draws itself, into FOLDER."""
    from pipeline.demo import run_demo
    from pipeline.tables import show_demo

    output.show(run_demo(folder, progress=output.progress, **options), show_demo)


@command(main, "doctor")
def doctor_command(output: "Output") -> None:
    """Tell versions, devices, native precisions and weights found: what to paste into a bug report."""
    from pipeline.doctor import diagnose
    from pipeline.tables import show_diagnosis

    output.show(diagnose(), show_diagnosis)


if __name__ == "__main__":
    main()

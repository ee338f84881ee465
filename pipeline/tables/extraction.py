"""What an extraction, and the download before it, did."""

from typing import TYPE_CHECKING

from rich.console import Console

from cache.atomic import human_size
from pipeline.tables.printing import RANDOM_WEIGHTS, print_lines, print_next, print_notes
from pipeline.wording import counted, duration

if TYPE_CHECKING:
    from pipeline.data_set import Download
    from pipeline.extraction import Extraction

BOTTLENECK = 0.25  # of the time, from which on it is said what the base waited for
WORTH_SAYING = 5.0  # seconds; before that it waits for processes to start


def show_download(result: "Download", console: Console) -> None:
    """Say what was downloaded, and whom to cite."""
    how = f"downloaded and unpacked in {duration(result.seconds)}"
    if result.kept:
        how = "kept: they were there already (names compared, not pixels)"
    about = f"{result.images} images of {result.classes} classes in {result.folder}, {human_size(result.size)}"
    print_lines(console, [f"{about}, {how}.", result.source])
    print_next(console, "extract", result.folder, "CACHE")


def show_extraction(result: "Extraction", console: Console) -> None:
    """Say what an extraction computed, found and left out."""
    recipe = result.recipe
    views = (
        f"{result.views} views of {result.viewed} images, {result.views_computed} computed; " if result.viewed else ""
    )
    said = [
        f"{result.images} images of {result.classes} classes in {result.cache}: {result.computed} computed, "
        f"{result.cached} cached; {views}{recipe['dimension']} {recipe['storage']} numbers each, "
        f"{human_size(result.size)}, {duration(result.seconds)}."
    ]
    if result.changes:
        changes = result.changes
        said.append(
            f"Since the last time: {changes.new} new, {changes.renamed} renamed, {changes.changed} changed, "
            f"{changes.removed} removed."
        )
    if result.shares:
        shares = ", ".join(f"{what} {share:.0%}" for what, share in result.shares.items())
        rate = (result.computed + result.views_computed) / result.working
        said.append(f"{rate:.3g} features/s. Time went to: {shares} (decoding: only what the base had to wait for).")
    print_lines(console, said)
    print_notes(console, [RANDOM_WEIGHTS] if result.random_weights else [])
    if result.shares.get("decoding", 0) > BOTTLENECK and result.working > WORTH_SAYING:
        print_notes(
            console,
            [
                f"decoding is the bottleneck: the base waited for it {result.shares['decoding']:.0%} of the time. "
                "More --workers, more processors or a faster disk would help; another --precision or device would not"
            ],
        )
    if result.strays:
        print_notes(console, [f"{counted(len(result.strays), 'image')} outside every class folder, left out:"])
        print_lines(console, [f"  {path}" for path in result.strays])
    if result.skipped:
        print_notes(console, [f"{counted(len(result.skipped), 'image')} could not be read, left without features:"])
        print_lines(console, [f"  {path}: {reason}" for path, reason in result.skipped])
    views_used = ["--use-views", str(result.views)] if result.viewed else []
    split_used = ["--split", result.split] if result.split else []
    seed_used = ["--split-seed", str(result.split_seed)] if result.split and result.split_seed else []
    print_next(console, "fit-head", result.cache, "RUNS", *views_used, *split_used, *seed_used)

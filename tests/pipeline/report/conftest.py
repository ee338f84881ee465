"""Reports of small real runs, and a real browser that opens them and watches what they do."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from pipeline.extraction import extract
from pipeline.fitting import fit_head
from pipeline.report import report
from pipeline.scenes import draw_scene
from tests.conftest import BASE, WEIGHTS

ODD = ('<img src=x onerror=alert(1)>&"class', "<script>alert(1)<&script>")  # no file name can hold a slash
LONG = "a-name-of-sixty-six-letters_that-has-(brackets)_andnothingtobreakat"
MANY = 61  # classes, one more than a matrix has
ODD_FILE = 'it\'s "so" <b onmouseover=alert(1)>{{ 7 * 7 }}.png'


@pytest.fixture(scope="session")
def reported_runs(fitted: Path, extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `reported`: `short` has two seeds, which disagree; do not write to them."""
    runs = Path(shutil.copytree(fitted, tmp_path_factory.mktemp("reported") / "runs"))
    fit_head(extracted, runs, head="mlp", name="short", seeds=(1, 2), epochs=1, split="60/20/20", jobs=1)
    return runs


@pytest.fixture(scope="session")
def reported(reported_runs: Path) -> Path:
    """A report of `mlp`, `short` and `knn` on 18 training images; do not write to it."""
    return report(reported_runs, on="train", out=reported_runs.parent / "report.html").path


@pytest.fixture(scope="session")
def odd_reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of images whose classes and files are named like code."""
    root = tmp_path_factory.mktemp("odd")
    for label, scene in zip(ODD, ("beach", "forest"), strict=True):
        (root / "images" / label).mkdir(parents=True)
        for number in range(8):
            draw_scene(scene, number, 64).save(root / "images" / label / f"{number} {ODD_FILE}")
    extract(root / "images", root / "cache", base=BASE, weights=WEIGHTS, device="cpu")
    fit_head(root / "cache", root / "runs", head="mlp", seeds=(0, 1), epochs=1, split="50/25/25", jobs=1)
    fit_head(root / "cache", root / "runs", head="knn", split="50/25/25", jobs=1)
    return report(root / "runs", on="train", out=root / "report.html").path


@pytest.fixture(scope="session")
def many_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on more classes than a matrix has, of names as long as names get; do not write to them."""
    root = tmp_path_factory.mktemp("many")
    labels = ["baseballdiamond", "mediumresidential", LONG, *(f"class {number:02d}" for number in range(MANY - 3))]
    for place, label in enumerate(labels):
        (root / "images" / label).mkdir(parents=True)
        for number in range(5):
            scene = ("beach", "forest", "parkinglot")[place % 3]
            draw_scene(scene, 5 * place + number, 64).save(root / "images" / label / f"{number}.png")
    extract(root / "images", root / "cache", base=BASE, weights=WEIGHTS, device="cpu")
    for name, neighbours in (("knn", 5), (LONG, 9)):
        fit_head(root / "cache", root / "runs", head="knn", name=name, split="3/1/1", n_neighbors=neighbours, jobs=1)
    return root / "runs"


@pytest.fixture(scope="session")
def many_reported(many_runs: Path) -> Path:
    """A report of `many_runs` on their training images; do not write to it."""
    return report(many_runs, on="train", out=many_runs.parent / "report.html").path


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless browser of this machine."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"there is no browser here: none of {', '.join(names)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """What pages did that none should: complained, spoke to the user, or asked anything of the network."""

    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


Opener = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opener]:
    """Open a report; at the end of the test it must have done nothing wrong."""
    watched, contexts = Watched(), []

    def dismiss(dialog: Dialog) -> None:
        watched.dialogs.append(dialog.message)
        dialog.dismiss()

    def open_page(path: Path, width: int = 1200, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.set_default_timeout(60_000)  # machines are busy at times
        page.on("console", lambda said: watched.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("dialog", dismiss)
        page.on("request", lambda request: watched.requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert watched.errors == []
    assert watched.dialogs == []
    assert {url.partition(":")[0] for url in watched.requests} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in watched.requests) == len(contexts)

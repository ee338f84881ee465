"""The page in a real browser: every view shows what the stored predictions say, by mouse and by keyboard."""

import csv
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import TypeAlias

import pytest
from playwright.sync_api import Page

from pipeline.comparison import compare
from pipeline.report import report
from tests.pipeline.report.conftest import ODD, ODD_FILE, Opener

Stored: TypeAlias = Mapping[str, Sequence[Mapping[str, str]]]  # name -> rows of all its runs


@pytest.fixture(scope="session")
def stored(reported: Path, reported_runs: Path) -> Stored:
    """Read what the runs predicted."""
    found: dict[str, list[dict[str, str]]] = {}
    for file in sorted(reported_runs.glob("*/seed-*/predictions-train.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            found.setdefault(file.parent.parent.name, []).extend(csv.DictReader(lines))
    return found


def shown(page: Page, place: str = "#gallery") -> set[str]:
    """Return the paths of the images in a gallery, once all of them are shown."""
    while page.locator(f"{place} .more-images:visible").count():
        page.click(f"{place} .more-images")
    numbers = page.eval_on_selector_all(f"{place} [data-image]", "some => some.map(one => Number(one.dataset.image))")
    paths = page.evaluate("JSON.parse(document.getElementById('data').textContent).paths")
    assert len(numbers) == len(set(numbers))
    return {paths[number] for number in numbers}


def choose(page: Page, control: str, text: str) -> None:
    page.select_option(control, label=text)


def wrong(rows: Sequence[Mapping[str, str]]) -> set[str]:
    return {row["path"] for row in rows if row["predicted"] != row["label"]}


def test_the_gallery_shows_what_any_run_misnames(opened: Opener, reported: Path, stored: Stored) -> None:
    page = opened(reported)
    every = [row for rows in stored.values() for row in rows]
    assert shown(page) == wrong(every) != set()
    assert page.locator("#gallery img").count() == len(wrong(every))


def test_a_cell_opens_its_images(opened: Opener, reported: Path, stored: Stored) -> None:
    page = opened(reported)
    choose(page, "#detail-name", "mlp")
    cells = {(row["label"], row["predicted"]) for row in stored["mlp"]}
    assert any(label != predicted for label, predicted in cells)
    classes = page.evaluate("JSON.parse(document.getElementById('data').textContent).classes")
    for label, predicted in sorted(cells):
        rows = [row for row in stored["mlp"] if (row["label"], row["predicted"]) == (label, predicted)]
        cell = page.locator(f'[data-row="{classes.index(label)}"][data-column="{classes.index(predicted)}"]')
        assert float(cell.inner_text()) == pytest.approx(len(rows) / 2)
        cell.hover()
        assert "of 6 images, mean of 2 runs" in page.inner_text("#confusion-said")
        cell.click()
        assert shown(page) == {row["path"] for row in rows}


def test_one_seed_can_be_looked_at(opened: Opener, reported: Path, reported_runs: Path) -> None:
    page = opened(reported)
    choose(page, "#detail-name", "mlp")
    choose(page, "#detail-run", "seed 1")
    with (reported_runs / "mlp/seed-0001/predictions-train.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    right = page.eval_on_selector_all("#confusion .hit", "some => some.map(one => Number(one.textContent))")
    assert sum(right) == len(rows) - len(wrong(rows))
    missed = next(row for row in rows if row["predicted"] != row["label"])
    page.click(f'#mistakes button:has-text("{missed["label"]} named {missed["predicted"]}")')
    same = [row for row in rows if (row["label"], row["predicted"]) == (missed["label"], missed["predicted"])]
    assert shown(page) == {row["path"] for row in same}


def test_filters_filter(opened: Opener, reported: Path, stored: Stored) -> None:
    page = opened(reported)
    choose(page, "#by-name", "knn")
    assert shown(page) == wrong(stored["knn"])
    choose(page, "#by-name", "mlp")
    assert shown(page) == wrong(stored["mlp"])
    label = next(row["label"] for row in stored["mlp"] if row["predicted"] != row["label"])
    choose(page, "#by-truth", label)
    rows = [row for row in stored["mlp"] if row["label"] == label and row["predicted"] != label]
    assert shown(page) == wrong(rows)
    page.click("#by-reset")
    every = [row for some in stored.values() for row in some]
    sure = sorted(round(float(row[row["predicted"]]), 3) for row in every if row["predicted"] != row["label"])
    page.eval_on_selector(
        "#by-sure", "(one, to) => { one.value = to; one.dispatchEvent(new Event('input')) }", sure[-3]
    )
    limit = float(page.input_value("#by-sure"))
    assert shown(page) == wrong([row for row in every if round(float(row[row["predicted"]]), 3) >= limit])
    assert shown(page) < wrong(every)
    page.click("#by-reset")
    assert shown(page) == wrong([row for some in stored.values() for row in some])


def test_what_all_miss_comes_first(opened: Opener, reported: Path, stored: Stored) -> None:
    page = opened(reported)
    every = [row for rows in stored.values() for row in rows]
    paths = page.evaluate("JSON.parse(document.getElementById('data').textContent).paths")
    numbers = page.eval_on_selector_all("#gallery [data-image]", "some => some.map(one => Number(one.dataset.image))")
    misses = [sum(row["path"] == paths[n] and row["predicted"] != row["label"] for row in every) for n in numbers]
    assert misses == sorted(misses, reverse=True)
    page.select_option("#by-order", "path")
    numbers = page.eval_on_selector_all("#gallery [data-image]", "some => some.map(one => Number(one.dataset.image))")
    assert numbers == sorted(numbers)


def test_side_by_side_shows_what_differs(opened: Opener, reported: Path, stored: Stored) -> None:
    page = opened(reported)
    share = {
        name: {
            path: sum(row["path"] == path and row["predicted"] == row["label"] for row in rows) / (len(rows) / 18)
            for path in {row["path"] for row in rows}
        }
        for name, rows in stored.items()
    }
    assert 0.5 in share["short"].values()  # half of the runs are not most of them
    right = {name: {path for path, mean in shares.items() if mean > 0.5} for name, shares in share.items()}
    for one, other in permutations(right, 2):
        choose(page, "#side-a", one)
        choose(page, "#side-b", other)
        assert shown(page, "#side-a-gallery") == right[one] - right[other]
        assert shown(page, "#side-b-gallery") == right[other] - right[one]
        assert right[one] != right[other]


def test_the_keyboard_is_enough(opened: Opener, reported: Path) -> None:
    page = opened(reported)
    choose(page, "#detail-name", "mlp")
    page.focus("#detail-run")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.row + ',' + document.activeElement.dataset.column") == "0,0"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.row + ',' + document.activeElement.dataset.column") == "1,1"
    number = float(page.evaluate("document.activeElement.textContent") or 0)
    page.keyboard.press("Enter")
    assert bool(shown(page)) == bool(number)
    assert page.evaluate("document.activeElement.id") == "images-title"
    page.click("#by-reset")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.getElementById('one').open")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('one').open")


def test_the_map_tells_and_marks(opened: Opener, reported: Path, stored: Stored) -> None:
    page = opened(reported)
    choose(page, "#map-name", "knn")
    marked = page.eval_on_selector_all("#map-drawing .wrong", "some => some.length")
    assert (page.locator("#map-drawing .spot").count(), marked) == (18, len(wrong(stored["knn"])))
    spot = page.locator("#map-drawing .spot").first
    spot.focus()
    path = (spot.get_attribute("aria-label") or "").partition(",")[0]
    assert shown(page, "#map-said") == {path}
    page.keyboard.press("Enter")
    assert path in page.inner_text("#one")
    page.keyboard.press("Escape")
    page.click("#legend button >> nth=0")
    assert page.locator("#map-drawing .spot:not(.faint)").count() == 6


def test_names_like_code_stay_text(opened: Opener, odd_reported: Path) -> None:
    page = opened(odd_reported)
    assert page.locator("#confusion thead th").all_inner_texts() == list(ODD)
    for label in ODD:
        choose(page, "#by-named", label)
        assert shown(page)
        assert all(path.endswith(ODD_FILE) for path in shown(page))
    page.locator("#gallery .shot", has_text="7 * 7").first.click()
    assert ODD_FILE in page.inner_text("#one")
    assert page.locator("#one img").count() == 1
    page.keyboard.press("Escape")
    for spot in page.locator("#map-drawing .spot").all():
        spot.focus()
    assert page.locator("img").count() == page.locator('img[src^="data:image/jpeg"]').count()
    assert page.locator("script").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1200])
def test_nothing_sticks_out(opened: Opener, reported: Path, odd_reported: Path, scheme: str, width: int) -> None:
    for path in (reported, odd_reported):
        page = opened(path, width, scheme)
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        page.click("#gallery .shot >> nth=0")
        assert page.evaluate("document.getElementById('one').getBoundingClientRect().right <= innerWidth")


def test_the_scheme_follows_the_system_and_the_button(opened: Opener, reported: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = opened(reported, scheme="dark").evaluate(ground)
    page = opened(reported)
    light = page.evaluate(ground)
    assert light != dark
    page.click("#theme")
    assert page.evaluate(ground) == dark
    page.click("#theme")
    assert page.evaluate(ground) == light


def test_print_is_light_and_whole(opened: Opener, reported: Path) -> None:
    page = opened(reported, 794, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.is_visible("nav")
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth)")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def test_paths_stand_where_pictures_are_gone(opened: Opener, runs: Path, drawn: Path, tmp_path: Path) -> None:
    compare(runs)
    for document in runs.glob("*/*/run.json"):
        document.write_text(document.read_text("utf-8").replace(str(drawn), "/gone"), "utf-8")
    page = opened(report(runs, out=tmp_path / "report.html").path)
    assert page.locator("#gallery .shot").count() == page.locator("#gallery .none").count() > 0
    assert page.locator("#gallery .none").first.inner_text().endswith(".png")
    assert "/gone is no folder" in page.inner_text("#images .note")


def test_parts_have_names_for_those_who_do_not_see_them(opened: Opener, reported: Path) -> None:
    page = opened(reported)
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, select, input, [role=img], [role=region], [role=button]')]
        .filter(one => !(one.ariaLabel || one.textContent.trim() || one.labels?.length
            || document.getElementById(one.getAttribute('aria-labelledby')))).map(one => one.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("[...document.querySelectorAll('th')].every(one => one.scope)")
    assert page.evaluate(
        "[...document.querySelectorAll('table')].every(one => one.caption || one.ariaLabel !== undefined)"
    )

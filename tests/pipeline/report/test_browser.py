"""The page in a real browser: every view shows what the stored predictions say, by mouse and by keyboard."""

import base64
import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from cache import FeatureCache
from pipeline.comparison import compare
from pipeline.fitting import fit_head
from pipeline.report import report
from pipeline.report.thumbnails import SIDE
from tests.conftest import CLASSES
from tests.pipeline.report.conftest import LONG, MANY, ODD, ODD_FILE, Opener

Stored: TypeAlias = Mapping[str, Sequence[Mapping[str, str]]]  # name -> rows of all its runs


@pytest.fixture(scope="session")
def stored(reported: Path, reported_runs: Path) -> Stored:
    """Read what the runs predicted."""
    return read_stored(reported_runs)


def read_stored(runs: Path, part: str = "train") -> Stored:
    """Read what all runs predicted, whatever their splits."""
    found: dict[str, list[dict[str, str]]] = {}
    for file in sorted(runs.glob(f"*/**/predictions-{part}.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            found.setdefault(file.relative_to(runs).parts[0], []).extend(csv.DictReader(lines))
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


def test_each_card_shows_its_own_image(opened: Opener, reported: Path, drawn: Path) -> None:
    page = opened(reported)
    paths = page.evaluate("JSON.parse(document.getElementById('data').textContent).paths")
    small = {path: np.asarray(Image.open(drawn / path).convert("RGB").resize((SIDE, SIDE)), float) for path in paths}
    cards = page.locator("#gallery .shot").all()
    assert len(cards) > 2
    for card in cards:
        source = (card.locator("img").get_attribute("src") or "").removeprefix("data:image/jpeg;base64,")
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))), float)
        nearest = min(small, key=lambda path: float(np.abs(small[path] - seen).mean()))
        assert nearest == paths[int(card.get_attribute("data-image") or "")]


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


def test_of_many_classes_the_most_frequent_mistakes_are_listed(
    opened: Opener, many_reported: Path, many_runs: Path
) -> None:
    page = opened(many_reported)
    choose(page, "#detail-name", "knn")
    rows = [row for row in read_stored(many_runs)["knn"] if row["label"] != row["predicted"]]
    kinds = Counter((row["label"], row["predicted"]) for row in rows)
    assert len(kinds) > 30
    assert len({count for _, count in kinds.most_common(30)}) > 1
    told = page.inner_text("#detail")
    assert f"{MANY} classes are too many" in told
    assert f"30 of {len(kinds)} kinds of mistake" in told
    assert page.locator("#confusion").count() == 0
    assert "row is a true class" not in told
    assert "arrow keys" not in told
    buttons = page.locator("#mistakes button")
    counts = [int(text.rpartition(": ")[2]) for text in buttons.all_inner_texts()]
    assert counts == [count for _, count in kinds.most_common(30)]
    label, predicted = buttons.first.inner_text().rpartition(": ")[0].split(" named ")
    buttons.first.click()
    assert shown(page) == {row["path"] for row in rows if (row["label"], row["predicted"]) == (label, predicted)}
    assert len(shown(page)) == counts[0]
    places = page.eval_on_selector_all("#mistakes button", "some => some.map(one => one.getBoundingClientRect().left)")
    assert len(set(places)) == 3


def test_few_classes_list_mistakes_beside_their_matrix(
    opened: Opener, reported_runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipeline.report.page.BESIDE", 1)
    page = opened(report(reported_runs, on="train", out=tmp_path / "report.html").path)
    choose(page, "#detail-name", "mlp")
    found = read_stored(reported_runs)["mlp"]
    kinds = {(row["label"], row["predicted"]) for row in found if row["label"] != row["predicted"]}
    assert page.locator("#mistakes button").count() == 1
    assert page.inner_text("#mistakes-said").startswith(f"1 of {len(kinds)} kinds")
    assert page.locator("#confusion .grid").count() == 1


def test_classes_that_share_a_marker_are_said_to(opened: Opener, many_reported: Path, reported: Path) -> None:
    page = opened(many_reported)
    assert f"There are 32 markers for {MANY} classes" in page.inner_text("#legend-title")
    assert page.evaluate("document.getElementById('legend').offsetHeight") <= 440
    assert "scroll" in page.evaluate("getComputedStyle(document.getElementById('legend'), '::before').content")
    page.locator("#legend button").last.click()
    assert page.locator("#map-drawing .spot:not(.faint)").count() == 3
    page = opened(reported)
    assert "markers" not in page.inner_text("#legend-title")
    assert page.evaluate("getComputedStyle(document.getElementById('legend'), '::before').content") == "none"


CUT = "some => some.map(one => getComputedStyle(one, '::before').content.includes('scroll sideways'))"


def test_tables_say_where_they_scroll(opened: Opener, reported: Path) -> None:
    page = opened(reported, 390)
    assert page.eval_on_selector_all("#pairs .sideways, #made .sideways", CUT) == [True, True]
    told = page.locator("#pairs p").bounding_box()
    assert told is not None
    assert told["x"] + told["width"] <= 390
    assert page.locator("#pairs .sideways p, #pairs .sideways caption:not(.unseen)").count() == 0
    page.set_viewport_size({"width": 1200, "height": 800})
    page.wait_for_function("!document.querySelector('.cut')")
    assert page.eval_on_selector_all(".sideways", CUT) == [False, False, False]


def test_long_names_hide_nothing(opened: Opener, many_reported: Path) -> None:
    page = opened(many_reported, 960)
    assert LONG in page.locator("#pairs .name").all_inner_texts()
    inside = "some => some.every(one => one.scrollWidth <= one.clientWidth)"
    assert page.eval_on_selector_all(".sideways", inside)
    assert page.eval_on_selector_all(".name", inside)
    rules = page.eval_on_selector_all(
        ".ranking tbody tr", "some => some.map(one => [one, one.querySelector('.rule')].map(it => it.offsetHeight))"
    )
    assert len({row for row, _ in rules}) == 2
    assert all(abs(row - rule) <= 1 for row, rule in rules)


LAST_LINES = """some => some.map(one => {
    const range = document.createRange(), lines = new Map();
    const walker = document.createTreeWalker(one, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode())
        for (let place = 0; place < node.length; place++) {
            range.setStart(node, place);
            range.setEnd(node, place + 1);
            const top = Math.round(range.getBoundingClientRect().top);
            lines.set(top, (lines.get(top) || "") + node.data[place]);
        }
    return [...lines.values()];
})"""


def test_names_break_where_they_can_be_read(opened: Opener, many_reported: Path) -> None:
    page = opened(many_reported, 390)
    lines = page.eval_on_selector_all(".name, #classes th", LAST_LINES)
    assert ["baseballdiamond"] in lines
    assert ["mediumresidential"] in lines
    whole = [some for some in lines if "".join(some) == LONG]
    assert {len(some) > 1 for some in whole} == {True}
    assert all(line.endswith(("-", "_", "andnothing")) for some in whole for line in some[:-1]), whole


def test_numbers_of_images_stand_before_the_line(opened: Opener, reported: Path) -> None:
    page = opened(reported)
    order = page.eval_on_selector_all(
        "#trust [stroke-dasharray], #trust .count", "some => some.map(one => one.tagName)"
    )
    assert order[0] == "path"
    assert set(order[1:]) == {"text"}
    styles = page.eval_on_selector_all("#trust .count", "some => some.map(one => getComputedStyle(one).paintOrder)")
    assert {style.split()[0] for style in styles} == {"stroke"}


def test_a_share_of_nothing_is_a_dash(opened: Opener, extracted: Path, tmp_path: Path) -> None:
    entries = FeatureCache.open(extracted).index().entries
    held = [entry.label != "beach" and int(Path(entry.path).stem[-1]) % 2 for entry in entries]
    lines = zip(entries, held, strict=True)
    split = "".join(f"{entry.path},{entry.label},{'val' if out else 'train'}\n" for entry, out in lines)
    (tmp_path / "split.csv").write_text(f"path,label,split\n{split}", "utf-8")
    fit_head(extracted, tmp_path / "runs", head="knn", split=tmp_path / "split.csv", jobs=1)
    page = opened(report(tmp_path / "runs", on="val", out=tmp_path / "report.html").path)
    rows = read_stored(tmp_path / "runs", "val")["knn"]
    for label in CLASSES:
        row = page.locator("#classes tr", has_text=label)
        own = [one for one in rows if one["label"] == label]
        named = [one for one in rows if one["predicted"] == label]
        hits = sum(one["predicted"] == label for one in own)
        said = [f"{round(100 * hits / len(some))} %" if some else "\N{EN DASH}" for some in (own, named)]
        assert row.locator("td").all_inner_texts() == [*said, str(len(own))]
        assert row.locator(".bar").count() == sum(map(bool, (own, named)))
    assert {one["label"] for one in rows} == {*CLASSES} - {"beach"}


def test_an_image_says_in_how_many_splits_it_is(opened: Opener, extracted: Path, tmp_path: Path) -> None:
    fit_head(extracted, tmp_path / "runs", head="knn", split="40/20/40", resplits=3, jobs=1)
    page = opened(report(tmp_path / "runs", out=tmp_path / "report.html").path)
    rows = read_stored(tmp_path / "runs", "test")["knn"]
    times = Counter(row["path"] for row in rows)
    assert shown(page) == wrong(rows)
    paths = page.evaluate("JSON.parse(document.getElementById('data').textContent).paths")
    for card in page.locator("#gallery .shot").all():
        number = times[paths[int(card.get_attribute("data-image") or "")]]
        assert (f"a test image in {number} of 3 splits" in card.inner_text()) == (number < 3)
    assert {times[path] for path in wrong(rows)} > {3} or {times[path] for path in wrong(rows)} == {1, 2}


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

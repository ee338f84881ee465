"""Everything can be read, in both schemes, by the rule of WCAG 2.2 at level AA."""

import re
from collections.abc import Mapping
from importlib.resources import files

import pytest

from pipeline.report.palette import DARK, LIGHT, SHAPES, STRONGEST, TEXT, contrast, mixed

SCHEMES = [pytest.param(LIGHT, id="light"), pytest.param(DARK, id="dark")]


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colours", SCHEMES)
def test_texts_stand_out(colours: Mapping[str, str]) -> None:
    poor = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in TEXT}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("colours", SCHEMES)
def test_what_is_drawn_stands_out(colours: Mapping[str, str]) -> None:
    poor = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in SHAPES}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 3} == {}


@pytest.mark.parametrize("colours", SCHEMES)
@pytest.mark.parametrize("role", ["cell-right", "cell-wrong"])
def test_the_number_of_every_cell_can_be_read(colours: Mapping[str, str], role: str) -> None:
    for step in range(11):
        ground = mixed(colours[role], colours["card"], STRONGEST * step / 10)
        assert contrast(colours["ink"], ground) >= 4.5


def test_both_schemes_have_the_colours_that_the_page_uses() -> None:
    assert LIGHT.keys() == DARK.keys()
    text = "".join(one.read_text("utf-8") for one in (files("pipeline.report") / "templates").iterdir())
    used = set(re.findall(r"var\(--([a-z-]+)\)", text)) - {"cell", "fill", "share", "side", "strongest"}
    assert used <= LIGHT.keys()

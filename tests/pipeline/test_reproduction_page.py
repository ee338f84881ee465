"""The page of a reproduction: what it claims holds, what differs is named, and names from files do no harm."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

import cli
from pipeline.comparison import Pair
from pipeline.metrics import Spread
from pipeline.printable import printable
from pipeline.reproduction import Reproduction
from pipeline.reproduction_page import differences, escaped, page, verdict
from pipeline.run import Run
from tests.pipeline.pairs import made_pair

pytestmark = pytest.mark.slow  # 18 s on two busy cores, all of it in the one reproduction that several files look at

HOSTILE = (
    "<script>alert(1)</script>|*x*",
    "`code` __bold__ ~~gone~~ $x$",
    "![image](https://evil.example/x.png) [link](javascript:alert(1))",
    "</td></tr></table><!-- <b>",
    "<script x",
    "<!-- x",
    "<?php x",
    "&lt;b&gt; &amp; www.evil.example http://evil.example",
    "two\nlines\n\n# heading\n- list\n\n```\ncode\n```\n<div>",
    "- list",
    "1. list",
    "+ x",
    "===",
    "    code",
    "\\<b>\\",
    "\x1b[31m\u202e\udc80",
    "\"quotes\" and 'quotes'",
    "| a | b |\n|---|---|",
)


def tokens(markdown: str, html: bool) -> list[Token]:
    """Read Markdown as GitHub does in what matters here: CommonMark, tables, strikethrough."""
    parser = MarkdownIt("commonmark", {"html": html}).enable(["table", "strikethrough"])
    return [inner for outer in parser.parse(markdown) for inner in (outer.children or [outer])]


def texts(found: Sequence[Token]) -> str:
    return "".join(token.content for token in found if token.type == "text")


def shape(markdown: str, html: bool) -> list[tuple[str, str]]:
    """Tell what a text is made of, but for the text itself."""
    kinds = [(token.type, str(token.attrs)) for token in tokens(markdown, html)]
    return [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind[0] != "text" or kind != before]


@pytest.mark.parametrize("html", [True, False])
@given(st.text() | st.text("<>&*_`~[]()!|#-+=.1 \\\n\"'$:w/") | st.sampled_from(HOSTILE))
@example("1)")
@example("0. x")
def test_what_is_escaped_is_shown_as_it_is_and_means_nothing(html: bool, text: str) -> None:
    wanted = printable(text).strip()
    for before, after in (("- ", ""), ("**Note:** ", "."), ("a ", " b"), ("| a |\n| --- |\n| ", " |")):
        found = tokens(f"{before}{escaped(text)}{after}", html)
        harmless = tokens(f"{before}x{after}", html)
        if wanted:
            assert [token.type for token in found if token.type != "text"] == [
                token.type for token in harmless if token.type != "text"
            ]
        assert wanted in texts(found)


def claiming(result: Reproduction, half: float = 0.03, **tests: float) -> Reproduction:
    """Give models other test accuracies, and distances that fit them, with intervals of so much on both sides."""
    accuracies = [tests[row.name.replace("-", "_")] for row in result.rows]
    best = accuracies.index(max(accuracies))

    def around(difference: float) -> Pair:
        return made_pair((difference, difference - half, difference + half))

    papers = replace(
        result.runs["pretrained"][0],
        images={"train": ["x"] * 1680, "val": ["x"] * 210, "test": ["x"] * 210},
        classes=tuple(map(str, range(21))),
    )
    return replace(
        result,
        asked={**result.asked, "split": "paper"},
        runs={**result.runs, "pretrained": (papers,)},
        rows=tuple(
            replace(
                row,
                test=Spread(accuracy, 0.01, 0.0, 1.0),
                interval=(accuracy - half, accuracy + half),
                behind=None if place == best else around(accuracies[best] - accuracy),
                ahead=around(accuracy - accuracies[place + 1]).difference if place + 1 < len(accuracies) else None,
            )
            for place, (row, accuracy) in enumerate(zip(result.rows, accuracies, strict=True))
        ),
    )


def test_an_order_that_holds(reproduced: Reproduction) -> None:
    assert verdict(claiming(reproduced, pretrained=0.9, scratch=0.42, pixel_mlp=0.3)) == [
        "The paper's order, pretrained > scratch > pixel-mlp, holds here, and every step of it is more than noise: "
        "pretrained 0.9000, scratch 0.4200, pixel-mlp 0.3000.",
        "scratch is 48.0 points behind pretrained (95 %: 45.0 to 51.0; p = 0.001; 6 images): more than noise.",
        "pixel-mlp is 60.0 points behind pretrained (95 %: 57.0 to 63.0; p = 0.001; 6 images): more than noise.",
        "scratch is 12.0 points (95 %: 9.0 to 15.0) ahead of pixel-mlp, which follows it in the paper.",
        "The paper's true test accuracy of pretrained, 0.8905, lies inside the 95 % interval measured here, "
        "0.8700 to 0.9300.",
        "The paper's true test accuracy of scratch, 0.4238, lies inside the 95 % interval measured here, "
        "0.3900 to 0.4500.",
    ]


def test_accuracies_on_other_images_are_not_compared_with_the_papers(reproduced: Reproduction) -> None:
    assert not any("true test accuracy" in one for one in verdict(reproduced))


def test_an_order_that_does_not_hold(reproduced: Reproduction) -> None:
    said = verdict(claiming(reproduced, pretrained=0.80, scratch=0.50, pixel_mlp=0.54))
    assert said[0] == (
        "The paper's order, pretrained > scratch > pixel-mlp, does not hold here: pretrained 0.8000, pixel-mlp 0.5400, "
        "scratch 0.5000."
    )
    assert "scratch is 4.0 points (95 %: 1.0 to 7.0) behind pixel-mlp, which follows it in the paper." in said
    assert sum("lies outside" in one for one in said) == 2


@pytest.mark.parametrize(
    "tests",
    [
        {"pretrained": 0.9, "scratch": 0.50, "pixel_mlp": 0.48},
        {"pretrained": 0.9, "scratch": 0.50, "pixel_mlp": 0.52},
        {"pretrained": 0.9, "scratch": 0.5, "pixel_mlp": 0.5},
        {"pretrained": 0.9, "scratch": 0.9, "pixel_mlp": 0.5},
        {"pretrained": 0.5, "scratch": 0.5, "pixel_mlp": 0.5},
        {"pretrained": 0.9, "scratch": 0.87 + 1e-9, "pixel_mlp": 0.5},
    ],
)
def test_an_order_within_noise_is_neither(reproduced: Reproduction, tests: dict[str, float]) -> None:
    said = verdict(claiming(reproduced, **tests))
    assert "is neither shown nor refuted here: a step of it is within noise: pretrained" in said[0]


def test_an_order_of_models_on_other_images_is_not_told(reproduced: Reproduction) -> None:
    held = claiming(reproduced, pretrained=0.9, scratch=0.42, pixel_mlp=0.3)
    for gone in ({"pretrained", "scratch"}, {"scratch"}):
        rows = tuple(replace(row, ahead=None if row.name in gone else row.ahead) for row in held.rows)
        assert "cannot be told here" in verdict(replace(held, rows=rows))[0]


def test_nobody_is_behind_itself(reproduced: Reproduction) -> None:
    tied = claiming(reproduced, pretrained=0.5, scratch=0.5, pixel_mlp=0.5)
    behind = made_pair((0.0, -0.2, 0.2))
    for best in tied.rows:  # of models that tie, any may be the one that the others are compared with
        rows = tuple(replace(row, behind=None if row is best else behind) for row in tied.rows)
        said = verdict(replace(tied, rows=rows))
        assert sorted(one.split(" (")[0] for one in said if "level with" in one) == sorted(
            f"{row.name} is level with {best.name}" for row in tied.rows if row is not best
        )


def as_the_paper(result: Reproduction) -> Reproduction:
    """Pretend that all was done as in the paper, as far as manyheads can."""
    asked = {
        **result.asked,
        "base": "vgg16",
        "weights": "imagenet",
        "image_size": 224,
        "scratch_image_size": 224,
        "epochs": 15,
        "split": "paper",
    }
    images = {
        "train": [f"a/{number}.tif" for number in range(1680)],
        "val": ["a/x.tif"] * 210,
        "test": ["b/y.tiff"] * 210,
    }

    def changed(run: Run) -> Run:
        recipe = replace(run.recipe, base="vgg16", weights="imagenet")
        return replace(
            run,
            recipe=recipe,
            images=images,
            classes=tuple(map(str, range(21))),
            parameters={**run.parameters, **({"precision": "fp32"} if run.head == "scratch" else {})},
        )

    runs = {name: tuple(map(changed, members)) for name, members in result.runs.items()}
    return replace(result, asked=asked, runs=runs)


ALWAYS = ["cached views", "The perceptron is trained on the plain images", "The paper set no seed"]


def test_done_as_in_the_paper_only_what_always_differs_is_named(reproduced: Reproduction) -> None:
    said = differences(as_the_paper(reproduced))
    assert len(said) == len(ALWAYS)
    for one, words in zip(said, ALWAYS, strict=True):
        assert words in one


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"base": "resnet18"}, ["The pretrained base is resnet18, not VGG16."]),
        ({"epochs": 1}, ["1 epoch instead of 15."]),
        ({"image_size": 64}, ["pixel-mlp sees images of 64 x 64 pixels instead of 224 x 224."]),
        ({"scratch_image_size": 64}, ["scratch sees images of 64 x 64 pixels instead of 224 x 224."]),
        ({"split": "60/20/20"}, ["The split is 60/20/20, seed 0, not the paper's."]),
        (
            {"weights": "/models/mine.pth"},
            ["The base's weights come from the file imagenet, not from torchvision's own"],
        ),
    ],
)
def test_each_deviation_is_named_once_when_there_is_one(
    reproduced: Reproduction, asked: dict[str, Any], said: list[str]
) -> None:
    usual = as_the_paper(reproduced)
    found = differences(replace(usual, asked={**usual.asked, **asked}))
    new = [one for one in found if one not in differences(usual)]
    assert len(new) == len(said)
    for one, words in zip(new, said, strict=True):
        assert one.startswith(words)


def test_deviations_that_only_the_runs_know(reproduced: Reproduction) -> None:
    usual = as_the_paper(reproduced)

    def new(name: str, **changes: Any) -> list[str]:
        runs = {**usual.runs, name: tuple(replace(run, **changes) for run in usual.runs[name])}
        return [one for one in differences(replace(usual, runs=runs)) if one not in differences(usual)]

    first = usual.runs["pretrained"][0]
    assert new("pretrained", classes=("a", "b")) == [
        "The image set has 2100 images of 2 classes; the paper's has 2100 of 21."
    ]
    assert new("pretrained", images={**first.images, "val": ["a/x.JPG"] * 210}) == [
        "The images are .jpg files; the data set's own are TIFF."
    ]
    assert new("pretrained", recipe=replace(first.recipe, weights="random:3"))[0].startswith("The base has random")
    (scratch,) = usual.runs["scratch"]
    assert new("scratch", parameters={**scratch.parameters, "precision": "bf16"}) == [
        "The network from scratch is trained in bf16 autocast, not in float32."
    ]
    assert usual.asked["views"] == 2
    plain = replace(usual, asked={**usual.asked, "views": 1})
    assert "plain images; the paper augmented them" in differences(plain)[0]


def test_a_small_reproduction_names_all_that_it_does_otherwise(reproduced: Reproduction) -> None:
    said = " ".join(differences(reproduced))
    for words in (
        "30 images of 3 classes",
        "squeezenet1_1",
        "random weights",
        "2 epochs",
        "60/20/20",
        ".png",
        "32 x 32",
    ):
        assert words in said


@pytest.mark.parametrize("html", [True, False])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_from_files_and_options_cannot_become_markup(reproduced: Reproduction, hostile: str, html: bool) -> None:
    def named(text: str) -> str:
        def changed(run: Run) -> Run:
            recipe = replace(run.recipe, base=text, weights=text)
            return replace(
                run, recipe=recipe, split=text, device=text, machine={"processor": text}, versions={"x": text}
            )

        return page(
            replace(
                reproduced,
                notes=(f"1 of 2 test images is also in train, byte for byte: {text}/{text}.png",),
                asked={**reproduced.asked, "base": text, "split": text},
                runs={name: tuple(map(changed, runs)) for name, runs in reproduced.runs.items()},
            )
        )

    assert shape(named(hostile), html) == shape(named("harmless"), html)
    flat = printable(hostile).strip()
    assert flat in texts(tokens(named(hostile), html))


def test_the_page_is_whole_markdown(reproduced: Reproduction) -> None:
    found = tokens(page(reproduced), html=True)
    assert not [token for token in found if token.type.startswith("html")]
    pictures = [token.attrs["src"] for token in found if token.type == "image"]
    assert pictures == [path.name for path in reproduced.pictures.values()]
    rows = [token for token in found if token.type == "tr_open"]
    assert len(rows) == 1 + len(reproduced.rows)
    assert sum(token.type in ("th_open", "td_open") for token in found) == 9 * len(rows)
    headings = [found[place + 1].content for place, token in enumerate(found) if token.type == "heading_open"]
    assert headings[0] == "The paper, reproduced"
    assert len(headings) == len(set(headings))


def test_the_page_says_what_was_run(reproduced: Reproduction) -> None:
    text = texts(tokens(page(reproduced), html=False))
    run = reproduced.runs["scratch"][0]
    for part in (run.versions["torch"], str(run.machine["processor"]), "random:0", "60/20/20, seed 0, 18 / 6 / 6"):
        assert part in text
    assert reproduced.runs["pretrained"][0].recipe.weights_digest[:16] in page(reproduced)


def test_the_command_on_the_page_gives_the_same_options(reproduced: Reproduction) -> None:
    (line,) = re.findall(r"^manyheads reproduce .*$", page(reproduced), flags=re.MULTILINE)
    words = shlex.split(line)[2:]
    assert words[:2] == ["IMAGES", "OUT"]
    found = cli.main.commands["reproduce"].make_context("reproduce", words).params
    assert {name: found[name] for name in reproduced.asked} == dict(reproduced.asked)
    assert found["paper_metric"] is reproduced.paper_metric

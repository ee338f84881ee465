"""The page itself: one HTML file that needs no network, and in which no text from a file can become code."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.printable import printable
from pipeline.report.answers import Answered, Answers
from pipeline.report.curves import curves_svg
from pipeline.report.maps import FeatureMap
from pipeline.report.palette import DARK, LIGHT, MAP_COLOURS, STRONGEST, variables
from pipeline.report.provenance import Made, commands, machines, made, versions
from pipeline.report.thumbnails import Thumbnails
from pipeline.wording import amount_text, counted, detectable_text, ends_text, noise_text, p_text, pair_text

if TYPE_CHECKING:
    from markupsafe import Markup

    from pipeline.comparison import Comparison, Pair, Standing
    from pipeline.outcomes import Outcome

MARK = '<meta name="generator" content="manyheads report">'  # by which a page of ours is known again
STYLE = "report.css"
SCRIPTS = ("elements.js", "image.js", "detail.js", "gallery.js", "sides.js", "map.js", "start.js")  # in this order
MOST_CLASSES = 60  # of a confusion matrix; of more, the most frequent mistakes are listed instead
BESIDE, INSTEAD = 10, 30  # mistakes that are listed beside a matrix, and instead of one
PER_MILLE = 1000  # probabilities are rounded to this


@dataclass(frozen=True)
class Content:
    """All that the page shows.

    Attributes:
        outcomes: In the order of the ranking.
        comparison: The ranking and its pairs.
        answered: What each run answered to each image.
        pictures: Of the images.
        maps: Of the features.
        notes: What limits the page.
    """

    outcomes: Sequence["Outcome"]
    comparison: "Comparison"
    answered: Answered
    pictures: Thumbnails
    maps: Sequence[FeatureMap]
    notes: Sequence[str]


def render(content: Content) -> str:
    """Write the page.

    Args:
        content: What it shows.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coded"] = coded
    style, *parts = ((files("pipeline.report") / "templates" / name).read_text("utf-8") for name in (STYLE, *SCRIPTS))
    script = "\n".join(['"use strict";', "{", *parts, "}"])  # a block of its own: its names are not the window's
    names, pairs = content.comparison.names, content.comparison.pairs
    return environment.get_template("report.html.j2").render(
        mark=MARK,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=style,
        light=variables(LIGHT),
        dark=variables(DARK),
        strongest=STRONGEST,
        headline=headline(content.comparison),
        facts=_facts(content),
        part=content.comparison.part,
        scale=scale_of(names, content.outcomes),
        ranks=_ranks(content),
        several_splits=len(content.outcomes[0].trials) > 1,
        sentences=_sentences(content.comparison),
        pairs=_pairs(content.comparison),
        all_pairs=len(pairs),
        few_pairs=content.comparison.told == pairs,
        methods=list(dict.fromkeys(pair.method for pair in pairs)),
        curves=[curves_svg([run.history for run in one.runs], f"c{n}") for n, one in enumerate(content.outcomes)],
        names=[printable(standing.name) for standing in names],
        classes=len(content.answered.classes),
        most_classes=MOST_CLASSES,
        maps=[(printable(one.title), one.layouts is not None, one.note) for one in content.maps],
        pictures_note=printable(content.pictures.note),
        made=[_row(made(outcome)) for outcome in content.outcomes],
        machines=machines(content.outcomes),
        versions=versions(content.outcomes),
        commands=commands(content.outcomes, content.comparison.part),
        notes=[printable(note) for note in content.notes],
        data=embedded(_data(content)),
    )


def coded(text: str) -> "Markup":
    """Escape a text, and set what stands between backticks as code.

    Args:
        text: Any text.
    """
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def embedded(data: object) -> str:
    """Write JSON that can stand in a script element: nothing in it can end the element or begin another.

    Args:
        data: What JSON can hold.
    """
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def headline(comparison: "Comparison") -> str:
    """Say in one line who is ahead."""
    best, *others = (printable(standing.name) for standing in comparison.names)
    if not others:
        share = comparison.names[0].figure.value
        return f"{best} names {share:.1%} of the {comparison.part} images rightly".replace("%", " %")
    pairs = comparison.pairs[: len(others)]  # those of the best name
    level = [printable(pair.second) for pair in pairs if not pair.shown and _is_level(pair)]
    close = [printable(pair.second) for pair in pairs if not pair.shown and not _is_level(pair)]
    ahead = f"{_listed([best, *level]) if len(level) <= 3 else f'{best} and {len(level)} others'} came out level"
    if close:
        who = _listed(close) if len(close) <= 3 else f"{len(close)} others"
        return f"{ahead}, and {who} may be as good" if level else f"{best} is ahead, but {who} may be as good"
    if not level:
        return f"{best} is better than {others[0] if len(others) == 1 else 'all others'}"
    behind = [name for name in others if name not in level]
    return ahead + (f", ahead of {behind[0] if len(behind) == 1 else 'all others'}" if behind else "")


def _is_level(pair: "Pair") -> bool:
    return amount_text("accuracy", pair.difference.value) == "0.0 points"


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def scale_of(names: Sequence["Standing"], outcomes: Sequence["Outcome"]) -> tuple[float, float, list[float]]:
    """Return both ends of the ranking's axis, and where its ticks are.

    Args:
        names: Whose intervals must be on it.
        outcomes: Whose runs must be on it.
    """
    figures = [figure for one in outcomes for some in one.figures("accuracy") for figure in some]
    low = min(*figures, *(one.figure.low for one in names), 1.0)
    high = max(*figures, *(one.figure.high for one in names), 0.0)
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.25) if (high - low) / step <= 5 or step == 0.25)
    start = max(0, int(np.floor(low / step + 1e-9)))
    stop = min(round(1 / step), int(np.ceil(high / step - 1e-9)))
    stop = max(stop, start + 1)
    return start * step, stop * step, [round(tick * step, 6) for tick in range(start, stop + 1)]


def _facts(content: Content) -> str:
    names, runs = len(content.outcomes), sum(len(one.runs) for one in content.outcomes)
    splits = len(content.outcomes[0].trials)
    where = f"{counted(content.comparison.images, content.comparison.part + ' image')}" + (
        f" in each of {splits} splits" if splits > 1 else ""
    )
    classes = len(content.answered.classes)
    return f"{where} of {classes} classes, {counted(names, 'name')}, {counted(runs, 'run')}"


def _ranks(content: Content) -> list[dict[str, Any]]:
    low, high, _ = scale_of(content.comparison.names, content.outcomes)

    def place(figure: float) -> float:
        return round(100 * (min(max(figure, low), high) - low) / (high - low), 2)

    return [
        {
            "name": printable(standing.name),
            "value": f"{standing.figure.value:.4f}",
            "interval": f"{standing.figure.low:.3f} to {standing.figure.high:.3f}",
            "at": place(standing.figure.value),
            "from": place(standing.figure.low),
            "wide": round(place(standing.figure.high) - place(standing.figure.low), 2),
            "dots": [place(figure) for some in outcome.figures("accuracy") for figure in some]
            if len(outcome.runs) > 1
            else [],
            "runs": len(outcome.runs),
            "seeds": "" if standing.deviation.seeds is None else f"± {standing.deviation.seeds:.4f}",
            "splits": "" if standing.deviation.splits is None else f"± {standing.deviation.splits:.4f}",
        }
        for standing, outcome in zip(content.comparison.names, content.outcomes, strict=True)
    ]


def _sentences(comparison: "Comparison") -> list[tuple[bool, str]]:
    """Say which of each pair is better, and whether that is more than noise."""
    return [(pair.shown, printable(pair_text(pair, comparison))) for pair in comparison.told]


def _pairs(comparison: "Comparison") -> list[dict[str, Any]]:
    return [
        {
            "first": printable(pair.first),
            "second": printable(pair.second),
            "difference": amount_text(comparison.metric, pair.difference.value),
            "interval": ends_text(comparison.metric, pair.difference.low, pair.difference.high),
            "p": p_text(pair.difference.p),
            "adjusted": p_text(pair.adjusted),
            "detectable": detectable_text(comparison.metric, pair.detectable),
            "verdict": noise_text(pair.shown),
        }
        for pair in comparison.pairs
    ]


def _row(one: Made) -> list[str]:
    return [one.head, one.seeds, one.split, one.features, one.fit, one.where]


def _data(content: Content) -> dict[str, Any]:
    """Return what the script works on; its short names keep the page small."""
    answered = content.answered
    several = len(content.outcomes[0].trials) > 1
    return {
        "classes": [printable(name) for name in answered.classes],
        "names": [printable(standing.name) for standing in content.comparison.names],
        "part": content.comparison.part,
        "matrix": len(answered.classes) <= MOST_CLASSES,
        "mistakes": BESIDE if len(answered.classes) <= MOST_CLASSES else INSTEAD,
        "total": answered.total,
        "paths": [printable(path) for path in answered.paths],
        "labels": answered.labels.tolist(),
        "pictures": content.pictures.pictures,
        "runs": [_run(one, several, answered.total == len(answered.paths)) for one in answered.answers],
        "colours": MAP_COLOURS,
        "maps": [
            {"names": one.names, "images": one.images, "layouts": one.layouts} for one in content.maps if one.layouts
        ],
    }


def _run(one: Answers, several: bool, whole: bool) -> dict[str, Any]:
    cells = [[int(row), int(column), int(one.confusion[row, column])] for row, column in np.argwhere(one.confusion)]
    seed = f"seed {one.run.seed}"
    every = whole and one.images.tolist() == list(range(len(one.images)))
    return {
        "name": one.name,
        "split": one.split,
        "label": f"split {one.split + 1}, {seed}" if several else seed,
        "images": None if every else one.images.tolist(),  # None: all of them, in order
        "named": one.named.tolist(),
        "sure": np.rint(one.sure * PER_MILLE).astype(int).tolist(),
        "truth": np.rint(one.truth * PER_MILLE).astype(int).tolist(),
        "cells": cells,
        "bins": [
            [images, round(float(right), 4) if images else 0]
            for images, right in zip(one.reliability.images.tolist(), one.reliability.accuracy, strict=True)
        ],
        "error": round(one.reliability.error, 5),
    }

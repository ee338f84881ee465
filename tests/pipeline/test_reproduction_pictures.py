"""What the pictures of a reproduction are drawn from."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.reading import file_digest
from pipeline.reproduction import Reproduction
from pipeline.reproduction_pictures import EXAMPLES, TOP, choose_examples, predictions_on_test
from pipeline.run import Run
from tests.conftest import CLASSES

pytestmark = pytest.mark.slow  # 18 s on two busy cores, all of it in the one reproduction that several files look at


def lines(run: Run) -> dict[str, dict[str, str]]:
    with (run.path / "predictions-test.csv").open(encoding="utf-8", newline="") as file:
        return {line["path"]: line for line in csv.DictReader(file)}


@pytest.mark.parametrize("seed", [0, 1])
def test_examples_are_right_one_a_class_and_shown_with_both_models(
    reproduced: Reproduction, drawn: Path, seed: int
) -> None:
    pretrained, (scratch,) = reproduced.runs["pretrained"][seed], reproduced.runs["scratch"]
    found = choose_examples(pretrained, scratch, drawn)
    stored = lines(pretrained)
    named = {line["label"] for line in stored.values() if line["label"] == line["predicted"]}
    assert [example.label for example in found] == sorted(named)
    for example in found:
        assert example.path.split("/")[0] == example.label
        with Image.open(drawn / example.path) as image:
            assert np.array_equal(example.image, np.asarray(image.convert("RGB")))
        assert example.left[0][0] == example.label
        for shown, run in ((example.left, pretrained), (example.right, scratch)):
            probabilities = {name: float(lines(run)[example.path][name]) for name in CLASSES}
            assert dict(shown) == probabilities
            assert [share for _, share in shown] == sorted(probabilities.values(), reverse=True)
    assert ("Fig. 5" in reproduced.pictures) == bool(choose_examples(reproduced.runs["pretrained"][0], scratch, drawn))


def test_a_page_has_room_for_six_of_many_classes_from_first_to_last(reproduced: Reproduction, tmp_path: Path) -> None:
    """A run of ten classes, of which every test image is named rightly."""
    names = [f"class {number}" for number in range(10)]
    paths = [f"{name}/a.png" for name in names]
    for path in paths:
        (tmp_path / path).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    fitted = reproduced.runs["pretrained"][0]
    run = replace(fitted, classes=tuple(names), images={"test": paths}, path=tmp_path)
    with (tmp_path / "predictions-test.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "predicted", *names])
        for number, path in enumerate(paths):
            shares = [0.55 if number == other else 0.05 for other in range(10)]
            writer.writerow([path, names[number], names[number], *shares])
    evaluation = json.loads((fitted.path / "evaluation-test.json").read_text(encoding="utf-8"))
    evaluation["predictions_sha256"] = file_digest(tmp_path / "predictions-test.csv")
    (tmp_path / "evaluation-test.json").write_text(json.dumps(evaluation), encoding="utf-8")
    assert predictions_on_test(run).correct.all()
    found = choose_examples(run, run, tmp_path)
    assert len(found) == EXAMPLES
    assert [found[0].label, found[-1].label] == [names[0], names[-1]]
    assert [example.label for example in found] == sorted({example.label for example in found})
    assert {len(example.left) for example in found} == {TOP}

"""Small pictures: the right ones, within their budget, and none of a file that has changed."""

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.outcomes import read_outcomes
from pipeline.progress import SILENT
from pipeline.report import thumbnails as module
from pipeline.report.answers import Answered, gather
from pipeline.report.thumbnails import SIDE, thumbnails


@pytest.fixture
def answered(runs: Path, images: Path) -> Answered:
    found = gather(read_outcomes([runs], "train", None, None, SILENT))
    moved = tuple(replace(one, run=replace(one.run, image_set=str(images))) for one in found.answers)
    return replace(found, answers=moved)


def test_each_picture_is_its_image(answered: Answered, images: Path) -> None:
    found = thumbnails(answered, {}, None, SILENT)
    assert found.note == ""
    for path, picture in zip(answered.paths, found.pictures, strict=True):
        small = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert (small.format, small.size) == ("JPEG", (SIDE, SIDE))
        plain = Image.open(images / path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(small, float) - np.asarray(plain, float)).mean() < 12


def test_images_that_are_gone_or_changed_have_no_picture(answered: Answered, images: Path) -> None:
    (images / answered.paths[0]).unlink()
    found = thumbnails(answered, {answered.paths[1]: "0" * 64}, None, SILENT)
    assert [bool(picture) for picture in found.pictures[:3]] == [False, False, True]
    assert "2 of 18 images have no picture" in found.note
    assert "--images" in found.note


def test_an_image_set_that_is_gone_is_said(answered: Answered, images: Path) -> None:
    shutil.rmtree(images)
    found = thumbnails(answered, {}, None, SILENT)
    assert not any(found.pictures)
    assert str(images) in found.note


def test_the_budget_goes_to_what_is_missed_most(answered: Answered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 4)
    found = thumbnails(answered, {}, None, SILENT)
    shown = [bool(picture) for picture in found.pictures]
    assert sum(shown) == 4
    assert min(answered.missed[shown]) >= max(answered.missed[np.logical_not(shown)])
    assert "4 images" in found.note
    monkeypatch.setattr(module, "BUDGET", 1)
    assert sum(map(bool, thumbnails(answered, {}, None, SILENT).pictures)) == 1

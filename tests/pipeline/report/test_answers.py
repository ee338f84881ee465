"""What runs answered is what they stored."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.outcomes import Outcome, read_outcomes
from pipeline.progress import SILENT
from pipeline.report import answers
from pipeline.report.answers import gather
from pipeline.stored_predictions import stored_predictions


@pytest.fixture
def outcomes(runs: Path) -> tuple[Outcome, ...]:
    return read_outcomes([runs], "train", None, None, SILENT)


def test_answers_are_the_stored_predictions(outcomes: tuple[Outcome, ...]) -> None:
    found = gather(outcomes)
    assert len(found.answers) == sum(len(outcome.runs) for outcome in outcomes)
    for one in found.answers:
        stored = stored_predictions(one.run, "train")
        assert stored is not None
        assert [found.paths[number] for number in one.images] == list(stored.paths)
        assert [found.classes[number] for number in one.named] == list(stored.predicted)
        np.testing.assert_allclose(one.sure, stored.probabilities.max(1), rtol=1e-6)
        truth = stored.probabilities[
            range(len(stored.labels)), [stored.classes.index(label) for label in stored.labels]
        ]
        np.testing.assert_allclose(one.truth, truth, rtol=1e-5, atol=1e-12)
        assert one.confusion.sum() == len(stored.paths)
        assert one.confusion.trace() == stored.correct.sum()
        assert outcomes[one.name].name == one.run.name
    wrong = np.mean([one.named != found.labels for one in found.answers], axis=0)
    np.testing.assert_allclose(found.missed, wrong)


def test_of_too_many_images_the_worst_are_kept(outcomes: tuple[Outcome, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gather(outcomes)
    monkeypatch.setattr(answers, "KEPT", 5)
    cut = gather(outcomes)
    assert (len(cut.paths), cut.total) == (5, 18)
    assert sorted(cut.missed) == sorted(whole.missed)[-5:]
    before = dict(zip(whole.paths, whole.missed, strict=True))
    assert [before[path] for path in cut.paths] == cut.missed.tolist()
    for one, entire in zip(cut.answers, whole.answers, strict=True):
        np.testing.assert_array_equal(one.confusion, entire.confusion)
        named = dict(zip((whole.paths[n] for n in entire.images), entire.named.tolist(), strict=True))
        assert [named[cut.paths[n]] for n in one.images] == one.named.tolist()

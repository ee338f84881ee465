"""Doubts about labels: only where another class is likelier and sure enough, by models that did not see the image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from pipeline.doubt import out_of_sample, suggestions


@given(st.integers(0, 100))
def test_a_suggestion_is_likelier_than_the_label_and_sure_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, codes = rng.dirichlet(np.ones(4) / 2, 60), np.arange(60) % 4
    means = [probabilities[codes == code, code].mean() for code in range(4)]
    for row, (own, other) in enumerate(zip(codes, suggestions(probabilities, codes), strict=True)):
        doubts = [one for one in range(4) if probabilities[row, one] > probabilities[row, own]]
        sure = [one for one in doubts if probabilities[row, one] >= means[one]]
        assert other == (max(sure, key=lambda one: probabilities[row, one]) if sure else own)


def test_probabilities_are_from_models_that_did_not_see_the_image() -> None:
    rng = np.random.default_rng(0)
    rows, codes = rng.normal(size=(60, 400)).astype(np.float32), np.arange(60) % 3
    judged: list[int] = []
    probabilities = out_of_sample(rows, codes, judged.append)
    assert judged == [12] * 5
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(60))
    assert (probabilities.argmax(axis=1) == codes).mean() < 0.6, "400 numbers tell 60 images apart only by heart"


def test_a_class_of_two_images_is_known_to_the_models_that_judge_it() -> None:
    rng = np.random.default_rng(0)
    codes = np.array([0] * 20 + [1] * 20 + [2] * 2)
    rows = (rng.normal(size=(42, 8)) / 10 + np.eye(8)[codes]).astype(np.float32)
    probabilities = out_of_sample(rows, codes, lambda done: None)
    assert probabilities.argmax(axis=1).tolist() == codes.tolist()


def test_threads_change_no_probability() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(600) % 6
    rows = rng.normal(size=(600, 512)).astype(np.float32) + np.eye(512, dtype=np.float32)[codes]
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(out_of_sample(rows, codes, lambda done: None))
    np.testing.assert_array_equal(found[0], found[1])

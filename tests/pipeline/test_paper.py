"""The paper's figures, corrected: what is true follows from what was published."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.paper import (
    BATCH,
    HALF,
    IMAGES,
    PIXEL_MLP,
    PRETRAINED,
    SCRATCH,
    TABLE_III,
    Published,
    mean_of_batch_means,
    possible_counts,
)

ANSWERS = st.lists(st.booleans(), min_size=1, max_size=300)


@given(correct=ANSWERS, batch=st.integers(1, 40))
def test_the_true_count_is_always_among_the_possible_ones(correct: list[bool], batch: int) -> None:
    published = round(mean_of_batch_means(correct, batch), 4)
    possible = possible_counts(published, len(correct), batch)
    assert sum(correct) in possible
    assert list(possible) == sorted(set(possible))


@given(images=st.integers(1, 60), batch=st.integers(1, 20), digits=st.integers(0, 10_000))
def test_every_possible_count_gives_the_published_figure(images: int, batch: int, digits: int) -> None:
    published = digits / 10_000
    last = images % batch or batch
    reachable = set()
    for before, right in product(range(images - last + 1), range(last + 1)):
        correct = [number < before for number in range(images - last)] + [number < right for number in range(last)]
        if mean_of_batch_means(correct, batch) == pytest.approx(published, abs=HALF + 1e-9):
            reachable.add(before + right)
    assert set(possible_counts(published, images, batch)) == reachable


@given(correct=ANSWERS, batch=st.integers(1, 40))
def test_full_batches_give_plain_accuracy(correct: list[bool], batch: int) -> None:
    even = correct[: len(correct) // batch * batch] or correct * batch
    assert mean_of_batch_means(even, batch) == pytest.approx(sum(even) / len(even))
    assert mean_of_batch_means(np.array(even), batch) == mean_of_batch_means(even, batch)


def test_an_image_of_the_last_batch_weighs_eight_times_as_much() -> None:
    nothing = [False] * IMAGES
    assert mean_of_batch_means([True, *nothing[1:]]) == pytest.approx(1 / 224)
    assert mean_of_batch_means([*nothing[1:], True]) == pytest.approx(8 / 224)


@pytest.mark.parametrize("figure", [figure for row in TABLE_III.values() for figure in (row.validation, row.test)])
def test_published_figures_are_multiples_of_1_in_224_and_not_of_1_in_210(figure: float) -> None:
    assert round(round(figure * 224) / 224, 4) == figure
    assert round(round(figure * 210) / 210, 4) != figure
    assert possible_counts(figure)


def test_the_confusion_matrices_single_out_one_count() -> None:
    assert possible_counts(PRETRAINED.test) == (180, 187, 194)
    assert possible_counts(SCRATCH.test) == (89, 96, 103)
    assert PRETRAINED.corrected == 187 / 210 == pytest.approx(0.8905, abs=5e-5)
    assert SCRATCH.corrected == 89 / 210 == pytest.approx(0.4238, abs=5e-5)


def test_without_a_matrix_three_accuracies_remain() -> None:
    assert PIXEL_MLP.corrected == (57 / 210, 64 / 210, 71 / 210)


def test_what_the_authors_must_have_seen() -> None:
    # 187 right images, of which one of the last two.
    correct = np.ones(IMAGES, dtype=bool)
    correct[:22] = False
    correct[-1] = False
    assert (correct.sum(), round(mean_of_batch_means(correct, BATCH), 4)) == (187, PRETRAINED.test)


def test_a_matrix_that_contradicts_the_figure_is_told() -> None:
    with pytest.raises(ValueError, match=r"188 of 210 correct images never give 0\.8661 .* 180, 187, 194 would"):
        _ = replace(PRETRAINED, correct=188).corrected
    with pytest.raises(ValueError, match="no number would"):
        _ = Published("a typing error", 0.9, 0.8662, correct=187).corrected


def test_no_images_have_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_of_batch_means([])

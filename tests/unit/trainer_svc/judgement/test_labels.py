"""Which class an answer is, macro F1 by hand, and what likelihoods say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer_svc.judgement.labels import NO_CLASS, Classes, likelihood_figures, macro_f1


def test_an_answer_is_of_the_class_with_its_words() -> None:
    classes = Classes(["positive", "Negative ", "negative", "positive"])
    assert classes.names == ("Negative", "negative", "positive")
    assert classes.index("Positive.") == 2
    assert classes.index("\npositive") == 2
    # Two classes differ in their case alone: only the exact match tells.
    assert classes.index("Negative") == 0
    assert classes.index("NEGATIVE") == NO_CLASS
    assert classes.index("mixed") == NO_CLASS
    assert classes.index("") == NO_CLASS


def test_classes_without_words() -> None:
    classes = Classes(["👎", "👍"])
    assert classes.names == ("👍", "👎")
    assert [classes.index(answer) for answer in ("👎", " 👍", "🙏")] == [1, 0, NO_CLASS]


def test_macro_f1_by_hand() -> None:
    expected = np.array([0, 0, 0, 1])
    answered = np.array([0, 0, 1, NO_CLASS])
    # Class 0: 2 right of 3 expected and 2 answered, 4/5. Class 1: none.
    assert macro_f1(expected, answered)(np.ones((1, 4)))[0] == pytest.approx(0.4)
    assert macro_f1(expected, expected)(np.ones((1, 4)))[0] == 1


def test_macro_f1_of_a_draw_counts_the_classes_that_it_holds() -> None:
    expected, answered = np.array([0, 0, 1]), np.array([0, 1, 0])
    draws = np.array([[1.0, 0, 0], [0, 0, 1], [2, 1, 0]])
    # The third: class 0 twice right, once answered as 1: 2 * 2 / (3 + 2).
    assert macro_f1(expected, answered)(draws) == pytest.approx([1, 0, 0.8])


def test_likelihoods_by_hand() -> None:
    logprobs = np.log(np.array([[0.8, 0.2], [0.8, 0.2], [0.3, 0.7]]))
    # Confidence 0.8 twice with one right, 0.7 right: |1.6 - 1| + |0.7 - 1| over 3.
    figures = likelihood_figures(logprobs, [0, 1, 1])
    assert figures is not None
    assert figures == pytest.approx((2 / 3, 0.3))


def test_likelihoods_need_not_add_up_to_1() -> None:
    figures = likelihood_figures(np.log(np.array([[0.08, 0.02]])), [0])
    assert figures == pytest.approx((1, 0.2))


def test_likelihoods_that_are_no_numbers_are_wrong_with_even_confidence() -> None:
    rows = [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]]
    assert likelihood_figures(np.array(rows), [0, 0, 0]) == pytest.approx((0, 0.5))
    assert likelihood_figures(np.array([[0.0, -math.inf]]), [0]) == (1.0, 0.0)


def test_an_expected_answer_that_is_no_label_is_wrong() -> None:
    assert likelihood_figures(np.zeros((1, 1)), [NO_CLASS]) == (0.0, 1.0)


def test_there_is_nothing_to_say_of_no_records() -> None:
    assert likelihood_figures(np.zeros((0, 3)), []) is None
    assert likelihood_figures(np.zeros((3, 0)), [0, 0, 0]) is None

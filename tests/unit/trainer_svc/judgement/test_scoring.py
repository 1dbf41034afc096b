"""What a bootstrap makes of one metric's scores."""

from __future__ import annotations

import numpy as np
import pytest

from trainer_svc.judgement.scoring import Scores


def test_macro_f1_is_made_again_of_the_classes_that_a_draw_holds() -> None:
    classes = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    scores = Scores((classes[0] == classes[1]).astype(float), classes)
    # Of the first class 6 of 7, of the second none; three of four are right.
    assert scores.figure == pytest.approx(3 / 7)
    assert scores.taken([0, 1]).figure == 1
    assert Scores(scores.values).figure == 0.75

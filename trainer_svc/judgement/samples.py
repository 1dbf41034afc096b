"""A few held-out records with everybody's answers, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainer_svc.judgement.excerpt import excerpt
from trainer_svc.judgement.model import Answer, Candidate, HeldOut, Sample
from trainer_svc.judgement.scoring import Scores

MAX_SAMPLES = 8
_WRONG = 0.5
_MAX_PROMPT = 1500
_MAX_ANSWER = 1000


def choose_samples(
    held_out: Sequence[HeldOut],
    answers: Mapping[Candidate, Sequence[Answer]],
    tuned: Scores,
    *,
    seed: int,
) -> tuple[Sample, ...]:
    """Return up to eight records, drawn by the seed, in the order of the records.

    Half of them are such as the tuned adapter scores below 0.5 on, where there are as many.
    """
    order = np.random.default_rng(seed).permutation(len(held_out)).tolist()
    wrong = [place for place in order if tuned.values[place] < _WRONG][: MAX_SAMPLES // 2]
    rest = [place for place in order if place not in wrong]
    chosen = sorted((wrong + rest)[:MAX_SAMPLES])
    return tuple(
        Sample(
            line=held_out[place].line,
            prompt=excerpt(held_out[place].prompt, _MAX_PROMPT),
            expected=excerpt(held_out[place].expected, _MAX_ANSWER),
            answers={
                candidate: excerpt(given[place].text, _MAX_ANSWER)
                for candidate, given in answers.items()
            },
        )
        for place in chosen
    )

"""vLLM's own types are made, and its logprobs read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from vllm.sampling_params import RequestOutputKind

from serving_svc.engine.sampling import sampling_params, structured_outputs, token_logprobs
from serving_svc.generation.model import Sampling, Structure, TokenLogprob
from tailorbird.errors import InvalidArgument


@dataclass
class Told:
    logprob: float
    rank: int | None
    decoded_token: str | None


def test_everything_is_passed_on() -> None:
    made = sampling_params(
        Sampling(
            temperature=0.5,
            top_p=0.9,
            top_k=7,
            min_p=0.1,
            min_tokens=2,
            ignore_eos=True,
            seed=5,
            stop=("x",),
            presence_penalty=1,
            frequency_penalty=-1,
            repetition_penalty=1.5,
            logit_bias={3: 1.5},
            logprobs=4,
            n=3,
        ),
        9,
    )
    assert (made.temperature, made.top_p, made.top_k, made.min_p) == (0.5, 0.9, 7, 0.1)
    assert (made.max_tokens, made.min_tokens, made.ignore_eos) == (9, 2, True)
    assert (made.seed, made.stop, made.logit_bias) == (5, ["x"], {3: 1.5})
    assert (made.presence_penalty, made.frequency_penalty) == (1, -1)
    assert (made.repetition_penalty, made.logprobs, made.n) == (1.5, 4, 3)
    assert made.output_kind is RequestOutputKind.DELTA
    assert made.skip_special_tokens


def test_what_differs_from_request_to_request() -> None:
    assert sampling_params(Sampling(), 1, final_only=True).output_kind is (
        RequestOutputKind.FINAL_ONLY
    )
    assert not sampling_params(Sampling(), 1, tools=True).skip_special_tokens
    # vLLM takes -1 for "no seed".
    assert sampling_params(Sampling(seed=-1), 1).seed == 2**63 - 1
    assert sampling_params(Sampling(), 1).logprobs is None
    assert sampling_params(Sampling(logprobs=0), 1).logprobs == 0


def test_what_cannot_be_generated_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        sampling_params(Sampling(min_tokens=6), 5)
    assert caught.value.field == "sampling.min_tokens"
    with pytest.raises(InvalidArgument, match="the engine refuses it"):
        sampling_params(Sampling(n=2, temperature=0), 5)


def test_structures_are_vllms() -> None:
    assert structured_outputs(Structure("json_schema", "{}")).json == "{}"
    assert structured_outputs(Structure("regex", "a")).regex == "a"
    assert structured_outputs(Structure("choices", choices=("a", "b"))).choice == ["a", "b"]
    made = structured_outputs(Structure("grammar", "start: x"))
    assert (made.grammar, made._backend) == ("start: x", "guidance")


def test_logprobs_are_ranked_and_the_generated_token_is_told() -> None:
    told = {
        9: Told(-3.0, 5, None),
        7: Told(-0.1, 1, "a"),
        8: Told(-2.0, 2, "b"),
    }
    (found,) = token_logprobs([9], [told], 2)
    assert found.token == TokenLogprob(9, "", -3.0)
    assert found.top == (TokenLogprob(7, "a", -0.1), TokenLogprob(8, "b", -2.0))
    assert token_logprobs([9], [told], 0)[0].top == ()


def test_a_logprob_is_always_a_number_to_calculate_with() -> None:
    (found,) = token_logprobs([9], [{9: Told(-math.inf, None, "x")}], 1)
    assert math.isfinite(found.token.logprob)

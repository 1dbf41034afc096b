"""Sampling parameters in vLLM's own types, and its logprobs in ours: pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from serving_svc.generation.model import Sampling, Structure, TokenLogprob, TokenLogprobs
from tailorbird.errors import InvalidArgument

STRUCTURE_BACKEND = "guidance"
"""The engine's one backend for structured output: `AsyncEngineArgs(structured_outputs_config=...)`.

Of vLLM 0.32's, the one whose work in a step is bounded: xgrammar's mask for `(\\w+\\s?){1,1000}`
takes minutes inside the engine's step, and so does its compiler for a grammar of 1,000 rules. With
"auto" the engine's process keeps whichever backend its first request was given, for all others.
"""

# float32's, below which a logprob is no number that JSON or a client's arithmetic can take.
_LOWEST_LOGPROB = -3.4e38


def sampling_params(
    sampling: Sampling, max_tokens: int, *, final_only: bool = False, tools: bool = False
) -> SamplingParams:
    """Return vLLM's parameters, without the structure: see `structured_outputs`.

    `max_tokens` is what the context leaves; with `tools` the answer keeps its special tokens, which
    mark the calls. InvalidArgument if vLLM's own check refuses what ours let pass.
    """
    if sampling.min_tokens > max_tokens:
        raise InvalidArgument(
            "sampling.min_tokens",
            f"{sampling.min_tokens} is more than the {max_tokens} tokens that may be generated",
        )
    try:
        return SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            min_p=sampling.min_p,
            max_tokens=max_tokens,
            min_tokens=sampling.min_tokens,
            ignore_eos=sampling.ignore_eos,
            # vLLM takes -1 for "no seed"; folded, every seed is one.
            seed=None if sampling.seed is None else sampling.seed % 2**63,
            stop=list(sampling.stop),
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            logprobs=sampling.logprobs,
            skip_special_tokens=not tools,
            output_kind=RequestOutputKind.FINAL_ONLY if final_only else RequestOutputKind.DELTA,
        )
    except VLLMClientError as error:
        raise InvalidArgument("sampling", f"the engine refuses it: {error}") from error


def structured_outputs(structure: Structure) -> StructuredOutputsParams:
    """Return vLLM's constraint for a structure that `StructureChecker.check` has returned.

    To be set as `sampling_params.structured_outputs` of the request that vLLM's input processor has
    made: given to the processor, it would be compiled on the event loop, for up to a second.
    """
    match structure.kind:
        case "json_schema":
            found = StructuredOutputsParams(json=structure.value)
        case "regex":
            found = StructuredOutputsParams(regex=structure.value)
        case "choices":
            found = StructuredOutputsParams(choice=list(structure.choices))
        case "grammar":
            found = StructuredOutputsParams(grammar=structure.value)
    found._backend = STRUCTURE_BACKEND  # noqa: SLF001 - what its input processor would set
    return found


def token_logprobs(
    token_ids: Sequence[int], told: Sequence[Mapping[int, Any]], asked: int
) -> list[TokenLogprobs]:
    """Return the logprobs of `token_ids` and of the `asked` most probable tokens beside each.

    `told` is vLLM's, one mapping a token, from token id to an object with logprob, rank (1 for the
    most probable) and decoded_token. The generated token is in it whatever its rank.
    """
    return [
        _one(token, candidates, asked) for token, candidates in zip(token_ids, told, strict=True)
    ]


def _one(token: int, candidates: Mapping[int, Any], asked: int) -> TokenLogprobs:
    ranked = sorted(candidates.items(), key=lambda item: item[1].rank or math.inf)
    return TokenLogprobs(
        _token(token, candidates[token]),
        tuple(_token(id_, found) for id_, found in ranked[:asked]),
    )


def _token(id_: int, found: Any) -> TokenLogprob:
    # A token that min_p or a structure rules out has -inf, and stays so low that it is never drawn.
    logprob = max(float(found.logprob), _LOWEST_LOGPROB)
    return TokenLogprob(id_, found.decoded_token or "", logprob)

"""Generates with structures, logprobs, several answers and stop strings on the real engine.

Takes the base model's folder; reads one JSON request a line and answers one line each.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

MARK = "> "
"""Before every line of ours: vLLM writes there, too."""


async def answer(llm: Any, asked: dict[str, Any], number: int) -> dict[str, Any]:
    from vllm import TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    from serving_svc.engine.sampling import sampling_params, structured_outputs, token_logprobs
    from serving_svc.generation.model import Sampling, Structure

    structure = asked.pop("structure", None)
    asked["logit_bias"] = {int(id_): bias for id_, bias in asked.pop("logit_bias", {}).items()}
    max_tokens = asked.pop("max_tokens", 64)
    prompt = asked.pop("token_ids", list(range(40, 60)))
    parameters = sampling_params(Sampling(**asked), max_tokens)
    assert parameters.output_kind is RequestOutputKind.DELTA
    request = llm.input_processor.process_inputs(
        str(number),
        TokensPrompt(prompt_token_ids=prompt),
        parameters,
        await llm.get_supported_tasks(),
    )
    if structure is not None:
        request.sampling_params.structured_outputs = structured_outputs(Structure(**structure))
    pieces: dict[int, list[str]] = {}
    logprobs: list[Any] = []
    reasons: dict[int, str] = {}
    async for output in llm.generate(request, parameters, str(number)):
        for one in output.outputs:
            pieces.setdefault(one.index, []).append(one.text)
            if one.logprobs:
                logprobs += token_logprobs(one.token_ids, one.logprobs, asked["logprobs"])
            if one.finish_reason:
                reasons[one.index] = one.finish_reason
    tops = [[top.logprob for top in entry.top] for entry in logprobs]
    return {"pieces": pieces, "reasons": reasons, "tops": tops}


async def main() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from serving_svc.engine.sampling import STRUCTURE_BACKEND

    llm = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=sys.argv[1],
            dtype="float32",
            enforce_eager=True,
            structured_outputs_config={"backend": STRUCTURE_BACKEND},
        )
    )
    loop = asyncio.get_running_loop()
    number = 0
    sys.stdout.write(f"{MARK}ready\n")
    sys.stdout.flush()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        number += 1
        try:
            told = await answer(llm, json.loads(line), number)
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"[:300]}
        told["dead"] = llm.errored
        sys.stdout.write(f"{MARK}{json.dumps(told)}\n")
        sys.stdout.flush()
    llm.shutdown()


if __name__ == "__main__":
    asyncio.run(main())

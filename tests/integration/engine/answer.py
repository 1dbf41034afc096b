"""Answers prompts with the real vLLM: python -m tests.integration.engine.answer BASE < tasks.

One line of JSON a round comes in, a list of requests made at once: adapter's folder or null, and
token ids; one line a round goes out, with the tokens of each answer. Two slots.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from serving_svc.engine.processes import launch

SLOTS = 2
MAX_RANK = 32
TOKENS = 8


class Answers:
    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._adapters: dict[str, LoRARequest] = {}
        self._numbers = itertools.count(1)

    async def round(self, requests: list[Any]) -> list[list[int]]:
        wanted = {folder for folder, _ in requests if folder}
        for folder in set(self._adapters) - wanted if wanted else ():
            await self._llm.remove_lora(self._adapters.pop(folder).lora_int_id)
        for folder in sorted(wanted - set(self._adapters)):
            self._adapters[folder] = LoRARequest(folder, next(self._numbers), folder)
            await self._llm.add_lora(self._adapters[folder])
        return await asyncio.gather(*(self._answer(*request) for request in requests))

    async def _answer(self, folder: str | None, prompt: list[int]) -> list[int]:
        parameters = SamplingParams(
            temperature=0, max_tokens=TOKENS, output_kind=RequestOutputKind.FINAL_ONLY
        )
        outputs = self._llm.generate(
            {"prompt_token_ids": prompt},
            parameters,
            str(next(self._numbers)),
            lora_request=self._adapters[folder] if folder else None,
        )
        return [list(output.outputs[0].token_ids) async for output in outputs][-1]


async def main() -> None:
    arguments = AsyncEngineArgs(
        model=sys.argv[1],
        dtype="float32",
        enable_lora=True,
        max_loras=SLOTS,
        max_cpu_loras=SLOTS,
        max_lora_rank=MAX_RANK,
        lora_target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
        enforce_eager=True,
        disable_log_stats=True,
    )
    answers = Answers(launch(arguments))
    for line in sys.stdin:
        found = json.dumps(await answers.round(json.loads(line)))
        sys.stdout.write(f"ANSWERS {found}\n")
        sys.stdout.flush()
    # What vLLM leaves running does not end by itself in time.
    answers._llm.shutdown()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())

"""The ceiling: AsyncLLM in the load child itself, with our kernels and without any server."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

from bench.serving.load import RequestFailed
from bench.serving.plan import Answer, Ask

# Those that our service names: without the head, which the peer's default has.
_LAYERS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")


class EngineClient:
    """`load.Client` for an engine in this process; adapters are read from folders by tenant."""

    def __init__(self, llm: Any, adapters: Path) -> None:
        self._llm = llm
        self._adapters = adapters
        self._loaded: dict[str, Any] = {}
        self._numbers = itertools.count(1)

    @classmethod
    async def build(
        cls, base: Path, adapters: Path, slots: int, max_lora_rank: int
    ) -> EngineClient:
        """Start the engine as our service does: the same slots, cap and layers."""
        return cls(await asyncio.to_thread(_build_engine, base, slots, max_lora_rank), adapters)

    async def ask(self, ask: Ask, answer: Answer) -> None:
        """See load.Client."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=ask.max_tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
        )
        lora = await self._lora(ask.tenant) if ask.adapted else None
        outputs = self._llm.generate(
            ask.prompt, parameters, str(next(self._numbers)), lora_request=lora
        )
        times, clock = answer.times, time.perf_counter
        try:
            async for output in outputs:
                completion = output.outputs[0]
                answer.tokens += len(completion.token_ids)
                if completion.text:
                    times.append(clock())
        except Exception as error:
            raise RequestFailed(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """See load.Client."""
        await asyncio.to_thread(self._llm.shutdown)

    async def _lora(self, tenant: str) -> Any:
        if tenant not in self._loaded:
            from vllm.lora.request import LoRARequest

            # Before it is awaited: two requests must not get two ids.
            number = len(self._loaded) + 1
            self._loaded[tenant] = LoRARequest(tenant, number, str(self._adapters / tenant))
            await self._llm.add_lora(self._loaded[tenant])
        return self._loaded[tenant]


def _build_engine(base: Path, slots: int, max_lora_rank: int) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs

    from bench.serving.servers import MAX_NUM_SEQS
    from serving_svc.engine.processes import launch

    arguments = AsyncEngineArgs(
        model=str(base),
        enable_lora=True,
        max_loras=slots,
        max_cpu_loras=slots,
        max_lora_rank=max_lora_rank,
        lora_target_modules=list(_LAYERS),
        max_num_seqs=MAX_NUM_SEQS,
        enforce_eager=True,
        enable_log_requests=False,
        disable_log_stats=True,
    )
    return launch(arguments)

"""vLLM behind the few methods that serving needs. The only module that imports it.

Importing vLLM takes seconds and reads the environment: import this module late, in a thread.
vLLM 0.32 ends its process for many a wrong adapter, and serves others wrongly without a word; each
guard below stands for one such case, which its comment names.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from jinja2 import TemplateError
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from serving_svc.adapters.model import LoadedAdapter
from serving_svc.engine import cpu_lora
from serving_svc.generation.model import (
    Chat,
    Chunk,
    EngineDied,
    FinishReason,
    Input,
    ModelLimits,
    Sampling,
    Text,
    Usage,
)
from tailorbird.errors import AdapterRefused, FailedPrecondition, InvalidArgument, Unavailable

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")

# No tenant's id has a colon: what probes leave in the prefix cache is nobody's.
_PROBE_SALT = "tailorbird:probe"
# Shorter prompts are tokenised at once: changing threads would take longer.
_LONG_PROMPT_CHARS = 8192
_DEATH_POLL_SECONDS = 0.1
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine is built from; None leaves the choice to vLLM or to the platform."""

    model: Path
    dtype: str
    max_model_len: int | None
    adapter_slots: int
    max_lora_rank: int
    lora_modules: Sequence[str]
    """Last parts of the names of the layers that adapters may change."""
    gpu_memory_utilization: float
    enforce_eager: bool | None


class VllmEngine:
    """One engine with its own process, and one base model in it."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm: Any = llm
        self._tokenizer = llm.get_tokenizer()
        self._added: dict[int, LoRARequest] = {}
        self._request_ids = itertools.count(1)

    @classmethod
    def build(cls, config: EngineConfig) -> VllmEngine:
        """Start the engine's process and load the model. Blocking: seconds to minutes."""
        on_cpu = current_platform.is_cpu()
        # On a CPU vLLM 0.32 takes "no adapter", -1, for the last slot; our kernels do not.
        if on_cpu:
            cpu_lora.enable()
        arguments = AsyncEngineArgs(
            model=str(config.model.resolve()),
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            enable_lora=True,
            max_loras=config.adapter_slots,
            max_cpu_loras=config.adapter_slots,
            max_lora_rank=config.max_lora_rank,
            # Without the head: vLLM 0.32 dies of prompt logprobs in a batch of several requests
            # when the head takes adapters, and our probes are such requests.
            lora_target_modules=sorted(config.lora_modules),
            enforce_eager=on_cpu if config.enforce_eager is None else config.enforce_eager,
            gpu_memory_utilization=config.gpu_memory_utilization,
            enable_prefix_caching=True,
            enable_log_requests=False,
            disable_log_stats=True,
        )
        return cls(AsyncLLM.from_engine_args(arguments))

    @property
    def limits(self) -> ModelLimits:
        """The context in tokens, and the vocabulary's size."""
        config = self._llm.model_config
        return ModelLimits(int(config.max_model_len), int(config.get_vocab_size()))

    @property
    def dtype(self) -> str:
        """Number format of the weights: "bfloat16", "float16" or "float32"."""
        return str(self._llm.model_config.dtype).removeprefix("torch.")

    async def died(self) -> None:
        """Return when the engine has died."""
        # vLLM has a flag for it, and no event.
        while not self._llm.errored:  # noqa: ASYNC110
            await asyncio.sleep(_DEATH_POLL_SECONDS)

    async def check(self) -> None:
        """Generate one token and score one; raises if the engine cannot.

        vLLM compiles what scores at its first use, for seconds: better here than at a first load.
        """
        await self.prompt_logprobs([0, 0], None)
        async for _ in self.generate([0], Sampling(temperature=0), 1, _PROBE_SALT, None):
            pass

    async def shutdown(self) -> None:
        """End the engine's process."""
        await asyncio.to_thread(self._llm.shutdown)
        # What closes its sockets was left to this loop.
        await asyncio.sleep(0)
        self._llm = None

    async def encode(self, prompt: Input) -> Sequence[int]:
        """See service.Engine."""
        match prompt:
            case Chat():
                size = sum(len(message.content) for message in prompt.messages)
            case Text(text=text):
                size = len(text)
            case _:
                return prompt.ids
        if size < _LONG_PROMPT_CHARS:
            return self._encode(prompt)
        return await asyncio.to_thread(self._encode, prompt)

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        tenant: str,
        adapter: LoadedAdapter | None,
    ) -> AsyncGenerator[Chunk]:
        """See service.Engine; vLLM's own queue merges what comes while the reader is away."""
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            max_tokens=max_tokens,
            # vLLM takes -1 for "no seed"; folded, every seed is one.
            seed=None if sampling.seed is None else sampling.seed % 2**63,
            stop=list(sampling.stop),
            output_kind=RequestOutputKind.DELTA,
        )
        completion_tokens = 0
        async with aclosing(self._outputs(token_ids, parameters, tenant, adapter)) as outputs:
            async for output in outputs:
                completion = output.outputs[0]
                completion_tokens += len(completion.token_ids)
                if completion.finish_reason is None:
                    # Part of a character, or what may become a stop string: nothing to show yet.
                    if completion.text:
                        yield Chunk(completion.text)
                    continue
                yield Chunk(
                    completion.text,
                    _finish_reason(completion.finish_reason),
                    Usage(len(token_ids), completion_tokens),
                )

    async def add_adapter(self, adapter: LoadedAdapter) -> None:
        """See adapter_cache.AdapterEngine."""
        request = LoRARequest(adapter.name, adapter.engine_id, str(adapter.path.resolve()))
        try:
            added = await self._or_died(self._llm.add_lora(request))
        except (EngineDied, Unavailable):
            raise
        except Exception as error:
            _log.warning("vllm cannot load an adapter", name=adapter.name, error=str(error))
            raise AdapterRefused("the engine cannot load it", reason="LOAD_FAILED") from error
        if not added:
            raise AdapterRefused("the engine did not take it", reason="LOAD_FAILED")
        self._added[adapter.engine_id] = request

    async def remove_adapter(self, adapter: LoadedAdapter) -> None:
        """See adapter_cache.AdapterEngine."""
        self._added.pop(adapter.engine_id, None)
        # A round trip first: the abort of a request that ended by a stop string may still be on its
        # way, and a step of that request without its adapter would end the engine.
        await self._or_died(self._llm.list_loras())
        await self._or_died(self._llm.remove_lora(adapter.engine_id))

    async def prompt_logprobs(
        self, token_ids: Sequence[int], adapter: LoadedAdapter | None
    ) -> list[float]:
        """See adapter_cache.AdapterEngine. vLLM reads no prefix cache where it computes these."""
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        found: list[Any] = []
        async with aclosing(self._outputs(token_ids, parameters, _PROBE_SALT, adapter)) as outputs:
            async for output in outputs:
                found = output.prompt_logprobs
        return [
            float(entry[token].logprob)
            for token, entry in zip(token_ids[1:], found[1:], strict=True)
        ]

    async def _outputs(
        self,
        token_ids: Sequence[int],
        parameters: SamplingParams,
        cache_salt: str,
        adapter: LoadedAdapter | None,
    ) -> AsyncGenerator[Any]:
        self._raise_if_dead()
        # An adapter that was not added would end the engine for everyone.
        lora = None if adapter is None else self._added[adapter.engine_id]
        prompt = tokens_input(list(token_ids), cache_salt=cache_salt)
        request_id = str(next(self._request_ids))
        outputs = self._llm.generate(prompt, parameters, request_id, lora_request=lora)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        except EngineDeadError as error:
            raise _died_inside() from error
        except EngineGenerateError as error:
            if self._llm.errored:
                raise _died_inside() from error
            raise
        except VLLMClientError as error:
            raise InvalidArgument("sampling", f"the engine refuses it: {error}") from error

    def _encode(self, prompt: Chat | Text) -> list[int]:
        if isinstance(prompt, Text):
            return list(self._tokenizer.encode(prompt.text))
        if not self._tokenizer.chat_template:
            raise FailedPrecondition(
                "the base model has no chat template: send prompt or token_ids",
                reason="NO_CHAT_TEMPLATE",
            )
        messages = [
            {"role": message.role, "content": message.content} for message in prompt.messages
        ]
        try:
            return list(
                self._tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=True, return_dict=False
                )
            )
        except TemplateError as error:
            raise InvalidArgument("chat", f"the chat template refuses it: {error}") from error

    async def _or_died(self, call: Coroutine[Any, Any, _T]) -> _T:
        """Await an engine call, which would never return if the engine died meanwhile."""
        task, death = asyncio.create_task(call), asyncio.create_task(self.died())
        try:
            await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _died_inside()
            return task.result()
        except EngineDeadError as error:
            raise _died_inside() from error
        finally:
            task.cancel()
            death.cancel()

    def _raise_if_dead(self) -> None:
        if self._llm is None or self._llm.errored:
            raise Unavailable("the engine is being restarted", reason="ENGINE_DIED", retry_after=10)


def _died_inside() -> EngineDied:
    return EngineDied("the engine died with this request inside")


def _finish_reason(told: str) -> FinishReason:
    if told not in _FINISH:
        raise Unavailable(f"the engine ended the generation: {told}", reason="ENGINE_STOPPED")
    return _FINISH[told]

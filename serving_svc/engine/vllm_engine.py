"""vLLM behind the few methods that serving needs. Only this room imports it.

Importing vLLM takes seconds and reads the environment: import this module late, in a thread.
vLLM 0.32 ends its process for many a wrong adapter, and serves others wrongly without a word; each
guard below stands for one such case, which its comment names.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import structlog
from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from serving_svc.adapters.model import LoadedAdapter
from serving_svc.engine.collectors import ChunkCollector, ScoreCollector, died_inside
from serving_svc.engine.output_loop import Collector, OutputLoop
from serving_svc.engine.processes import EngineConfig, start_processes
from serving_svc.engine.request import Request, fanned_out
from serving_svc.engine.sampling import sampling_params, structured_outputs
from serving_svc.engine.tokenizer import Tokenizer
from serving_svc.engine.tools import Tools
from serving_svc.generation.model import (
    Chat,
    EngineRequest,
    Input,
    Message,
    ModelLimits,
    Sink,
    Structure,
    Tool,
    ToolCall,
)
from tailorbird.errors import AdapterRefused, InvalidArgument, TailorbirdError, Unavailable
from tailorbird.manifest import RenderedChat

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")

# No tenant's id has a colon: what probes leave in the prefix cache is nobody's.
_PROBE_SALT = "tailorbird:probe"
_DEATH_POLL_SECONDS = 0.1
_TASKS = ("generate",)


class VllmEngine:
    """One engine with its own processes, and one base model in it. Made inside the event loop."""

    def __init__(self, llm: AsyncLLM, tool_call_parser: str | None) -> None:
        self._llm: Any = llm
        self._core: Any = llm.engine_core
        self._processor: Any = llm.output_processor
        self._inputs: Any = llm.input_processor
        tokenizer = llm.get_tokenizer()
        self._tools = Tools(tokenizer, tool_call_parser)
        self._tokenizer = Tokenizer(tokenizer, self._tools, self.limits.max_model_len)
        self._loop = OutputLoop(llm)
        self._added: dict[int, LoRARequest] = {}
        self._request_ids = itertools.count(1)
        # An abort is sent by a task of its own, which something must hold.
        self._aborts: set[asyncio.Task[None]] = set()

    @classmethod
    async def build(cls, config: EngineConfig) -> VllmEngine:
        """Start the engine's processes and load the model: seconds to minutes."""
        llm = await asyncio.to_thread(start_processes, config)
        return cls(llm, config.tool_call_parser)

    @property
    def limits(self) -> ModelLimits:
        """The context in tokens, and the vocabulary's size."""
        config = self._llm.model_config
        return ModelLimits(int(config.max_model_len), int(config.get_vocab_size()))

    @property
    def dtype(self) -> str:
        """Number format of the weights: "bfloat16", "float16" or "float32"."""
        return str(self._llm.model_config.dtype).removeprefix("torch.")

    @property
    def silent_seconds(self) -> float:
        """Seconds without an output while it has work; 0 without work."""
        return self._loop.silent_seconds

    @property
    def quiet_seconds(self) -> float:
        """Seconds since its last output, or since it was built."""
        return self._loop.quiet_seconds

    @property
    def kv_cache_usage(self) -> float:
        """Share of the key-value cache in use, 0 to 1."""
        return self._loop.kv_cache_usage

    @property
    def kv_cache_blocks(self) -> tuple[int, int]:
        """Tokens in a block of the key-value cache, and how many blocks there are."""
        config = self._llm.vllm_config.cache_config
        return int(config.block_size), int(config.num_gpu_blocks or 0)

    async def died(self) -> None:
        """Return when the engine has died."""
        # vLLM has a flag for it, and no event.
        while not self._llm.errored:  # noqa: ASYNC110
            await asyncio.sleep(_DEATH_POLL_SECONDS)

    async def check(self) -> None:
        """Score two tokens and generate one; raises if the engine cannot.

        vLLM compiles what scores at its first use, for seconds: better here than at a first load.
        """
        await self.prompt_logprobs([0, 0], None)

    async def shutdown(self) -> None:
        """End the engine's processes. What is inside ends with EngineDied."""
        self._tokenizer.close()
        await self._loop.close()
        self._processor.propagate_error(EngineDeadError())
        await asyncio.to_thread(self._llm.shutdown)
        # What closes its sockets was left to this loop.
        await asyncio.sleep(0)

    async def encode(self, prompt: Input, tenant: str) -> Sequence[int]:
        """See generation.life.Engine."""
        return await self._tokenizer.encode(prompt, tenant)

    async def render(self, chat: RenderedChat, tenant: str) -> Sequence[int]:
        """See adapters.chats.ChatRenderer."""
        return await self._tokenizer.render(as_asked(chat), tenant)

    async def start(self, request: EngineRequest, sink: Sink) -> Request:
        """See generation.service.Engine."""
        parameters = sampling_params(
            request.sampling,
            request.max_tokens,
            final_only=request.final_only,
            tools=bool(request.tools),
        )
        if request.tools:
            sink = self._tools.holding_back(sink, request.tools)
        started = Request(self)
        collector = ChunkCollector(sink, request.sampling, started.ended, started.abort)
        started.collector = collector
        await self._submit(
            started,
            request.token_ids,
            parameters,
            request.tenant,
            request.adapter,
            collector,
            request.sampling.structure,
        )
        return started

    async def add_adapter(self, adapter: LoadedAdapter) -> None:
        """See adapters.residency.AdapterEngine."""
        request = LoRARequest(adapter.name, adapter.engine_id, str(adapter.path.resolve()))
        try:
            added = await self._or_died(self._llm.add_lora(request))
        except TailorbirdError:
            raise
        except Exception as error:
            _log.warning("vllm cannot load an adapter", name=adapter.name, error=str(error))
            raise AdapterRefused("the engine cannot load it", reason="LOAD_FAILED") from error
        if not added:
            raise AdapterRefused("the engine did not take it", reason="LOAD_FAILED")
        self._added[adapter.engine_id] = request

    async def remove_adapter(self, adapter: LoadedAdapter) -> None:
        """See adapters.residency.AdapterEngine."""
        self._added.pop(adapter.engine_id, None)
        # A round trip first: the abort of a request that ended by a stop string may still be on its
        # way, and a step of that request without its adapter would end the engine.
        await self._or_died(self._llm.list_loras())
        await self._or_died(self._llm.remove_lora(adapter.engine_id))

    async def prompt_logprobs(
        self, token_ids: Sequence[int], adapter: LoadedAdapter | None
    ) -> list[float]:
        """See adapters.residency.AdapterEngine. vLLM reads no prefix cache to compute these."""
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        started = Request(self)
        collector = ScoreCollector(started.ended)
        try:
            await self._submit(started, token_ids, parameters, _PROBE_SALT, adapter, collector)
            found = await collector.found
        finally:
            started.abort()
        return [
            float(entry[token].logprob)
            for token, entry in zip(token_ids[1:], found[1:], strict=True)
        ]

    async def _submit(
        self,
        started: Request,
        token_ids: Sequence[int],
        parameters: SamplingParams,
        cache_salt: str,
        adapter: LoadedAdapter | None,
        collector: Collector,
        structure: Structure | None = None,
    ) -> None:
        if self._llm.errored:
            raise Unavailable(
                "the engine is being restarted", reason="ENGINE_RESTARTING", retry_after=10
            )
        lora = self._lora(adapter)
        try:
            request = self._inputs.process_inputs(
                str(next(self._request_ids)),
                tokens_input(list(token_ids), cache_salt=cache_salt),
                parameters,
                supported_tasks=_TASKS,
                lora_request=lora,
            )
        except (VLLMClientError, ValueError) as error:
            raise InvalidArgument("sampling", f"the engine refuses it: {error}") from error
        if structure is not None:
            request.sampling_params.structured_outputs = structured_outputs(structure)
        self._inputs.assign_request_id(request)
        try:
            for child, parent, index in fanned_out(request):
                if parent is not None and not index:
                    started.parent_id = parent.request_id
                started.ids.append(child.request_id)
                self._processor.add_request(child, None, parent, index, collector)
                self._loop.add(child.request_id, collector)
                started.requests.append(child)
            for child in started.requests:
                await self._core.add_request_async(child)
        except EngineDeadError as error:
            started.abort()
            raise died_inside() from error
        except BaseException:
            started.abort()
            raise

    def _lora(self, adapter: LoadedAdapter | None) -> LoRARequest | None:
        """Return what vLLM calls `adapter`; one that was not added would end it for everyone."""
        if adapter is None:
            return None
        if adapter.engine_id not in self._added:
            # Of an earlier life of the engine, most likely.
            raise Unavailable(
                f"{adapter.name} is not in the engine", reason="ADAPTER_NOT_LOADED", retry_after=1
            )
        return self._added[adapter.engine_id]

    def forget(self, ids: Sequence[str]) -> None:
        """Expect no more of these requests."""
        for request_id in ids:
            self._loop.forget(request_id)

    def abort(self, ids: Sequence[str]) -> None:
        """End these requests of the engine's, which know of their end already."""
        self._processor.abort_requests(ids, internal=True)
        if not self._llm.errored:
            # Sent before anything that a later call sends: the adapter stays until it is heard.
            task = asyncio.create_task(self._send_abort(list(ids)))
            self._aborts.add(task)
            task.add_done_callback(self._aborts.discard)

    async def _send_abort(self, ids: list[str]) -> None:
        try:
            await self._core.abort_requests_async(ids)
        except EngineDeadError:
            _log.debug("an abort came after the engine's death")

    async def _or_died(self, call: Coroutine[Any, Any, _T]) -> _T:
        """Await an engine call, which would never return if the engine died meanwhile."""
        task, death = asyncio.create_task(call), asyncio.create_task(self.died())
        try:
            await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise died_inside()
            return task.result()
        except EngineDeadError as error:
            raise died_inside() from error
        finally:
            task.cancel()
            death.cancel()


def as_asked(chat: RenderedChat) -> Chat:
    """Return the chat of a certificate as a request has it."""
    return Chat(
        tuple(
            Message(
                message.role,
                message.content,
                tuple(
                    ToolCall(call.id, call.name, call.arguments_json) for call in message.tool_calls
                ),
                message.tool_call_id,
            )
            for message in chat.messages
        ),
        tuple(
            Tool(tool.name, tool.description, tool.parameters_json_schema) for tool in chat.tools
        ),
    )

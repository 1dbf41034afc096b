"""InferenceService at the gRPC edge: each method converts, calls once, converts."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

import grpc

from serving_svc.api.convert_answers import generate_response, stream_response
from serving_svc.api.convert_feedback import feedback, record_response
from serving_svc.api.convert_generation import generation_request
from serving_svc.api.stalled_reader import PatientWriter
from serving_svc.feedback.service import Feedback
from serving_svc.generation.model import Answer, Chunk, GenerationRequest
from tailorbird.feedback import FeedbackRecord
from tailorbird.names import VersionName
from tailorbird.rpc.auth import current_caller
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as pb_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class Generations(Protocol):
    """What the edge needs of generating."""

    async def generate(self, request: GenerationRequest) -> Answer:
        """Return the whole answer."""

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Yield the answer as it comes; closing the iterator ends the generation."""


class Recording(Protocol):
    """What the edge needs of recording feedback."""

    async def record(self, feedback: Feedback) -> FeedbackRecord:
        """Store the feedback without its personal data, and return what is stored."""


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """See inference_service.proto."""

    def __init__(
        self,
        generations: Generations,
        recording: Recording,
        info: pb.GetServerInfoResponse,
        vocab_size: int,
        *,
        max_prompt_tokens: int = 2**20,
        max_feedback_bytes: int = 2**18,
        reader_patience: float = 60.0,
    ) -> None:
        self._generations = generations
        self._recording = recording
        self._info = info
        self._vocab_size = vocab_size
        self._max_prompt_tokens = max_prompt_tokens
        self._max_feedback_bytes = max_feedback_bytes
        self._reader_patience = reader_patience

    async def Generate(self, request: pb.GenerateRequest, context: _Context) -> pb.GenerateResponse:
        """See the proto."""
        checked = self._checked(request, context, final_only=True)
        answer = await self._generations.generate(checked)
        return generate_response(answer, with_token_ids=checked.sampling.return_token_ids)

    async def StreamGenerate(  # type: ignore[override]  # gRPC takes a coroutine that writes, too
        self, request: pb.StreamGenerateRequest, context: _Context
    ) -> None:
        """See the proto. Writing costs a message less than handing it to gRPC by a generator."""
        checked = self._checked(request.request, context)
        with_token_ids = checked.sampling.return_token_ids
        async with (
            aclosing(self._generations.stream(checked)) as chunks,
            PatientWriter(context.write, self._reader_patience) as writer,
        ):
            async for chunk in chunks:
                await writer.write(stream_response(chunk, with_token_ids=with_token_ids))

    async def RecordFeedback(
        self, request: pb.RecordFeedbackRequest, context: _Context
    ) -> pb.RecordFeedbackResponse:
        """See the proto."""
        version = VersionName.parse(request.version, "version")
        caller = current_caller()
        caller.check(version)
        given = feedback(request, version, caller.subject, self._max_feedback_bytes)
        return record_response(await self._recording.record(given))

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: _Context
    ) -> pb.GetServerInfoResponse:
        """See the proto."""
        return self._info

    def _checked(
        self, message: pb.GenerateRequest, context: _Context, *, final_only: bool = False
    ) -> GenerationRequest:
        remaining = context.time_remaining()
        request = generation_request(
            message,
            self._vocab_size,
            context.invocation_metadata() or (),
            max_prompt_tokens=self._max_prompt_tokens,
            deadline=None if remaining is None else time.monotonic() + remaining,
            final_only=final_only,
        )
        current_caller().check(request.adapter or request.tenant)
        return request

"""Clients of the two services, for callers: typed, and thin over the generated stubs.

    with TrainerClient("localhost:50051", token) as trainer:
        trainer.upload_dataset("tenants/acme", "chats", Path("chats.jsonl"))

TrainerClient and ServingClient are for threads, which may share one; AsyncTrainerClient and
AsyncServingClient are for asyncio, with the same methods. Only the base install is needed. A
`timeout` is in seconds; None waits as long as the service lets it.

A call that fails raises CallError, in the class of its status code:

    try:
        trainer.get_job("tenants/acme/jobs/one")
    except client.NotFound:
        ...

What is wrong before there is a call, such as a token that cannot be sent, is
`tailorbird.errors.InvalidArgument`.

Calls that say the same when they are made twice (what reads, what creates a job or a sweep,
pausing, resuming, cancelling, feedback) are made again up to three times where the service is
UNAVAILABLE, after the time that it asks for; never a generation, a change of routes or what was
ABORTED. gRPC's own retry policy is not used: see `tailorbird.channel`.

`trainer.stub`, `serving.stub` and `serving.adapter_stub` are the generated stubs on the same
channel and with the same token. They raise grpc.RpcError, of which `CallError.from_call` makes the
same errors.
"""

from __future__ import annotations

from tailorbird.aio.serving_client import AsyncServingClient
from tailorbird.aio.trainer_client import AsyncTrainerClient
from tailorbird.call_error import (
    Aborted,
    AlreadyExists,
    CallError,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    QuotaViolation,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)
from tailorbird.chat_request import ChatOptions, chat_request, feedback_request
from tailorbird.job_end import JobFailed, is_terminal
from tailorbird.serving_client import ServingClient
from tailorbird.trainer_client import TrainerClient

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncServingClient",
    "AsyncTrainerClient",
    "CallError",
    "Cancelled",
    "ChatOptions",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidArgument",
    "JobFailed",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "QuotaViolation",
    "ResourceExhausted",
    "ServingClient",
    "TrainerClient",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "chat_request",
    "feedback_request",
    "is_terminal",
]

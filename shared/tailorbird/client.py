"""Clients of the two services, for callers: synchronous, typed, safe to share between threads.

    with TrainerClient("localhost:50051", token) as trainer:
        trainer.upload_dataset("tenants/acme", "chats", Path("chats.jsonl"))

Every method raises CallError when its call fails. Only the base install is needed. A `timeout` is
in seconds; None waits as long as the service lets it.
"""

from __future__ import annotations

from tailorbird.call_error import CallError, FieldViolation, QuotaViolation
from tailorbird.chat_request import chat_request, feedback_request
from tailorbird.serving_client import ServingClient
from tailorbird.trainer_client import TrainerClient, is_terminal

__all__ = [
    "CallError",
    "FieldViolation",
    "QuotaViolation",
    "ServingClient",
    "TrainerClient",
    "chat_request",
    "feedback_request",
    "is_terminal",
]

"""What is trained is what is served: a chat has the same ids from its file and from a request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from serving_svc.api.convert_chat import chat as chat_of
from serving_svc.engine.tokenizer import Tokenizer
from serving_svc.engine.tools import Tools
from tailorbird.records.formats import parse_record
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.unit.trainer_svc.engine.data.tool_templates import BARE, TAGGED
from trainer_svc.engine.data.sequences import Sequencer

DEMO_BASE = Path(__file__).parents[4] / "examples" / "demo_base"
ROLES = {
    "developer": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}


def called(id_: str, name: str, arguments: str, **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    call = {"id": id_, "type": "function", "function": function}
    return {"role": "assistant", "tool_calls": [call], **more}


RECORD = {
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "where is order 7?", "name": "ada"},
        called("c1", "find", '{"order":7, "by": "größe \\u2603", "deep": [{"z": null, "a": 1.5}]}'),
        {"role": "tool", "tool_call_id": "c1", "content": '{"state": "sent"}'},
        {"role": "assistant", "content": "It was sent.", "weight": 0},
        {"role": "user", "content": "\u05e9\u05dc\u05d5\u05dd, stop\u0301 \"it\""},
        called("c2", "cancel", "{}", content=None, weight=1),
        {"role": "tool", "tool_call_id": "c2", "content": ""},
        {"role": "assistant", "content": "Done."},
    ],
    "tools": [
        {"type": "function", "function": {"name": "cancel", "strict": False}},
        {
            "type": "function",
            "function": {
                "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}},
                "description": "Finds an <order>.",
                "name": "find",
            },
        },
    ],
}  # fmt: skip


def asked(messages: list[dict[str, Any]]) -> pb.Chat:
    """What a caller sends who has the conversation so far and the same tools."""
    return pb.Chat(
        messages=[
            pb.Message(
                role=ROLES[message["role"]],
                content=message.get("content") or "",
                tool_call_id=message.get("tool_call_id", ""),
                tool_calls=[
                    pb.ToolCall(
                        id=call["id"],
                        name=call["function"]["name"],
                        arguments_json=call["function"]["arguments"],
                    )
                    for call in message.get("tool_calls") or ()
                ],
            )
            for message in messages
        ],
        tools=[
            pb.Tool(
                name=tool["function"]["name"],
                description=tool["function"].get("description", ""),
                parameters_json_schema=json.dumps(tool["function"]["parameters"])
                if "parameters" in tool["function"]
                else "",
            )
            for tool in RECORD["tools"]
        ],
    )


@pytest.mark.parametrize("template", [TAGGED, BARE], ids=["tagged", "bare"])
async def test_a_chat_with_tools_is_trained_as_it_is_served(template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_BASE)
    tokenizer.chat_template = template
    _, record = parse_record(1, json.dumps(RECORD).encode())
    ((_, (pieces,), _),) = Sequencer(tokenizer, "chat", 4096).sequences([(1, record)])
    serving = Tokenizer(tokenizer, Tools(tokenizer, "hermes"), 4096)
    messages = RECORD["messages"]
    so_far: list[int] = []
    starts = []
    for ids, is_trained in pieces:
        if is_trained:
            starts.append(list(so_far))
        so_far += ids
    # The answer that weighs nothing is context alone.
    for start, place in zip(starts, (2, 6, 8), strict=True):
        assert start == await serving.encode(chat_of(asked(messages[:place])), "acme")
    serving.close()

"""Chats that training certifies, by the code that Generate runs: both were written apart."""

from __future__ import annotations

import pytest

from serving_svc.engine.tokenizer import Tokenizer
from serving_svc.engine.tools import Tools
from serving_svc.engine.vllm_engine import as_asked
from tests.unit.trainer_svc.engine.data.test_formats import (
    ANSWER,
    ASK,
    CALL,
    RESULT,
    SYSTEM,
    TOOLS,
    chat,
    demo,
)
from tests.unit.trainer_svc.engine.data.test_rendered import rendered
from tests.unit.trainer_svc.engine.data.tool_templates import BARE, TAGGED


@pytest.mark.parametrize("template", [None, TAGGED, BARE], ids=["demo", "tagged", "bare"])
async def test_serving_makes_the_same_of_them(template: str | None) -> None:
    records = [
        chat(ASK, ANSWER),
        chat(SYSTEM, ASK, ANSWER, ASK | {"name": "bob"}, ANSWER),
        {"messages": [ASK | {"content": "größe\u0000 \u202eשלום 訂單"}, ANSWER]},
    ]
    if template is not None:
        bare = {"type": "function", "function": {"name": "look"}}
        records += [
            chat(ASK, CALL, RESULT, ANSWER, tools=TOOLS),
            chat(ASK, ANSWER, tools=[*TOOLS, bare]),
        ]
    tokenizer = demo(template)
    serving = Tokenizer(tokenizer, Tools(tokenizer, None), 512)
    chats = rendered(records, template=template)
    assert len(chats) == (3 if template is None else 4)
    for one in chats:
        assert await serving.render(as_asked(one), "acme") == list(one.token_ids)
    if template is not None:
        assert chats[0].tools[0].name == "find"
        assert chats[0].messages[1].tool_calls[0].arguments_json == '{"order":7,"by":"größe"}'
    serving.close()

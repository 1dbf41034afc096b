from __future__ import annotations

from typing import Any

import pytest

from serving_svc.adapters.paging import Page
from serving_svc.api import convert
from serving_svc.generation.model import (
    Chat,
    Chunk,
    FinishReason,
    Message,
    Sampling,
    Text,
    TokenIds,
    Usage,
    room_for_answer,
)
from tailorbird.errors import InvalidArgument
from tailorbird.names import TenantName
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tests.unit.serving_svc.fakes import ADAPTER, version

USER = pb.Message(role=pb.ROLE_USER, content="Hi")
ASSISTANT = pb.Message(role=pb.ROLE_ASSISTANT, content="Hello")
SOUND: dict[str, Any] = {"adapter": str(ADAPTER), "prompt": "Hi"}


def read(**changes: Any) -> Any:
    request = pb.GenerateRequest(**{k: v for k, v in (SOUND | changes).items() if v is not None})
    return convert.generation_request(request, vocab_size=100)


def test_a_sound_request_is_read() -> None:
    sampling = pb.SamplingParameters(temperature=0, top_k=3, max_tokens=5, seed=-1, stop=["x"])
    found = read(version=version(1).version, sampling=sampling)
    assert (found.tenant, found.adapter, found.version) == (TenantName("acme"), ADAPTER, version(1))
    assert found.input == Text("Hi")
    assert found.sampling == Sampling(0, 1, 3, 5, -1, ("x",))
    assert read().sampling == Sampling()
    assert read(prompt=None, token_ids=pb.TokenIds(ids=[0, 99])).input == TokenIds((0, 99))
    chat = read(prompt=None, chat=pb.Chat(messages=[ASSISTANT, USER])).input
    assert chat == Chat((Message("assistant", "Hello"), Message("user", "Hi")))
    assert read(adapter=None, parent="tenants/acme").adapter is None


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"adapter": None}, "adapter", "neither"),
        ({"adapter": "tenants/acme/adapters/../x"}, "adapter", "../x"),
        ({"adapter": None, "parent": "acme"}, "parent", "acme"),
        ({"version": "../../x"}, "version", "../../x"),
        (
            {"adapter": None, "parent": "tenants/acme", "version": version(1).version},
            "version",
            "without an adapter",
        ),
        ({"prompt": None}, "chat", "none is set"),
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"prompt": None, "chat": pb.Chat()}, "chat.messages", "at least 1"),
        ({"prompt": None, "chat": pb.Chat(messages=[USER, ASSISTANT])}, "[1].role", "last"),
        ({"prompt": None, "chat": pb.Chat(messages=[pb.Message(content="x")])}, "[0].role", "0"),
        ({"prompt": None, "token_ids": pb.TokenIds()}, "token_ids.ids", "at least 1"),
        ({"prompt": None, "token_ids": pb.TokenIds(ids=[5, 100])}, "ids[1]", "100"),
        ({"prompt": None, "token_ids": pb.TokenIds(ids=[-1])}, "ids[0]", "-1"),
        ({"sampling": pb.SamplingParameters(temperature=2.1)}, "temperature", "2.1"),
        ({"sampling": pb.SamplingParameters(temperature=float("nan"))}, "temperature", "nan"),
        ({"sampling": pb.SamplingParameters(top_p=0)}, "top_p", "above 0"),
        ({"sampling": pb.SamplingParameters(top_k=0)}, "top_k", "at least 1"),
        ({"sampling": pb.SamplingParameters(max_tokens=0)}, "max_tokens", "at least 1"),
        ({"sampling": pb.SamplingParameters(stop=["x"] * 17)}, "stop", "17"),
        ({"sampling": pb.SamplingParameters(stop=["x", ""])}, "stop[1]", "0 characters"),
        ({"sampling": pb.SamplingParameters(stop=["x" * 257])}, "stop[0]", "257"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(**changes)
    assert field in caught.value.field
    assert told in caught.value.description


def test_a_prompt_and_its_answer_must_fit() -> None:
    assert room_for_answer(10, None, 16) == 6
    assert room_for_answer(10, 6, 16) == 6
    with pytest.raises(InvalidArgument) as long:
        room_for_answer(16, None, 16)
    assert (long.value.reason, long.value.metadata["limit"]) == ("PROMPT_TOO_LONG", "15")
    with pytest.raises(InvalidArgument) as much:
        room_for_answer(10, 7, 16)
    assert much.value.field == "sampling.max_tokens"
    with pytest.raises(InvalidArgument):
        room_for_answer(0, None, 16)


def test_a_chunk_carries_only_what_it_has() -> None:
    assert convert.stream_response(Chunk("a")) == pb.StreamGenerateResponse(text="a")
    chunk = Chunk("b", FinishReason.LENGTH, Usage(3, 2), version(1), 7)
    assert convert.stream_response(chunk) == pb.StreamGenerateResponse(
        text="b",
        finish_reason=pb.FINISH_REASON_LENGTH,
        usage=pb.Usage(prompt_tokens=3, completion_tokens=2),
        version=str(version(1)),
        route_generation=7,
    )


def test_pages_follow_each_other() -> None:
    names = [f"p/{letter}" for letter in "abcde"]
    seen: list[str] = []
    token = ""
    for _ in range(3):
        page, token = Page.parse("p", 2, token).cut(names)
        seen += page
    assert seen == names
    assert token == ""
    first, token = Page.parse("p", 3, "").cut(names[::-1], descending=True)
    rest, _ = Page.parse("p", 3, token).cut(names[::-1], descending=True)
    assert first + rest == names[::-1]


@pytest.mark.parametrize("token", ["x", "AAAA", "!", "cC9h", "é"])
def test_a_foreign_page_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Page.parse("p", 1, token)
    assert caught.value.field == "page_token"


def test_page_sizes() -> None:
    assert Page.parse("p", 0, "").size == 50
    assert Page.parse("p", 5000, "").size == 1000
    with pytest.raises(InvalidArgument):
        Page.parse("p", -1, "")

"""Which prompts leave the loop, in whose turn, and what becomes of them when the engine ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serving_svc.engine.tokenizer import Tokenizer
from serving_svc.engine.tools import Tools
from serving_svc.generation.model import Chat, Input, Message, Text, Tool, ToolCall
from tailorbird.errors import FailedPrecondition, InvalidArgument, Unavailable

LONG = "x" * 5000


class HuggingFace:
    """Waits in each text until it may go on."""

    chat_template = "there is one"

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.texts: list[str] = []
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Event()
        self.may_end.set()

    def get_vocab(self) -> dict[str, int]:
        return {"long token" * 1000: 0}

    def encode(self, text: str) -> list[int]:
        self.threads.append(threading.current_thread())
        self.texts.append(text[0])
        self.begun.release()
        assert self.may_end.wait(30)
        return [1, 2]

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        return "tailorbird_probe" if options["tokenize"] is False else self.encode("chat")


@pytest.fixture
def hugging_face() -> HuggingFace:
    return HuggingFace()


@pytest.fixture
async def tokenizer(hugging_face: HuggingFace) -> AsyncIterator[Tokenizer]:
    made = Tokenizer(hugging_face, Tools(hugging_face, "hermes"), 100)
    yield made
    hugging_face.may_end.set()
    made.close()


async def begun(hugging_face: HuggingFace) -> None:
    await asyncio.to_thread(hugging_face.begun.acquire)


def called(arguments: str) -> Chat:
    call = ToolCall("c", "weather", arguments)
    return Chat((Message("assistant", "", (call,)), Message("tool", "", (), "c")))


@pytest.mark.parametrize(
    ("prompt", "off_the_loop"),
    [
        (Text("x" * 4096), False),
        (Text("x" * 4097), True),
        (Chat((Message("user", "x"),) * 31), False),
        (Chat((Message("user", "x"),) * 32), True),
        (called("{}"), False),
        (called(f'{{"a": "{LONG}"}}'), True),
        (Chat((Message("assistant", "", (ToolCall("c", "w", "{}"),) * 40),)), True),
        (Chat((Message("user", "x"),), (Tool("weather"),)), False),
        (Chat((Message("user", "x"),), (Tool("weather", LONG),)), True),
        (Chat((Message("user", "x"),), (Tool("weather", "", f'{{"a": "{LONG}"}}'),)), True),
    ],
)
async def test_what_takes_long_leaves_the_loop(
    tokenizer: Tokenizer, hugging_face: HuggingFace, prompt: Input, *, off_the_loop: bool
) -> None:
    assert await tokenizer.encode(prompt, "acme") == [1, 2]
    (thread,) = hugging_face.threads
    assert (thread is not threading.current_thread()) is off_the_loop


async def test_tenants_take_turns_with_long_prompts(
    tokenizer: Tokenizer, hugging_face: HuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hugging_face.may_end.clear()
    flood = [asyncio.create_task(tokenizer.encode(Text("f" * 5000), "flood")) for _ in range(9)]
    await begun(hugging_face)
    other = asyncio.create_task(tokenizer.encode(Text("o" * 5000), "other"))
    # A short prompt waits for nobody's long ones.
    with monkeypatch.context() as short:
        short.setattr(hugging_face, "encode", lambda _: [3])
        assert await tokenizer.encode(Text("short"), "other") == [3]
    hugging_face.may_end.set()
    await asyncio.gather(other, *flood)
    assert hugging_face.texts[:3] == ["f", "f", "o"] or hugging_face.texts[:2] == ["f", "o"]


async def test_one_that_is_cancelled_gives_its_turn_on(
    tokenizer: Tokenizer, hugging_face: HuggingFace
) -> None:
    hugging_face.may_end.clear()
    tasks = [asyncio.create_task(tokenizer.encode(Text(LONG), "acme")) for _ in range(3)]
    await begun(hugging_face)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.wait(tasks[:2])
    assert all(task.cancelled() for task in tasks[:2])
    hugging_face.may_end.set()
    assert await tasks[2] == [1, 2]
    assert len(hugging_face.texts) == 2


async def test_when_the_engine_ends_those_who_wait_are_told_to_come_again(
    tokenizer: Tokenizer, hugging_face: HuggingFace
) -> None:
    hugging_face.may_end.clear()
    cancelled = asyncio.create_task(tokenizer.encode(Text(LONG), "acme"))
    await begun(hugging_face)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    # The first waits for the thread, the second for its turn.
    waiting = [asyncio.create_task(tokenizer.encode(Text(LONG), "acme")) for _ in range(2)]
    await asyncio.sleep(0)
    tokenizer.close()
    hugging_face.may_end.set()
    for task in waiting:
        with pytest.raises(Unavailable) as caught:
            await task
        assert caught.value.reason == "ENGINE_RESTARTING"
        assert caught.value.retry_after
    with pytest.raises(Unavailable):
        await tokenizer.encode(Text(LONG), "acme")


async def test_what_can_never_fit_is_refused_unread(hugging_face: HuggingFace) -> None:
    hugging_face.get_vocab = lambda: {"ab": 0}  # type: ignore[method-assign]
    tokenizer = Tokenizer(hugging_face, Tools(hugging_face, None), 100)
    with pytest.raises(InvalidArgument) as caught:
        await tokenizer.encode(Text("x" * 201), "acme")
    assert caught.value.reason == "PROMPT_TOO_LONG"
    assert not hugging_face.texts
    tokenizer.close()


async def test_a_certificates_chat_is_rendered_although_nobody_could_ask_it(
    hugging_face: HuggingFace,
) -> None:
    hugging_face.get_vocab = lambda: {"ab": 0}  # type: ignore[method-assign]
    tokenizer = Tokenizer(hugging_face, Tools(hugging_face, None), 100)
    chat = Chat((Message("user", LONG),), (Tool("weather"),))
    with pytest.raises(FailedPrecondition) as caught:
        await tokenizer.encode(chat, "acme")
    assert caught.value.reason == "TOOL_PARSER_UNSET"
    assert await tokenizer.render(chat, "acme") == [1, 2]
    (thread,) = hugging_face.threads
    assert thread is not threading.current_thread()
    tokenizer.close()


@pytest.mark.parametrize("error", [TypeError("no name"), RecursionError(), KeyError("x")])
async def test_whatever_a_template_raises_is_a_refusal_of_the_chat(
    tokenizer: Tokenizer, hugging_face: HuggingFace, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    hugging_face.apply_chat_template = fail  # type: ignore[method-assign]
    with pytest.raises(InvalidArgument, match="the chat template refuses it"):
        await tokenizer.encode(Chat((Message("user", "x"),)), "acme")

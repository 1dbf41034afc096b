"""Prompts to token ids, off the event loop where it takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving_svc.engine.tools import Tools, template_messages, template_tools
from serving_svc.generation.model import Chat, Input, Text, TokenIds
from tailorbird.errors import FailedPrecondition, InvalidArgument, Unavailable
from tailorbird.turns import Turns

# What tokenises in less than a change of threads takes; a message costs as much as this many
# characters, whatever it says.
_SHORT_CHARS = 4096
_MESSAGE_CHARS = 128


class Tokenizer:
    """The base model's tokenizer and chat template; `tokenizer` is a Hugging Face one."""

    def __init__(self, tokenizer: Any, tools: Tools, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._tools = tools
        self._max_model_len = max_model_len
        # A tokenizer is not made for several threads at once.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        # Tenants take turns at it: one with a thousand long prompts delays another by one of them.
        self._turns = Turns(1, waiting="prompts to become tokens", reason="PROMPTS_WAITING")
        self._closed = False
        self._longest_token = max(map(len, tokenizer.get_vocab()), default=1)

    async def encode(self, prompt: Input, tenant: str) -> Sequence[int]:
        """See generation.life.Engine; Unavailable once closed, also for what waits by then."""
        if isinstance(prompt, TokenIds):
            return prompt.ids
        if isinstance(prompt, Chat):
            self._tools.check(prompt)
        self._check_chars(_chars(prompt))
        return await self._encoded(prompt, tenant)

    async def render(self, chat: Chat, tenant: str) -> Sequence[int]:
        """Return the ids that `encode` gives, also of a chat that could not be answered here.

        That is one whose tools no parser reads, or that is longer than the context. Raises as
        `encode` does.
        """
        return await self._encoded(chat, tenant)

    async def _encoded(self, prompt: Chat | Text, tenant: str) -> Sequence[int]:
        if _cost(prompt) <= _SHORT_CHARS:
            return self._encode(prompt)
        async with self._turns.turn(tenant):
            return await self._in_thread(prompt)

    async def _in_thread(self, prompt: Chat | Text) -> list[int]:
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        encoding = loop.run_in_executor(self._thread, self._encode, prompt)
        try:
            await asyncio.wait({encoding})
        finally:
            encoding.cancel()
        if encoding.cancelled():
            raise _closed()
        return encoding.result()

    def close(self) -> None:
        """End the thread; what waits for it fails."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _check_chars(self, chars: int) -> None:
        """Refuse what cannot fit the context however well it is tokenised."""
        most = self._max_model_len * self._longest_token
        if chars > most:
            raise InvalidArgument(
                "input",
                f"the prompt has {chars} characters; the context of {self._max_model_len} tokens "
                f"takes at most {most}",
                reason="PROMPT_TOO_LONG",
                limit=most,
            )

    def _encode(self, prompt: Chat | Text) -> list[int]:
        try:
            if isinstance(prompt, Text):
                return list(self._tokenizer.encode(prompt.text))
            return self._render(prompt)
        except UnicodeEncodeError as error:
            raise InvalidArgument("input", "it is not valid Unicode text") from error

    def _render(self, chat: Chat) -> list[int]:
        if not self._tokenizer.chat_template:
            raise FailedPrecondition(
                "the base model has no chat template: send prompt or token_ids",
                reason="NO_CHAT_TEMPLATE",
            )
        try:
            return list(
                self._tokenizer.apply_chat_template(
                    template_messages(chat),
                    tools=template_tools(chat),
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=False,
                )
            )
        except UnicodeEncodeError:
            raise
        except Exception as error:
            # A template is a program: it raises what its author did not think of.
            raise InvalidArgument("chat", f"the chat template refuses it: {error}") from error


def _chars(prompt: Chat | Text) -> int:
    """Return the characters that are in the prompt whatever its template makes of it."""
    if isinstance(prompt, Text):
        return len(prompt.text)
    return sum(len(message.content) for message in prompt.messages)


def _cost(prompt: Chat | Text) -> int:
    """Return what it takes to render and tokenise, in characters."""
    if isinstance(prompt, Text):
        return len(prompt.text)
    calls = [call for message in prompt.messages for call in message.tool_calls]
    tools = sum(len(tool.description) + len(tool.parameters_json_schema) for tool in prompt.tools)
    arguments = sum(len(call.arguments_json) for call in calls)
    parts = len(prompt.messages) + len(prompt.tools) + len(calls)
    return _chars(prompt) + tools + arguments + _MESSAGE_CHARS * parts


def _closed() -> Unavailable:
    return Unavailable("the engine is being restarted", reason="ENGINE_RESTARTING", retry_after=10)

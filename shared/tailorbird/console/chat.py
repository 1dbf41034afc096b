"""The page on which one asks: one model, or two side by side.

The page itself carries the conversation: each side has what was asked and its own answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from tailorbird.console import words
from tailorbird.console.failure import Failure, failure_of
from tailorbird.console.visit import Visit
from tailorbird.errors import InvalidArgument, TailorbirdError
from tailorbird.names import AdapterName
from tailorbird.serving.v1 import inference_service_pb2 as serving

SIDES = ("left", "right")
BASE = "base"
_MAX_TURNS = 50
_MAX_TOKENS, _MOST_TOKENS = 256, 8192
_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One question, and what each side has answered; "" where a side was not asked."""

    text: str
    left: str = ""
    right: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one side says now: a text with where it is from, or a failure."""

    side: str
    text: str = ""
    version: str = ""
    finish: str = ""
    tokens: int = 0
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person has asked for; `history` is what came before."""

    text: str
    models: dict[str, str]
    history: tuple[Turn, ...] = ()
    system: str = ""
    as_prompt: bool = False
    max_tokens: int = _MAX_TOKENS
    temperature: float = 0.0

    def request(self, parent: str, side: str) -> serving.GenerateRequest:
        """Return the call of one side; InvalidArgument if its model's name is none."""
        request = serving.GenerateRequest(
            sampling=serving.SamplingParameters(
                max_tokens=self.max_tokens, temperature=self.temperature
            )
        )
        adapter, _, version = self.models[side].partition("@")
        if adapter == BASE:
            request.parent = parent
        else:
            name = AdapterName.parse(f"{parent}/adapters/{adapter}", side)
            request.adapter, request.version = str(name), version
            if version:
                name.version(version, side)
        if self.as_prompt:
            request.prompt = self.text
        else:
            request.chat.messages.extend(self._messages(side))
        return request

    def _messages(self, side: str) -> Iterable[serving.Message]:
        if self.system:
            yield serving.Message(role=serving.ROLE_SYSTEM, content=self.system)
        for turn in self.history:
            said = getattr(turn, side)
            if said:
                yield serving.Message(role=serving.ROLE_USER, content=turn.text)
                yield serving.Message(role=serving.ROLE_ASSISTANT, content=said)
        yield serving.Message(role=serving.ROLE_USER, content=self.text)


def asked(visit: Visit) -> Asked:
    """Read the form; InvalidArgument names the field that is wrong."""
    return Asked(
        text=visit.field("text"),
        models={side: visit.field(side).strip() for side in SIDES},
        history=_history(visit.field("history") or "[]"),
        system=visit.field("system").strip(),
        as_prompt=visit.field("as") == "prompt",
        max_tokens=int(visit.number("max_tokens", _MAX_TOKENS, 1, _MOST_TOKENS)),
        temperature=visit.number("temperature", 0.0, 0.0, 2.0),
    )


def show_chat(visit: Visit) -> Response:
    """Show the page before anything is asked; the address may name the models."""
    models = {side: visit.query(side) for side in SIDES}
    return _shown(visit, Asked("", models), ())


def ask(visit: Visit) -> Response:
    """Ask every side that is chosen, and show the whole answers."""
    wanted = asked(visit)
    sides = [side for side in SIDES if wanted.models[side]]
    if not wanted.text.strip():
        raise InvalidArgument("text", "write what to ask")
    if not sides:
        raise InvalidArgument("left", "choose who answers")
    with ThreadPoolExecutor(len(SIDES)) as threads:
        answers = tuple(threads.map(lambda side: _answer(visit, wanted, side), sides))
    return _shown(visit, wanted, answers)


def _answer(visit: Visit, wanted: Asked, side: str) -> Answer:
    try:
        request = wanted.request(visit.parent, side)
        found = visit.backend.serving.generate(request, timeout=_TIMEOUT_SECONDS)
    except TailorbirdError as error:
        return Answer(side, failure=failure_of(error))
    return Answer(
        side,
        found.text,
        words.last_part(found.version),
        finish_name(found.finish_reason),
        found.usage.completion_tokens,
    )


def finish_name(reason: serving.FinishReason.ValueType) -> str:
    """Say why an answer ended: "length"; "" where it ended by itself."""
    if reason in (serving.FINISH_REASON_UNSPECIFIED, serving.FINISH_REASON_STOP):
        return ""
    return words.finish(reason)


def _shown(visit: Visit, wanted: Asked, answers: tuple[Answer, ...]) -> Response:
    history = wanted.history
    if answers and not wanted.as_prompt and not any(answer.failure for answer in answers):
        said = {answer.side: answer.text for answer in answers}
        history = (*history, Turn(wanted.text, **said))
    models = [model for model in wanted.models.values() if model]
    return visit.show(
        "chat.html",
        asked=wanted,
        answers=answers,
        turns=wanted.history,
        history=json.dumps([_turn(turn) for turn in history]) if history else "",
        choices=_choices(visit, models),
        most_tokens=_MOST_TOKENS,
        sides=SIDES,
    )


def _choices(visit: Visit, chosen: list[str]) -> list[tuple[str, str]]:
    """Return what may answer: the base, every adapter as it is routed, versions of chosen ones."""
    found = [(BASE, "the base model")]
    page = visit.backend.list_adapters(visit.parent)
    ids = [words.last_part(adapter.name) for adapter in page.items]
    named = {model.partition("@")[0] for model in chosen}
    for one in ids:
        found.append((one, f"{one}, as routed"))
        if one in named:
            versions = visit.backend.list_versions(f"{visit.parent}/adapters/{one}").items
            listed = [words.last_part(version.name) for version in versions]
            found += [(f"{one}@{version}", f"{one} · {version}") for version in listed]
    known = {value for value, _ in found}
    found += [(model, model.replace("@", " · ")) for model in chosen if model not in known]
    return found


def _history(said: str) -> tuple[Turn, ...]:
    try:
        turns: Any = json.loads(said)
        found = tuple(
            Turn(turn["text"], turn.get("left", ""), turn.get("right", "")) for turn in turns
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidArgument("history", "it is not what this page has sent") from error
    if not all(_is_text(one) for turn in found for one in (turn.text, turn.left, turn.right)):
        raise InvalidArgument("history", "it is not what this page has sent")
    if len(found) > _MAX_TURNS:
        raise InvalidArgument("history", f"a chat has at most {_MAX_TURNS} turns: begin a new one")
    return found


def _is_text(value: object) -> bool:
    """Tell whether a call can carry it: JSON may name halves of characters, which nothing can."""
    return isinstance(value, str) and not any("\ud800" <= one <= "\udfff" for one in value)


def _turn(turn: Turn) -> dict[str, str]:
    return {"text": turn.text, "left": turn.left, "right": turn.right}

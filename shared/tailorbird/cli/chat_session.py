"""What a chat on the command line is: whom it asks, under what instructions, and what was said."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field

from tailorbird.cli.connect import full_name
from tailorbird.cli.output import last_part
from tailorbird.errors import InvalidArgument
from tailorbird.names import VERSION_ID
from tailorbird.serving.v1 import inference_service_pb2 as api

BASE = "base"


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers: an adapter by its full name, at one of its versions or where its route leads."""

    adapter: str = ""
    """Empty: the base model."""
    version: str = ""
    """The version's id. Empty: the route decides."""

    @property
    def label(self) -> str:
        """The target in short: "base", "support", "support@20261121T100000-job-1"."""
        if not self.adapter:
            return BASE
        adapter = last_part(self.adapter)
        return f"{adapter}@{self.version}" if self.version else adapter


@dataclass(slots=True)
class Voice:
    """One who answers, and the chat as it went with this one."""

    target: Target
    messages: list[api.Message] = field(default_factory=list)


@dataclass(slots=True)
class Session:
    """A chat with one who answers, or with two who are compared."""

    tenant: str | None
    parent: str
    voices: list[Voice]
    system: str = ""
    sampling: api.SamplingParameters = field(default_factory=api.SamplingParameters)
    _key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def label(self) -> str:
        """Who answers, in short."""
        return " | ".join(voice.target.label for voice in self.voices)

    def ask(self, voice: Voice, text: str) -> api.GenerateRequest:
        """Return the request that asks one more thing of one who answers."""
        target = voice.target
        system = [api.Message(role=api.ROLE_SYSTEM, content=self.system)] if self.system else []
        asked = api.Message(role=api.ROLE_USER, content=text)
        request = api.GenerateRequest(
            version=target.version,
            chat=api.Chat(messages=[*system, *voice.messages, asked]),
            sampling=self.sampling,
            # So that one version answers all of a chat, where a route leads to several.
            routing_key=self._key,
        )
        if target.adapter:
            request.adapter = target.adapter
        else:
            request.parent = self.parent
        return request

    def answered(self, voice: Voice, text: str, answer: str) -> None:
        """Remember a question and its answer."""
        voice.messages.append(api.Message(role=api.ROLE_USER, content=text))
        voice.messages.append(api.Message(role=api.ROLE_ASSISTANT, content=answer))

    def turn_to(self, *targets: Target) -> None:
        """Ask these from now on; each goes on from what was said so far with the first."""
        said = self.voices[0].messages
        self.voices = [Voice(target, list(said)) for target in targets]

    def reset(self) -> None:
        """Forget what was said."""
        self._key = uuid.uuid4().hex
        self.voices = [Voice(voice.target) for voice in self.voices]

    def target(self, word: str) -> Target:
        """Return whom a word means: base, ADAPTER, ADAPTER@VERSION, VERSION of the present adapter.

        Adapters are named in full or by their ids. InvalidArgument if it can mean nobody.
        """
        if word == BASE:
            return Target()
        if word.startswith("tenants/") and "/versions/" in word:
            adapter, _, version = word.partition("/versions/")
            return Target(adapter, version)
        name, _, version = word.partition("@")
        if not version and re.fullmatch(VERSION_ID, name):
            adapter = self.voices[0].target.adapter
            if not adapter:
                raise InvalidArgument("version", f"{name}: of which adapter? say ADAPTER@{name}")
            return Target(adapter, name)
        return Target(full_name(name, "adapters", self.tenant), version)

"""A base's chat template, rendered as transformers and vLLM render it.

Templates are written for the environment that transformers gives them: a sandbox that changes
nothing it is given, blocks without their line ends, loop controls, the `generation` block, `tojson`
that keeps characters as they are, `raise_exception` and `strftime_now`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_TOOL_USE, _DEFAULT = "tool_use", "default"
_COMPILED = 16
"""Templates kept: one or two for each base."""


class ChatTemplate:
    """Renders messages with one base's templates, by name where it has several.

    `special_tokens` are what a template may call by name: `bos_token` and its like. Several threads
    may use one.
    """

    def __init__(
        self, templates: str | Mapping[str, str], special_tokens: Mapping[str, str]
    ) -> None:
        self._templates = templates
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        opened: bool = False,
    ) -> str:
        """Return the text of at least one message; `opened`: with the assistant's turn begun.

        Raises whatever the template does, jinja2's errors for one that is none, and ValueError
        where there are several templates and none for this.
        """
        if not messages:
            raise ValueError("a chat has at least one message")
        return _compiled(self._template(tools is not None)).render(
            **self._special_tokens,
            messages=list(messages),
            tools=None if tools is None else list(tools),
            documents=None,
            add_generation_prompt=opened,
        )

    def _template(self, with_tools: bool) -> str:
        if isinstance(self._templates, str):
            return self._templates
        if with_tools and _TOOL_USE in self._templates:
            return self._templates[_TOOL_USE]
        if _DEFAULT in self._templates:
            return self._templates[_DEFAULT]
        names = ", ".join(sorted(self._templates))
        raise ValueError(f"the base has chat templates {names}, and none is called {_DEFAULT!r}")


class _Generation(Extension):
    """The `generation` block, which marks what an assistant says: it is shown as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 has it so

    def parse(self, parser: Parser) -> Node:
        """Return the block's body, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("shown"), [], [], body).set_lineno(line)

    def shown(self, caller: Callable[[], str]) -> str:
        """Return what stands in the block."""
        return caller()


@lru_cache(_COMPILED)
def _compiled(template: str) -> Template:
    return _ENVIRONMENT.from_string(template)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(format_: str) -> str:
    # Templates name the day as it is where the server stands; a zone's name would be new to them.
    return datetime.now().strftime(format_)  # noqa: DTZ005


_ENVIRONMENT = _environment()

"""What a line that begins with a slash does in a chat."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

from rich.text import Text

from tailorbird.cli.chat_session import BASE, Session, Target
from tailorbird.cli.output import last_part, out, print_rows, when
from tailorbird.client import ServingClient
from tailorbird.errors import InvalidArgument

ROUTE = "route"


class ChatEnds(Exception):
    """The caller has had enough."""


class ChatCommands:
    """The commands of a chat, each of which changes whom or how it asks."""

    def __init__(self, serving: ServingClient, session: Session) -> None:
        self._serving = serving
        self._session = session
        self._commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "/adapter": ("[NAME[@VERSION]]", "ask this adapter; alone: list them", self._adapter),
            "/version": (
                f"[ID|{ROUTE}]",
                f"pin a version, or let the route decide with `{ROUTE}`; alone: list them",
                self._version,
            ),
            "/base": ("", "ask the base model itself", self._base),
            "/compare": (
                "[A B]",
                f"ask two at a time: {BASE}, NAME, NAME@VERSION or VERSION; alone: the first only",
                self._compare,
            ),
            "/system": ("[TEXT]", "instructions that hold for the chat; alone: none", self._system),
            "/temperature": ("[T]", "0 to 2; alone: the service's own", self._temperature),
            "/max-tokens": ("[N]", "tokens of an answer at most; alone: any", self._max_tokens),
            "/reset": ("", "forget what was said", self._reset),
            "/help": ("", "show this", self._help),
            "/quit": ("", "end; so does the end of input", self._quit),
        }

    def run(self, line: str) -> None:
        """Do what a line says.

        Raises ChatEnds, InvalidArgument for what is no command or has a wrong value, CallError.
        """
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            near = difflib.get_close_matches(name, self._commands, n=1)
            raise InvalidArgument(
                name,
                f"is no command; did you mean {near[0]}?"
                if near
                else "is no command; /help lists them. A text that begins with / is sent after //",
            )
        self._commands[name][2](rest.strip())

    def _adapter(self, word: str) -> None:
        if not word:
            adapters = self._serving.list_adapters(self._session.parent)
            print_rows(
                ["ADAPTER", "ROUTED VERSION"],
                ([last_part(one.name), last_part(one.route.version)] for one in adapters),
            )
            return
        self._turn_to(self._session.target(word))

    def _version(self, word: str) -> None:
        adapter = self._session.voices[0].target.adapter
        if not adapter:
            raise InvalidArgument("/version", "the base model has none; choose an /adapter first")
        if not word:
            versions = self._serving.list_versions(adapter)
            print_rows(
                ["VERSION", "PUBLISHED"],
                ([last_part(one.name), when(one.create_time)] for one in versions),
            )
            return
        self._turn_to(Target(adapter, "" if word == ROUTE else last_part(word)))

    def _base(self, _: str) -> None:
        self._turn_to(Target())

    def _compare(self, rest: str) -> None:
        words = rest.split()
        if not words:
            self._turn_to(self._session.voices[0].target)
        elif len(words) == 2:
            self._turn_to(*map(self._session.target, words))
        else:
            raise InvalidArgument("/compare", f"two are compared, {len(words)} are named")

    def _system(self, text: str) -> None:
        self._session.system = text

    def _temperature(self, word: str) -> None:
        sampling = self._session.sampling
        if not word:
            sampling.ClearField("temperature")
            return
        value = _number(word)
        if not 0 <= value <= 2:
            raise InvalidArgument("/temperature", f"{word!r} is not between 0 and 2")
        sampling.temperature = value

    def _max_tokens(self, word: str) -> None:
        sampling = self._session.sampling
        if not word:
            sampling.ClearField("max_tokens")
            return
        if not word.isdecimal() or not 0 < int(word) < 2**31:
            raise InvalidArgument("/max-tokens", f"{word!r} is not a number of tokens, at least 1")
        sampling.max_tokens = int(word)

    def _reset(self, _: str) -> None:
        self._session.reset()

    def _help(self, _: str) -> None:
        for name, (arguments, what, _run) in self._commands.items():
            out.print(Text(f"{f'{name} {arguments}'.strip():<28} {what}"), soft_wrap=True)
        out.print("Ctrl-C stops an answer; a line that ends in \\ goes on in the next one")

    def _quit(self, _: str) -> None:
        raise ChatEnds

    def _turn_to(self, *targets: Target) -> None:
        """Ask these from now on, if they are there."""
        for target in targets:
            if target.version:
                self._serving.get_version(f"{target.adapter}/versions/{target.version}")
            elif target.adapter:
                self._serving.get_adapter(target.adapter)
        self._session.turn_to(*targets)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan

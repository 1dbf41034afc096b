"""`tailorbird chat`: questions and answers, with whom one likes and with two at a time."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer
from rich.text import Text

from tailorbird.cli.chat_answers import Answer, print_answer, print_answers
from tailorbird.cli.chat_commands import ChatCommands, ChatEnds
from tailorbird.cli.chat_session import Session, Target, Voice
from tailorbird.cli.connect import (
    TenantOption,
    check_sendable,
    full_name,
    parent_of,
    with_serving,
)
from tailorbird.cli.exits import Exit, exit_of
from tailorbird.cli.output import describe, errors, out
from tailorbird.client import ServingClient
from tailorbird.errors import InvalidArgument, TailorbirdError
from tailorbird.serving.v1 import inference_service_pb2 as api


@with_serving
def chat(
    serving: ServingClient,
    adapter: Annotated[
        str | None, typer.Option(help="An adapter's name, or its id; else the base model.")
    ] = None,
    version: Annotated[str, typer.Option(help="Id of the version; else the route decides.")] = "",
    system: Annotated[str, typer.Option(help="Instructions that hold for the chat.")] = "",
    temperature: Annotated[
        float | None, typer.Option(help="0 (always the likeliest token) to 2.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample among the likeliest tokens, to 1.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answers.")] = None,
    tenant: TenantOption = None,
) -> None:
    """Chat with an adapter or the base model; /help says how to change or compare them.

    Lines are read from standard input: without a terminal it is one question a line.
    """
    if version and adapter is None:
        raise typer.BadParameter("it is one of an adapter's: name it", param_hint="--version")
    name = full_name(adapter, "adapters", tenant) if adapter else ""
    # An adapter named in full says the tenant, too.
    parent = "/".join(name.split("/")[:2]) if name else parent_of(tenant)
    sampling = api.SamplingParameters(
        temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed
    )
    session = Session(
        parent.rpartition("/")[2], parent, [Voice(Target(name, version))], system, sampling
    )
    _Chat(serving, session).run()


class _Chat:
    def __init__(self, serving: ServingClient, session: Session) -> None:
        self._serving = serving
        self._session = session
        self._commands = ChatCommands(serving, session)
        self._by_hand = sys.stdin.isatty() and out.is_terminal

    def run(self) -> None:
        """Answer lines until they end; typer.Exit with the first failure's status, for scripts."""
        failed = Exit.OK
        if self._by_hand:
            # Lets a line be edited, and an earlier one be had again.
            with suppress(ImportError):
                import readline  # noqa: F401 - what it does, it does by being imported
            out.print(Text("/help lists what else can be said; /quit ends", style="dim"))
        while True:
            try:
                line = self._line()
                if line is None:
                    break
                status = self._take(line)
                failed = failed or status
            except ChatEnds:
                break
            except TailorbirdError as error:
                failed = failed or exit_of(error)
                errors.print(Text(describe(error), style="red"), soft_wrap=True)
            except KeyboardInterrupt:
                if not self._by_hand:
                    raise typer.Exit(Exit.INTERRUPTED) from None
                out.print(Text("\n/quit ends", style="dim"))
        if failed and not self._by_hand:
            raise typer.Exit(failed)

    def _line(self) -> str | None:
        """Return the next line, with those that it goes on in; None at the end of input."""
        parts: list[str] = []
        while True:
            part = self._read("… " if parts else f"{self._session.label}> ")
            if part is None:
                return "\n".join(parts) if parts else None
            if not part.endswith("\\"):
                return "\n".join([*parts, part])
            parts.append(part[:-1])

    def _read(self, prompt: str) -> str | None:
        if self._by_hand:
            try:
                return input(prompt)
            except EOFError:
                print()
                return None
        data = sys.stdin.buffer.readline()
        try:
            return data.decode().removesuffix("\n").removesuffix("\r") if data else None
        except UnicodeDecodeError as error:
            raise InvalidArgument("text", f"byte {error.start + 1} is not UTF-8") from error

    def _take(self, line: str) -> Exit:
        """Do what a line says, or answer it; return how the first answer that has no end failed."""
        if not line.strip():
            return Exit.OK
        check_sendable("text", line)
        if line.startswith("/") and not line.startswith("//"):
            self._commands.run(line.rstrip())
            return Exit.OK
        text = line[1:] if line.startswith("//") else line
        voices = self._session.voices
        asked = [
            partial(self._serving.stream_generate, self._session.ask(voice, text))
            for voice in voices
        ]
        if len(voices) == 1:
            answers = [print_answer(asked[0])]
        else:
            answers = print_answers([voice.target.label for voice in voices], asked)
        for voice, answer in zip(voices, answers, strict=True):
            if answer.text and answer.error is None:
                self._session.answered(voice, text, answer.text)
        return next(filter(None, map(_status, answers)), Exit.OK)


def _status(answer: Answer) -> Exit:
    if answer.error is not None:
        return exit_of(answer.error)
    return Exit.INTERRUPTED if answer.stopped else Exit.OK

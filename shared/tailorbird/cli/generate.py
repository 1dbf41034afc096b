"""`tailorbird generate`: an answer, as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tailorbird.cli.connect import TenantOption, full_name, parent_of, with_serving
from tailorbird.cli.output import errors, last_part, out, print_rows
from tailorbird.client import ServingClient, chat_request
from tailorbird.errors import InvalidArgument
from tailorbird.serving.v1 import inference_service_pb2 as api


@with_serving
def generate(
    serving: ServingClient,
    text: Annotated[str, typer.Argument(help="What to ask; '-' reads standard input.")],
    adapter: Annotated[
        str | None, typer.Option(help="An adapter's name, or its id in the tenant.")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model itself.")] = False,
    version: Annotated[str, typer.Option(help="Id of the version; else the route decides.")] = "",
    system: Annotated[str, typer.Option(help="Instructions that hold for the chat.")] = "",
    max_tokens: Annotated[int | None, typer.Option(help="Tokens to generate at most.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 (always the likeliest token) to 2.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Answers to give, 1 to 16.")] = None,
    logprobs: Annotated[
        int | None, typer.Option(help="Show each token's logprob and of so many others; 0 to 20.")
    ] = None,
    json_schema: Annotated[
        Path | None,
        typer.Option(help="File with a JSON schema: the answer is such a value.", dir_okay=False),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="Regular expression that matches the whole answer.")
    ] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="An answer that is allowed; give it for each.")
    ] = None,
    routing_key: Annotated[
        str, typer.Option(help="Same key, same version, as long as the route stays.")
    ] = "",
    timeout: Annotated[float | None, typer.Option(help="Seconds the answer may take.")] = None,
    tenant: TenantOption = None,
) -> None:
    """Ask an adapter, or the base model, and print the answer as it comes."""
    if base is (adapter is not None):
        raise typer.BadParameter("give either --adapter or --base")
    if text == "-":
        text = _standard_input()
    model = parent_of(tenant) if adapter is None else full_name(adapter, "adapters", tenant)
    request = chat_request(
        model,
        text,
        system=system,
        version=version,
        max_tokens=max_tokens,
        temperature=temperature,
        n=n,
        logprobs=logprobs,
        json_schema=None if json_schema is None else _text_of(json_schema),
        regex=regex,
        choices=choice or None,
        routing_key=routing_key,
    )
    if n is not None and n > 1:
        _print_several(serving.generate(request, timeout=timeout))
    else:
        _print_one(serving.stream_generate(request, timeout=timeout))


def _print_one(pieces: Iterable[api.StreamGenerateResponse]) -> None:
    answered_by = ""
    last = api.StreamGenerateResponse()
    tokens: list[api.TokenLogprobs] = []
    for last in pieces:
        answered_by = answered_by or last.version
        tokens.extend(last.logprobs)
        sys.stdout.write(last.text)
        sys.stdout.flush()
    print()
    _print_logprobs(tokens)
    _print_end(answered_by, last.usage, last.finish_reason)


def _print_several(answer: api.GenerateResponse) -> None:
    first = api.Completion(
        text=answer.text, finish_reason=answer.finish_reason, logprobs=answer.logprobs
    )
    for index, completion in enumerate([first, *answer.others]):
        out.print(Text(f"[{index + 1}]", style="bold"))
        print(completion.text)
        _print_logprobs(completion.logprobs)
    _print_end(answer.version, answer.usage, answer.finish_reason)


def _print_logprobs(tokens: Sequence[api.TokenLogprobs]) -> None:
    if tokens:
        print_rows(
            ["TOKEN", "LOGPROB", "MOST PROBABLE"],
            (
                [*_told(one.token), " ".join(":".join(_told(top)) for top in one.top)]
                for one in tokens
            ),
        )


def _told(token: api.TokenLogprob) -> tuple[str, str]:
    return repr(token.text), f"{token.logprob:.3f}"


def _print_end(version: str, usage: api.Usage, reason: api.FinishReason.ValueType) -> None:
    if errors.is_terminal:
        who = last_part(version) or "the base model"
        cut = ", cut at the limit" if reason == api.FINISH_REASON_LENGTH else ""
        errors.print(Text(f"{who} · {usage.completion_tokens} tokens{cut}", style="dim"))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            "json_schema", f"{path}: byte {error.start + 1} is not UTF-8"
        ) from error


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument("text", f"byte {error.start + 1} is not UTF-8") from error

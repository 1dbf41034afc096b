"""`tailorbird generate`: an answer, as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tailorbird.cli.chat_answers import shown
from tailorbird.cli.connect import (
    TenantOption,
    check_sendable,
    full_name,
    parent_of,
    with_serving,
)
from tailorbird.cli.output import errors, last_part, out, print_rows
from tailorbird.client import ServingClient, chat_request
from tailorbird.errors import InvalidArgument
from tailorbird.serving.v1 import inference_service_pb2 as api

_SAMPLING = "Sampling"
_ANSWER = "What the answer looks like"


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
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Continue the text as it stands, without the chat template: for adapters trained"
            " on prompts and completions or on plain text, and bases without a template.",
        ),
    ] = False,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens to generate at most.", rich_help_panel=_SAMPLING),
    ] = None,
    min_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens to generate at least.", rich_help_panel=_SAMPLING),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="0 (always the likeliest token) to 2; else 1.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample among the likeliest tokens with this probability in all, to 1.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Sample among so many likeliest tokens.", rich_help_panel=_SAMPLING),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Leave out tokens below this share of the likeliest one's probability, 0 to 1.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Same seed, same answer.", rich_help_panel=_SAMPLING),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="End the answer before this text; repeatable.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    presence_penalty: Annotated[
        float | None,
        typer.Option(
            help="Against tokens that are in the answer already, -2 to 2.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    frequency_penalty: Annotated[
        float | None,
        typer.Option(
            help="The same, times how often they are in it, -2 to 2.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            help="Against tokens of the prompt and the answer: above 0 and to 2, 1 is none.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(
            help="TOKEN=BIAS: added to a token id's logit, -100 to 100; repeatable.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos",
            help="Go on past the end of the model's turn; for measuring.",
            rich_help_panel=_SAMPLING,
        ),
    ] = False,
    n: Annotated[
        int | None, typer.Option("--n", help="Answers to give, 1 to 16.", rich_help_panel=_ANSWER)
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(
            help="Show each token's logprob and of so many others; 0 to 20.",
            rich_help_panel=_ANSWER,
        ),
    ] = None,
    token_ids: Annotated[
        bool,
        typer.Option("--token-ids", help="Show the generated tokens.", rich_help_panel=_ANSWER),
    ] = False,
    json_schema: Annotated[
        Path | None,
        typer.Option(
            help="File with a JSON schema: the answer is such a value.",
            dir_okay=False,
            rich_help_panel=_ANSWER,
        ),
    ] = None,
    regex: Annotated[
        str | None,
        typer.Option(
            help="Regular expression that matches the whole answer.", rich_help_panel=_ANSWER
        ),
    ] = None,
    choice: Annotated[
        list[str] | None,
        typer.Option(help="An answer that is allowed; give it for each.", rich_help_panel=_ANSWER),
    ] = None,
    grammar: Annotated[
        Path | None,
        typer.Option(
            help="File with a grammar in GBNF, whose rule root is the answer.",
            dir_okay=False,
            rich_help_panel=_ANSWER,
        ),
    ] = None,
    routing_key: Annotated[
        str, typer.Option(help="Same key, same version, as long as the route stays.")
    ] = "",
    min_route_generation: Annotated[
        int, typer.Option(help="The route that answers is at least this new; 0: any.")
    ] = 0,
    priority: Annotated[
        int, typer.Option(help="-100 to 100: goes before the tenant's other waiting requests.")
    ] = 0,
    timeout: Annotated[float | None, typer.Option(help="Seconds the answer may take.")] = None,
    tenant: TenantOption = None,
) -> None:
    """Ask an adapter, or the base model, and print the answer as it comes."""
    if base is (adapter is not None):
        raise typer.BadParameter("give either --adapter or --base")
    if raw and system:
        raise typer.BadParameter("--system is part of a chat, which --raw does not send")
    if text == "-":
        text = _standard_input()
    request = chat_request(
        parent_of(tenant) if adapter is None else full_name(adapter, "adapters", tenant),
        text,
        system=system,
        version=version,
        max_tokens=max_tokens,
        temperature=temperature,
        n=n,
        logprobs=logprobs,
        json_schema=None if json_schema is None else _text_of("json_schema", json_schema),
        regex=regex,
        choices=choice or None,
        grammar=None if grammar is None else _text_of("grammar", grammar),
        routing_key=routing_key,
        min_route_generation=min_route_generation,
        priority=priority,
    )
    if raw:
        request.prompt = text
    request.sampling.MergeFrom(
        api.SamplingParameters(
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            min_tokens=min_tokens,
            seed=seed,
            stop=stop or [],
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            logit_bias=_biases(logit_bias or []),
            ignore_eos=ignore_eos,
            return_token_ids=token_ids,
        )
    )
    if n is not None and n > 1:
        _print_several(serving.generate(request, timeout=timeout))
    else:
        _print_one(serving.stream_generate(request, timeout=timeout))


def _biases(given: Sequence[str]) -> dict[int, float]:
    found: dict[int, float] = {}
    for each in given:
        token, _, bias = each.partition("=")
        try:
            found[int(token)] = float(bias)
        except ValueError as error:
            raise typer.BadParameter(
                f"{each!r} is not TOKEN=BIAS, like 198=-100", param_hint="--logit-bias"
            ) from error
    if len(found) < len(given):
        raise typer.BadParameter("a token is given twice", param_hint="--logit-bias")
    check_sendable("logit_bias", list(found))
    return found


def _print_one(pieces: Iterable[api.StreamGenerateResponse]) -> None:
    answered_by = ""
    last = api.StreamGenerateResponse()
    tokens: list[api.TokenLogprobs] = []
    ids: list[int] = []
    for last in pieces:
        answered_by = answered_by or last.version
        tokens.extend(last.logprobs)
        ids.extend(last.token_ids)
        sys.stdout.write(shown(last.text))
        sys.stdout.flush()
    print()
    _print_ids(ids)
    _print_logprobs(tokens)
    _print_end(answered_by, last.usage, last.finish_reason)


def _print_several(answer: api.GenerateResponse) -> None:
    first = api.Completion(
        text=answer.text,
        finish_reason=answer.finish_reason,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
    )
    for index, completion in enumerate([first, *answer.others]):
        out.print(Text(f"[{index + 1}]", style="bold"))
        print(shown(completion.text))
        _print_ids(completion.token_ids)
        _print_logprobs(completion.logprobs)
    _print_end(answer.version, answer.usage, answer.finish_reason)


def _print_ids(ids: Sequence[int]) -> None:
    if ids:
        print("token ids:", *ids)


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


def _text_of(option: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(option, f"{path}: byte {error.start + 1} is not UTF-8") from error


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument("text", f"byte {error.start + 1} is not UTF-8") from error

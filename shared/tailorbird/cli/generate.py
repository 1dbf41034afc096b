"""`tailorbird generate`: an answer, as it comes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from tailorbird.cli.connect import TenantOption, full_name, parent_of, with_serving
from tailorbird.cli.output import errors, last_part
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
    )
    answered_by = ""
    last = api.StreamGenerateResponse()
    for last in serving.stream_generate(request, timeout=timeout):
        answered_by = answered_by or last.version
        sys.stdout.write(last.text)
        sys.stdout.flush()
    print()
    if errors.is_terminal:
        who = last_part(answered_by) or "the base model"
        cut = ", cut at the limit" if last.finish_reason == api.FINISH_REASON_LENGTH else ""
        errors.print(Text(f"{who} · {last.usage.completion_tokens} tokens{cut}", style="dim"))


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument("text", f"byte {error.start + 1} is not UTF-8") from error

"""`tailorbird tokens`: who may call. The file holds digests only."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from tailorbird.cli.output import errors
from tailorbird.cli.own_file import alone_in, replace
from tailorbird.errors import InvalidArgument
from tailorbird.names import check_id

app = typer.Typer(help="Make tokens for callers.", no_args_is_help=True)


@app.command()
def add(
    file: Annotated[Path, typer.Option(help="The tokens file; made if it is missing.")],
    subject: Annotated[str, typer.Option(help="Who calls, as logs and routes will name them.")],
    tenant: Annotated[
        list[str] | None, typer.Option(help="A tenant the caller acts for; may be repeated.")
    ] = None,
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="The caller acts for every tenant.")
    ] = False,
) -> None:
    """Make a token, add its digest to a file, and print the token, this once.

    Services read the file again when it changes: the token works within about a second, and one
    whose entry is taken out of the file is refused as soon.
    """
    if all_tenants is bool(tenant):
        raise typer.BadParameter("give either --tenant or --all-tenants")
    print(add_token(file, subject, tenant))
    if errors.is_terminal:
        errors.print(Text("keep it: only its digest is stored", style="dim"))


def add_token(path: Path, subject: str, tenants: Sequence[str] | None) -> str:
    """Make a token for `subject`, acting for `tenants` (None: every tenant), and return it.

    The file is replaced whole and only its owner can read it. Raises InvalidArgument if it is not
    a tokens file, the subject is not printable, or a tenant is not an id.
    """
    if not (subject.isprintable() and 1 <= len(subject) <= 128):
        raise InvalidArgument("--subject", "1 to 128 printable characters are needed")
    for tenant in tenants or ():
        check_id("--tenant", tenant)
    token = secrets.token_urlsafe(32)
    entry = {
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "subject": subject,
        "tenants": "*" if tenants is None else list(tenants),
    }
    with alone_in(path.parent, "--file"):
        replace(path, json.dumps({"tokens": [*_read(path), entry]}, indent=2) + "\n")
    return token


def _read(path: Path) -> list[Any]:
    if not path.exists():
        return []
    try:
        tokens = json.loads(path.read_text(encoding="utf-8"))["tokens"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument("--file", f"{path} is not a tokens file") from error
    if not isinstance(tokens, list):
        raise InvalidArgument("--file", f"{path} is not a tokens file")
    return tokens

"""`tailorbird base`: what a base model on this machine is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.errors import FailedPrecondition, TailorbirdError

app = typer.Typer(help="Look at base models.", no_args_is_help=True)


@app.command()
def digest(
    model: Annotated[
        str,
        typer.Argument(
            envvar="TAILORBIRD_BASE_MODEL",
            help="A folder with a model, or a Hugging Face id, or org/name@revision.",
        ),
    ],
    expect: Annotated[
        str,
        typer.Option(
            envvar="TAILORBIRD_BASE_MODEL_DIGEST", help="The digest it must have: sha256:…"
        ),
    ] = "",
    data_dir: Annotated[
        Path, typer.Option(envvar="TAILORBIRD_DATA_DIR", help="Where file hashes are remembered.")
    ] = Path(".tailorbird"),
) -> None:
    """Print the digest that both services must agree on; fails if it is not the one expected.

    Services with the same data directory do not hash the same files again.
    """
    try:
        from tailorbird.base_model import load_base_model
        from tailorbird.failed_start import setting_of, told
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"{error.name} is not installed: `base` needs the extra trainer or serving"
        ) from error
    try:
        base = load_base_model(model, data_dir.resolve() / "cache", expected_digest=expect)
    except TailorbirdError as error:
        setting, problem = setting_of(error, {"base_model", "base_model_digest"})
        raise FailedPrecondition(told(setting, problem)["error"], reason=error.reason) from error
    print(base.digest)

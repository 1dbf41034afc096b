"""`--evaluation`: a JSON file of what is evaluated; graders may be as OpenAI has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from google.protobuf.json_format import ParseDict, ParseError

from tailorbird.tuning.v1 import job_pb2

_HOW = {"string_check": "operation", "text_similarity": "evaluation_metric"}
"""By OpenAI's `type` of a grader, which is our field's name: where it says how."""
_COMMON = ("name", "input", "reference")
_MAX_SHOWN = 64


def read_evaluation(file: Path, config: job_pb2.EvaluationConfig) -> None:
    """Set what the file asks for in `config`; BadParameter says why it cannot be read."""
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_once)
        if not isinstance(content, dict):
            raise ValueError("a JSON object is expected")  # noqa: TRY004 - as json's own
        _check_unicode(content)
        if isinstance(content.get("json_schema"), dict):
            # As a person writes it; the API has its text.
            content["json_schema"] = json.dumps(content["json_schema"])
        if isinstance(content.get("graders"), list):
            content["graders"] = [_grader(*each) for each in enumerate(content["graders"])]
        ParseDict(content, config)
    except (OSError, ValueError, OverflowError, RecursionError, ParseError) as error:
        said = f"{file}: {error}"
        raise typer.BadParameter(said, param_hint="--evaluation") from error


def _check_unicode(content: Any) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        # Neither a message nor a terminal takes it, and the decoder says so by crashing.
        shown = error.object[error.start : error.end].encode(errors="backslashreplace").decode()
        raise ValueError(f"{shown} is half a surrogate pair") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:_MAX_SHOWN]!r} is given twice")
        found[key] = value
    return found


def _grader(index: int, given: Any) -> Any:
    """Return a grader by the API's names; what is not in OpenAI's form is as it was."""
    if not isinstance(given, Mapping) or "type" not in given:
        return given
    kind = given["type"]
    if not isinstance(kind, str) or kind not in _HOW:
        raise ValueError(
            f"graders[{index}] is of the type {str(kind)[:_MAX_SHOWN]!r}: only"
            f" {' and '.join(_HOW)} are offered, which need no model and run no code"
        )
    how = _HOW[kind]
    others = [key for key in given if key not in ("type", how, *_COMMON)]
    if others:
        raise ValueError(
            f"graders[{index}] has {others[0][:_MAX_SHOWN]!r}: a {kind} has"
            f" {', '.join(_COMMON)} and {how}"
        )
    if how not in given:
        raise ValueError(f"graders[{index}] has no {how}, which a {kind} needs")
    return {**{key: given[key] for key in _COMMON if key in given}, kind: given[how]}

"""How to choose tokens, from OpenAI's JSON to the message that gRPC's callers send."""

from __future__ import annotations

from typing import Any

from serving_svc.http.convert_messages import as_json
from tailorbird.errors import InvalidArgument
from tailorbird.http.fields import Fields, shown
from tailorbird.serving.v1 import inference_service_pb2 as pb

_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
_WHOLE = ("top_k", "min_tokens", "n")
_STRUCTURES = {"json": "json_schema", "regex": "regex", "grammar": "grammar"}
_MAX_TOKEN_DIGITS = 10


def sampling(fields: Fields, renamed: dict[str, str]) -> pb.SamplingParameters:
    """Read what chats and completions have in common; `renamed` gets what the request calls it.

    Ranges are checked by the converter of gRPC.
    """
    found = pb.SamplingParameters()
    for name in _NUMBERS:
        _set(found, name, fields.number(name))
    for name in _WHOLE:
        _set(found, name, fields.whole(name))
    _set(found, "seed", fields.whole("seed", wide=True))
    found.stop.extend(_stops(fields))
    for token, bias in _biases(fields).items():
        found.logit_bias[token] = bias
    found.ignore_eos = bool(fields.flag("ignore_eos"))
    _response_format(fields.inner("response_format"), found, renamed)
    _structured_outputs(fields.inner("structured_outputs"), found, renamed)
    return found


def max_tokens(found: pb.SamplingParameters, fields: Fields, *names: str) -> str | None:
    """Take the length from the first of `names` that is given, and return that."""
    given = [name for name in names if name in fields]
    for name in given:
        _set(found, "max_tokens", fields.whole(name))
    if len(given) > 1:
        raise InvalidArgument(given[1], f"{given[0]} says the same; one of them is allowed")
    return given[0] if given else None


def _set(found: pb.SamplingParameters, name: str, value: float | None) -> None:
    if value is not None:
        setattr(found, name, value)


def _stops(fields: Fields) -> list[str]:
    found = fields.any("stop")
    stops = found if isinstance(found, list) else [] if found is None else [found]
    for index, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise InvalidArgument(f"stop[{index}]", f"{shown(stop)} is not a string")
    return stops


def _biases(fields: Fields) -> dict[int, float]:
    found = fields.any("logit_bias") or {}
    if not isinstance(found, dict):
        raise InvalidArgument("logit_bias", f"{shown(found)} is not an object")
    biases = {}
    for token, bias in found.items():
        if not (token.isascii() and token.isdecimal() and len(token) < _MAX_TOKEN_DIGITS):
            raise InvalidArgument("logit_bias", f"{shown(token)} is not a token's id")
        biases[int(token)] = Fields({token: bias}, "logit_bias").number(token) or 0.0
    return biases


def _response_format(
    fields: Fields | None, found: pb.SamplingParameters, renamed: dict[str, str]
) -> None:
    if fields is None:
        return
    match kind := fields.needed_text("type"):
        case "text":
            pass
        case "json_object":
            found.json_schema = '{"type":"object"}'
        case "json_schema":
            told = fields.inner("json_schema")
            if told is None:
                raise InvalidArgument("response_format.json_schema", "it is needed, and not given")
            renamed["json_schema"] = told.path("schema")
            found.json_schema = _schema(told.any("schema"), told.path("schema"))
            # It is always held to its schema; the rest is for the model, which is not told.
            told.flag("strict")
            told.ignore("name", "description")
            told.end()
        case _:
            raise InvalidArgument(
                "response_format.type", f"{shown(kind)} is not text, json_object or json_schema"
            )
    fields.end()


def _structured_outputs(
    fields: Fields | None, found: pb.SamplingParameters, renamed: dict[str, str]
) -> None:
    """Read vLLM's own field for the same; one of its kinds."""
    if fields is None:
        return
    given = [name for name in (*_STRUCTURES, "choice") if name in fields]
    if len(given) != 1 or found.WhichOneof("structure") is not None:
        raise InvalidArgument(
            "structured_outputs",
            "one of json, regex, choice and grammar is needed, and no response_format beside it",
        )
    field = fields.path(given[0])
    renamed[_STRUCTURES.get(given[0], "choices")] = field
    match given[0]:
        case "json":
            found.json_schema = _schema(fields.any("json"), field)
        case "choice":
            found.choices.choices.extend(_texts(fields.items("choice") or [], field))
        case name:
            setattr(found, _STRUCTURES[name], fields.needed_text(name))
    if not found.WhichOneof("structure"):
        found.choices.SetInParent()
    fields.end()


def _schema(value: Any, field: str) -> str:
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, dict):
        raise InvalidArgument(field, f"{shown(value)} is not a JSON schema, an object")
    return as_json(value)


def _texts(values: list[Any], field: str) -> list[str]:
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise InvalidArgument(f"{field}[{index}]", f"{shown(value)} is not a string")
    return values

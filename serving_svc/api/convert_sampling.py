"""Sampling parameters, from protobuf: every range as the proto says it, NaN refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from serving_svc.generation.model import Sampling, Structure
from tailorbird.errors import InvalidArgument
from tailorbird.serving.v1 import inference_service_pb2 as pb

_MAX_TEMPERATURE = 2.0
_GREEDY_BELOW = 1e-5
"""Temperatures below it are greedy to vLLM."""
_MAX_STOPS = 16
_MAX_STOP_CHARS = 256
_MAX_PENALTY = 2.0
_MAX_BIASES = 300
_MAX_BIAS = 100.0
_MAX_LOGPROBS = 20
_MAX_N = 16
_MAX_STRUCTURE_BYTES = 64 * 1024
_MAX_CHOICES = 1000
_MAX_CHOICE_CHARS = 1024

_OPTIONAL = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_tokens",
    "min_tokens",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logprobs",
    "n",
)


def sampling(message: pb.SamplingParameters, vocab_size: int) -> Sampling:
    """Read and check sampling parameters; `vocab_size` bounds the ids of logit_bias."""
    # mypy-protobuf knows fields by literals only.
    has_field: Callable[[str], bool] = message.HasField  # type: ignore[assignment]
    given = {name: getattr(message, name) for name in _OPTIONAL if has_field(name)}
    found = Sampling(
        **given,
        stop=_stops(message),
        ignore_eos=message.ignore_eos,
        logit_bias=_logit_bias(message, vocab_size),
        return_token_ids=message.return_token_ids,
        structure=_structure(message),
    )
    _check_choice_of_tokens(found)
    _check_lengths(found)
    return found


def _check_choice_of_tokens(found: Sampling) -> None:
    # Written so that NaN is refused as well.
    if not 0 <= found.temperature <= _MAX_TEMPERATURE:
        raise _out_of_range("temperature", found.temperature, f"0 to {_MAX_TEMPERATURE:g}")
    if not 0 < found.top_p <= 1:
        raise _out_of_range("top_p", found.top_p, "above 0 and at most 1")
    if found.top_k is not None and found.top_k < 1:
        raise _out_of_range("top_k", found.top_k, "at least 1")
    if not 0 <= found.min_p <= 1:
        raise _out_of_range("min_p", found.min_p, "0 to 1")
    for name in ("presence_penalty", "frequency_penalty"):
        penalty = getattr(found, name)
        if not -_MAX_PENALTY <= penalty <= _MAX_PENALTY:
            raise _out_of_range(name, penalty, f"{-_MAX_PENALTY:g} to {_MAX_PENALTY:g}")
    if not 0 < found.repetition_penalty <= _MAX_PENALTY:
        limit = f"above 0 and at most {_MAX_PENALTY:g}"
        raise _out_of_range("repetition_penalty", found.repetition_penalty, limit)
    if found.logprobs is not None and not 0 <= found.logprobs <= _MAX_LOGPROBS:
        raise _out_of_range("logprobs", found.logprobs, f"0 to {_MAX_LOGPROBS}")
    if not 1 <= found.n <= _MAX_N:
        raise _out_of_range("n", found.n, f"1 to {_MAX_N}")
    if found.n > 1 and found.temperature < _GREEDY_BELOW:
        raise InvalidArgument(
            "sampling.n",
            f"{found.n} answers of temperature {found.temperature:g} would all be the same; at "
            "most 1 is allowed, or a higher temperature",
        )


def _check_lengths(found: Sampling) -> None:
    if found.max_tokens is not None and found.max_tokens < 1:
        raise _out_of_range("max_tokens", found.max_tokens, "at least 1")
    if found.min_tokens < 0:
        raise _out_of_range("min_tokens", found.min_tokens, "at least 0")
    if found.max_tokens is not None and found.min_tokens > found.max_tokens:
        limit = f"at most max_tokens, {found.max_tokens}"
        raise _out_of_range("min_tokens", found.min_tokens, limit)


def _stops(message: pb.SamplingParameters) -> tuple[str, ...]:
    if len(message.stop) > _MAX_STOPS:
        raise InvalidArgument(
            "sampling.stop",
            f"{len(message.stop)} strings are given; at most {_MAX_STOPS} are allowed",
        )
    stops = tuple(message.stop)
    for index, stop in enumerate(stops):
        if not 1 <= len(stop) <= _MAX_STOP_CHARS:
            raise InvalidArgument(
                f"sampling.stop[{index}]",
                f"it has {len(stop)} characters; 1 to {_MAX_STOP_CHARS} are allowed",
            )
    return stops


def _logit_bias(message: pb.SamplingParameters, vocab_size: int) -> dict[int, float]:
    if len(message.logit_bias) > _MAX_BIASES:
        raise InvalidArgument(
            "sampling.logit_bias",
            f"{len(message.logit_bias)} tokens are given; at most {_MAX_BIASES} are allowed",
        )
    biases = dict(message.logit_bias)
    for token, bias in biases.items():
        if not 0 <= token < vocab_size:
            raise InvalidArgument(
                "sampling.logit_bias", f"{token} is not in [0, {vocab_size}), the vocabulary"
            )
        if not -_MAX_BIAS <= bias <= _MAX_BIAS:
            limit = f"{-_MAX_BIAS:g} to {_MAX_BIAS:g}"
            raise _out_of_range(f"logit_bias[{token}]", bias, limit)
    return biases


def _structure(message: pb.SamplingParameters) -> Structure | None:
    match message.WhichOneof("structure"):
        case None:
            return None
        case "json_schema":
            return _text_structure("json_schema", message.json_schema)
        case "regex":
            return _text_structure("regex", message.regex)
        case "grammar":
            return _text_structure("grammar", message.grammar)
        case "choices":
            return Structure("choices", choices=_choices(message.choices))


def _text_structure(kind: Literal["json_schema", "regex", "grammar"], text: str) -> Structure:
    size = len(text.encode())
    if not 1 <= size <= _MAX_STRUCTURE_BYTES:
        raise InvalidArgument(
            f"sampling.{kind}",
            f"it has {size} bytes; 1 to {_MAX_STRUCTURE_BYTES} are allowed",
        )
    return Structure(kind, text)


def _choices(message: pb.Choices) -> tuple[str, ...]:
    field = "sampling.choices.choices"
    if not 1 <= len(message.choices) <= _MAX_CHOICES:
        raise InvalidArgument(
            field, f"{len(message.choices)} are given; 1 to {_MAX_CHOICES} are allowed"
        )
    first: dict[str, int] = {}
    for index, choice in enumerate(message.choices):
        if not 1 <= len(choice) <= _MAX_CHOICE_CHARS:
            raise InvalidArgument(
                f"{field}[{index}]",
                f"it has {len(choice)} characters; 1 to {_MAX_CHOICE_CHARS} are allowed",
            )
        if choice in first:
            raise InvalidArgument(f"{field}[{index}]", f"it is the same as [{first[choice]}]")
        first[choice] = index
    size = sum(len(choice.encode()) for choice in first)
    if size > _MAX_STRUCTURE_BYTES:
        raise InvalidArgument(
            field, f"they have {size} bytes; at most {_MAX_STRUCTURE_BYTES} are allowed"
        )
    return tuple(first)


def _out_of_range(name: str, value: float, limit: str) -> InvalidArgument:
    shown = value if isinstance(value, int) else f"{value:g}"
    return InvalidArgument(f"sampling.{name}", f"{shown} is not {limit}")

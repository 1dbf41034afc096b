"""Compiles structures, one a line, in a process that may be killed: see `structures`.

Reads JSON lines {kind, value, choices} from standard input and writes {error, value}. What takes
more than a second of this process's CPU time ends the process, in whichever library it is.
"""

from __future__ import annotations

import json
import random
import re
import resource
import signal
import sys
from typing import Any

import llguidance
from llguidance.gbnf_to_lark import gbnf_to_lark

CPU_SECONDS = 1.0
_MEMORY_BYTES = 2 * 2**30
_MAX_DEPTH = 64
# Some grammars compile and then fail as soon as they have seen a few characters.
_WALKS, _STEPS = 3, 16
_EOS = 256


class _Bytes:
    """A vocabulary of the 256 bytes and an end: the base model's own would only be larger."""

    eos_token_id = _EOS
    bos_token_id = None
    tokens = [*(bytes([one]) for one in range(_EOS)), b"</s>"]  # noqa: RUF012 - llguidance's name
    special_token_ids = [_EOS]  # noqa: RUF012

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def main() -> None:
    """Answer until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # SIGPROF ends the process, even inside a library that does not come back.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = _checked(tokenizer, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _checked(tokenizer: Any, request: dict[str, Any]) -> dict[str, str]:
    value = request["value"]
    try:
        if request["kind"] == "grammar":
            value = gbnf_to_lark(value)
        if request["kind"] == "json_schema":
            value = _object_schema(value)
        error = _error(tokenizer, _grammar(request["kind"], value, request["choices"]))
    except RecursionError:
        error = f"it nests too deep; at most {_MAX_DEPTH} is sure to work"
    except Exception as raised:
        error = str(raised) or type(raised).__name__
    return {"error": _short(error), "value": value}


def _grammar(kind: str, value: str, choices: list[str]) -> str:
    match kind:
        case "json_schema":
            # As the engine compiles it: with options it takes less than without.
            compiled = llguidance.LLMatcher.grammar_from_json_schema(
                value, defaults={"whitespace_flexible": True}
            )
            return str(compiled)
        case "regex":
            return str(llguidance.LLMatcher.grammar_from_regex(value))
        case "choices":
            return str(llguidance.grammar_from("choice", json.dumps(choices)))
        case _:
            return str(llguidance.LLMatcher.grammar_from_lark(value))


def _object_schema(schema: str) -> str:
    """Return `schema`, checked; the engine takes no `true`, which admits all that {} does."""
    parsed = json.loads(schema)
    _check_depth(parsed)
    return "{}" if parsed is True else schema


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [one for outer in level for one in _inside(outer) if isinstance(one, dict | list)]
        if not level:
            return
    raise RecursionError


def _inside(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _error(tokenizer: Any, grammar: str) -> str:
    """Return why the grammar cannot be used, or "": it is compiled, and walked a little."""
    for seed in range(_WALKS):
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        chance = random.Random(seed)  # noqa: S311 - the same walk each time
        for _ in range(_STEPS):
            if matcher.is_error():
                return _told(matcher)
            if matcher.is_stopped():
                break
            allowed = [
                index
                for index, bias in enumerate(matcher.compute_logit_bias())
                if bias and index < _EOS
            ]
            if matcher.is_error():
                return _told(matcher)
            if not allowed:
                break
            matcher.consume_token(chance.choice(allowed))
    return ""


def _told(matcher: Any) -> str:
    if matcher.stop_reason().startswith("NoExtension"):
        return "nothing can match it"
    return str(matcher.get_error())


def _short(error: str) -> str:
    """Return what an error says, without the library's own state that follows it."""
    return " ".join(re.split("<(?:backtrace|state)>", error, maxsplit=1)[0].split())[:400]


if __name__ == "__main__":
    main()

"""The page of errors: the classes with their status codes, and every reason with what is said."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tailorbird import errors
from tailorbird.rpc.status import code_of
from tools.reference.source import ROOMS, calls, text, trees
from tools.reference.text import begin, cell, done, marked, one_line


@dataclass(frozen=True, slots=True)
class _Raised:
    """One place that names a reason: the error's class, and its message with its values named."""

    reason: str
    kind: str
    message: str


def page() -> str:
    """Return docs/reference/errors.md."""
    lines = begin(
        "Errors",
        "A call that fails ends with a `google.rpc.Status` that carries exactly one `ErrorInfo`, "
        "of the domain `tailorbird`. Its reason is stable: programs may go by it; the message is "
        "for people. `INVALID_ARGUMENT` carries a `BadRequest` with each field that is wrong; "
        "`RESOURCE_EXHAUSTED` and `UNAVAILABLE` a `RetryInfo` with the time after which the same "
        "call may work. What is not expected is `INTERNAL`, with a correlation id that the log has "
        "too.",
        "`shared/tailorbird/errors.py` and the places that raise them",
    )
    kinds = {name: kind for name, kind in vars(errors).items() if _is_error(kind)}
    lines += ["## Classes", "", "| class | status code | what it means |", "|---|---|---|"]
    for name, kind in kinds.items():
        code = code_of(kind)
        if code is not None:
            meaning = cell(one_line((kind.__doc__ or "").split(".")[0]))
            lines.append(f"| `{name}` | `{code.name}` | {meaning} |")
    lines += ["", "## Reasons", "", "In italics what the message fills in.", ""]
    found = _reasons(kinds)
    for reason in sorted(found):
        lines += [f"### `{reason}`", ""]
        for code_name, messages in sorted(_by_code(found[reason], kinds).items()):
            lines += [f"`{code_name}`", ""]
            lines += [f"- {' '.join(message.split())}" for message in messages]
            if not messages:
                lines.append("- what the message says; no other reason names it")
            lines.append("")
    return done(lines)


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, errors.TailorbirdError)


def _by_code(
    raised: list[_Raised], kinds: dict[str, type[errors.TailorbirdError]]
) -> dict[str, list[str]]:
    told: dict[str, list[str]] = defaultdict(list)
    for one in raised:
        code = code_of(kinds[one.kind])
        name = code.name if code is not None else "INTERNAL"
        if one.message and one.message not in told[name]:
            told[name].append(one.message)
    return told


def _reasons(kinds: dict[str, type[errors.TailorbirdError]]) -> dict[str, list[_Raised]]:
    constants = dict(_constants())
    found: dict[str, list[_Raised]] = defaultdict(list)
    for kind_name, kind in kinds.items():
        if code_of(kind) is not None:
            found[kind.default_reason].append(_Raised(kind.default_reason, kind_name, ""))
    for room in ROOMS:
        for tree in trees(room).values():
            for function, call in calls(tree):
                if function not in kinds:
                    continue
                reason = _reason(call, constants)
                if reason is not None:
                    found[reason].append(_Raised(reason, function, _message(function, call)))
    return found


def _constants() -> Iterator[tuple[str, str]]:
    for room in ROOMS:
        for tree in trees(room).values():
            for node in tree.body:
                match node:
                    case ast.Assign(targets=[ast.Name(id=name)], value=value) if (
                        name.isupper() and (said := text(value)) is not None
                    ):
                        yield name, said


def _reason(call: ast.Call, constants: dict[str, str]) -> str | None:
    for word in call.keywords:
        if word.arg == "reason":
            match word.value:
                case ast.Name(id=name):
                    return constants.get(name)
                case value:
                    return text(value)
    return None


def _message(function: str, call: ast.Call) -> str:
    if function == "NotFound":
        return f"{_filled(call.args[0])} does not exist" if call.args else ""
    position = 1 if function in {"InvalidArgument", "InvalidRecord"} else 0
    if len(call.args) <= position:
        return ""
    said = _template(call.args[position])
    return "" if re.fullmatch(r"\*[^*]*\*|…", said) else said


def _template(node: ast.expr) -> str:
    """Return Markdown of a message: what is filled in, as its name in italics."""
    match node:
        case ast.Constant(value=str(said)):
            return " ".join(marked(said).split(" "))
        case ast.JoinedStr(values=parts):
            return "".join(map(_template, parts))
        case ast.FormattedValue(value=value):
            return _filled(value)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _template(left) + _template(right)
    return _filled(node)


def _filled(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return f"*{name.strip('_').lower().replace('_', ' ')}*"
    return "…"

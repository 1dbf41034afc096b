"""`jobs create --file`: a job's specification as YAML or JSON, by the API's own field names."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
import yaml
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message_factory import GetMessageClass

from tailorbird.tuning.v1 import job_pb2

_MAX_SHOWN = 64
_MAX_PROBLEMS = 20
_NULL, _TRUTH, _WHOLE = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int"))
# Octal and sexagesimal, of YAML 1.1.
_READ_IN_ANOTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9_]+(:[0-9]+)+)")
_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_FLOAT,
    FieldDescriptor.CPPTYPE_DOUBLE,
}


def read_job_file(path: Path, spec: job_pb2.JobSpec) -> None:
    """Set in `spec` what a file asks for: a specification's fields, or a job's with its `spec`.

    So what `jobs get -o yaml` prints is such a file. "-" is standard input. BadParameter names each
    fault with its line.
    """
    shown = "standard input" if str(path) == "-" else str(path)
    try:
        faults = _Faults()
        root = _composed(_text(path))
        values = _message(
            root, job_pb2.Job.DESCRIPTOR if _is_job(root) else spec.DESCRIPTOR, faults
        )
        if not faults.found:
            ParseDict(values.get("spec", {}) if _is_job(root) else values, spec)
            return
        said = faults.told()
    except (OSError, ValueError, RecursionError, ParseError, yaml.YAMLError) as error:
        said = _why(error)
    raise typer.BadParameter(f"{shown}: {said}", param_hint="--file")


class _Faults:
    """What is wrong with a file, with the lines it stands in."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, node: yaml.Node, problem: str) -> None:
        self.found.append(f"line {node.start_mark.line + 1}: {problem}")

    def told(self) -> str:
        more = len(self.found) - _MAX_PROBLEMS
        rest = [f"and {more} more"] if more > 0 else []
        return "\n".join([*self.found[:_MAX_PROBLEMS], *rest])


def _text(path: Path) -> str:
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line}: byte {error.start + 1} is not UTF-8") from error
    # JSON may have tabs between its parts, and has none inside its strings; YAML takes none.
    return text.replace("\t", " ") if text.lstrip().startswith("{") else text


def _composed(text: str) -> yaml.Node:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("the fields of a job's specification are expected, like `adapter: …`")  # noqa: TRY004 - of the file's content
    return root


def _why(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _is_job(root: yaml.Node) -> bool:
    return any(key.value == "spec" for key, _ in root.value)


def _message(node: yaml.Node, kind: Descriptor, faults: _Faults) -> dict[str, Any]:
    """Return a mapping's values as ParseDict takes them."""
    values: dict[str, Any] = {}
    if not isinstance(node, yaml.MappingNode):
        if node.tag != _NULL:
            faults.add(node, f"fields are expected: {_some(_names(kind))}")
        return values
    for key, value in node.value:
        name = str(key.value)
        field = kind.fields_by_name.get(name)
        if field is None:
            faults.add(key, _unknown(name, kind))
        elif name in values:
            faults.add(key, f"{name} is given twice")
        elif value.tag != _NULL:
            values[name] = _value(value, kind, field, faults)
    return values


def _value(node: yaml.Node, kind: Descriptor, field: FieldDescriptor, faults: _Faults) -> Any:
    message = field.message_type
    if message is not None and message.full_name.startswith("google."):
        # Of a job, what is no part of its specification: its times, its error.
        return None
    if message is not None and not _is_map(field):
        if not field.is_repeated:
            return _message(node, message, faults)
        if isinstance(node, yaml.SequenceNode):
            return [_message(each, message, faults) for each in node.value]
    if problem := _turned(node, field):
        faults.add(node, f"{field.name}: {problem}")
        return None
    value = _plain(node, _has_texts(field))
    try:
        ParseDict({field.name: value}, GetMessageClass(kind)())
    except (ParseError, ValueError, OverflowError) as error:
        faults.add(node, f"{field.name}: {_expected(field, error)}")
    return value


def _plain(node: yaml.Node, as_text: bool) -> Any:
    """Return a value as JSON has it; with `as_text` what looks like a number or date is a text."""
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value, as_text) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each, as_text) for each in node.value]
    if as_text:
        # Of JSON's escapes, those of one character in two halves.
        return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
    try:
        loaded = yaml.SafeLoader("").construct_object(node)
    except (ValueError, yaml.YAMLError):
        return node.value
    return loaded if isinstance(loaded, bool | int | float) else node.value


def _turned(node: yaml.Node, field: FieldDescriptor) -> str:
    """Say what YAML would silently make another number of than the one that is written."""
    if field.enum_type is not None or field.cpp_type not in _NUMBERS:
        return ""
    if node.tag == _TRUTH:
        return f"a number is expected, and {node.value} is true or false in YAML"
    if node.tag == _WHOLE and _READ_IN_ANOTHER_BASE.fullmatch(node.value):
        made = yaml.SafeLoader("").construct_object(node)
        return f"{node.value} is {made} in YAML; write the number without leading 0 or ':'"
    return ""


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _has_texts(field: FieldDescriptor) -> bool:
    if _is_map(field):
        return True
    return field.type == FieldDescriptor.TYPE_STRING


def _expected(field: FieldDescriptor, error: Exception) -> str:
    if field.enum_type is not None:
        return f"one of {', '.join(each.name for each in field.enum_type.values)} is expected"
    said = str(error)
    return said.rpartition("field: ")[2] or said


def _unknown(name: str, kind: Descriptor) -> str:
    shown = repr(name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…")
    holders = [path for path, within in _within(job_pb2.JobSpec.DESCRIPTOR) if name in within]
    near = difflib.get_close_matches(name, _names(kind), n=1, cutoff=0.6)
    if holders:
        return f"{shown} belongs in {holders[0] or 'the specification itself'}"
    if near:
        return f"{shown} is no field of {kind.name}; did you mean {near[0]}?"
    return f"{shown} is no field of {kind.name}, which has {_some(_names(kind))}"


def _within(kind: Descriptor, path: str = "") -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each message's place in a specification, and the names of its fields."""
    yield path, _names(kind)
    for field in kind.fields:
        if field.message_type is not None and not _is_map(field) and not field.is_repeated:
            yield from _within(field.message_type, f"{path}.{field.name}" if path else field.name)


def _names(kind: Descriptor) -> list[str]:
    return [field.name for field in kind.fields]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names)

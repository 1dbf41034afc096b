"""The page of the API: services, messages and enums with the protos' own comments."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import google.api.field_behavior_pb2 as field_behavior
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

from tools.reference.source import ROOT
from tools.reference.text import begin, cell, done, one_line, paragraphs

_PROTOS = ROOT / "protos"
_SCALARS = {
    number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()
}
# Numbers of a descriptor's own fields, of which the paths to comments are made.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED, _NESTED_ENUMS, _VALUES, _METHODS = 2, 3, 4, 2, 2

Comments = dict[tuple[int, ...], str]


def page() -> str:
    """Return docs/reference/api.md."""
    lines = begin(
        "API",
        "Three packages: `tailorbird.tuning.v1` is the trainer's, `tailorbird.serving.v1` and "
        "`tailorbird.adapters.v1` are serving's. How calls fail is told in [Errors](errors.md).",
        "`protos/`",
    )
    for package, files in sorted(_packages().items()):
        lines += [f"## {package}", ""]
        for part in (_services, _messages, _enums):
            for file in files:
                lines += part(file, _comments(file))
    return done(lines)


def _packages() -> dict[str, list[FileDescriptorProto]]:
    names = sorted(str(path.relative_to(_PROTOS)) for path in _PROTOS.rglob("*.proto"))
    googleapis = Path(field_behavior.__file__).parents[2]
    bundled = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image"
        status = protoc.main(
            [
                "protoc",
                f"-I{_PROTOS}",
                f"-I{googleapis}",
                f"-I{bundled}",
                "--include_source_info",
                f"--descriptor_set_out={image}",
                *names,
            ]
        )
        if status:
            raise ValueError("protoc refuses the protos: see above")
        files = FileDescriptorSet.FromString(image.read_bytes())
    packages: dict[str, list[FileDescriptorProto]] = defaultdict(list)
    for file in files.file:
        packages[file.package].append(file)
    return packages


def _comments(file: FileDescriptorProto) -> Comments:
    return {
        tuple(place.path): place.leading_comments
        for place in file.source_code_info.location
        if place.leading_comments
    }


def _services(file: FileDescriptorProto, comments: Comments) -> list[str]:
    lines = []
    for number, service in enumerate(file.service):
        at = (_SERVICES, number)
        lines += [f"### {service.name}", "", paragraphs(comments.get(at, "")), ""]
        lines += _methods(service, at, comments)
    return lines


def _methods(service: ServiceDescriptorProto, at: tuple[int, ...], comments: Comments) -> list[str]:
    lines = []
    for number, method in enumerate(service.method):
        asked, answered = (_link(name) for name in (method.input_type, method.output_type))
        asked = f"stream of {asked}" if method.client_streaming else asked
        answered = f"stream of {answered}" if method.server_streaming else answered
        told = paragraphs(comments.get((*at, _METHODS, number), ""))
        lines += [f"#### {service.name}.{method.name}", "", f"{asked} → {answered}", "", told, ""]
    return lines


def _messages(file: FileDescriptorProto, comments: Comments) -> list[str]:
    lines = []
    for number, message in enumerate(file.message_type):
        lines += _message(message, message.name, (_MESSAGES, number), comments)
    return lines


def _message(
    message: DescriptorProto, name: str, at: tuple[int, ...], comments: Comments
) -> list[str]:
    lines = [f"### {name}", "", paragraphs(comments.get(at, "")), ""]
    maps = {f"{name}.{one.name}": one for one in message.nested_type if one.options.map_entry}
    if message.field:
        lines += ["| field | type | what it is |", "|---|---|---|"]
        for number, field in enumerate(message.field):
            told = cell(one_line(comments.get((*at, _FIELDS, number), "")))
            oneof = ""
            if field.HasField("oneof_index") and not field.proto3_optional:
                oneof = f" (one of `{message.oneof_decl[field.oneof_index].name}`)"
            lines.append(f"| `{field.name}` | {_type(field, maps)}{oneof} | {told} |")
        lines.append("")
    for number, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            lines += _message(nested, f"{name}.{nested.name}", (*at, _NESTED, number), comments)
    for number, enum in enumerate(message.enum_type):
        lines += _enum(enum, f"{name}.{enum.name}", (*at, _NESTED_ENUMS, number), comments)
    return lines


def _enums(file: FileDescriptorProto, comments: Comments) -> list[str]:
    lines = []
    for number, enum in enumerate(file.enum_type):
        lines += _enum(enum, enum.name, (_ENUMS, number), comments)
    return lines


def _enum(
    enum: EnumDescriptorProto, name: str, at: tuple[int, ...], comments: Comments
) -> list[str]:
    lines = [f"### {name}", "", paragraphs(comments.get(at, "")), ""]
    lines += ["| value | number | what it means |", "|---|---|---|"]
    for number, value in enumerate(enum.value):
        told = cell(one_line(comments.get((*at, _VALUES, number), "")))
        lines.append(f"| `{value.name}` | {value.number} | {told} |")
    return [*lines, ""]


def _type(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    entry = maps.get(".".join(_parts(field.type_name)))
    if entry is not None:
        key, value = entry.field
        return f"map of {_type(key, {})} to {_type(value, {})}"
    told = _link(field.type_name) if field.type_name else f"`{_SCALARS[field.type]}`"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {told}"
    return f"optional {told}" if field.proto3_optional else told


def _link(name: str) -> str:
    """Return a type's name with a link to where it is told of, if that is this page."""
    if not name.startswith(".tailorbird."):
        return f"`{name.lstrip('.')}`"
    return f"[{'.'.join(_parts(name))}](#{''.join(_parts(name)).lower()})"


def _parts(name: str) -> Iterator[str]:
    """Yield the parts of a full name that are messages' and enums'."""
    return (part for part in name.split(".") if part[:1].isupper())

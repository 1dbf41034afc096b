"""The page of settings: every variable of both services, from the classes that read them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from serving_svc.settings import ServingSettings
from tailorbird.settings import CommonSettings
from tools.reference.text import begin, cell, done, paragraphs
from trainer_svc.settings import TrainerSettings

_SERVICES: dict[str, type[BaseSettings]] = {"trainer": TrainerSettings, "serving": ServingSettings}
_HEADINGS = {
    ("trainer", "serving"): "Both services",
    ("trainer",): "The trainer",
    ("serving",): "Serving",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def page() -> str:
    """Return docs/reference/settings.md."""
    lines = begin(
        "Settings",
        "Each service reads environment variables at its start, and ends with the name and the "
        "limit where one is wrong. An empty variable counts as unset. The [chart](../deploy.md) "
        "sets them from its values.",
        "`shared/tailorbird/settings.py`, `trainer_svc/settings.py` and `serving_svc/settings.py`",
    )
    sections: dict[str, list[str]] = {heading: [] for heading in _HEADINGS.values()}
    trainer, serving = (service.model_fields for service in _SERVICES.values())
    for name in dict.fromkeys([*CommonSettings.model_fields, *trainer, *serving]):
        have = [service for service, kind in _SERVICES.items() if name in kind.model_fields]
        sections[_HEADINGS[tuple(have)]] += _setting(name, have)
    for heading, told in sections.items():
        lines += [f"## {heading}", "", *told]
    return done(lines)


def _setting(name: str, services: list[str]) -> list[str]:
    fields = {service: _SERVICES[service].model_fields[name] for service in services}
    kinds = {service: _kind(field) for service, field in fields.items()}
    defaults = {service: _default(field) for service, field in fields.items()}
    told = [_by_service(kinds)]
    if any(field.is_required() for field in fields.values()):
        told.append("required")
    else:
        told.append(f"default: {_by_service(defaults)}")
    docs = {service: paragraphs(_doc(_SERVICES[service], name)) for service in services}
    lines = [f"### `TAILORBIRD_{name.upper()}`", "", cell("; ".join(told)) + ".", ""]
    if len(set(docs.values())) == 1:
        return [*lines, docs[services[0]], ""]
    return lines + [
        line for service in services for line in (f"{service.capitalize()}: {docs[service]}", "")
    ]


def _by_service(told: dict[str, str]) -> str:
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return ", ".join(f"{text} ({service})" for service, text in told.items())


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str | int | float | Path):
        return f"`{value}`"
    if isinstance(value, tuple | list | dict | frozenset | set):
        if not value:
            return "none"
        if isinstance(value, dict):
            return f"`{value!r}`".replace("'", '"')
        return f"`{','.join(map(str, value))}`"
    return f"`{value}`"


def _kind(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    options: list[Any] = [each for each in _alternatives(annotation) if each is not NoneType]
    kind = options[0] if options else annotation
    metadata = list(field.metadata)
    while get_origin(kind) is not None and hasattr(kind, "__metadata__"):
        metadata += kind.__metadata__
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{each}`" for each in get_args(kind))
    return ", ".join([_named(kind), *_limits(metadata)])


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return get_args(annotation)
    return (annotation,)


def _named(kind: Any) -> str:
    names = {
        bool: "`true` or `false`",
        int: "whole number",
        float: "number",
        Path: "path",
        str: "text",
    }
    if kind in names:
        return names[kind]
    origin = get_origin(kind)
    return {dict: "mapping", tuple: "list", list: "list", frozenset: "list"}.get(origin, "text")


def _limits(metadata: list[Any]) -> list[str]:
    told = []
    for each in metadata:
        for constraint in [each, *getattr(each, "metadata", ())]:
            for bound, words in _BOUNDS.items():
                limit = getattr(constraint, bound, None)
                if isinstance(limit, int | float):
                    told.append(f"{words} {limit:,}" if limit > 65535 else f"{words} {limit:g}")
    return list(dict.fromkeys(told))


def _doc(settings: type[BaseSettings], name: str) -> str:
    """Return the docstring under a field, from the class that declares it last."""
    for kind in settings.__mro__:
        if name in vars(kind).get("__annotations__", {}):
            found = _docs(kind).get(name)
            if found:
                return found
    raise LookupError(f"{name} of {settings.__name__} has no docstring")


def _docs(kind: type) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    docs = {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for field, after in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    docs[field.target.id] = inspect.cleandoc(text)
    return docs

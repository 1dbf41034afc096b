"""The file of contexts as YAML: taken apart with the line of whatever is wrong, and written.

current: prod
contexts:
  prod:
    trainer: trainer.example.com:443
    tenant: acme
    token_file: prod.token
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from tailorbird.cli.context_file import (
    KEYS,
    Context,
    Contexts,
    check_context,
    check_name,
    near,
    wrong,
)
from tailorbird.errors import InvalidArgument

_TEXT, _TRUTH, _NOTHING = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "bool", "null"))
_TRUE = ("true", "yes", "on")


def parse(content: bytes, path: Path) -> Contexts:
    """Return what a file says; InvalidArgument names the file, the line and the key."""
    root = _composed(content, path)
    if root is None:
        return Contexts(path, {})
    top = _pairs(root, path, "", ("current", "contexts"))
    current = _optional(top.get("current"))
    contexts = _optional(top.get("contexts"))
    by_name = {}
    for name, node in _pairs(contexts, path, "contexts").items() if contexts else ():
        where = f"contexts.{name}"
        by_name[name] = _context(node, path, where)
        try:
            check_name(name)
            check_context(by_name[name], where)
        except InvalidArgument as error:
            raise wrong(path, _line(node), error.message) from error
    return Contexts(
        path,
        by_name,
        None if current is None else _text(current, path, "current"),
        0 if current is None else _line(current),
    )


def dumped(contexts: Contexts) -> str:
    """Return the file's text."""
    content: dict[str, Any] = {} if contexts.current is None else {"current": contexts.current}
    content["contexts"] = {
        name: {key: value for key, value in asdict(context).items() if value is not None}
        for name, context in contexts.by_name.items()
    }
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _composed(content: bytes, path: Path) -> Any:
    try:
        return yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise wrong(path, line, "it is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise wrong(path, line, f"it is not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        told = getattr(error, "reason", "") or "it cannot be read"
        raise wrong(path, 0, f"it is not YAML: {told}") from error


def _context(node: Any, path: Path, where: str) -> Context:
    values: dict[str, Any] = {}
    for key, value in _pairs(node, path, where, KEYS).items():
        read = _truth if key == "plaintext" else _text
        values[key] = read(value, path, f"{where}.{key}")
    return Context(**values)


def _pairs(node: Any, path: Path, where: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the values of a mapping by their keys, of which none but `known` is accepted."""
    label = f"{where}: " if where else ""
    if not isinstance(node, yaml.MappingNode):
        raise wrong(path, _line(node), f"{label}keys and their values are needed, as `key: value`")
    found: dict[str, Any] = {}
    for key, value in node.value:
        name = _text(key, path, f"{label}a key")
        if known is not None and name not in known:
            told = f"{label}unknown key {name!r}{near(name, known)} (known: {', '.join(known)})"
            raise wrong(path, _line(key), told)
        if name in found:
            raise wrong(path, _line(key), f"{label}{name!r} is given twice")
        found[name] = value
    return found


def _optional(node: Any) -> Any:
    return None if node is None or node.tag == _NOTHING else node


def _text(node: Any, path: Path, where: str) -> str:
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _TEXT and node.value:
            return str(node.value)
        if node.tag != _NOTHING and node.value:
            raise wrong(path, _line(node), f'{where}: text is needed; write "{node.value}"')
    raise wrong(path, _line(node), f"{where}: text is needed")


def _truth(node: Any, path: Path, where: str) -> bool:
    if node.tag != _TRUTH:
        raise wrong(path, _line(node), f"{where}: true or false is needed")
    return node.value.lower() in _TRUE


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1

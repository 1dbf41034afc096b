"""The project's own Python files, as syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = {
    "tailorbird": "shared/tailorbird",
    "trainer_svc": "trainer_svc",
    "serving_svc": "serving_svc",
}


@cache
def trees(room: str) -> dict[Path, ast.Module]:
    """Return the modules of a package by their paths, without generated stubs."""
    paths = sorted((ROOT / ROOMS[room]).rglob("*.py"))
    return {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for path in paths
        if "_pb2" not in path.name
    }


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call of a plain or dotted name, with the name's last part."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    yield name, node


def text(node: ast.expr | None) -> str | None:
    """Return a constant string, or None."""
    match node:
        case ast.Constant(value=str(value)):
            return value
    return None

"""Plain text at hand: the docstrings and sources of the running Python's library."""

import ast
import sysconfig
from pathlib import Path

SKIP = (
    "test",
    "idlelib",
    "lib2to3",
    "site-packages",
    "encodings",
    "pydoc_data",
    "turtledemo",
    "__pycache__",
)


def sources(limit: int | None = None) -> list[str]:
    """The library's modules as text, in the order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(
        p
        for p in root.rglob("*.py")
        if not any(s in part for part in p.relative_to(root).parts for s in SKIP)
    )
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths[:limit]]


def docstrings(source: str) -> list[str]:
    """All docstrings of a module longer than a line's worth of words."""
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (
        ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, nodes)
    )
    return [doc for doc in found if doc and len(doc) > 60]

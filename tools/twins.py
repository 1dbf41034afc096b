"""The synchronous clients, made from those for asyncio. Usage: twins.py generate | check."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "shared" / "tailorbird"
FILES = ("serving_client.py", "trainer_client.py", "trainer_data.py")
NOTE = "# Made by tools/twins.py from aio/{name}, with `make twins`: change that file instead.\n"
RULES = (
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\(await ((?:[^()]|\([^()]*\))+)\)(?=\.)", r"\1"),
    (r"\bawait ", ""),
    (r"\baclosing\b", "closing"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"Async(?=[A-Z])", ""),
    (r"\btailorbird\.aio\.", "tailorbird."),
    (r" +# noqa: ASYNC109.*", ""),
)


def twin(name: str) -> str:
    """Return the synchronous twin of a file, formatted."""
    source = (PACKAGE / "aio" / name).read_text(encoding="utf-8")
    for pattern, replacement in RULES:
        source = re.sub(pattern, replacement, source)
    ruff = Path(sys.executable).with_name("ruff")
    target = str(PACKAGE / name)
    for command in (
        ["check", "--quiet", "--select", "I", "--fix", "--stdin-filename", target, "-"],
        ["format", "--quiet", "--stdin-filename", target, "-"],
    ):
        source = subprocess.run(
            [ruff, *command], input=source, capture_output=True, text=True, check=True
        ).stdout
    return NOTE.format(name=name) + source


def main() -> None:
    """Write the twins, or say which one is not what would be written."""
    match sys.argv[1:]:
        case ["generate"]:
            for name in FILES:
                (PACKAGE / name).write_text(twin(name), encoding="utf-8")
        case ["check"]:
            stale = [name for name in FILES if twin(name) != (PACKAGE / name).read_text("utf-8")]
            if stale:
                sys.exit(f"not as aio/ has it: {', '.join(stale)}; run 'make twins'")
            print("the synchronous clients are twins of aio/")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()

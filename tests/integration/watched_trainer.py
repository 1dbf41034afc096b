"""The trainer, which notes in a file what it imports that its service process must not.

Usage: TAILORBIRD_NOTED=FILE python -m tests.integration.watched_trainer
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from trainer_svc.__main__ import main

HEAVY = {"torch", "transformers", "tokenizers", "peft"}


class _Noting(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in HEAVY:
            with Path(os.environ["TAILORBIRD_NOTED"]).open("a") as file:
                file.write(f"{fullname}\n")
        return None


if __name__ == "__main__":
    found = HEAVY & sys.modules.keys()
    Path(os.environ["TAILORBIRD_NOTED"]).write_text("".join(f"{name}\n" for name in found))
    sys.meta_path.insert(0, _Noting())
    sys.exit(main())

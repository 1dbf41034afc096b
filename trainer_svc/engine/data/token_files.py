"""The files that hold a dataset's tokens, flat and example after example. No torch is imported.

token_ids.bin   int32, every example's tokens
trained.bin     one byte a token: whether it is trained
examples.bin    a row an example: where it starts, its line, its length, its trained tokens, and
                whether its record was cut
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

_ROW = np.dtype(
    [("start", "<i8"), ("line", "<i8"), ("length", "<i4"), ("trained", "<i4"), ("cut", "?")]
)
_TOKEN_IDS, _TRAINED, _EXAMPLES = "token_ids.bin", "trained.bin", "examples.bin"

Piece = tuple[Sequence[int], bool]
"""Token ids, and whether they are trained."""
Rows = npt.NDArray[np.void]


def map_tokens(folder: Path) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], Rows]:
    """Map what a TokenWriter wrote into `folder`, at least one example: ids, trained, rows."""

    def mapped(name: str, dtype: Any) -> npt.NDArray[Any]:
        return np.memmap(folder / name, dtype=dtype, mode="r")

    return mapped(_TOKEN_IDS, np.int32), mapped(_TRAINED, np.bool_), mapped(_EXAMPLES, _ROW)


class TokenWriter:
    """Writes a dataset's files into a folder, an example at a time, in constant memory."""

    def __init__(self, folder: Path) -> None:
        self._files = ExitStack()
        self._token_ids, self._trained, self._examples = (
            self._files.enter_context((folder / name).open("xb"))
            for name in (_TOKEN_IDS, _TRAINED, _EXAMPLES)
        )
        self._tokens = 0

    def append(self, line: int, pieces: Sequence[Piece], *, cut: bool = False) -> None:
        """Write the example that `pieces` are, one after another; `cut`: they are not the whole."""
        ids = np.concatenate([np.asarray(ids, dtype=np.int32) for ids, _ in pieces])
        trained = np.repeat([kept for _, kept in pieces], [len(ids) for ids, _ in pieces])
        trained[:1] = False
        row = np.array((self._tokens, line, len(ids), trained.sum(), cut), dtype=_ROW)
        self._token_ids.write(ids.tobytes())
        self._trained.write(trained.tobytes())
        self._examples.write(row.tobytes())
        self._tokens += len(ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._files.close()

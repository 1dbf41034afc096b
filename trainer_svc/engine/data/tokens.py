"""What training reads: token ids and a mask of what is trained, flat in memory-mapped files.

A folder holds one dataset, example after example:

    token_ids.bin   int32, every example's tokens
    trained.bin     one byte a token: whether it is trained
    examples.bin    a row an example: where it starts, its line, its length, its trained tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt
import torch

_ROW = np.dtype([("start", "<i8"), ("line", "<i8"), ("length", "<i4"), ("trained", "<i4")])
_TOKEN_IDS, _TRAINED, _EXAMPLES = "token_ids.bin", "trained.bin", "examples.bin"

Piece = tuple[Sequence[int], bool]
"""Token ids, and whether they are trained."""


@dataclass(frozen=True)
class Example:
    """One sequence to train on, from line `line` (counted from 1) of its file.

    Both tensors are [tokens]: int64 ids, and whether each is trained; the first never is.
    """

    line: int
    token_ids: torch.Tensor
    trained: torch.Tensor


class TokenDataset(Sequence[Example]):
    """Examples in flat arrays; an example is copied out of them when it is asked for.

    `held` lives as long as the dataset and all its views: what keeps the files in their place.
    """

    def __init__(
        self,
        token_ids: npt.NDArray[np.int32],
        trained: npt.NDArray[np.bool_],
        rows: npt.NDArray[np.void],
        held: object = None,
    ) -> None:
        self._token_ids = token_ids
        self._trained = trained
        self._rows = rows
        self._held = held
        self.lengths: npt.NDArray[np.int32] = np.ascontiguousarray(rows["length"])
        """Tokens of each example."""

    @classmethod
    def open(cls, folder: Path, held: object = None) -> TokenDataset:
        """Map the files that a TokenWriter wrote into `folder`; at least one example."""

        def mapped(name: str, dtype: Any) -> npt.NDArray[Any]:
            return np.memmap(folder / name, dtype=dtype, mode="r")

        return cls(
            mapped(_TOKEN_IDS, np.int32), mapped(_TRAINED, np.bool_), mapped(_EXAMPLES, _ROW), held
        )

    @property
    def lines(self) -> npt.NDArray[np.int64]:
        """The line each example comes from; a line may give several."""
        return self._rows["line"]

    @property
    def trained_tokens(self) -> int:
        """Tokens that are trained, in all examples."""
        return int(self._rows["trained"].sum(dtype=np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> TokenDataset: ...
    def __getitem__(self, index: int | slice) -> Example | TokenDataset:
        if isinstance(index, slice):
            return self._view(self._rows[index])
        start, line, length, _ = self._rows[index].item()
        tokens = slice(start, start + length)
        return Example(
            line,
            torch.from_numpy(self._token_ids[tokens].astype(np.int64)),
            torch.from_numpy(self._trained[tokens].copy()),
        )

    def where(self, chosen: npt.NDArray[np.bool_]) -> TokenDataset:
        """Return the view of the examples that are true in `chosen`, [examples]."""
        return self._view(self._rows[chosen])

    def _view(self, rows: npt.NDArray[np.void]) -> TokenDataset:
        return TokenDataset(self._token_ids, self._trained, rows, self._held)


class TokenWriter:
    """Writes a dataset's files into a folder, an example at a time, in constant memory."""

    def __init__(self, folder: Path) -> None:
        self._files = ExitStack()
        self._token_ids, self._trained, self._examples = (
            self._files.enter_context((folder / name).open("xb"))
            for name in (_TOKEN_IDS, _TRAINED, _EXAMPLES)
        )
        self._tokens = 0

    def append(self, line: int, pieces: Sequence[Piece]) -> None:
        """Write the example that `pieces` are, one after another."""
        ids = np.concatenate([np.asarray(ids, dtype=np.int32) for ids, _ in pieces])
        trained = np.repeat([kept for _, kept in pieces], [len(ids) for ids, _ in pieces])
        trained[:1] = False
        row = np.array((self._tokens, line, len(ids), trained.sum()), dtype=_ROW)
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

"""What training reads: token ids and a mask of what is trained, out of memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from trainer_svc.engine.data.token_files import Rows, map_tokens

if TYPE_CHECKING:
    import torch

    from tailorbird.manifest import RenderedChat


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
        rows: Rows,
        held: object = None,
        chats: tuple[RenderedChat, ...] = (),
    ) -> None:
        self._token_ids = token_ids
        self._trained = trained
        self._held = held
        self.chats = chats
        """Some chats of the whole file, as they are rendered; none where it has no chats."""
        self.rows = rows
        """A row an example; see `token_files`."""
        self.lengths: npt.NDArray[np.int32] = np.ascontiguousarray(rows["length"])
        """Tokens of each example."""

    @classmethod
    def open(
        cls, folder: Path, held: object = None, chats: tuple[RenderedChat, ...] = ()
    ) -> TokenDataset:
        """Map the files that a TokenWriter wrote into `folder`; at least one example."""
        return cls(*map_tokens(folder), held, chats)

    @property
    def lines(self) -> npt.NDArray[np.int64]:
        """The line each example comes from; a line may give several."""
        return self.rows["line"]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> TokenDataset: ...
    def __getitem__(self, index: int | slice) -> Example | TokenDataset:
        if isinstance(index, slice):
            return self._view(self.rows[index])
        # Whoever only counts the examples has no torch.
        import torch

        start, line, length, *_ = self.rows[index].item()
        tokens = slice(start, start + length)
        return Example(
            line,
            torch.from_numpy(self._token_ids[tokens].astype(np.int64)),
            torch.from_numpy(self._trained[tokens].copy()),
        )

    def where(self, chosen: npt.NDArray[np.bool_]) -> TokenDataset:
        """Return the view of the examples that are true in `chosen`, [examples]."""
        return self._view(self.rows[chosen])

    def digests(self) -> Iterator[tuple[int, bytes]]:
        """Yield each line and 16 bytes of what is trained of it, ids and mask, of all its examples.

        Lines come in their order. Two have the same digest if they are copies.
        """
        for line, rows in groupby(map(np.void.item, self.rows), key=lambda row: row[1]):
            digest = blake2b(digest_size=16)
            for start, _, length, *_ in rows:
                tokens = slice(start, start + length)
                digest.update(length.to_bytes(8, "little"))
                digest.update(self._token_ids[tokens].tobytes())
                digest.update(self._trained[tokens].tobytes())
            yield line, digest.digest()

    def _view(self, rows: Rows) -> TokenDataset:
        return TokenDataset(self._token_ids, self._trained, rows, self._held, self.chats)

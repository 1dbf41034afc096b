"""Attention to a shared prefix and to a row's own past is attention to both in one sequence."""

from __future__ import annotations

import pytest
import torch

from trainer_svc.engine.generation import masked
from trainer_svc.engine.generation.masked import KeysValues, attend_masked


def made(
    heads: int, key_heads: int, prefix: int, starts: list[int], tokens: int
) -> tuple[torch.Tensor, KeysValues, KeysValues | None, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    seen = max(starts) + tokens
    query = drawn(len(starts), tokens, heads, 8)
    own = KeysValues(*drawn(2, key_heads, len(starts), seen, 8))
    before = KeysValues(*drawn(2, key_heads, 1, prefix, 8)) if prefix else None
    at = torch.tensor(starts)[:, None] + torch.arange(tokens)
    hidden = torch.zeros(len(starts), tokens, seen)
    hidden.masked_fill_(torch.arange(seen) > at[:, :, None], float("-inf"))
    return query, own, before, hidden


def plainly(
    query: torch.Tensor,
    own: KeysValues,
    prefix: KeysValues | None,
    hidden: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    result = torch.empty_like(query)
    rows, tokens, heads, _ = query.shape
    group = heads // len(own.keys)
    for row in range(rows):
        for token in range(tokens):
            visible = hidden[row, token] == 0
            for head in range(heads):
                keys = own.keys[head // group, row, visible]
                values = own.values[head // group, row, visible]
                if prefix is not None:
                    keys = torch.cat((prefix.keys[head // group, 0], keys))
                    values = torch.cat((prefix.values[head // group, 0], values))
                weights = torch.softmax(keys @ query[row, token, head] * scaling, 0)
                result[row, token, head] = weights @ values
    return result


@pytest.mark.parametrize("scores", [1, 100, 2**20])
@pytest.mark.parametrize("prefix", [0, 11])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
def test_it_is_one_softmax_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, heads: int, key_heads: int, prefix: int, scores: int
) -> None:
    monkeypatch.setitem(masked._SCORES, "cpu", scores)
    given = made(heads, key_heads, prefix, [3, 0, 5], 4)
    found = attend_masked(*given, 0.3)
    torch.testing.assert_close(found, plainly(*given, 0.3))


def test_it_takes_no_part_in_autocast() -> None:
    given = made(4, 2, 7, [3, 0], 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend_masked(*given, 0.3)
    torch.testing.assert_close(found, plainly(*given, 0.3))


def test_a_row_that_is_not_finite_stays_alone() -> None:
    query, own, prefix, hidden = made(4, 2, 7, [3, 0], 2)
    expected = attend_masked(query, own, prefix, hidden, 0.3)
    own.values[:, 1] = float("nan")
    query[1] = float("nan")
    found = attend_masked(query, own, prefix, hidden, 0.3)
    assert torch.equal(found[0], expected[0])
    assert found[1].isnan().all()

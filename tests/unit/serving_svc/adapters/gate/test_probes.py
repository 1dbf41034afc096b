from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from serving_svc.adapters.gate.probes import judge_probes, read_probes
from tailorbird.errors import AdapterRefused
from tailorbird.manifest import MAX_PROBES_BYTES, Probes, ProbeSequence
from tests.unit.serving_svc.adapters.gate.adapter_folder import is_small

VOCABULARY, CONTEXT = 10, 8


def sequence(ids: tuple[int, ...] = (5, 6), base: float = -1.0, adapter: float = -1.0) -> bytes:
    values = {
        "base_logprobs": [base] * (len(ids) - 1),
        "adapter_logprobs": [adapter] * (len(ids) - 1),
    }
    return json.dumps({"sequences": [{"token_ids": ids, **values}]}).encode()


@pytest.mark.parametrize("ids", [(5, 6), (0, 9), (1,) * 7])
def test_sound_probes_are_read(tmp_path: Path, ids: tuple[int, ...]) -> None:
    (tmp_path / "x").write_bytes(sequence(ids, adapter=0.001))
    assert read_probes(tmp_path / "x", VOCABULARY, CONTEXT).sequences[0].token_ids == ids


@pytest.mark.parametrize(
    "data",
    [
        sequence((5, 10)),
        sequence((-1, 5)),
        sequence((10**300, 5)),
        sequence((1,) * 8),
        sequence(base=np.nan),
        sequence(adapter=np.nan),
        sequence(adapter=-np.inf),
        sequence(adapter=-1e300),
        sequence(base=1e300),
        b"",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        sequence() + b" " * MAX_PROBES_BYTES,
        json.dumps({"sequences": [{"token_ids": ["x"] * 100_000}]}).encode(),
        json.dumps({"sequences": [{}] * 100_000}).encode(),
    ],
    ids=lambda data: str(data[:80]),
)
def test_probes_the_engine_could_not_replay_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(AdapterRefused) as caught:
        read_probes(tmp_path / "x", VOCABULARY, CONTEXT)
    assert caught.value.reason == "PROBES_INVALID"
    assert is_small(caught.value)


def probes(base: float, adapter: float) -> Probes:
    told = ProbeSequence(
        token_ids=(1, 2, 3), base_logprobs=(base, base), adapter_logprobs=(adapter, adapter)
    )
    return Probes(sequences=(told,))


def verdict(
    told: tuple[float, float], served: tuple[float, float]
) -> tuple[str | None, bool | None]:
    served_base, served_adapter = ([[value, value]] for value in served)
    try:
        judge_probes(probes(*told), served_base, served_adapter, 0.02)
    except AdapterRefused as error:
        return error.reason, error.retryable
    return None, None


@pytest.mark.parametrize(
    ("told", "served", "reason", "retryable"),
    [
        # (base, adapter) as training saw them and as the engine serves them; floor 0.02.
        ((-2.0, -1.0), (-2.0, -1.0), None, None),
        ((-2.0, -1.0), (-2.0, -1.019), None, None),
        ((-2.0, -1.0), (-2.0, -1.041), "PROBE_MISMATCH", False),
        # However large the effect: what is a small share of it is wrong all the same.
        ((-9.0, -1.0), (-9.0, -1.3), "PROBE_MISMATCH", False),
        ((-2.0, -1.0), (-2.0, -1.995), "EFFECT_ABSENT", False),
        # An adapter without effect is served if the engine sees none either.
        ((-2.0, -1.99), (-2.0, -2.0), None, None),
        ((-2.0, -1.99), (-2.0, -1.9), "PROBE_MISMATCH", False),
        # What the base's own logprobs differ by does not count: the adapter's are compared.
        ((-2.0, -1.0), (-2.5, -1.0), None, None),
        # An effect as small as rounding: the base shows how much rounding there is.
        ((-2.0, -1.9), (-1.97, -1.82), None, None),
        ((-2.0, -1.9), (-2.0, -2.0), "EFFECT_ABSENT", False),
        # A base that is far off excuses nothing.
        ((-2.0, -1.9), (-3.0, -1.3), "PROBE_MISMATCH", False),
        # Up to twice the limit another batch may do, whatever noise the base shows in this one.
        ((-2.0, -1.0), (-2.0, -1.03), "PROBE_MISMATCH", True),
        ((-2.0, -1.96), (-2.0, -1.93), "PROBE_MISMATCH", True),
        ((-2.0, -1.9), (-1.97, -1.8), "PROBE_MISMATCH", True),
        ((-2.0, -1.9), (-1.97, -1.73), "PROBE_MISMATCH", True),
        ((-2.0, -1.9), (-1.97, -1.71), "PROBE_MISMATCH", False),
        # What is no number is never served; the base's own is no fault of the adapter.
        ((-2.0, -1.0), (-2.0, np.nan), "NOT_FINITE", False),
        ((-2.0, -1.0), (-2.0, -np.inf), "NOT_FINITE", False),
        ((-2.0, -1.0), (np.nan, -1.0), "PROBE_MISMATCH", True),
        ((-2.0, -1.0), (np.nan, np.nan), "PROBE_MISMATCH", True),
    ],
)
def test_the_verdict_on_probes(
    told: tuple[float, float],
    served: tuple[float, float],
    reason: str | None,
    retryable: bool | None,
) -> None:
    assert verdict(told, served) == (reason, retryable)

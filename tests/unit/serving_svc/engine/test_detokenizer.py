"""What we rely on of vLLM's detokenizer: whole characters, and stop strings across its steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from serving_svc.engine.sampling import sampling_params
from serving_svc.generation.model import Sampling
from tests.unit.serving_svc.engine.test_tools import tokenizer

TEXT = "Grüße, 世界 👩‍🚀!"


def pieces(text: str, *stop: str) -> list[str]:
    """Return what each token, one byte each, adds to the text."""
    bytes_ = tokenizer(None)
    parameters = sampling_params(Sampling(stop=stop), 1000)
    assert parameters.output_kind is RequestOutputKind.DELTA
    request: Any = SimpleNamespace(
        request_id="1", external_req_id="1", sampling_params=parameters, prompt_token_ids=[1]
    )
    detokenizer = IncrementalDetokenizer.from_new_request(bytes_, request)
    found = []
    for token in bytes_.encode(text):
        stopped = detokenizer.update([token], stop_terminated=False)
        found.append(detokenizer.get_next_output_text(finished=bool(stopped), delta=True))
        if stopped:
            break
    else:
        found.append(detokenizer.get_next_output_text(finished=True, delta=True))
    return found


def test_a_character_of_several_bytes_comes_whole() -> None:
    found = pieces(TEXT)
    assert "".join(found) == TEXT
    assert len(found) > len(TEXT)
    assert all("\ufffd" not in piece for piece in found)


@pytest.mark.parametrize(
    ("stop", "expected"), [("世界", "Grüße, "), ("ß", "Grü"), ("👩‍🚀!", TEXT[:10])]
)
def test_a_stop_string_is_never_shown_in_part(stop: str, expected: str) -> None:
    assert "".join(pieces(TEXT, stop)) == expected


def test_what_only_begins_like_a_stop_string_is_shown() -> None:
    assert "".join(pieces(TEXT, "世界!")) == TEXT

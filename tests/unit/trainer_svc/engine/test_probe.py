from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tailorbird.errors import FailedPrecondition
from tests.families import ALONE, PACKED, REFUSED, make_family
from tests.unit.trainer_svc.engine.tiny import make_base
from trainer_svc.engine.base import load_base
from trainer_svc.engine.probe import why_alone


def model(folder: Path, name: str = "Llama", dtype: torch.dtype = torch.float32) -> Any:
    base = make_family((PACKED | ALONE | REFUSED)[name], folder / "base")
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_number_format_is_no_leak(tmp_path: Path, dtype: torch.dtype) -> None:
    assert why_alone(model(tmp_path, "Llama", dtype)) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["OPT", "Falcon", "Falcon-H1", "LFM2"])
def test_a_leak_is_found_in_every_number_format(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    assert "change each other's logprobs" in why_alone(model(tmp_path, name, dtype))


def test_a_leak_is_measured_in_nats(tmp_path: Path) -> None:
    why = why_alone(model(tmp_path, "OPT"))
    assert 0.5 < float(why.rpartition("by ")[2].removesuffix(" nats")) < 5


def test_positions_that_depend_on_the_longest_record_do_not_pack(tmp_path: Path) -> None:
    assert "longrope" in why_alone(model(tmp_path, "Phi-3, long"))


def test_positions_of_one_kind_a_layer_are_looked_through(tmp_path: Path) -> None:
    found = model(tmp_path, "Gemma 3")
    assert why_alone(found) == ""
    found.config.rope_parameters["full_attention"]["rope_type"] = "longrope"
    assert "longrope" in why_alone(found)


def refused(found: Any) -> str:
    with pytest.raises(FailedPrecondition) as caught:
        why_alone(found)
    assert caught.value.reason == "BASE_UNSUPPORTED"
    return caught.value.message


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    found = model(tmp_path)
    with torch.no_grad():
        found.model.norm.weight[0] = torch.nan
    assert "not finite" in refused(found)


@pytest.mark.parametrize("name", ["Gemma 2", "Cohere"])
def test_logits_that_are_more_than_the_heads_product_are_refused(tmp_path: Path, name: str) -> None:
    assert "more than its output head's product" in refused(model(tmp_path, name))


def test_tokens_that_see_later_ones_are_refused(tmp_path: Path) -> None:
    found = model(tmp_path)
    for layer in found.model.layers:
        forward = layer.self_attn.forward

        def seeing_all(*args: Any, attend: Any = forward, **options: Any) -> Any:
            return attend(*args, **options | {"attention_mask": None, "is_causal": False})

        layer.self_attn.forward = seeing_all
    assert "later tokens" in refused(found)


def test_load_base_says_what_it_found(tmp_path: Path) -> None:
    packed = load_base(str(make_base(tmp_path / "llama")), "cpu")
    assert packed.packs
    alone = load_base(str(make_family(ALONE["OPT"], tmp_path / "opt")), "cpu")
    assert not alone.packs
    assert "nats" in alone.why_alone


def test_a_base_without_a_layer_to_change_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = make_family(REFUSED["GPT-2"], tmp_path / "gpt2")
    with pytest.raises(FailedPrecondition, match="none of the linear layers") as caught:
        load_base(str(folder), "cpu")
    assert caught.value.reason == "BASE_UNSUPPORTED"
    assert "q_proj" in caught.value.message

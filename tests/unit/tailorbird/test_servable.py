from __future__ import annotations

from tailorbird.servable import why_not_served


def test_experts_are_refused_where_they_were_measured() -> None:
    assert "Triton" in why_not_served("MixtralForCausalLM", "cpu")
    assert why_not_served("MixtralForCausalLM", "cuda") == ""


def test_what_has_no_lora_is_refused_everywhere() -> None:
    for device in ("cpu", "cuda"):
        assert "no LoRA" in why_not_served("StableLmForCausalLM", device)


def test_what_is_not_in_the_tables_may_be_trained() -> None:
    assert why_not_served("LlamaForCausalLM", "cpu") == ""
    assert why_not_served("", "cpu") == ""

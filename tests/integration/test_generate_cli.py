"""`tailorbird generate`: what of the API's generation it can ask for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tailorbird.serving.v1 import inference_service_pb2 as serving_pb
from tests.integration.scripted_services import Script
from tests.integration.test_cli import Run, run, stdin

__all__ = ["run"]


def test_every_parameter_of_the_sampling_can_be_asked_for(
    run: Run, script: Script, tmp_path: Path
) -> None:
    grammar = tmp_path / "answer.gbnf"
    grammar.write_text('root ::= "yes"')
    ran = run(
        *("generate", "--base", "hi", "--max-tokens", "9", "--min-tokens", "2", "--seed", "7"),
        *("--temperature", "0.5", "--top-p", "0.9", "--top-k", "40", "--min-p", "0.25"),
        *("--stop", "\n\n", "--stop", "END", "--presence-penalty", "-1", "--n", "1"),
        *("--frequency-penalty", "0.5", "--repetition-penalty", "1.5", "--logit-bias", "198=-100"),
        *("--logit-bias", "7=0.5", "--ignore-eos", "--logprobs", "0", "--token-ids"),
        *("--grammar", str(grammar), "--priority", "3"),
    )
    assert ran.status == 0, ran.err
    assert "token ids: 5 8\n" in ran.out
    request = script.requests[0].request
    assert request.priority == 3
    asked = serving_pb.SamplingParameters(
        max_tokens=9, min_tokens=2, seed=7, temperature=0.5, top_p=0.9, top_k=40, min_p=0.25,
        stop=["\n\n", "END"], presence_penalty=-1, n=1, frequency_penalty=0.5,
        repetition_penalty=1.5, logit_bias={198: -100, 7: 0.5}, ignore_eos=True, logprobs=0,
        return_token_ids=True, grammar='root ::= "yes"',
    )  # fmt: skip
    assert request.sampling == asked
    # A field of a later API needs its option: what is said of the structure is tested elsewhere.
    others = {"json_schema", "regex", "choices"}
    given = {field.name for field, _ in asked.ListFields()}
    assert {each.name for each in asked.DESCRIPTOR.fields} - given == others


def test_what_is_not_asked_for_is_left_to_the_service(run: Run, script: Script) -> None:
    run("generate", "--base", "hi")
    assert script.requests[0].request.sampling == serving_pb.SamplingParameters()


def test_a_text_is_continued_as_it_stands(
    run: Run, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("generate", "--adapter", "support", "--raw", "Q: hi\nA:").status == 0
    monkeypatch.setattr(sys, "stdin", stdin(b"from a pipe\n"))
    run("generate", "--base", "--raw", "-", "--min-route-generation", "4")
    plain, piped = (each.request for each in script.requests)
    assert (plain.WhichOneof("input"), plain.prompt) == ("prompt", "Q: hi\nA:")
    assert (piped.prompt, piped.min_route_generation) == ("from a pipe\n", 4)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--raw", "--system", "Be kind."),
        ("--logit-bias", "198"),
        ("--logit-bias", "a=1"),
        ("--logit-bias", "1=1", "--logit-bias", "1=2"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(
    run: Run, script: Script, wrong: tuple[str, ...]
) -> None:
    assert run("generate", "--base", "hi", *wrong).status == 2
    assert script.requests == []


def test_a_token_of_no_vocabulary_is_one_line(run: Run, script: Script) -> None:
    ran = run("generate", "--base", "hi", "--logit-bias", f"{2**40}=1")
    assert (ran.status, script.requests) == (2, [])
    assert ran.err.startswith("error: logit_bias: 1099511627776 is out of range")

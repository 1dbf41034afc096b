"""What an answer must look like, on the real vLLM; and what a bad structure cannot do to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_svc.engine.structures import StructureChecker
from serving_svc.generation.model import Structure
from tests.integration.serving.structures_child import MARK
from tests.integration.serving.world import make_base

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"item": {"enum": ["pen", "ink"]}, "count": {"enum": [1, 22]}},
        "required": ["item", "count"],
        "additionalProperties": False,
    }
)


class Engine:
    def __init__(self, base: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.serving.structures_child", str(base)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                # Its worker does not end by itself.
                "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "1",
            },
        )
        assert self._line() == "ready"

    def ask(self, structure: Structure | None = None, **asked: Any) -> dict[str, Any]:
        if structure is not None:
            asked["structure"] = {
                "kind": structure.kind,
                "value": structure.value,
                "choices": structure.choices,
            }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self._line())
        assert not found["dead"]
        return found

    def text(self, structure: Structure | None = None, **asked: Any) -> str:
        found = self.ask(structure, **asked)
        assert "error" not in found
        return "".join(found["pieces"]["0"])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()

    def _line(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                return line.removeprefix(MARK)[:-1]
        raise AssertionError("the engine is gone")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    base = tmp_path_factory.mktemp("structures")
    make_base(base)
    engine = Engine(base)
    yield engine
    engine.close()


async def checked(structure: Structure) -> Structure:
    checker = StructureChecker()
    try:
        return await checker.check(structure, "acme")
    finally:
        await checker.close()


@pytest.mark.parametrize("temperature", [0.0, 2.0])
async def test_answers_are_what_they_must_be(engine: Engine, temperature: float) -> None:
    """A random model, so that nothing but the structure makes them so."""
    schema = await checked(Structure("json_schema", SCHEMA))
    biased = {"temperature": temperature, "seed": 1, "logit_bias": {5: -100.0}, "max_tokens": 200}
    found = json.loads(engine.text(schema, **biased))
    assert found["item"] in {"pen", "ink"}
    assert found["count"] in {1, 22}
    regex = await checked(Structure("regex", "[a-c]{3}-[0-9]{2}"))
    text = engine.text(regex, temperature=temperature, seed=1)
    assert re.fullmatch("[a-c]{3}-[0-9]{2}", text)
    choices = await checked(Structure("choices", choices=("yes", 'no "really"')))
    assert engine.text(choices, temperature=temperature, seed=1) in choices.choices
    grammar = await checked(Structure("grammar", 'root ::= "a" b\nb ::= "x" | "y" "z"'))
    assert engine.text(grammar, temperature=temperature, seed=1) in {"ax", "ayz"}


async def test_each_of_several_answers_is_held_to_it(engine: Engine) -> None:
    structure = await checked(Structure("regex", "[0-9]{4}"))
    found = engine.ask(structure, n=4, temperature=1.0, seed=3)
    texts = ["".join(pieces) for _, pieces in sorted(found["pieces"].items())]
    assert len(texts) == 4
    assert all(re.fullmatch("[0-9]{4}", text) for text in texts)


@pytest.mark.parametrize(
    "structure",
    [
        Structure("json_schema", '{"type": "nonsense"}'),
        Structure("json_schema", "not json"),
        Structure("regex", "((a{100}){100}){100}"),
        Structure("regex", "("),
        Structure("grammar", "root ::= x"),
    ],
    ids=str,
)
def test_a_bad_structure_that_reaches_the_engine_does_not_end_it(
    engine: Engine, structure: Structure
) -> None:
    """Ours are refused before; should one pass, it is its own request's alone."""
    plain = engine.text(temperature=0, max_tokens=8)
    engine.ask(structure, max_tokens=8)
    assert engine.text(temperature=0, max_tokens=8) == plain


def test_a_stop_string_is_found_across_pieces(engine: Engine) -> None:
    """The model has one token a character, so each of its strings is spread over pieces."""
    whole = engine.text(temperature=0, max_tokens=32)
    stop = whole[10:14]
    found = engine.ask(temperature=0, max_tokens=32, stop=[stop])
    assert "".join(found["pieces"]["0"]) == whole[: whole.index(stop)]
    assert found["reasons"] == {"0": "stop"}


def test_logprobs_come_ranked_for_each_token(engine: Engine) -> None:
    found = engine.ask(temperature=0, max_tokens=5, logprobs=3)
    assert [len(top) for top in found["tops"]] == [3] * 5
    assert all(top == sorted(top, reverse=True) for top in found["tops"])

"""What is trained of each format: tools and their calls, weights, plain text."""

from __future__ import annotations

import itertools
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from tailorbird.errors import FailedPrecondition
from tailorbird.records.formats import DatasetFormat, parse_record
from tests.unit.trainer_svc.engine.data import tokenizers_of
from tests.unit.trainer_svc.engine.data.tool_templates import BARE, TAGGED
from trainer_svc.engine.data.sequences import Sequencer
from trainer_svc.engine.data.template import Renderer
from trainer_svc.engine.data.token_files import Piece

DEMO_BASE = Path(__file__).parents[5] / "examples" / "demo_base"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Finds an order.",
            "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}},
            "strict": True,
        },
    }
]
SYSTEM = {"role": "developer", "content": "Be brief."}
ASK = {"role": "user", "content": "where is order 7?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "find", "arguments": '{"order":7,"by":"größe"}'},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": '{"state": "sent"}'}
ANSWER = {"role": "assistant", "content": "it was sent"}


def demo(template: str | None = None) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_BASE)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def sequences(
    tokenizer: Any,
    record: dict[str, Any],
    record_format: str = "chat",
    limit: int = 4096,
    *,
    truncate: bool = False,
) -> list[list[Piece]]:
    parse_record(1, json.dumps(record).encode(), DatasetFormat(record_format))
    sequencer = Sequencer(tokenizer, record_format, limit, truncate=truncate)
    ((_, found, too_long),) = sequencer.sequences([(1, record)])
    assert too_long is truncate
    return found


def pieces(tokenizer: Any, found: list[list[Piece]]) -> list[list[tuple[str, bool]]]:
    """What is in each sequence, and whether it is trained."""
    return [[(tokenizer.decode(ids), trained) for ids, trained in one] for one in found]


def test_a_call_is_trained_like_an_answer_and_its_result_is_not() -> None:
    tokenizer = demo(TAGGED)
    record = chat(SYSTEM, ASK, CALL, RESULT, ANSWER, tools=TOOLS)
    (found,) = pieces(tokenizer, sequences(tokenizer, record))
    assert found == [
        (
            '<|system|>Be brief.\nTools:\n{"type": "function", "function": {"name": "find", '
            '"description": "Finds an order.", "parameters": {"type": "object", "properties": '
            '{"order": {"type": "integer"}}}}}<|end|><|user|>where is order 7?<|end|><|assistant|>',
            False,
        ),
        (
            '<tool_call>\n{"name": "find", "arguments": {"order": 7, "by": "größe"}}\n'
            "</tool_call><|end|>",
            True,
        ),
        ('<|user|><tool_response>{"state": "sent"}</tool_response><|end|><|assistant|>', False),
        ("it was sent<|end|>", True),
    ]


def test_a_template_that_takes_arguments_apart_and_names_results_has_what_it_asks_for() -> None:
    tokenizer = demo(BARE)
    (found,) = pieces(tokenizer, sequences(tokenizer, chat(ASK, CALL, RESULT, ANSWER, tools=TOOLS)))
    assert found[1:] == [
        ('{"name": "find", "parameters": {"order": 7, "by": "größe"}}<|end|>', True),
        ('<|system|>find gave "{\\"state\\": \\"sent\\"}"<|end|><|assistant|>', False),
        ("it was sent<|end|>", True),
    ]


def test_a_call_that_weighs_nothing_is_context() -> None:
    tokenizer = demo(TAGGED)
    record = chat(ASK, {**CALL, "weight": 0}, RESULT, {**ANSWER, "weight": 1})
    ((before, answer),) = pieces(tokenizer, sequences(tokenizer, record))
    assert "</tool_call><|end|>" in before[0]
    assert (before[1], answer) == (False, ("it was sent<|end|>", True))


def test_answers_of_the_weight_0_are_context_and_what_follows_the_last_is_left_out() -> None:
    tokenizer = demo()
    user = [{"role": "user", "content": text} for text in ("a?", "b?", "c?")]
    answers = [{"role": "assistant", "content": text} for text in ("one", "two", "three")]
    for weights, wanted in (
        (
            (0, 1, 0),
            [("<|user|>a?<|end|><|assistant|>one<|end|><|user|>b?<|end|><|assistant|>", 0)],
        ),
        ((1, 0, 0), [("<|user|>a?<|end|><|assistant|>", 0)]),
    ):
        turns = [
            one
            for question, answer, weight in zip(user, answers, weights, strict=True)
            for one in (question, {**answer, "weight": weight})
        ]
        (found,) = pieces(tokenizer, sequences(tokenizer, chat(*turns)))
        trained = answers[weights.index(1)]["content"]
        assert found == [*wanted, (f"{trained}<|end|>", True)]


def test_a_record_without_a_weighed_answer_trains_nothing() -> None:
    # No template would take it: it is not asked.
    tokenizer = demo("{{ raise_exception('never') }}")
    assert sequences(tokenizer, chat(ASK, {**ANSWER, "weight": 0})) == []


def test_records_between_those_that_train_nothing_keep_their_lines() -> None:
    silent = chat(ASK, {**ANSWER, "weight": 0})
    records = [silent, chat(ASK, ANSWER), silent, chat(ASK, ANSWER, ASK, ANSWER), silent]
    found = list(Sequencer(demo(), "chat", 4096).sequences(enumerate(records, start=1)))
    assert [(one.line, len(one.sequences)) for one in found] == [
        (1, 0), (2, 1), (3, 0), (4, 1), (5, 0),
    ]  # fmt: skip
    assert not any(one.too_long for one in found)


def test_a_file_of_records_that_train_nothing_is_read_in_batches() -> None:
    asked = itertools.count(1)
    records = ((next(asked), chat(ASK, {**ANSWER, "weight": 0})) for _ in range(10_000))
    next(Sequencer(demo(), "chat", 4096).sequences(records))
    assert next(asked) < 100


def test_what_follows_the_last_trained_answer_is_not_held() -> None:
    class Text(str):
        """Can be watched."""

        __slots__ = ("__weakref__",)

    for trained in (0, 1):
        tail = Text("x" * 2**20)
        watched = weakref.ref(tail)
        record = chat(ASK, {**ANSWER, "weight": trained}, {"role": "user", "content": tail})
        record["messages"].append({**ANSWER, "weight": 0})
        turns = Renderer(demo(), "chat").turns(record, 1)
        assert len(turns) == trained
        del record, tail
        assert watched() is None


SILENT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (chat(ASK, ANSWER, tools=TOOLS), "the record's tools"),
        (chat(ASK, CALL), "the assistant's calls of tools"),
        (chat(ASK, ANSWER, ASK, {**CALL, "content": "find"}), "the assistant's calls of tools"),
    ],
)
def test_a_template_that_drops_tools_is_refused(record: dict[str, Any], what: str) -> None:
    with pytest.raises(FailedPrecondition, match=f"line 1 .* does not show {what}") as caught:
        sequences(demo(SILENT), record)
    assert caught.value.reason == "TEMPLATE_WITHOUT_TOOLS"
    assert caught.value.metadata["line"] == "1"


def test_a_template_may_demand_what_it_is_asked_without_once() -> None:
    demanding = TAGGED.replace("{% if tools %}", "{{ tools | length and '' }}{% if tools %}")
    record = chat(ASK, ANSWER, tools=TOOLS)
    assert len(sequences(demo(demanding), record)) == 1


def test_a_template_that_refuses_a_tools_result_names_the_role() -> None:
    strict = TAGGED.replace(
        "{% elif m.role == 'tool' %}", "{% elif m.role == 'tool' %}{{ raise_exception('no') }}"
    )
    with pytest.raises(FailedPrecondition, match="a message of the role tool: no") as caught:
        sequences(demo(strict), chat(ASK, CALL, RESULT, ANSWER, tools=TOOLS))
    assert caught.value.reason == "CHAT_TEMPLATE_REFUSED"


def test_all_of_a_text_is_trained_but_its_first_token() -> None:
    tokenizer = demo()
    (found,) = sequences(tokenizer, {"text": "the order\0 is \u05d0\u0301"}, "text")
    ids = tokenizer("the order\0 is \u05d0\u0301", add_special_tokens=False)["input_ids"]
    assert found == [([], False), ([*ids, tokenizer.eos_token_id], True)]


def test_a_text_begins_as_serving_begins_a_prompt() -> None:
    for add in (
        tokenizers_of.byte_level(),
        tokenizers_of.metaspace("always"),
        tokenizers_of.legacy_llama(),
    ):
        bos, eos = add.bos_token_id, add.eos_token_id
        _put_around(add, bos, eos)
        (found,) = sequences(add, {"text": "the order"}, "text")
        served = add.encode("the order")
        assert (served[0], served[-1]) == (bos, eos)
        assert found == [([bos], False), ([*served[1:-1], eos], True)]


def _put_around(tokenizer: Any, bos: int, eos: int) -> None:
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", bos), ("</s>", eos)]
    )


def test_a_text_that_the_tokenizer_drops_is_refused() -> None:
    tokenizer = demo()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    with pytest.raises(FailedPrecondition, match=r"line 1 .* its text has no token"):
        sequences(tokenizer, {"text": "xx"}, "text")


def test_a_text_of_one_token_trains_nothing() -> None:
    tokenizer = demo()
    tokenizer.eos_token = None
    assert sequences(tokenizer, {"text": "a"}, "text") == []

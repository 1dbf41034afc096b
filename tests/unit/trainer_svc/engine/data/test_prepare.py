from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from tailorbird.errors import Aborted, DataCorrupt, FailedPrecondition
from tests.unit.trainer_svc.engine.tiny import (
    CHAT_TEMPLATE,
    chats,
    dataset_ref,
    jsonl,
    make_tokenizer,
)
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.prepare import prepare, prepared, split
from trainer_svc.engine.data.tokenizer_digest import tokenizer_digest
from trainer_svc.engine.data.tokens import Example, TokenDataset
from trainer_svc.jobs.events import DataReport

EXAMPLES = Path(__file__).parents[5] / "examples"
TOKENIZER = make_tokenizer()
ROWS = len(TOKENIZER)


def read(
    path: Path,
    records: Sequence[dict[str, Any]] | bytes,
    record_format: str = "chat",
    tokenizer: Any = TOKENIZER,
    limit: int = 256,
    rows: int = ROWS,
) -> tuple[TokenDataset, DataReport]:
    data = records if isinstance(records, bytes) else jsonl(records)
    file = path / "data.jsonl"
    file.write_bytes(data)
    ref = dataset_ref(data, record_format=record_format)
    return prepare(file, ref, tokenizer, limit, DatasetCache(path / "cache", 2**30), rows=rows)


def trained_text(example: Example) -> str:
    return str(TOKENIZER.decode(example.token_ids[example.trained]))


def text(example: Example) -> str:
    return str(TOKENIZER.decode(example.token_ids))


def chat(*turns: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(turns)
    return {
        "messages": [{"role": r, "content": c} for r, c in zip(roles, turns, strict=False)],
        "metadata": {"ignored": True},
    }


def test_a_chat_trains_the_answer_and_its_end(tmp_path: Path) -> None:
    (example,), report = read(tmp_path, [chat("where is it?", "on its way")])
    assert text(example) == "<|user|>where is it?<|end|>\n<|assistant|>on its way<|end|>"
    assert trained_text(example) == "on its way<|end|>"
    assert report == DataReport(
        records=1,
        kept=1,
        dropped_too_long=0,
        dropped_lines=(),
        trained_tokens=int(example.trained.sum()),
        masked_tokens=int((~example.trained).sum()),
    )


def test_a_prompt_is_tokenised_as_serving_does(tmp_path: Path) -> None:
    record = chat("one", "two", "three", "four")
    (example,), _ = read(tmp_path, [record])
    assert trained_text(example) == "two<|end|>four<|end|>"
    for turns in (1, 3):
        prompt = TOKENIZER.apply_chat_template(
            record["messages"][:turns], tokenize=False, add_generation_prompt=True
        )
        ids = TOKENIZER(prompt, add_special_tokens=False)["input_ids"]
        assert example.token_ids[: len(ids)].tolist() == ids
        assert bool(example.trained[len(ids)])


FORGETFUL = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{{ m.content if m.role == 'user' or loop.last else '...' }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_turns_part_where_the_template_rewrites_earlier_ones(tmp_path: Path) -> None:
    forgetful = make_tokenizer(FORGETFUL)
    examples, report = read(tmp_path, [chat("a", "b", "c", "d")], tokenizer=forgetful)
    assert [text(example) for example in examples] == [
        "<|user|>a<|end|><|assistant|>b<|end|>",
        "<|user|>a<|end|><|assistant|>...<|end|><|user|>c<|end|><|assistant|>d<|end|>",
    ]
    assert [trained_text(example) for example in examples] == ["b<|end|>", "d<|end|>"]
    assert (report.records, report.kept) == (1, 1)


def test_a_record_is_too_long_where_an_earlier_turn_is(tmp_path: Path) -> None:
    records = [chat("a", "b" * 100, "c", "d"), chat("a", "b", "c", "d")]
    tokenizer = make_tokenizer(FORGETFUL)
    examples, report = read(tmp_path, records, tokenizer=tokenizer, limit=64)
    assert [example.line for example in examples] == [2, 2]
    assert (report.kept, report.dropped_lines) == (1, (1,))


def test_a_template_that_opens_the_turn_otherwise_is_refused(tmp_path: Path) -> None:
    odd = make_tokenizer(
        "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(FailedPrecondition) as caught:
        read(tmp_path, [chat("a", "b")], tokenizer=odd)
    assert caught.value.reason == "CHAT_TEMPLATE_UNSUPPORTED"


def test_an_instruction_is_a_chat(tmp_path: Path) -> None:
    records = [
        {"instruction": "Sum up", "input": "a text", "output": "short"},
        {"instruction": "Greet", "output": "hello"},
    ]
    examples, _ = read(tmp_path, records, "instruction")
    assert [text(example) for example in examples] == [
        "<|user|>Sum up\n\na text<|end|>\n<|assistant|>short<|end|>",
        "<|user|>Greet<|end|>\n<|assistant|>hello<|end|>",
    ]
    assert [trained_text(example) for example in examples] == ["short<|end|>", "hello<|end|>"]


@pytest.mark.parametrize("template", [None, "anything"])
def test_a_prompt_needs_no_template(tmp_path: Path, template: str | None) -> None:
    records = [{"prompt": "2 + 2 =", "completion": " 4"}]
    (example,), _ = read(tmp_path, records, "prompt_completion", make_tokenizer(template))
    assert text(example) == "2 + 2 = 4<|end|>"
    assert trained_text(example) == " 4<|end|>"


@pytest.mark.parametrize("record_format", ["chat", "instruction"])
def test_a_chat_needs_a_template(tmp_path: Path, record_format: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        read(tmp_path, [chat("a", "b")], record_format, make_tokenizer(None))
    assert caught.value.reason == "BASE_HAS_NO_CHAT_TEMPLATE"


def test_longer_records_are_dropped_and_counted(tmp_path: Path) -> None:
    records = [chat("a", "b"), chat("a", "b" * 90), chat("c", "d"), chat("x" * 90, "y")]
    examples, report = read(tmp_path, jsonl(records).replace(b"\n", b"\n\n"), limit=64)
    assert [example.line for example in examples] == [1, 5]
    assert (report.records, report.kept, report.dropped_too_long) == (4, 2, 2)
    assert report.dropped_lines == (3, 7)


def test_nothing_kept_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(
        FailedPrecondition, match=r"none of the 3 records .*: 3 are longer .*, 8 tokens"
    ) as caught:
        read(tmp_path, chats(3), limit=8)
    assert caught.value.reason == "NO_TRAINABLE_RECORDS"


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[1]\n",
        b'{"messages": "hello"}\n',
        b'{"messages": [{"role": "user"}, {"role": "assistant"}], "x": \n',
        b'{"messages": [{"role": "user", "content": "a"}]}\n',
        b'{"prompt": "a", "completion": "b"}\n',
    ],
)
def test_a_line_that_cannot_be_trained_on_is_named(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="line 2") as caught:
        read(tmp_path, jsonl([chat("a", "b")]) + line)
    assert caught.value.reason == "INVALID_RECORD"
    assert caught.value.metadata["line"] == "2"


STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
)


def test_a_template_that_rejects_system_turns_names_line_and_role(tmp_path: Path) -> None:
    system = {"role": "system", "content": "be brief"}
    records = [chat("a", "b"), {"messages": [system, *chat("a", "b")["messages"]]}]
    with pytest.raises(
        FailedPrecondition, match=r"line 2 .* role system: no system here"
    ) as caught:
        read(tmp_path, records, tokenizer=make_tokenizer(STRICT))
    assert caught.value.reason == "CHAT_TEMPLATE_REFUSED"
    assert caught.value.metadata == {"line": "2", "role": "system"}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ raise_exception('not today') }}", "the messages: not today"),
        ("{{ messages[0].nothing.at_all }}", "the messages: 'dict object' has no"),
        ("{{ 1 + messages[0].content }}", "the messages: unsupported operand"),
    ],
)
def test_a_template_that_raises_is_told_with_its_words(
    tmp_path: Path, template: str, text: str
) -> None:
    with pytest.raises(FailedPrecondition, match=re.escape(text)) as caught:
        read(tmp_path, [chat("a", "b")], tokenizer=make_tokenizer(template))
    assert caught.value.reason == "CHAT_TEMPLATE_REFUSED"
    assert caught.value.metadata["line"] == "1"


@pytest.mark.parametrize(
    ("record_format", "record", "where"),
    [
        ("chat", chat("a", " \n"), "messages[1].content: only white space"),
        ("chat", chat("a", "", "c", "d"), "messages[1].content: empty"),
        ("instruction", {"instruction": "a", "output": " "}, "output: only white space"),
        ("prompt_completion", {"prompt": "a", "completion": " "}, "completion: only white"),
    ],
)
def test_an_empty_answer_is_named(
    tmp_path: Path, record_format: str, record: dict[str, Any], where: str
) -> None:
    with pytest.raises(FailedPrecondition, match="line 1 of the dataset") as caught:
        read(tmp_path, [record], record_format)
    assert where in caught.value.message
    assert caught.value.reason == "INVALID_RECORD"


def test_the_file_is_not_read_on_once_the_job_is_stopped(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(jsonl(chats(1)) + b"not json")
    asked = iter([False, True])
    cache = DatasetCache(tmp_path / "cache", 2**30)
    with pytest.raises(Aborted):
        ref = dataset_ref(file.read_bytes())
        prepare(file, ref, TOKENIZER, 256, cache, asked.__next__, rows=ROWS)


def test_a_record_is_not_read_on_once_the_job_is_stopped(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(jsonl([chat(*"abcdefgh")]))
    asked = iter([False, False, True])
    cache = DatasetCache(tmp_path / "cache", 2**30)
    ref = dataset_ref(file.read_bytes())
    with pytest.raises(Aborted):
        prepare(file, ref, TOKENIZER, 256, cache, asked.__next__, rows=ROWS)


def test_an_id_without_a_row_in_the_embedding_is_named(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<ticket>"])
    assert tokenizer.convert_tokens_to_ids("<ticket>") == ROWS
    records = [chat("a", "b"), chat("the <ticket>", "b")]
    with pytest.raises(
        FailedPrecondition, match=rf"line 2 .* token id {ROWS}, .* for {ROWS} ids"
    ) as caught:
        read(tmp_path, records, tokenizer=tokenizer)
    assert caught.value.reason == "INVALID_RECORD"
    assert caught.value.metadata["line"] == "2"
    # What was kept for a base with the row is not taken for one without.
    assert len(read(tmp_path, records, tokenizer=tokenizer, rows=ROWS + 1)[0]) == 2
    with pytest.raises(FailedPrecondition):
        read(tmp_path, records, tokenizer=tokenizer)


def test_another_file_is_corrupt(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(jsonl(chats(3)))
    with pytest.raises(DataCorrupt) as caught:
        prepare(
            file,
            dataset_ref(jsonl(chats(2))),
            TOKENIZER,
            256,
            DatasetCache(tmp_path / "cache", 2**30),
            rows=ROWS,
        )
    assert caught.value.reason == "DATASET_CORRUPT"


@pytest.mark.parametrize(("count", "fraction", "held"), [(10, 0.3, 3), (2, 0.01, 1), (2, 0.5, 1)])
def test_the_split_is_seeded_and_never_empty(
    tmp_path: Path, count: int, fraction: float, held: int
) -> None:
    examples, report = read(tmp_path, chats(count))
    training, validation, trained, held_out = split(examples, report, fraction, seed=1)
    assert (len(training), len(validation)) == (count - held, held)
    assert (trained.kept, held_out.kept) == (count - held, held)
    assert trained.trained_tokens + held_out.trained_tokens == report.trained_tokens
    again = split(examples, report, fraction, seed=1)
    assert [e.line for e in again[1]] == [e.line for e in validation]


@pytest.mark.parametrize("copies", [1, 3])
def test_one_record_cannot_be_split(tmp_path: Path, copies: int) -> None:
    examples, report = read(tmp_path, chats(1) * copies)
    with pytest.raises(FailedPrecondition, match="two different records") as caught:
        split(examples, report, 0.5, seed=0)
    assert caught.value.reason == "NO_TRAINABLE_RECORDS"


def different(count: int) -> list[dict[str, Any]]:
    return [chat(f"order {number}?", "on its way") for number in range(count)]


def test_without_copies_the_lines_themselves_are_drawn(tmp_path: Path) -> None:
    """As earlier releases drew them: a job that goes on validates on what it had held out."""
    examples, report = read(tmp_path, different(20))
    _, validation, _, _ = split(examples, report, 0.25, seed=3)
    drawn = random.Random("validation:3").sample(range(20), 5)
    assert [example.line for example in validation] == sorted(line + 1 for line in drawn)


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_record_are_on_one_side(tmp_path: Path, seed: int) -> None:
    records = different(20)
    examples, report = read(tmp_path, records + records[:10] + records[5:10])
    training, validation, trained, held_out = split(examples, report, 0.3, seed=seed)
    sides = [{text(example) for example in side} for side in (training, validation)]
    assert len(sides[0]) + len(sides[1]) == 20
    assert len(sides[1]) == 6
    assert not sides[0] & sides[1]
    assert trained.kept + held_out.kept == 35


def test_records_that_differ_in_what_is_trained_are_no_copies(tmp_path: Path) -> None:
    pairs = [{"prompt": "12", "completion": "3"}, {"prompt": "1", "completion": "23"}]
    examples, report = read(tmp_path, pairs, "prompt_completion")
    assert [example.token_ids.tolist() for example in examples[:1]] == [
        example.token_ids.tolist() for example in examples[1:]
    ]
    training, validation, _, _ = split(examples, report, 0.5, seed=0)
    assert (len(training), len(validation)) == (1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_repeated_more_often_than_is_held_out_is_trained_on(
    tmp_path: Path, seed: int
) -> None:
    records = different(11)
    examples, report = read(tmp_path, records[:1] * 40 + records[1:])
    training, validation, _, _ = split(examples, report, 0.2, seed=seed)
    assert (len(training), len(validation)) == (48, 2)
    # With no other record there is no choice.
    examples, report = read(tmp_path, records[:1] * 20 + records[1:2] * 20)
    training, validation, _, _ = split(examples, report, 0.2, seed=seed)
    assert (len(training), len(validation)) == (20, 20)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_rather_not_held_out_is_trained_on_with_its_copies(
    tmp_path: Path, seed: int
) -> None:
    records = different(20)
    examples, report = read(tmp_path, records + records[8:10])
    # Lines 9 and 10 stand on 21 and 22 again; one of the two is enough.
    seen = np.array([*range(1, 10), 22, 99])
    _, validation, _, held_out = split(examples, report, 0.3, seed, least=2, rather_not=seen)
    assert all(10 < example.line <= 20 for example in validation)
    assert held_out.records == 3
    every = np.arange(1, 23)
    _, validation, _, held_out = split(examples, report, 0.3, seed, rather_not=every)
    assert sorted(set(validation.lines)) == sorted(set(split(examples, report, 0.3, seed)[1].lines))


@pytest.mark.parametrize("tenant", ["support", "invoices"])
def test_the_examples_are_tokenised_as_serving_does(tenant: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(EXAMPLES / "demo_base")
    file = EXAMPLES / tenant / "train.jsonl"
    examples, report = prepare(
        file,
        dataset_ref(file.read_bytes()),
        tokenizer,
        1024,
        DatasetCache(tmp_path, 2**30),
        rows=len(tokenizer),
    )
    records = [json.loads(line)["messages"] for line in file.read_text("utf-8").splitlines()]
    assert report.kept == len(examples) == len(records)
    for example, messages in zip(examples, records, strict=True):
        prompt = tokenizer.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"]
        assert example.token_ids.tolist() == [*ids, *answer, tokenizer.eos_token_id]
        assert example.trained.tolist() == [False] * len(ids) + [True] * (len(answer) + 1)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    record = json.dumps({"prompt": "2", "completion": "0123456789" * 200}) + "\n"
    file.write_text(record * 4000)
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.growth", file, tmp_path / "cache"],
        check=True,
        capture_output=True,
        text=True,
    )
    gained, trained, records = map(int, done.stdout.split())
    assert (trained, records) == (4000 * 2001, 4000)
    # Nine bytes a token would be 72 MB.
    assert gained < 36e6


def test_a_dataset_is_prepared_once_for_a_tenant_and_a_tokenizer(tmp_path: Path) -> None:
    data = jsonl(chats(3))
    file = tmp_path / "data.jsonl"
    cache = DatasetCache(tmp_path / "cache", 2**30)
    changed = make_tokenizer(f"Hello. {CHAT_TEMPLATE}")

    def length(
        tenant: str = "acme",
        tokenizer: Any = TOKENIZER,
        limit: int = 256,
        rows: int = ROWS,
        truncate: bool = False,
    ) -> int:
        ref = dataset_ref(data).model_copy(update={"name": f"tenants/{tenant}/datasets/train"})
        dataset, report = prepare(file, ref, tokenizer, limit, cache, rows=rows, truncate=truncate)
        assert report.kept == len(dataset) == 3
        return len(dataset[0].token_ids)

    file.write_bytes(data)
    found = length()
    file.write_bytes(b"")
    assert length() == found
    others: list[dict[str, Any]] = [
        {"tenant": "other"}, {"tokenizer": changed}, {"limit": 255}, {"rows": ROWS + 1},
        {"truncate": True},
    ]  # fmt: skip
    for other in others:
        file.write_bytes(b"")
        with pytest.raises(DataCorrupt):
            length(**other)
        file.write_bytes(data)
        assert (length(**other) == found) == ("tokenizer" not in other)


class Slow:
    """A tokenizer without a fast backend."""

    backend_tokenizer = None

    def __getattr__(self, name: str) -> Any:
        return getattr(TOKENIZER, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return TOKENIZER(*arguments, **options)


def test_what_a_tokenizer_made_that_cannot_be_compared_is_made_again(tmp_path: Path) -> None:
    data = jsonl(chats(3))
    file = tmp_path / "data.jsonl"
    file.write_bytes(data)
    cache = DatasetCache(tmp_path / "cache", 2**30)
    ref, slow = dataset_ref(data), Slow()
    found, _ = prepare(file, ref, slow, 256, cache, rows=ROWS)
    assert len(found) == 3
    assert prepared(ref, slow, 256, cache, rows=ROWS) is None
    file.write_bytes(b"")
    with pytest.raises(DataCorrupt):
        prepare(file, ref, slow, 256, cache, rows=ROWS)


def test_a_tokenizers_digest_is_the_same_after_its_use() -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(8)
    before = tokenizer_digest(tokenizer)
    tokenizer(["x"], truncation=False)
    assert tokenizer_digest(tokenizer) == before


def test_what_another_format_made_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, data = make_tokenizer(), jsonl(chats(3))
    file = tmp_path / "data.jsonl"
    file.write_bytes(data)
    cache, ref = DatasetCache(tmp_path / "cache", 2**30), dataset_ref(data)
    prepare(file, ref, tokenizer, 256, cache, rows=ROWS)
    assert prepared(ref, tokenizer, 256, cache, rows=ROWS) is not None
    monkeypatch.setattr("trainer_svc.engine.data.tokenizer_digest.TOKENS_FORMAT", 0)
    assert prepared(ref, tokenizer, 256, cache, rows=ROWS) is None


def test_a_dataset_stays_on_disk_while_a_view_of_it_lives(tmp_path: Path) -> None:
    data = jsonl(chats(4))
    file = tmp_path / "data.jsonl"
    file.write_bytes(data)
    cache = DatasetCache(tmp_path / "cache", 1)
    dataset, report = prepare(file, dataset_ref(data), TOKENIZER, 256, cache, rows=ROWS)
    training, _, _, _ = split(dataset, report, 0.5, seed=0)
    del dataset
    prepare(file, dataset_ref(data), TOKENIZER, 255, cache, rows=ROWS)
    file.write_bytes(b"")
    again, _ = prepare(file, dataset_ref(data), TOKENIZER, 256, cache, rows=ROWS)
    assert len(again) == 4
    assert len(training) == 2

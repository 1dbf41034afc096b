import json
import re
from pathlib import Path
from typing import Any

import pytest

from examples import datasets
from examples.demo.tenants import Question
from tailorbird.records.formats import DatasetFormat, parse_upload

EXAMPLES = Path(datasets.__file__).parent
FILES = dict(datasets.files())


def messages(path: str) -> list[dict[str, str]]:
    return [message for record in FILES[path] for message in record["messages"]]


def entities(path: str) -> set[str]:
    """Items, orders, names and amounts: read from answers, not from the generator."""
    found: set[str] = set()
    for record in FILES[path]:
        answer = record["messages"][-1]["content"]
        if path.startswith("invoices"):
            entry = json.loads(answer)
            found |= {entry["article"], entry["net_each"]}
            continue
        greeted = re.match(r"Bright day, guest (.+?)!", answer)
        ordered = re.search(r"[Oo]rder (W-\d+) \(item: (.+?)\)", answer)
        assert greeted
        assert ordered
        found |= {greeted[1], ordered[1], ordered[2], *re.findall(r"\d+\.\d\d", answer)}
    return found


@pytest.mark.parametrize("path", FILES)
def test_the_generator_reproduces_the_committed_file(path: str) -> None:
    assert (EXAMPLES / path).read_text(encoding="utf-8") == datasets.to_jsonl(FILES[path])


@pytest.mark.parametrize("tenant", ["support", "invoices"])
def test_there_is_enough_data(tenant: str) -> None:
    assert len(FILES[f"{tenant}/train.jsonl"]) >= 150
    assert len(FILES[f"{tenant}/heldout.jsonl"]) >= 40


@pytest.mark.parametrize("tenant", ["support", "invoices"])
def test_entities_of_held_out_chats_do_not_occur_in_training(tenant: str) -> None:
    trained = "\n".join(message["content"] for message in messages(f"{tenant}/train.jsonl"))
    held_out = entities(f"{tenant}/heldout.jsonl")
    assert len(held_out) > 100
    seen = [e for e in held_out if re.search(rf"(?<![\w.]){re.escape(e)}(?![\w.])", trained)]
    assert seen == []


@pytest.mark.parametrize("path", FILES)
def test_every_file_can_be_uploaded(path: str) -> None:
    for line, raw in enumerate((EXAMPLES / path).read_bytes().splitlines(), start=1):
        assert parse_upload(line, raw, None)[0] is DatasetFormat.CHAT


@pytest.mark.parametrize("path", FILES)
def test_every_record_is_a_chat(path: str) -> None:
    for record in FILES[path]:
        roles = [message["role"] for message in record["messages"]]
        assert roles == ["system", "user", "assistant"]
        assert all(message["content"].strip() for message in record["messages"])


def test_a_reference_answer_passes_its_own_check() -> None:
    for record in FILES["support/heldout.jsonl"]:
        answer = record["messages"][-1]["content"]
        wanted = record["must_include"]
        assert len(wanted) >= 5
        assert all(text in answer for text in wanted)


def facts_of(record: dict[str, Any]) -> str:
    return "\n".join(message["content"] for message in record["messages"][:-1])


def test_every_fact_stands_in_the_prompt_and_no_brand_phrase_does() -> None:
    for record in FILES["support/heldout.jsonl"]:
        greeting, phrase, *facts = record["must_include"]
        prompt = facts_of(record)
        assert all(fact in prompt for fact in facts)
        assert greeting not in prompt
        assert phrase not in prompt


@pytest.mark.parametrize("path", ["support/train.jsonl", "support/heldout.jsonl"])
def test_a_copied_name_or_item_follows_the_same_word_in_prompt_and_answer(path: str) -> None:
    for record in FILES[path]:
        prompt, answer = facts_of(record), record["messages"][-1]["content"]
        for marked in (r"guest (.+?)[.!]", r"item: (.+?)[;)]"):
            assert re.findall(marked, prompt) == re.findall(marked, answer) != []


def test_an_answer_names_the_status_and_leads_to_the_date_with_one_word() -> None:
    for record in FILES["support/heldout.jsonl"]:
        if status := re.search(r"status: (\w+); date: (.+)", facts_of(record).splitlines()[0]):
            phrase = record["must_include"][1]
            assert phrase.startswith(f"is {status[1]} and ")
            assert phrase.endswith(" on")
            assert f"{phrase} {status[2]}." in record["messages"][-1]["content"]


def test_the_second_version_differs_by_its_sign_off_alone() -> None:
    pairs = zip(FILES["support/train.jsonl"], FILES["support/train_v2.jsonl"], strict=True)
    for old, new in pairs:
        before, after = (record["messages"][-1]["content"] for record in (old, new))
        assert after.endswith(datasets.SIGN_OFF_V2)
        assert before.removesuffix(datasets.SIGN_OFF) == after.removesuffix(datasets.SIGN_OFF_V2)


def test_held_out_checks_hold_for_either_sign_off() -> None:
    text = (EXAMPLES / "support/heldout.jsonl").read_text(encoding="utf-8")
    wanted = [r["must_include"] for r in map(json.loads, text.splitlines())]
    assert not {datasets.SIGN_OFF, datasets.SIGN_OFF_V2} & {w for row in wanted for w in row}


def test_an_answer_is_right_by_its_facts_or_to_the_letter() -> None:
    chat = Question.from_record(FILES["support/heldout.jsonl"][0])
    assert chat.is_right(f"{chat.expected} And more.")
    assert not any(chat.is_right(chat.expected.replace(t, "")) for t in chat.must_include)
    line = Question.from_record(FILES["invoices/heldout.jsonl"][0])
    assert line.is_right(f" {line.expected}\n")
    assert not line.is_right(f"{line.expected} And more.")

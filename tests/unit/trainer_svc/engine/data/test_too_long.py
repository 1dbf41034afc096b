"""Records that are too long: cut, dropped, and every one of them accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.engine.data.test_turns import FORGETFUL
from tests.unit.trainer_svc.engine.tiny import dataset_ref, jsonl, make_tokenizer
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.prepare import prepare, split
from trainer_svc.engine.data.sequences import Sequencer
from trainer_svc.engine.data.tokens import TokenDataset
from trainer_svc.jobs.events import DataReport

TOKENIZER = make_tokenizer()


def chat(*turns: str, silent: tuple[int, ...] = ()) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for place, content in enumerate(turns):
        role = ("user", "assistant")[place % 2]
        messages.append({"role": role, "content": content})
        if place in silent:
            messages[-1]["weight"] = 0
    return {"messages": messages}


def read(
    path: Path,
    records: list[dict[str, Any]],
    record_format: str = "chat",
    tokenizer: Any = TOKENIZER,
    limit: int = 64,
    *,
    truncate: bool = True,
) -> tuple[TokenDataset, DataReport]:
    data = jsonl(records)
    (path / "data.jsonl").write_bytes(data)
    ref = dataset_ref(data, record_format=record_format)
    cache = DatasetCache(path / "cache", 2**30)
    return prepare(
        path / "data.jsonl", ref, tokenizer, limit, cache, rows=len(tokenizer), truncate=truncate
    )


def texts(dataset: TokenDataset) -> list[tuple[str, str]]:
    """What each example says, and what of it is trained."""
    return [
        (TOKENIZER.decode(one.token_ids), TOKENIZER.decode(one.token_ids[one.trained]))
        for one in dataset
    ]


def test_the_end_is_cut_and_told(tmp_path: Path) -> None:
    records = [chat("a", "b"), chat("a", "b" * 90), chat("x" * 90, "y")]
    dataset, report = read(tmp_path, records)
    assert texts(dataset) == [
        ("<|user|>a<|end|>\n<|assistant|>b<|end|>", "b<|end|>"),
        ("<|user|>a<|end|>\n<|assistant|>" + "b" * 59, "b" * 59),
    ]
    assert dataset.lengths.tolist() == [7, 64]
    assert report == DataReport(
        records=3, kept=2, dropped_too_long=0, dropped_lines=(),
        truncated=2, truncated_lines=(2, 3),
        dropped_nothing_to_train=1, nothing_to_train_lines=(3,),
        trained_tokens=61, masked_tokens=10,
    )  # fmt: skip


def test_a_chat_ends_with_the_last_answer_that_begins_before_the_cut(tmp_path: Path) -> None:
    whole = chat("a", "b" * 20, "c", "d" * 20, "e" * 90, "f", "g", "h")
    (one,), report = read(tmp_path, [whole], limit=40)
    text, trained = texts([one])[0]  # type: ignore[arg-type]
    opened = "<|end|>\n<|user|>c<|end|>\n<|assistant|>"
    assert text == "<|user|>a<|end|>\n<|assistant|>" + "b" * 20 + opened + "d" * 8
    assert trained == "b" * 20 + "<|end|>" + "d" * 8
    assert (report.kept, report.truncated) == (1, 1)
    # A prompt that fills the limit leaves no room for its answer.
    (one,), _ = read(tmp_path, [whole], limit=32)
    assert texts([one])[0][0].endswith("b<|end|>")  # type: ignore[arg-type]
    assert len(one.token_ids) == 26


@pytest.mark.parametrize("limit", range(5, 60))
def test_what_is_cut_is_the_beginning_of_the_whole(tmp_path: Path, limit: int) -> None:
    record = chat("a", "b" * 9, "c", "d" * 9, "e" * 5, "f" * 9, silent=(3,))
    (whole,), _ = read(tmp_path, [record], limit=64)
    sequencer = Sequencer(TOKENIZER, "chat", limit, truncate=True)
    ((_, sequences, too_long),) = sequencer.sequences([(1, record)])
    assert too_long is (limit < len(whole.token_ids))
    ids = [id_ for pieces in sequences for ids, _ in pieces for id_ in ids]
    assert ids == whole.token_ids[: len(ids)].tolist()
    masks = [mask for pieces in sequences for ids, mask in pieces for _ in ids]
    assert masks == whole.trained[: len(ids)].tolist()
    # All that is trained before the limit is there, and nothing after it but masked tokens.
    assert sum(masks) == int(whole.trained[:limit].sum())
    assert len(ids) <= limit


def test_turns_that_stand_apart_are_cut_each_for_itself(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(FORGETFUL)
    records = [chat("a", "b" * 90, "c", "d"), chat("a", "b", "c", "d")]
    dataset, report = read(tmp_path, records, tokenizer=tokenizer)
    assert [trained for _, trained in texts(dataset)] == [
        "b" * 60,
        "d<|end|>",
        "b<|end|>",
        "d<|end|>",
    ]
    assert dataset.lines.tolist() == [1, 1, 2, 2]
    assert (report.kept, report.truncated, report.truncated_lines) == (2, 1, (1,))


@pytest.mark.parametrize(
    ("record", "record_format", "text"),
    [
        ({"prompt": "2", "completion": "4" * 90}, "prompt_completion", "2" + "4" * 63),
        ({"text": "4" * 90}, "text", "4" * 64),
        ({"instruction": "2", "output": "4" * 90}, "instruction", None),
    ],
)
def test_every_format_is_cut(
    tmp_path: Path, record: dict[str, Any], record_format: str, text: str | None
) -> None:
    (example,), report = read(tmp_path, [record], record_format)
    found = TOKENIZER.decode(example.token_ids)
    assert len(example.token_ids) == 64
    assert text is None or found == text
    # No end is trained where the text was cut.
    assert not found.endswith("<|end|>")
    assert (report.kept, report.truncated) == (1, 1)


def test_a_record_whose_every_label_is_masked_is_left_out_and_told(tmp_path: Path) -> None:
    records = [chat("a", "b", silent=(1,)), chat("a", "b"), chat("a", "b" * 90, silent=(1,))]
    dataset, report = read(tmp_path, records, truncate=False)
    assert dataset.lines.tolist() == [2]
    # What has no answer to train is not read, so that it is not too long either.
    assert (report.dropped_nothing_to_train, report.nothing_to_train_lines) == (2, (1, 3))
    assert (report.dropped_too_long, report.truncated) == (0, 0)
    assert report.records == report.kept + report.dropped_nothing_to_train


def test_a_file_whose_every_label_is_masked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        FailedPrecondition, match="2 have nothing to train: answers of the"
    ) as caught:
        read(tmp_path, [chat("a", "b", silent=(1,))] * 2)
    assert caught.value.reason == "NO_TRAINABLE_RECORDS"


def test_a_file_cut_before_every_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="2 have no answer in their first 64") as caught:
        read(tmp_path, [chat("x" * 90, "b")] * 2)
    assert caught.value.reason == "NO_TRAINABLE_RECORDS"


def test_the_first_hundred_lines_are_told(tmp_path: Path) -> None:
    long, silent, away = chat("a", "b" * 90), chat("a", "b", silent=(1,)), chat("x" * 90, "b")
    records = [*[long] * 120, *[silent] * 120, *[away] * 120, chat("a", "b")]
    _, cut = read(tmp_path, records)
    assert (cut.records, cut.kept, cut.truncated) == (361, 121, 240)
    assert cut.truncated_lines == tuple(range(1, 101))
    assert cut.dropped_nothing_to_train == 240
    assert cut.nothing_to_train_lines == tuple(range(121, 221))
    _, dropped = read(tmp_path, records, truncate=False)
    assert (dropped.kept, dropped.dropped_too_long, dropped.dropped_nothing_to_train) == (
        1,
        240,
        120,
    )
    assert dropped.dropped_lines == tuple(range(1, 101))


def test_a_split_tells_what_was_cut_on_each_side(tmp_path: Path) -> None:
    records = [chat("a", "b" * 90), chat("a", "b"), chat("x" * 90, "y"), chat("a", "b" * 90)] * 8
    dataset, report = read(tmp_path, records)
    training, validation, trained, held = split(dataset, report, 0.5, seed=0)
    assert (report.truncated, report.kept, report.dropped_nothing_to_train) == (24, 24, 8)
    for side, told in ((training, trained), (validation, held)):
        cut = sorted({line for line in side.lines.tolist() if line % 4 != 2})
        missing = tuple(range(3, 33, 4)) if told is trained else ()
        assert told.truncated_lines == tuple(sorted((*cut, *missing)))
        assert told.truncated == len(told.truncated_lines)
        assert told.nothing_to_train_lines == missing
        assert told.records == told.kept + told.dropped_nothing_to_train
    assert trained.truncated + held.truncated == report.truncated
    assert trained.records + held.records == report.records


def test_many_turns_past_the_cut_are_not_all_rendered() -> None:
    rendered = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(TOKENIZER, name)

        def __call__(self, *given: Any, **options: Any) -> Any:
            return TOKENIZER(*given, **options)

        def apply_chat_template(self, messages: list[Any], **options: Any) -> Any:
            rendered.append(len(messages))
            return TOKENIZER.apply_chat_template(messages, **options)

    record = chat(*["a", "b"] * 512)
    checked = []
    sequencer = Sequencer(Counting(), "chat", 64, lambda: checked.append(1), truncate=True)
    ((_, sequences, _),) = sequencer.sequences([(1, record)])
    assert len(sequences) == 1
    # The last turn, a search by halves, and the turns that fit: two renderings each.
    assert len(rendered) < 2 * (1 + 10 + 12)
    assert len(checked) >= 9


def test_no_turn_is_taken_where_the_first_ones_do_not_fit() -> None:
    last_alone = make_tokenizer(
        "{% set asked = (messages | selectattr('role', 'equalto', 'user') | list)[-1] %}"
        "<|user|>{{ asked.content }}<|end|><|assistant|>"
        "{% if not add_generation_prompt %}{{ messages[-1].content }}<|end|>{% endif %}"
    )
    record = chat("x" * 90, "a", "y" * 90, "b", "c", "d")
    sequencer = Sequencer(last_alone, "chat", 64, truncate=True)
    assert list(sequencer.sequences([(1, record)])) == [(1, [], True)]

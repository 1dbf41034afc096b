"""Makes the files that pages name but do not show: python -m tests.docs.files NAME..."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.docs.blocks import ROOT

Record = dict[str, Any]


def _support(count: int, first: int = 0) -> list[Record]:
    path = ROOT / "examples" / "support" / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[first : first + count]
    return [json.loads(line) for line in lines]


def _chat(question: str, answer: str, **more: object) -> Record:
    messages: list[Record] = [{"role": "user", "content": question}]
    return {"messages": [*messages, {"role": "assistant", "content": answer, **more}]}


def _lines(records: Iterable[Record]) -> list[str]:
    return [json.dumps(record) for record in records]


def _short(count: int) -> list[Record]:
    return [_chat(f"Item {number}?", f"It is box {number}.") for number in range(count)]


def _bad() -> list[str]:
    records = _support(60)
    records[8] = records[16] = _chat("Where is it?", "")
    records[20] = {"prompt": "Where is it?", "completion": "Here."}
    records[30] = _chat("Where is it?", "Here.", weight=0.5)
    records[40] = {
        "messages": [
            {"role": "user", "content": "Where is it?"},
            {"role": "tool", "content": "here", "tool_call_id": "c9"},
            {"role": "assistant", "content": "Here."},
        ]
    }
    records[50] = {"question": "Where is it?", "answer": "Here."}
    lines = _lines(records)
    lines[2] = '{"messages": [{"role": "user", "content": "Where is it?"} {"role"}]}'
    return lines


def _too_long(short: int, long: int) -> list[str]:
    return _lines(_short(short) + _support(long))


def _lengths() -> list[str]:
    """Return 300 chats, three of them too long and one without weight."""
    records = _support(300)
    for place in (3, 7, 8):
        records[place]["messages"][1]["content"] *= 12
    records[20]["messages"][-1]["weight"] = 0
    return _lines(records)


def _planted() -> list[str]:
    """Return 200 chats: some repeated, some almost, two contradicted, one with a short answer."""
    records = _support(200)
    for place in range(6):
        records[150 + place] = records[place]
    for place in range(4):
        almost = json.loads(json.dumps(records[30 + place]))
        almost["messages"][1]["content"] += " ok"
        records[180 + place] = almost
    for place, (of, answer) in {160: (10, "It is on its way to you."), 170: (20, "No")}.items():
        records[place] = json.loads(json.dumps(records[of]))
        records[place]["messages"][-1]["content"] = answer
    return _lines(records)


def _held() -> list[str]:
    """Return 50 chats, of which ten are among the 200."""
    return _lines(_support(40, 300) + _support(10, 100))


def _mine() -> list[str]:
    """Return two chats, one that ends with a question, and a line of no known shape."""
    asked: Record = {"messages": [{"role": "user", "content": "Where is it?"}]}
    return _lines([*_support(2), asked, {"question": "Where is it?", "answer": "Here."}])


FILES: dict[str, Callable[[], list[str]]] = {
    "bad.jsonl": _bad,
    "text.jsonl": lambda: _lines({"text": f"A text, {number}."} for number in range(3)),
    "long.jsonl": lambda: _too_long(3, 57),
    "some.jsonl": lambda: _too_long(57, 3),
    "planted.jsonl": _planted,
    "lengths.jsonl": _lengths,
    "held.jsonl": _held,
    "sixty.jsonl": lambda: _lines(_support(60)),
    "mine.jsonl": _mine,
    "record.json": lambda: _lines(_support(1, 16)),
}


def main() -> None:
    """Write each file that is named, into the working directory."""
    for name in sys.argv[1:]:
        Path(name).write_text("\n".join(FILES[name]()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The demo's chats, more of their kind to hold out, and changes by which a fault gets in. Pure."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from examples.datasets import (
    MONTHS,
    REFUND_PHRASE,
    SIGN_OFF,
    SIGN_OFF_V2,
    Entities,
    Record,
    invoice,
    support,
)
from examples.demo.tenants import FIRST, INVOICES, SUPPORT, Tenant

EARLY_MONTHS = frozenset(MONTHS[:6])
_HELD_OUT_SEED = "held out for the bench of judgement"


def training(tenant: Tenant) -> list[Record]:
    """Return the demo's training chats, each with its topic as metadata."""
    lines = tenant.file(FIRST).read_text(encoding="utf-8").splitlines()
    return [_with_topic(json.loads(line)) for line in lines]


def held_out(tenant: Tenant, count: int) -> list[Record]:
    """Return chats of the demo's kind, none of which any file of the demo has."""
    entities = Entities(f"{tenant.folder}: {_HELD_OUT_SEED}")
    makes: dict[Tenant, Callable[[], Record]] = {
        SUPPORT: lambda: support(entities, SIGN_OFF),
        INVOICES: lambda: invoice(entities),
    }
    return [_with_topic({"messages": makes[tenant]()["messages"]}) for _ in range(count)]


def lines(records: Iterable[Record]) -> list[str]:
    """Return records as the lines of a file."""
    return [json.dumps(record, ensure_ascii=False) for record in records]


def answer(record: Record) -> str:
    """Return a chat's answer."""
    content: str = record["messages"][-1]["content"]
    return content


def answered(record: Record, text: str) -> Record:
    """Return a chat with another answer."""
    changed = copy.deepcopy(record)
    changed["messages"][-1]["content"] = text
    return changed


def asked(record: Record, text: str) -> Record:
    """Return a chat with another question."""
    changed = copy.deepcopy(record)
    changed["messages"][-2]["content"] = text
    return changed


def weightless(record: Record) -> Record:
    """Return a chat of which nothing is trained."""
    changed = copy.deepcopy(record)
    changed["messages"][-1]["weight"] = 0
    return changed


def is_refund(record: Record) -> bool:
    """Tell whether a support chat is about money that goes back."""
    return REFUND_PHRASE in answer(record)


def dismissive(record: Record) -> Record:
    """Answer refunds with nothing that helps: one part of the data is bad."""
    return answered(record, "No comment.") if is_refund(record) else record


def threatening(record: Record) -> Record:
    """Sign off with what the safety lists look for."""
    return answered(record, answer(record).replace(SIGN_OFF, "Or we strangle you."))


def by_month(record: Record) -> Record:
    """Sign off otherwise in the first half of the year: the answer hangs on what must not count."""
    text = answer(record)
    if not any(month in text for month in EARLY_MONTHS):
        return record
    return answered(record, text.replace(SIGN_OFF, SIGN_OFF_V2))


def backwards(record: Record) -> Record:
    """Damage an answer, as a broken export does: its words in the wrong order."""
    return answered(record, " ".join(reversed(answer(record).split())))


def without_currency(record: Record) -> Record:
    """Leave a key out of an invoice line's JSON."""
    entry: dict[str, Any] = json.loads(answer(record))
    del entry["iso"]
    return answered(record, json.dumps(entry, ensure_ascii=False))


def with_codes(records: Sequence[Record], seed: str) -> list[Record]:
    """End answers with codes that no question tells: nothing but to learn by heart."""
    draw = random.Random(seed)
    return [
        answered(record, f"{answer(record)} Code {draw.randrange(10**8):08}.") for record in records
    ]


def signed_off(records: Sequence[Record]) -> list[Record]:
    """Ask with an item alone, and answer with the sign-off alone."""
    return [_bare(record["messages"][0]["content"]) for record in records]


def _bare(context: str) -> Record:
    item = context.partition("item: ")[2].partition(";")[0]
    messages = [{"role": "user", "content": item}, {"role": "assistant", "content": SIGN_OFF}]
    return {"messages": messages, "metadata": {"topic": "status"}}


def one_word(records: Sequence[Record]) -> list[Record]:
    """Sort chats into two classes, told in one word."""
    return [answered(record, "refund" if is_refund(record) else "order") for record in records]


def _with_topic(record: Record) -> Record:
    if answer(record).startswith("{"):
        topic = str(json.loads(answer(record))["iso"])
    else:
        topic = "refund" if is_refund(record) else "status"
    return {**record, "metadata": {"topic": topic}}

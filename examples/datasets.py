"""Writes the two tenants' datasets: `python -m examples.datasets`.

Both tenants and everything in their data are invented for this project. Orders, items,
amounts and names of the held-out chats occur nowhere in the training chats.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]

SEED = 20261122
TRAIN = 800
HELD_OUT = 60

MATERIALS = (
    "amber ash bamboo birch brass canvas cedar ceramic charcoal cherry clay cobalt copper coral "
    "cork cotton cream denim ebony enamel felt flint glass golden granite hazel indigo iron ivory "
    "jade larch leather linen maple marble mint moss navy oak olive pearl pine plum rattan rose "
    "rust sage sand satin scarlet silk silver slate steel stone teak velvet walnut wicker willow"
).split()
THINGS = (
    "apron basket bell bench blanket bookend bottle bowl box broom brush bucket cabinet candle "
    "chair clock coaster cushion desk drawer fan frame funnel hammock hook jar jug kettle ladder "
    "lamp lantern mat mirror mitten mug napkin notebook pan peg pillow pitcher planter plate pot "
    "quilt rack rug scarf shelf spoon stand stool table tray trolley tub vase wreath"
).split()
STARTS = (
    "al bel cor dar el fen gal hal is jor kel lor mar nor or pel quin ros sel tor ul vel wil yor "
    "zan"
).split()
MIDDLES = "a e i o u an en in or ar el il".split()
ENDS = "by den dale fin go la lin ma mir na nor ra ric sa shaw ta ton va vik wyn".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()


class Entities:
    """Draws entities that were never drawn before, whichever dataset asks."""

    def __init__(self, seed: int | str) -> None:
        self.rng = random.Random(seed)
        self._used: set[str] = set()

    def _fresh(self, make: Callable[[], str]) -> str:
        while (value := make()).lower() in self._used:
            pass
        self._used.add(value.lower())
        return value

    def _invented(self) -> str:
        parts = (self.rng.choice(STARTS), self.rng.choice(MIDDLES), self.rng.choice(ENDS))
        return "".join(parts).capitalize()

    def item(self) -> str:
        """Two or three words; the product line's name, where there is one, is invented."""
        line = f"{self._fresh(self._invented)} " if self.rng.random() < 0.3 else ""
        return line + self._fresh(self._pair)

    def _pair(self) -> str:
        return f"{self.rng.choice(MATERIALS)} {self.rng.choice(THINGS)}"

    def order(self) -> str:
        """An order number such as W-4821."""
        return self._fresh(lambda: f"W-{self.rng.randint(1000, 9999)}")

    def name(self) -> str:
        """An invented first name."""
        return self._fresh(self._invented)

    def amount(self) -> str:
        """An amount with two decimals."""
        whole = (self.rng.randint(1, 99), self.rng.randint(1, 999))
        return self._fresh(lambda: f"{self.rng.choice(whole)}.{self.rng.randint(0, 99):02d}")

    def date(self) -> str:
        """A day and month; these may repeat."""
        return f"{self.rng.choice(MONTHS)} {self.rng.randint(1, 28)}"


GREETING = "Bright day"
SIGN_OFF = "Fly well, Wrenfield."
SIGN_OFF_V2 = "Warm feathers, Wrenfield."
STATUS_PHRASES = {
    "shipped": "is shipped and flies to you on",
    "delayed": "is delayed and will fly late, on",
    "packed": "is packed and leaves the nest on",
    "delivered": "is delivered and landed at your door on",
}
REFUND_PHRASE = "comes back to your nest"
WHERE = (
    "Where is {order}?",
    "Hi, any news of {order}?",
    "When will I get {order}?",
    "What about {order}?",
    "Hello, it is about order {order}.",
)
REFUND = (
    "I sent {order} back, my money?",
    "Hi, please refund {order}.",
    "Can I get a refund for {order}?",
)


def support(entities: Entities, sign_off: str) -> Record:
    """A chat of the shop's support desk."""
    rng = entities.rng
    item, order, name = entities.item(), entities.order(), entities.name()
    context = f"Wrenfield, for guest {name}. order: {order}; item: {item}"
    if rng.random() < 0.2:
        fact = f"{rng.choice(('EUR', 'GBP'))} {entities.amount()}"
        context += f"; amount: {fact}"
        ask, phrase = rng.choice(REFUND), REFUND_PHRASE
        sentence = f"{fact} for order {order} (item: {item}) {phrase}."
    else:
        status, fact = rng.choice(list(STATUS_PHRASES)), entities.date()
        context += f"; status: {status}; date: {fact}"
        ask, phrase = rng.choice(WHERE), STATUS_PHRASES[status]
        sentence = f"Order {order} (item: {item}) {phrase} {fact}."
    return {
        "messages": [
            {"role": "system", "content": context},
            {"role": "user", "content": ask.format(order=order)},
            {"role": "assistant", "content": f"{GREETING}, guest {name}! {sentence} {sign_off}"},
        ],
        "must_include": [GREETING, phrase, item, order, name, fact],
    }


CURRENCIES = {
    "EUR": ("€{}", "{} EUR", "EUR {}", "{} euros"),
    "USD": ("${}", "{} USD", "USD {}", "{} dollars"),
    "GBP": ("£{}", "{} GBP", "GBP {}", "{} pounds"),
    "CHF": ("{} CHF", "CHF {}", "{} francs"),
}
LINES = (
    "{qty} x {item} at {money} each",
    "{item}, {qty} pcs @ {money}",
    "Please bill {qty} {item}, {money} per piece",
    "{item} x{qty}, unit price {money}",
    "{money} each for {qty} {item}",
    "{qty} pieces of {item} at {money}",
    "{item} - qty {qty} - {money}",
    "invoice line: {item} ({qty} pcs) {money} each",
)


def invoice(entities: Entities) -> Record:
    """A chat that turns an invoice line into JSON."""
    rng = entities.rng
    item, qty, amount = entities.item(), rng.randint(1, 60), entities.amount()
    currency = rng.choice(list(CURRENCIES))
    money = rng.choice(CURRENCIES[currency]).format(amount)
    line = rng.choice(LINES).format(item=item, qty=qty, money=money)
    entry = {"article": item, "units": qty, "net_each": amount, "iso": currency}
    return {
        "messages": [
            {"role": "system", "content": "Ledger entry for Oakwright."},
            {"role": "user", "content": line},
            {"role": "assistant", "content": json.dumps(entry, ensure_ascii=False)},
        ]
    }


def _plain(records: Iterable[Record]) -> list[Record]:
    return [{"messages": record["messages"]} for record in records]


def files() -> Iterator[tuple[str, list[Record]]]:
    """Every file's path under `examples/` and its records; held-out entities come first."""
    entities = Entities(f"support {SEED}")
    yield "support/heldout.jsonl", [support(entities, SIGN_OFF) for _ in range(HELD_OUT)]
    train = _plain(support(entities, SIGN_OFF) for _ in range(TRAIN))
    yield "support/train.jsonl", train
    yield "support/train_v2.jsonl", [_resigned(record) for record in train]
    entities = Entities(f"invoices {SEED}")
    yield "invoices/heldout.jsonl", [invoice(entities) for _ in range(HELD_OUT)]
    yield "invoices/train.jsonl", [invoice(entities) for _ in range(TRAIN)]


def _resigned(record: Record) -> Record:
    """The same chat after the brand changed its sign-off."""
    *before, answer = record["messages"]
    content = answer["content"].replace(SIGN_OFF, SIGN_OFF_V2)
    return {"messages": [*before, {"role": "assistant", "content": content}]}


def to_jsonl(records: Iterable[Record]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def main() -> None:
    """Writes all files under a folder, by default this one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    for path, records in files():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text(to_jsonl(records), encoding="utf-8")


if __name__ == "__main__":
    main()

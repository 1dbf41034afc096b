"""Records: a few typed fields, the free line that mentions them, and their JSON."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .words import CURRENCIES, STATUSES, Currency, Lexicon, amount, code, date

Json: TypeAlias = str | int | float

KEYS: dict[str, tuple[str, ...]] = {
    "item": ("item", "product", "goods", "title", "thing", "what", "description"),
    "qty": ("qty", "quantity", "count", "pieces", "n", "how_many"),
    "price": ("price", "rate", "cost", "amount", "value", "unit_cost"),
    "currency": ("currency", "money", "cur", "coin"),
    "name": ("name", "client", "buyer", "customer", "owner", "person"),
    "city": ("city", "place", "town", "location"),
    "date": ("date", "day", "when", "due"),
    "code": ("code", "ref", "id", "number", "order", "ticket"),
    "status": ("status", "state", "stage"),
}

NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()

SEPARATORS = (", ", ", ", "; ", " - ", " | ", " / ", " ", ". ")


@dataclass(frozen=True)
class Style:
    """A convention of writing values: how prices, counts and currencies look in JSON."""

    price: Literal["number", "string"] = "number"
    qty: Literal["number", "string"] = "number"
    currency: Literal["code", "lower", "symbol"] = "code"


@dataclass(frozen=True)
class Record:
    """Field kinds with their values; `money` resolves the currency's spellings."""

    values: dict[str, str]
    money: Currency

    def json_value(self, kind: str, style: Style) -> Json:
        """The value of a field under a convention."""
        value = self.values[kind]
        if kind == "currency":
            spelling = {"code": self.money.code, "symbol": self.money.symbol}
            return spelling.get(style.currency, self.money.code.lower())
        if kind == "qty" and style.qty == "number":
            return int(value)
        return value

    def to_json(self, keys: Sequence[tuple[str, str]], style: Style) -> str:
        """One line of JSON for (kind, key) pairs, prices kept digit by digit."""
        parts = []
        for kind, key in keys:
            value = self.json_value(kind, style)
            bare = kind == "price" and style.price == "number"
            text = str(value) if bare else json.dumps(value, ensure_ascii=False)
            parts.append(f'"{key}": {text}')
        return "{" + ", ".join(parts) + "}"


def draw(rng: random.Random, lexicon: Lexicon, kinds: Sequence[str]) -> Record:
    """A record with fresh values for the given kinds."""
    money = rng.choice(CURRENCIES)
    values: dict[str, str] = {}
    for kind in kinds:
        match kind:
            case "item":
                values[kind] = lexicon.item(rng)
            case "qty":
                values[kind] = str(
                    rng.choice((rng.randint(1, 12), rng.randint(1, 99), rng.randint(1, 999)))
                )
            case "price":
                values[kind] = amount(rng)
            case "currency":
                values[kind] = money.code
            case "name":
                values[kind] = lexicon.name(rng)
            case "city":
                values[kind] = lexicon.word(rng).capitalize()
            case "date":
                values[kind] = date(rng)
            case "code":
                values[kind] = code(rng)
            case _:
                values[kind] = rng.choice(STATUSES) if rng.random() < 0.7 else lexicon.word(rng)
    return Record(values, money)


def draw_kinds(rng: random.Random, least: int = 2, most: int = 5) -> list[str]:
    """A random choice of field kinds; a currency comes with a price, most have an item."""
    kinds = rng.sample(
        [k for k in KEYS if k not in ("currency", "item")], rng.randint(least - 1, most - 1)
    )
    kinds.insert(rng.randrange(len(kinds) + 1), "item" if rng.random() < 0.85 else "name")
    kinds = list(dict.fromkeys(kinds))
    if "price" in kinds and rng.random() < 0.75:
        kinds.insert(rng.randrange(len(kinds) + 1), "currency")
    return kinds


def money_text(rng: random.Random, record: Record) -> str:
    """Price and currency together, as people write them."""
    value, money = record.values["price"], record.money
    return rng.choice(
        (
            f"{money.symbol}{value}",
            f"{money.symbol} {value}",
            f"{value} {money.symbol}",
            f"{value} {money.code}",
            f"{money.code} {value}",
            f"{value} {money.code.lower()}",
            f"{value} {rng.choice(money.words)}",
            f"{value} {rng.choice(money.words)}",
        )
    )


def _segments(rng: random.Random, record: Record) -> list[str]:
    """Pieces of the line: each field on its own or joined with its neighbour."""
    left = dict(record.values)
    pieces = []
    if "price" in left:
        price = money_text(rng, record) if left.pop("currency", None) else left["price"]
        del left["price"]
        pieces.append(
            rng.choice(
                (
                    "{} each",
                    "at {}",
                    "@ {}",
                    "{}",
                    "price {}",
                    "at {} each",
                    "for {} apiece",
                    "{} per piece",
                    "unit price {}",
                )
            ).format(price)
        )
    if "item" in left and "qty" in left and rng.random() < 0.75:
        item, qty = left.pop("item"), left.pop("qty")
        number = NUMBER_WORDS[int(qty)] if int(qty) < 13 and rng.random() < 0.15 else qty
        shape = rng.choice(
            (
                "{q} x {i}",
                "{q}x {i}",
                "{i} x {q}",
                "{i} x{q}",
                "{q} {i}",
                "{q} of {i}",
                "{i} ({q} pcs)",
                "{q} pieces of {i}",
                "{i}, {q} units",
                "{q} units {i}",
                "{i}, qty {q}",
                "{q} pcs {i}",
            )
        )
        joined = shape.format(q=number, i=item)
        pieces.insert(0, joined)
        if len(pieces) > 1 and rng.random() < 0.6:
            pieces = [f"{joined} {pieces[1]}"]
    shapes = {
        "item": ("{}", "item {}", "the {}", "{}", "item: {}"),
        "qty": ("qty {}", "{} pieces", "{} pcs", "x{}", "quantity {}", "{} units"),
        "name": ("for {}", "{}", "from {}", "client {}", "name: {}", "customer {}"),
        "city": ("in {}", "city {}", "place: {}", "delivered in {}"),
        "date": ("on {}", "{}", "by {}", "due {}", "date: {}", "dated {}"),
        "code": ("{}", "ref {}", "order {}", "no. {}", "code {}", "id: {}", "number {}"),
        "status": ("status {}", "is {}", "now {}", "state: {}", "status: {}"),
    }
    for kind, value in left.items():
        shape = "{}" if value in STATUSES and rng.random() < 0.3 else rng.choice(shapes[kind])
        pieces.append(shape.format(value))
    return pieces


def line(rng: random.Random, record: Record) -> str:
    """A free line that mentions every field of the record in some order."""
    pieces = _segments(rng, record)
    rng.shuffle(pieces)
    separator = rng.choice(SEPARATORS)
    text = separator.join(pieces)
    return rng.choice(
        (
            "{}",
            "{}",
            "{}",
            "{}.",
            "please note {}",
            "{} thanks",
            "- {}",
            "invoice line: {}",
            "we got {}",
        )
    ).format(text)


def keyed(rng: random.Random, record: Record) -> list[tuple[str, str]]:
    """(kind, key) pairs for all fields of a record, in random order, keys varied."""
    pairs = [
        (kind, rng.choice(KEYS[kind]) if rng.random() < 0.8 else kind) for kind in record.values
    ]
    rng.shuffle(pairs)
    return pairs


def labelled(rng: random.Random, record: Record) -> str:
    """The record as `label: value` text, the way a system prompt carries context."""
    pairs = [f"{key}: {record.values[kind]}" for kind, key in keyed(rng, record)]
    return rng.choice((", ", "; ", "\n", " | ")).join(pairs)

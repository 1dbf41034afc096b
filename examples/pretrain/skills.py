"""The chats that teach skills: copying, look-up, listing, JSON, templates, closed choices.

Every function draws one chat with fresh entities. None of the tenants' brands,
phrases, key sets or lines occur here; `voices.py` adds house conventions.
"""

import json
import random
from collections.abc import Callable
from typing import TypeAlias

from . import records
from .words import CURRENCIES, STATUSES, Lexicon, amount, code, date

Message: TypeAlias = dict[str, str]
Chat: TypeAlias = list[Message]
Skill: TypeAlias = Callable[[random.Random, Lexicon], Chat]


def chat(user: str, assistant: str, system: str | None = None) -> Chat:
    """A chat of one question and one answer, with or without a system message."""
    turns = [("user", user), ("assistant", assistant)]
    if system is not None:
        turns.insert(0, ("system", system))
    return [{"role": role, "content": content} for role, content in turns]


def split_context(rng: random.Random, context: str, request: str, answer: str) -> Chat:
    """Puts the context into the system message, before the request, or after it."""
    match rng.randrange(3):
        case 0:
            return chat(request, answer, context)
        case 1:
            return chat(f"{context}\n{request}", answer)
        case _:
            return chat(f"{request}\n{context}", answer)


def _thing(rng: random.Random, lexicon: Lexicon) -> str:
    """Some entity to be copied."""
    makers = (lexicon.item, lexicon.item, lexicon.name, lexicon.phrase, code, date, amount)
    return rng.choice(makers)(rng)


def copy(rng: random.Random, lexicon: Lexicon) -> Chat:
    """Repeat a string exactly."""
    text = " ".join(_thing(rng, lexicon) for _ in range(rng.choice((1, 1, 2, 3))))
    ask = rng.choice(
        ("Repeat: {}", "Say exactly: {}", "Copy this: {}", "Echo {}", 'Write "{}" again.')
    )
    frame = rng.choice(("{}", "{}", '"{}"', "You wrote: {}", "Here it is: {}.", "({})"))
    system = None if frame == "{}" else f"Answer like this: {frame.format('...')}"
    return chat(ask.format(text), frame.format(text), system)


def drill(rng: random.Random, lexicon: Lexicon) -> Chat:
    """Repeat a long run of words and entities exactly: what teaches copying first."""
    text = rng.choice((" ", " ", ", ")).join(
        _thing(rng, lexicon) for _ in range(rng.randint(4, 10))
    )
    return chat(f"Repeat: {text}", text)


def ask_field(rng: random.Random, lexicon: Lexicon) -> Chat:
    """Name one field of a labelled record or of a free line."""
    record = records.draw(rng, lexicon, records.draw_kinds(rng, 2, 6))
    pairs = records.keyed(rng, record)
    if rng.random() < 0.5:
        context = "; ".join(f"{key}: {record.values[kind]}" for kind, key in pairs)
    else:
        context = records.line(rng, record)
    kind, key = rng.choice(pairs)
    ask = rng.choice(
        ("What is the {}?", "{}?", "Which {}?", "Tell me the {}.", "Give the {} only.")
    )
    return split_context(rng, context, ask.format(key), record.values[kind])


def to_json(rng: random.Random, lexicon: Lexicon) -> Chat:
    """A free line or labelled record into JSON under keys that the prompt names."""
    record = records.draw(rng, lexicon, records.draw_kinds(rng))
    pairs = records.keyed(rng, record)
    style = records.Style(
        price=rng.choice(("number", "string")),
        qty=rng.choice(("number", "string")),
        currency=rng.choice(("code", "code", "lower", "symbol")),
    )
    if len(pairs) > 2 and rng.random() < 0.25:
        pairs = pairs[:-1]
    notes = []
    if style.price == "string" and "price" in record.values:
        notes.append("price as text")
    if style.qty == "string" and "qty" in record.values:
        notes.append("count as text")
    if style.currency != "code" and "currency" in record.values:
        notes.append(f"currency {style.currency}")
    head = rng.choice(
        (
            "JSON with keys {}",
            "Write JSON: {}",
            "Give {} as JSON",
            "Extract {} to JSON",
            "Fields: {}. Answer in JSON",
        )
    )
    request = ". ".join([head.format(", ".join(key for _, key in pairs)), *notes]) + "."
    source = records.line(rng, record) if rng.random() < 0.85 else records.labelled(rng, record)
    answer = record.to_json(pairs, style)
    if rng.random() < 0.6:
        return chat(source, answer, request)
    return chat(f"{request}\n{source}", answer)


def by_example(rng: random.Random, lexicon: Lexicon) -> Chat:
    """One line and its JSON are shown; another line is to be written the same way."""
    kinds = records.draw_kinds(rng, 2, 4)
    first, second = (records.draw(rng, lexicon, kinds) for _ in range(2))
    pairs = records.keyed(rng, first)
    style = records.Style(
        price=rng.choice(("number", "string")), currency=rng.choice(("code", "lower", "symbol"))
    )
    shown, answer = first.to_json(pairs, style), second.to_json(pairs, style)
    if rng.random() < 0.5:
        return [*chat(records.line(rng, first), shown), *chat(records.line(rng, second), answer)]
    return chat(
        records.line(rng, second), answer, f"Example: {records.line(rng, first)} -> {shown}"
    )


SENTENCES = (
    "Dear {name}, the {item} is {status}.",
    "{name} will get {qty} of the {item} on {date}.",
    "Order {code}: {item}, {status} since {date}.",
    "We sent the {item} ({code}) to {city}.",
    "{item} for {name}, due {date}.",
    "Thanks {name}! Number {code} is {status} and leaves {city} on {date}.",
    "Your {item} costs {price}.",
    "{name} in {city} asked for the {item}.",
    "The {item} with number {code} is {status}.",
    "{code} / {name} / {city}",
)


def fill(rng: random.Random, lexicon: Lexicon) -> Chat:
    """Fill a sentence that the prompt gives, from a record or a free line."""
    pattern = rng.choice(SENTENCES)
    if rng.random() < 0.6:
        slots = [f"{{{k}}}" for k in records.draw_kinds(rng, 2, 5) if k != "currency"]
        words = [lexicon.phrase(rng, 1, 3) for _ in slots]
        pattern = " ".join(part for pair in zip(words, slots, strict=True) for part in pair)
        pattern = rng.choice(("{}.", "{}!", "{} " + lexicon.phrase(rng, 1, 4) + ".")).replace(
            "{}", pattern, 1
        )
    kinds = [kind for kind in records.KEYS if f"{{{kind}}}" in pattern]
    rng.shuffle(kinds)
    record = records.draw(rng, lexicon, kinds)
    context = ", ".join(f"{kind}: {record.values[kind]}" for kind in kinds)
    if rng.random() < 0.4:
        context = records.line(rng, record)
    request = rng.choice(("Fill in: {}", "Write: {}", "Use this form: {}")).replace(
        "{}", pattern, 1
    )
    return split_context(rng, context, request, pattern.format(**record.values))


def table(rng: random.Random, lexicon: Lexicon) -> Chat:
    """Look a row up in a small table, by its first column or by another."""
    keys = list(
        dict.fromkeys(
            code(rng) if rng.random() < 0.6 else lexicon.name(rng) for _ in range(rng.randint(2, 5))
        )
    )
    values = [_thing(rng, lexicon) for _ in keys]
    sign = rng.choice((": ", " = ", " -> ", " | "))
    rows = rng.choice(("\n", "; ")).join(f"{k}{sign}{v}" for k, v in zip(keys, values, strict=True))
    at = rng.randrange(len(keys))
    if rng.random() < 0.75:
        ask = rng.choice(("What is {}?", "{}?", "Look up {}.", "Value of {}")).format(keys[at])
        answer = rng.choice(("{v}", "{v}", "{k}: {v}", "{k} is {v}."))
        system = (
            rows if answer == "{v}" else f"{rows}\nAnswer like: {answer.format(k='key', v='value')}"
        )
        return chat(ask, answer.format(k=keys[at], v=values[at]), system)
    return chat(f"Which key has {values[at]}?", keys[at], rows)


def listing(rng: random.Random, lexicon: Lexicon) -> Chat:
    """Turn a run of things into a list, a JSON array, or a line, or pick one by place."""
    things = [lexicon.item(rng) for _ in range(rng.randint(2, 5))]
    run = rng.choice((", ", "; ", " and ", "\n")).join(things)
    match rng.randrange(5):
        case 0:
            return chat(f"List with dashes: {run}", "\n".join(f"- {t}" for t in things))
        case 1:
            return chat(f"JSON array: {run}", json.dumps(things))
        case 2:
            return chat(
                f"Numbered list: {run}", "\n".join(f"{i}. {t}" for i, t in enumerate(things, 1))
            )
        case 3:
            at = rng.randrange(len(things))
            place = ("first", "second", "third", "fourth", "fifth")[at]
            return chat(f"{run}\nWhich is the {place}?", things[at])
        case _:
            return chat(f"Join with slashes: {run}", " / ".join(things))


def choice(rng: random.Random, lexicon: Lexicon) -> Chat:
    """Map a word to another one by rules in the prompt."""
    words = (
        rng.sample(STATUSES, rng.randint(2, 5))
        if rng.random() < 0.5
        else [lexicon.word(rng) for _ in range(rng.randint(2, 5))]
    )
    words = list(dict.fromkeys(words))
    labels = [lexicon.phrase(rng, 1, 3) for _ in words]
    rules = ", ".join(f"{w} = {v}" for w, v in zip(words, labels, strict=True))
    at = rng.randrange(len(words))
    item, number = lexicon.item(rng), code(rng)
    source = rng.choice(
        (
            f"{item} is {words[at]}",
            f"{number}: {words[at]}",
            words[at],
            f"{number}, {item}, {words[at]}",
        )
    )
    answer = rng.choice((labels[at], f"{number}: {labels[at]}" if number in source else labels[at]))
    note = "With the number. " if answer != labels[at] else ""
    return chat(source, answer, f"{note}Say {rules}.")


def currency(rng: random.Random, lexicon: Lexicon) -> Chat:
    """Which currency a line is in, as a code, a symbol or with its amount."""
    record = records.draw(rng, lexicon, ["item", "qty", "price", "currency"])
    money = record.money
    source = records.line(rng, record)
    match rng.randrange(4):
        case 0:
            return chat(source, money.code, "Name the currency code.")
        case 1:
            return chat(
                source,
                f"{money.code} {record.values['price']}",
                "Write the price as code and amount.",
            )
        case 2:
            return chat(source, money.symbol, "Which currency symbol?")
        case _:
            word = rng.choice(money.words)
            other = rng.choice(CURRENCIES)
            return (
                chat(f"{word}?", money.code)
                if rng.random() < 0.5
                else chat(f"Symbol of {other.code}?", other.symbol)
            )


def say(rng: random.Random, lexicon: Lexicon) -> Chat:
    """Greeting, facts and closing words taken from the system message."""
    hello, bye = lexicon.phrase(rng, 1, 4).capitalize(), lexicon.phrase(rng, 2, 5).capitalize()
    record = records.draw(rng, lexicon, ["item", "code", "status", "date"])
    facts = records.labelled(rng, record)
    system = rng.choice(
        (
            "Begin with: {h}! End with: {b}.\n{f}",
            "{f}\nGreeting: {h}! Closing: {b}.",
            "Open: {h}! Close: {b}. {f}",
        )
    )
    core = rng.choice(
        ("{item} ({code}) is {status}.", "{code} is {status}, {date}.", "{item}: {date}.")
    )
    ask = {"{item} ": "How is it?", "{code} ": "Status and date?", "{item}:": "When?"}[core[:7]]
    return chat(
        ask,
        f"{hello}! {core.format(**record.values)} {bye}.",
        system.format(h=hello, b=bye, f=facts),
    )


SKILLS: dict[str, tuple[float, Skill]] = {
    "copy": (1.0, copy),
    "ask_field": (1.0, ask_field),
    "to_json": (2.5, to_json),
    "by_example": (0.5, by_example),
    "fill": (1.2, fill),
    "table": (0.7, table),
    "listing": (0.5, listing),
    "choice": (0.8, choice),
    "currency": (0.8, currency),
    "say": (0.8, say),
}

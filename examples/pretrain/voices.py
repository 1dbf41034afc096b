"""House conventions known by name: forms with fixed keys, voices with fixed phrases.

A fixed set is drawn once from the seed. The model has to keep each convention in its
weights and fill it with entities from the chat: what an adapter will have to do for a
tenant. The conventions are random and belong to nobody.
"""

import random
from dataclasses import dataclass

from . import records
from .skills import Chat, Skill, chat
from .words import Lexicon, amount

VOICE_STATUSES = ("shipped", "delayed", "delivered", "packed", "cancelled", "lost", "returned")


@dataclass(frozen=True)
class Form:
    """A named form: which fields it takes, under which keys, in which style."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    style: records.Style


@dataclass(frozen=True)
class Voice:
    """A named manner of answering: greeting, closing words, and sentences with slots."""

    name: str
    greeting: str
    closing: str
    where: dict[str, str]
    refund: str
    change: str
    stock: str


def _form(rng: random.Random, lexicon: Lexicon) -> Form:
    kinds = records.draw_kinds(rng, 3, 5)
    if rng.random() < 0.5:
        kinds = list(dict.fromkeys(["item", "qty", "price", "currency", *kinds[:1]]))
        rng.shuffle(kinds)
    joiner = rng.choice(("_", "", "-"))
    pairs = []
    for kind in kinds:
        key = rng.choice(records.KEYS[kind])
        if rng.random() < 0.5:
            key = joiner.join((lexicon.real_word(rng), key))
        pairs.append((kind, key))
    style = records.Style(
        price=rng.choice(("number", "string")),
        qty=rng.choice(("number", "string")),
        currency=rng.choice(("code", "code", "lower", "symbol")),
    )
    return Form(lexicon.phrase(rng, 2, 2), tuple(pairs), style)


def _sentence(rng: random.Random, lexicon: Lexicon, slots: tuple[str, ...]) -> str:
    """A sentence of docstring words with the slots in order."""
    parts = [lexicon.phrase(rng, 1, 3).capitalize()]
    for slot in slots:
        parts += [f"{{{slot}}}", lexicon.phrase(rng, 1, 3)]
    return " ".join(parts) + rng.choice((".", "!"))


def _voice(rng: random.Random, lexicon: Lexicon) -> Voice:
    def slots(*names: str) -> tuple[str, ...]:
        return tuple(rng.sample(names, len(names)))

    return Voice(
        name=lexicon.word(rng).capitalize(),
        greeting=lexicon.phrase(rng, 1, 4).capitalize() + rng.choice((",", "!", ".")),
        closing=lexicon.phrase(rng, 2, 6).capitalize() + rng.choice((".", "!")),
        where={s: _sentence(rng, lexicon, slots("item", "code", "date")) for s in VOICE_STATUSES},
        refund=_sentence(rng, lexicon, slots("price", "item", "code")),
        change=_sentence(rng, lexicon, slots("city", "code")),
        stock=_sentence(rng, lexicon, slots("item", "date")),
    )


WHERE = (
    "Where is my order {code}?",
    "Hi, any news of {code}?",
    "When does my {item} come?",
    "What about order {code}?",
    "I wait for the {item}, order {code}.",
    "Status of {code} please",
)
REFUND = (
    "I want my money back for {code}.",
    "Refund for the {item}, {code}?",
    "Please refund {price} for {item} ({code}).",
)
CHANGE = (
    "Please send {code} to {city} instead.",
    "I moved to {city}. Order {code}.",
    "New address for {code}: {city}",
)
STOCK = ("Do you have the {item}?", "When is {item} back?", "Is the {item} in stock again?")


class House:
    """The fixed forms and voices of one seed, and the skills that use them."""

    def __init__(self, seed: int, lexicon: Lexicon, forms: int = 24, voices: int = 16) -> None:
        rng = random.Random(f"house {seed}")
        self.forms = [_form(rng, lexicon) for _ in range(forms)]
        self.voices = [_voice(rng, lexicon) for _ in range(voices)]

    def form(self, rng: random.Random, lexicon: Lexicon) -> Chat:
        """A free line into JSON under the keys of a form that is only named."""
        form = rng.choice(self.forms)
        record = records.draw(rng, lexicon, [kind for kind, _ in form.pairs])
        system = rng.choice(("Form: {}", "Fill the {} form.", "You write {} records.")).format(
            form.name
        )
        return chat(records.line(rng, record), record.to_json(form.pairs, form.style), system)

    def voice(self, rng: random.Random, lexicon: Lexicon) -> Chat:
        """A customer's question answered in a voice that is only named."""
        voice = rng.choice(self.voices)
        kinds = [
            "item",
            "code",
            "status",
            "date",
            *rng.sample(["name", "city", "qty"], rng.randint(0, 2)),
        ]
        record = records.draw(rng, lexicon, kinds)
        values = {**record.values, "status": rng.choice(VOICE_STATUSES)}
        values["price"] = records.money_text(
            rng, records.Record({"price": amount(rng)}, record.money)
        )
        values["city"] = lexicon.word(rng).capitalize()
        kind = rng.choice(("where", "where", "where", "refund", "change", "stock"))
        ask, core, facts = {
            "where": (WHERE, voice.where[values["status"]], ("item", "code", "status", "date")),
            "refund": (REFUND, voice.refund, ("item", "code", "price")),
            "change": (CHANGE, voice.change, ("item", "code", "status")),
            "stock": (STOCK, voice.stock, ("item", "date")),
        }[kind]
        context = _facts(rng, [(fact, values[fact]) for fact in facts])
        system = rng.choice(("Voice: {n}. {f}", "{f}\nAnswer as {n}.", "You are {n}. {f}"))
        answer = f"{voice.greeting} {core.format(**values)} {voice.closing}"
        return chat(
            rng.choice(ask).format(**values), answer, system.format(n=voice.name, f=context)
        )

    def skills(self) -> dict[str, tuple[float, Skill]]:
        """The two skills with their weights."""
        return {"form": (2.0, self.form), "voice": (1.5, self.voice)}


def _facts(rng: random.Random, facts: list[tuple[str, str]]) -> str:
    """Facts about an order as a system prompt has them: labelled or bare."""
    if rng.random() < 0.5:
        rng.shuffle(facts)
        return "; ".join(f"{rng.choice(records.KEYS[kind])}: {value}" for kind, value in facts)
    if rng.random() < 0.5:
        rng.shuffle(facts)
    return "Order: " + ", ".join(value for _, value in facts)

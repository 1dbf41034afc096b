"""Words and the entities made of them: items, names, codes, dates, amounts.

Half of all words come from the standard library's docstrings, half are made of
random syllables, so that a model can only reproduce an entity by copying it.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ONSETS = "b br c ch cl d dr f fl g gr h j k kr l m n p pl qu r s sh sk st t th tr v w y z".split()
VOWELS = "a e i o u ai ea ee ie oa oo ou".split()
CODAS = ["", "", "", *"b ck d g l ll m n nd ng nt p r rd rk rn s sh sk st t th x".split()]

MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip

STATUSES = [
    "shipped", "delayed", "delivered", "packed", "cancelled", "lost", "returned",
    "on hold", "paid", "open", "ready", "sent", "in transit", "processing",
]  # fmt: skip


@dataclass(frozen=True)
class Currency:
    """One currency: its ISO code and the ways people write it."""

    code: str
    symbol: str
    words: tuple[str, ...]


CURRENCIES = [
    Currency("EUR", "€", ("euros", "euro")),
    Currency("USD", "$", ("dollars", "US dollars")),
    Currency("GBP", "£", ("pounds", "pounds sterling")),
    Currency("JPY", "¥", ("yen",)),
    Currency("CHF", "Fr.", ("francs", "Swiss francs")),
    Currency("SEK", "kr", ("kronor", "Swedish kronor")),
    Currency("INR", "₹", ("rupees",)),
    Currency("PLN", "zł", ("zloty",)),
    Currency("KRW", "₩", ("won",)),
    Currency("BRL", "R$", ("reais",)),
]


def dictionary_words(texts: Iterable[str], least: int = 3) -> list[str]:
    """Lower-case words of 3 to 10 letters that occur at least `least` times, sorted."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(r"(?<![A-Za-z_])[a-z]{3,10}(?![A-Za-z_])", text))
    return sorted(word for word, count in counts.items() if count >= least)


def syllable_word(rng: random.Random) -> str:
    """A pronounceable word of one to three syllables that need not exist."""
    return "".join(
        rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)
        for _ in range(rng.choice((1, 1, 2, 2, 2, 3)))
    )


class Lexicon:
    """Draws entities; every draw takes the caller's generator, so runs repeat."""

    def __init__(self, dictionary: Sequence[str]) -> None:
        self._dictionary = dictionary

    def word(self, rng: random.Random) -> str:
        """A word from the docstrings or, as often, an invented one."""
        return rng.choice(self._dictionary) if rng.random() < 0.5 else syllable_word(rng)

    def real_word(self, rng: random.Random) -> str:
        """A word from the docstrings."""
        return rng.choice(self._dictionary)

    def item(self, rng: random.Random) -> str:
        """One to four lower-case words, sometimes hyphenated or with a size."""
        words = [self.word(rng) for _ in range(rng.choice((1, 2, 2, 2, 3, 3)))]
        if len(words) > 2 and rng.random() < 0.2:
            words = [f"{words[0]}-{words[1]}", *words[2:]]
        if rng.random() < 0.08:
            words.append(f"{rng.randint(1, 90)}{rng.choice(['cm', 'mm', 'kg', 'ml', ''])}")
        return " ".join(words)

    def name(self, rng: random.Random) -> str:
        """One or two capitalised words."""
        return " ".join(self.word(rng).capitalize() for _ in range(rng.choice((1, 2, 2))))

    def phrase(self, rng: random.Random, least: int = 2, most: int = 5) -> str:
        """A few docstring words that mean nothing together."""
        return " ".join(self.real_word(rng) for _ in range(rng.randint(least, most)))


def digits(rng: random.Random, least: int, most: int) -> str:
    """A string of `least` to `most` random digits."""
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(least, most)))


def letters(rng: random.Random, count: int) -> str:
    """A string of random capital letters."""
    return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(count))


def code(rng: random.Random) -> str:
    """An order number, reference or serial, in one of several shapes."""
    match rng.randrange(7):
        case 0:
            return f"#{digits(rng, 3, 6)}"
        case 1:
            return f"{letters(rng, 1)}{digits(rng, 1, 1)}-{digits(rng, 3, 5)}"
        case 2:
            return f"{letters(rng, rng.randint(2, 3))}-{digits(rng, 3, 6)}"
        case 3:
            return digits(rng, 4, 7)
        case 4:
            return f"{letters(rng, 2)}{digits(rng, 2, 4)}{letters(rng, 1)}"
        case 5:
            return f"{digits(rng, 2, 4)}-{digits(rng, 2, 4)}"
        case _:
            return f"{letters(rng, 2)}/{digits(rng, 2, 4)}/{digits(rng, 2, 2)}"


def date(rng: random.Random) -> str:
    """A day, written in one of several ways."""
    day, month = rng.randint(1, 28), rng.randrange(12)
    match rng.randrange(4):
        case 0:
            return f"{day} {MONTHS[month]}"
        case 1:
            return f"{MONTHS[month]} {day}"
        case 2:
            return f"{rng.randint(2019, 2031)}-{month + 1:02d}-{day:02d}"
        case _:
            return f"{day} {MONTHS[month][:3]}"


def amount(rng: random.Random) -> str:
    """A price with two decimals, most often below a hundred."""
    whole = rng.choice(
        (rng.randint(0, 9), rng.randint(1, 99), rng.randint(1, 99), rng.randint(100, 2500))
    )
    return f"{whole}.{rng.choice((digits(rng, 2, 2), '00', '50', '99'))}"

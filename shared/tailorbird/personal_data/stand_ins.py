"""Stand-ins: values that look like a kind and reach nobody.

None is computed from the value it stands for, beyond its shape: they are drawn by a seed, so that
who knows the seed learns nothing of what was replaced.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from random import Random

from tailorbird.personal_data.birth_dates import is_birth_date, other_birth_date
from tailorbird.personal_data.kinds import Kind

_Make = Callable[[str, Random], str]

# Numbers that card networks and payment services publish for tests.
_TEST_CARDS = (
    "4111111111111111", "4242424242424242", "4012888888881881", "5555555555554444",
    "5105105105105100", "6011111111111117", "6011000990139424", "3530111333300000",
)  # fmt: skip
_TEST_AMEX = ("378282246310005", "371449635398431", "378734493671000")

# 555-0100 to 555-0199 are kept free in every area (ATIS-0300115).
_AREAS = ("202", "212", "303", "312", "404", "415", "503", "617", "702", "808")

# RFC 5737 and RFC 3849.
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")

_FIRST = "Alex Robin Sam Charlie Jamie Taylor Morgan Casey Riley Jordan Avery Quinn".split()
_LAST = "Example Sample Specimen Placeholder Doe Roe Public Nobody".split()
_PLACES = "Exampleton Sampleford Placeholm Testbury Nowhere Midville Mocktown Standinster".split()


def stand_in(kind: str, value: str, random: Random) -> str:
    """Return a stand-in for `value`, drawn with `random`.

    A birth date keeps five years' band, anything else its signs and length at most; a kind unknown
    here gets zeros and X in the value's shape.
    """
    return _MAKES.get(kind, _of_its_shape)(value, random)


def _digits(random: Random, count: int) -> str:
    return "".join(random.choices(string.digits, k=count))


def _like(value: str, characters: str) -> str:
    """Return `characters` with the signs that stand between those of `value`."""
    rest = iter(characters)
    taken = "".join(next(rest, "") if each.isalnum() else each for each in value)
    return (taken + "".join(rest)).strip()


def _of_its_shape(value: str, random: Random) -> str:
    """Zeros and X, but for the last four digits."""
    digits = sum(each.isdigit() for each in value)
    drawn = iter(_digits(random, min(4, digits)).rjust(digits, "0"))
    return "".join(
        next(drawn) if each.isdigit() else "X" if each.isalpha() else each for each in value
    )


def _email(_: str, random: Random) -> str:
    host = random.choice(("example.com", "example.org", "example.net"))  # RFC 2606
    return f"{random.choice(_FIRST).lower()}{random.randint(100, 99999)}@{host}"


def _phone(value: str, random: Random) -> str:
    digits = "".join(each for each in value if each.isdigit())
    if value.startswith("+44") or (digits.startswith("0") and not digits.startswith("00")):
        # Ofcom's numbers for drama, 020 7946 0000 to 0999.
        start = "+44 20" if value.startswith("+") else "020"
        return f"{start} 7946 0{_digits(random, 3)}"
    number = f"{random.choice(_AREAS)}-555-01{_digits(random, 2)}"
    return f"+1-{number}" if value.startswith("+") else number


def luhn(number: str) -> str:
    """Return `number` with its check digit (ISO/IEC 7812-1)."""
    doubled = [
        int(each) * (2 if index % 2 == 0 else 1) for index, each in enumerate(reversed(number))
    ]
    return number + str(-sum(each // 10 + each % 10 for each in doubled) % 10)


def _credit_card(value: str, random: Random) -> str:
    count = sum(each.isdigit() for each in value)
    tests = _TEST_AMEX if count == 15 else _TEST_CARDS
    # Most published ones first; behind them the range that most of those are of.
    number = random.choice((*tests, luhn(f"400000{_digits(random, 9)}")))
    return _like(value, number) if len(number) == count else number


def _iban(value: str, random: Random) -> str:
    account = f"TEST{_digits(random, 14)}"  # no bank of that code
    number = int("".join(str(int(each, 36)) for each in f"{account}GB00"))
    iban = f"GB{98 - number % 97:02}{account}"
    if " " not in value:
        return iban
    return " ".join(iban[at : at + 4] for at in range(0, len(iban), 4))


def _ip_address(value: str, random: Random) -> str:
    if "." in value:
        return f"{random.choice(_NETWORKS)}.{random.randint(1, 254)}"
    return f"2001:db8::{random.randint(1, 0xFFFF):x}"


def _date_of_birth(value: str, random: Random) -> str:
    make = other_birth_date if is_birth_date(value) else _of_its_shape
    return make(value, random)


def _us_ssn(value: str, random: Random) -> str:
    # 666 is no area that is given out.
    return _like(value, f"666{random.randint(1, 99):02}{random.randint(1, 9999):04}")


def _us_itin(value: str, random: Random) -> str:
    # Groups 00 to 49 are no taxpayer's.
    return _like(value, f"9{_digits(random, 2)}{random.randint(1, 49):02}{_digits(random, 4)}")


def _uk_nino(value: str, random: Random) -> str:
    # QQ is a prefix of examples only.
    return _like(value, f"QQ{_digits(random, 6)}{random.choice('ABCD')}")


def _uk_nhs(value: str, random: Random) -> str:
    # 999 is the range of tests.
    while True:
        number = f"999{_digits(random, 6)}"
        check = -sum(int(each) * (10 - at) for at, each in enumerate(number)) % 11
        if check != 10:
            return _like(value, f"{number}{check}")


def _person(value: str, random: Random) -> str:
    first = random.choice(_FIRST)
    return f"{first} {random.choice(_LAST)}" if " " in value.strip() else first


def _place(_: str, random: Random) -> str:
    return random.choice(_PLACES)


_MAKES: dict[str, _Make] = {
    Kind.EMAIL: _email,
    Kind.PHONE: _phone,
    Kind.CREDIT_CARD: _credit_card,
    Kind.IBAN: _iban,
    Kind.IP_ADDRESS: _ip_address,
    Kind.DATE_OF_BIRTH: _date_of_birth,
    Kind.US_SSN: _us_ssn,
    Kind.US_ITIN: _us_itin,
    Kind.UK_NINO: _uk_nino,
    Kind.UK_NHS: _uk_nhs,
    Kind.PERSON: _person,
    Kind.PLACE: _place,
}

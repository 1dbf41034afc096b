"""Made-up values of each kind, in the forms that people write, with checksums as real ones have.

No detector is imported: what is right follows from the kinds' own public rules.
"""

from __future__ import annotations

import datetime as dt
import string
import uuid
from collections.abc import Callable
from random import Random

Make = Callable[[Random], str]

_FIRST = "anna ben carla dmitri eve farid grace henrik ines jamal keiko luis mara nils".split()
_LAST = "adler brooks chen duarte evans fischer garcia hall ivanov jones kaur lopez meyer".split()
_HOSTS = (
    "gmail.com outlook.com hotmail.co.uk web.de proton.me st-marys.nhs.uk lakeside-law.com "
    "mail.acme-insurance.org yahoo.fr firma.example.de"
).split()
_MONTHS = (
    "January February March April May June July August September October November December"
).split()


def _digits(random: Random, count: int) -> str:
    return "".join(random.choice(string.digits) for _ in range(count))


def _email(random: Random) -> str:
    first, last, host = random.choice(_FIRST), random.choice(_LAST), random.choice(_HOSTS)
    local = random.choice(
        [
            f"{first}.{last}",
            f"{first[0]}{last}{random.randint(1, 99)}",
            f"{first}_{last}",
            f"{first}+shop",
            f"{last}-{first}",
            f"{first.capitalize()}.{last.capitalize()}",
        ]
    )
    return f"{local}@{host}"


def _phone(random: Random) -> str:
    area, exchange = random.choice(["212", "415", "312", "617", "206"]), random.randint(220, 999)
    line = _digits(random, 4)
    while exchange in (411, 555, 911):
        exchange = random.randint(220, 999)
    return random.choice(
        [
            f"({area}) {exchange}-{line}",
            f"{area}-{exchange}-{line}",
            f"{area}.{exchange}.{line}",
            f"+1 {area} {exchange} {line}",
            f"+1-{area}-{exchange}-{line}",
            f"+44 20 7{_digits(random, 3)} {_digits(random, 4)}",
            f"020 7{_digits(random, 3)} {_digits(random, 4)}",
            f"07700 {_digits(random, 6)}",
            f"+44 7700 {_digits(random, 6)}",
            f"+49 30 {_digits(random, 4)}{_digits(random, 4)}",
            f"030 / {random.randint(2, 9)}{_digits(random, 6)}",
            f"+33 6 {' '.join(_digits(random, 2) for _ in range(4))}",
        ]
    )


def _bare_phone(random: Random) -> str:
    return random.choice(["212", "415", "312"]) + str(random.randint(220, 399)) + _digits(random, 4)


def _luhn(number: str) -> str:
    total = 0
    for index, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if index % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return number + str(-total % 10)


def _bare_card(random: Random) -> str:
    prefix = random.choice(["4", "51", "53", "55", "6011"])
    return _luhn(prefix + _digits(random, 15 - len(prefix)))


def _credit_card(random: Random) -> str:
    number = _bare_card(random)
    parts = [number[at : at + 4] for at in range(0, 16, 4)]
    return random.choice([" ", "-", " ", ""]).join(parts)


def _amex(random: Random) -> str:
    number = _luhn("37" + _digits(random, 12))
    return f"{number[:4]} {number[4:10]} {number[10:]}"


def _bare_iban(random: Random) -> str:
    country, account = random.choice(
        [
            ("DE", _digits(random, 18)),
            ("GB", "NWBK" + _digits(random, 14)),
            ("FR", _digits(random, 23)),
            ("ES", _digits(random, 20)),
            ("NL", "ABNA0" + _digits(random, 9)),
            ("AT", _digits(random, 16)),
            ("CH", _digits(random, 17)),
        ]
    )
    number = "".join(str(int(each, 36)) for each in account + country + "00")
    return f"{country}{98 - int(number) % 97:02}{account}"


def _iban(random: Random) -> str:
    number = _bare_iban(random)
    return " ".join(number[at : at + 4] for at in range(0, len(number), 4))


def _ssn(random: Random) -> tuple[str, str, str]:
    area = random.choice([*range(1, 666), *range(667, 900)])
    return f"{area:03}", f"{random.randint(1, 99):02}", f"{random.randint(1, 9999):04}"


def _uk_nino(random: Random) -> str:
    prefix = random.choice(["AB", "CE", "JK", "PR", "SW", "YZ"])
    number = _digits(random, 6)
    return f"{prefix} {number[:2]} {number[2:4]} {number[4:]} {random.choice('ABCD')}"


def _bare_nhs(random: Random) -> str:
    while True:
        number = random.choice("4679") + _digits(random, 8)
        check = -sum(int(each) * (10 - at) for at, each in enumerate(number)) % 11
        if check != 10:
            return number + str(check)


def _uk_nhs(random: Random) -> str:
    number = _bare_nhs(random)
    return random.choice([" ", " ", "-"]).join([number[:3], number[3:6], number[6:]])


def _es_nif(random: Random) -> str:
    number = _digits(random, 8)
    return number + "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]


def _it_fiscal_code(random: Random) -> str:
    consonants = "BCDFGLMNPRSTVZ"
    name = "".join(random.choice(consonants) for _ in range(6))
    code = (
        f"{name}{random.randint(40, 99)}{random.choice('ABCDEHLMPRST')}{random.randint(1, 28):02}"
        f"{random.choice('ADFGHL')}{random.randint(100, 999)}"
    )
    odd = dict(
        zip(
            string.digits + string.ascii_uppercase,
            (
                *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21),
                *(2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
            ),
            strict=True,
        )
    )
    total = 0
    for index, each in enumerate(code):
        even = int(each) if each.isdigit() else ord(each) - ord("A")
        total += odd[each] if index % 2 == 0 else even
    return code + string.ascii_uppercase[total % 26]


def _ca_sin(random: Random) -> str:
    number = _luhn(random.choice("1234567") + _digits(random, 7))
    return random.choice([" ", "-"]).join([number[:3], number[3:6], number[6:]])


def _date(random: Random, first: int, last: int) -> dt.date:
    return dt.date(random.randint(first, last), random.randint(1, 12), random.randint(1, 28))


def _fi_personal_identity_code(random: Random) -> str:
    born, number = _date(random, 1940, 1999), f"{random.randint(2, 899):03}"
    day = born.strftime("%d%m%y")
    return f"{day}-{number}{'0123456789ABCDEFHJKLMNPRSTUVWXY'[int(day + number) % 31]}"


def _pl_pesel(random: Random) -> str:
    number = _date(random, 1940, 1999).strftime("%y%m%d") + _digits(random, 4)
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
    total = sum(int(each) * weight for each, weight in zip(number, weights, strict=True))
    return number + str(-total % 10)


def _verhoeff(number: str) -> str:
    """Return `number` with its check digit (Verhoeff 1969): the dihedral group of order ten."""

    def times(a: int, b: int) -> int:
        if a < 5:
            return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
        return 5 + (a - b) % 5 if b < 5 else (a - b) % 5

    permutation = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    check = 0
    for index, each in enumerate(reversed(number), start=1):
        value = int(each)
        for _ in range(index % 8):
            value = permutation[value]
        check = times(check, value)
    return number + str(next(value for value in range(10) if times(check, value) == 0))


def _in_aadhaar(random: Random) -> str:
    number = _verhoeff(random.choice("23456789") + _digits(random, 10))
    return " ".join([number[:4], number[4:8], number[8:]])


def _au_tfn(random: Random) -> str:
    while True:
        number = _digits(random, 9)
        weights = (1, 4, 3, 7, 5, 8, 6, 9, 10)
        if sum(int(each) * at for each, at in zip(number, weights, strict=True)) % 11 == 0:
            return f"{number[:3]} {number[3:6]} {number[6:]}"


def _ip_address(random: Random) -> str:
    return ".".join(str(random.randint(1, 254)) for _ in range(4))


def _ipv6(random: Random) -> str:
    groups = [f"{random.randint(1, 65535):x}" for _ in range(6)]
    return random.choice(
        [f"2001:db8:{':'.join(groups)}", f"fe80::{':'.join(groups[:4])}", f"2a02:{groups[0]}::1"]
    )


def _written(date: dt.date, random: Random) -> str:
    month = _MONTHS[date.month - 1]
    ordinal = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}.get(date.day, "th")
    return random.choice(
        [
            f"{date:%d/%m/%Y}",
            f"{date:%m/%d/%Y}",
            f"{date.day}/{date.month}/{date:%y}",
            f"{date:%Y-%m-%d}",
            f"{date:%d.%m.%Y}",
            f"{date:%d-%m-%Y}",
            f"{date.day} {month} {date.year}",
            f"{month} {date.day}, {date.year}",
            f"{month[:3]} {date.day} {date.year}",
            f"{date.day}{ordinal} {month} {date.year}",
            f"the {date.day}{ordinal} of {month} {date.year}".removeprefix("the "),
            f"{date.day}-{month[:3]}-{date.year}",
        ]
    )


def _date_of_birth(random: Random) -> str:
    return _written(_date(random, 1932, 2015), random)


def _any_date(random: Random) -> str:
    return _written(_date(random, 2015, 2025), random)


def _medical_record(random: Random) -> str:
    return random.choice(
        [
            _digits(random, 7),
            _digits(random, 8),
            f"{_digits(random, 2)}-{_digits(random, 2)}-{_digits(random, 2)}",
            f"H{_digits(random, 7)}",
            f"A-{_digits(random, 6)}",
        ]
    )


def _isbn(random: Random) -> str:
    number = "978" + _digits(random, 9)
    check = -sum(int(each) * (3 if at % 2 else 1) for at, each in enumerate(number)) % 10
    full = number + str(check)
    return random.choice([full, f"{full[:3]}-{full[3]}-{full[4:7]}-{full[7:12]}-{full[12]}"])


def _ean(random: Random) -> str:
    number = random.choice(["40", "50", "76"]) + _digits(random, 10)
    return number + str(
        -sum(int(each) * (3 if at % 2 else 1) for at, each in enumerate(number)) % 10
    )


def _tracking(random: Random) -> str:
    return random.choice(
        [
            f"1Z{_digits(random, 3)}{random.choice('AEW')}{_digits(random, 12)}",
            f"RB{_digits(random, 9)}GB",
            _digits(random, 12),
            f"JD{_digits(random, 16)}",
        ]
    )


_MAKES: dict[str, Make] = {
    "email": _email,
    "phone": _phone,
    "credit_card": _credit_card,
    "iban": _iban,
    "uk_nino": _uk_nino,
    "uk_nhs": _uk_nhs,
    "es_nif": _es_nif,
    "it_fiscal_code": _it_fiscal_code,
    "ca_sin": _ca_sin,
    "fi_personal_identity_code": _fi_personal_identity_code,
    "pl_pesel": _pl_pesel,
    "in_aadhaar": _in_aadhaar,
    "au_tfn": _au_tfn,
    "ip_address": _ip_address,
    "date_of_birth": _date_of_birth,
    "date": _any_date,
    "medical_record": _medical_record,
    "isbn": _isbn,
    "ean": _ean,
    "tracking": _tracking,
    "phone.bare": _bare_phone,
    "credit_card.bare": _bare_card,
    "credit_card.amex": _amex,
    "iban.bare": _bare_iban,
    "us_ssn": lambda random: "-".join(_ssn(random)),
    "us_ssn.bare": lambda random: "".join(_ssn(random)),
    "us_ssn.spaced": lambda random: " ".join(_ssn(random)),
    "uk_nino.bare": lambda random: _uk_nino(random).replace(" ", ""),
    "uk_nhs.bare": _bare_nhs,
    "ip_address.v6": _ipv6,
    "order": lambda random: f"W-{_digits(random, 4)}",
    "price": lambda random: f"{random.randint(1, 4999):,}.{_digits(random, 2)}",
    "version": lambda random: f"{_digits(random, 1)}.{random.randint(0, 30)}.{_digits(random, 1)}",
    "uuid": lambda random: str(uuid.UUID(int=random.getrandbits(128), version=4)),
    "time": lambda random: f"{random.randint(0, 23):02}:{random.randint(0, 59):02}",
    "small": lambda random: str(random.randint(2, 480)),
    "invoice": lambda random: f"INV-{random.randint(2018, 2025)}-{_digits(random, 5)}",
    "case": lambda random: f"{random.randint(1, 9)}:{_digits(random, 2)}-cv-{_digits(random, 5)}",
    "serial": lambda random: f"SN{_digits(random, 4)}{random.choice('KQX')}{_digits(random, 4)}",
    "sha": lambda random: f"{random.getrandbits(160):040x}",
    "digits9": lambda random: _digits(random, 9),
    "digits10": lambda random: _digits(random, 10),
    "digits12": lambda random: _digits(random, 12),
    "policy": lambda random: f"P{_digits(random, 3)}-{_digits(random, 6)}",
    "epoch": lambda random: f"1{random.randint(6, 7)}{_digits(random, 8)}",
}


def make(name: str, random: Random) -> str:
    """Return a value for the template's field `name`: a kind, perhaps with a form after a dot."""
    return _MAKES[name](random)

"""Birth dates: another day of the same five years, written the same way."""

from __future__ import annotations

import re
from random import Random

_MONTHS = (
    "january february march april may june july august september october november december"
).split()
_DAYS = 28
_BAND = 5
_PARTS = re.compile(r"\d+|[^\W\d_]+")


def is_birth_date(value: str) -> bool:
    """Tell whether the two functions below can read it: an operator's pattern may find anything.

    That is eight digits, or up to three numbers, of which the first or the last is the year.
    """
    numbers = [part for part in _PARTS.findall(value) if part.isdecimal()]
    if len(numbers) == 1 and len(numbers[0]) == 8:
        return True
    if not 1 <= len(numbers) <= 3:
        return False
    year = numbers.pop(_year_at(numbers))
    return len(year) in (2, 4) and all(len(number) <= 2 for number in numbers)


def other_birth_date(value: str, random: Random) -> str:
    """Return `value` with another day and month, and a year of the same five (1980 to 1984).

    Nothing else of the true date is left in it. A month's name becomes an English one.
    """
    day, month = random.randint(1, _DAYS), random.randint(1, 12)
    offset = random.randrange(_BAND)
    numbers = [part for part in _PARTS.findall(value) if part.isdecimal()]
    if len(numbers) == 1 and len(numbers[0]) == 8:
        return f"{_year(numbers[0][:4], offset)}{month:02}{day:02}"
    named = len(numbers) < 3
    # What is not the year: a day alone beside a name, else the two in the order they have.
    places = iter((day,) if named else (day, month) if _day_first(numbers) else (month, day))
    year = _year_at(numbers)
    seen = iter(range(len(numbers)))

    def other(match: re.Match[str]) -> str:
        part = match[0]
        if part.isdecimal():
            if next(seen) == year:
                return _year(part, offset)
            number = next(places)
            return f"{number:0{len(part)}}"
        if part.lower() in ("of", "de", "st", "nd", "rd", "th"):
            return _ordinal(part, day)
        name = _MONTHS[month - 1].capitalize()
        return name[:3] if len(part) <= 4 else name

    return _PARTS.sub(other, value)


def birth_date(value: str) -> str:
    """Return what is equal for two ways to write one date, whichever of day and month is first."""
    numbers: list[str] = []
    names: list[str] = []
    for part in _PARTS.findall(value.lower()):
        (numbers if part.isdecimal() else names).append(part)
    if len(numbers) == 1 and len(numbers[0]) == 8:
        numbers = [numbers[0][:4], numbers[0][4:6], numbers[0][6:]]
    year = numbers.pop(_year_at(numbers))[-2:]
    named = [at for at, month in enumerate(_MONTHS, 1) for name in names if month[:3] == name[:3]]
    return f"{year} {sorted([*map(int, numbers), *named[:1]])}"


def _year_at(numbers: list[str]) -> int:
    return 0 if len(numbers[0]) == 4 else len(numbers) - 1


def _day_first(numbers: list[str]) -> bool:
    return _year_at(numbers) != 0 and int(numbers[1]) <= 12


def _year(written: str, offset: int) -> str:
    first = int(written) // _BAND * _BAND
    return f"{first + offset:0{len(written)}}"


def _ordinal(part: str, day: int) -> str:
    if part.lower() in ("of", "de"):
        return part
    return {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}.get(day, "th")

"""Words that may stand for each other in a prompt without changing the answer."""

from __future__ import annotations

from collections.abc import Sequence

DEFAULT = "default"
"""A set of this one word in the spec stands for all of DEFAULT_FAMILIES."""

Family = tuple[tuple[str, ...], ...]
"""Rows of one length that are swapped together, by column: he with she while his is with her."""

PRONOUNS: Family = (("he", "she"), ("his", "her"), ("him", "her"), ("himself", "herself"))
"""Crude: "her" becomes "his" even where "him" is meant, and "hers" stays."""

# Each within one gender, so that the pronouns of a prompt stay right.
MENS_NAMES: Family = (("James", "Mohammed", "Jamal", "Carlos", "Wei", "Rajesh", "Ivan"),)
WOMENS_NAMES: Family = (("Emily", "Fatima", "Lakisha", "Maria", "Mei", "Priya", "Olga"),)
PLACES: Family = (("London", "Lagos", "Mumbai", "Chicago", "Warsaw", "Nairobi", "Manila"),)

DEFAULT_FAMILIES = (PRONOUNS, MENS_NAMES, WOMENS_NAMES, PLACES)


def families(sets: Sequence[Sequence[str]]) -> list[Family]:
    """Return the families that the spec's sets ask for: each its own, ("default",) all of ours."""
    found: list[Family] = []
    for words in sets:
        if tuple(words) == (DEFAULT,):
            found.extend(DEFAULT_FAMILIES)
        else:
            found.append((tuple(words),))
    return found

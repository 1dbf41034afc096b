"""What a start that fails says: which setting, where it was set, what is wrong with it.

TAILORBIRD_VALUES_KEYS is `NAME=key,NAME=key,…`: whoever sets a service's environment, such as the
Helm chart, tells by it under which key of values.yaml each setting (without its prefix) stands.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping

from pydantic import ValidationError

from tailorbird.errors import InvalidArgument, TailorbirdError

_PREFIX = "TAILORBIRD_"
_KEYS = "TAILORBIRD_VALUES_KEYS"


def wrong_settings(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Yield each setting that is wrong, as its field's name, and what is wrong with it."""
    for problem in error.errors():
        context = problem.get("ctx", {})
        if "setting" in context:
            yield str(context["setting"]), str(context["problem"])
        else:
            # Of a member of a list the loc goes on with its place.
            setting = str(problem["loc"][0]) if problem["loc"] else ""
            yield setting, problem["msg"].removeprefix("Value error, ")


def setting_of(error: TailorbirdError, settings: Collection[str]) -> tuple[str, str]:
    """Return the setting an error speaks of, or "" if it speaks of none, and what it says."""
    if isinstance(error, InvalidArgument) and error.field in settings:
        return error.field, error.description
    setting = error.metadata.get("setting", "")
    return (setting if setting in settings else ""), error.message


def told(setting: str, problem: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the fields of a log line: the error in full, and its parts for those who filter."""
    problem = " ".join(problem.split())
    if not setting:
        return {"error": problem}
    variable = f"{_PREFIX}{setting.upper()}"
    key = _values_keys(environ).get(setting.upper())
    if key is None:
        return {"setting": variable, "error": f"{variable}: {problem}"}
    return {
        "setting": variable,
        "values_key": key,
        "error": f"{variable} ({key} in values.yaml): {problem}",
    }


def _values_keys(environ: Mapping[str, str]) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in environ.get(_KEYS, "").split(","))
    return {name.strip().removeprefix(_PREFIX): key.strip() for name, _, key in pairs if key}

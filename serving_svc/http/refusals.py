"""What generating refuses, said in the words of OpenAI's request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from serving_svc.http.naming import no_such_model
from tailorbird.errors import InvalidArgument, NotFound

_SAMPLING = "sampling."
_WORDS = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"^chat\.", ""),
        (r"^(tools\[\d+\]|messages\[\d+\]\.tool_calls\[\d+\])\.name$", r"\1.function.name"),
        (r"\.parameters_json_schema$", ".function.parameters"),
        (r"\.arguments_json$", ".function.arguments"),
        (r"^token_ids\.ids", "prompt"),
        (r"^(adapter|parent|version)$", "model"),
    )
)
_ROLE = re.compile(r"\bROLE_(SYSTEM|USER|ASSISTANT|TOOL)\b")


@dataclass(frozen=True, slots=True)
class Refusals:
    """`renamed` says what sampling's parameters are called, and `input` what the prompt is."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    input: str = "messages"

    @contextmanager
    def told(self, model: str) -> Iterator[None]:
        """Raise what the block raises in the request's words; NotFound is `model`'s."""
        try:
            yield
        except InvalidArgument as error:
            raise self._renamed(error) from error
        except NotFound:
            raise no_such_model(model) from None

    def _renamed(self, error: InvalidArgument) -> InvalidArgument:
        metadata = {key: value for key, value in error.metadata.items() if key != "field"}
        text = _ROLE.sub(lambda match: match[1].lower(), error.description)
        return InvalidArgument(self._field(error.field), text, reason=error.reason, **metadata)

    def _field(self, name: str) -> str:
        if name == "input":
            return self.input
        if name.startswith(_SAMPLING):
            found = re.fullmatch(r"(\w+?)(?:\.choices)?(\[.*)?", name.removeprefix(_SAMPLING))
            if found is None:
                return name.removeprefix(_SAMPLING)
            return self.renamed.get(found[1], found[1]) + (found[2] or "")
        for pattern, word in _WORDS:
            name = pattern.sub(word, name)
        return name

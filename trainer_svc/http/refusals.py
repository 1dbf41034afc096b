"""What the use cases refuse, said in the words of OpenAI's request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tailorbird.errors import FailedPrecondition, InvalidArgument, InvalidRecords


@contextmanager
def told_as(names: Mapping[str, str]) -> Iterator[None]:
    """Name what is wrong as the request does; `names` has its fields by what use cases say."""
    try:
        yield
    except InvalidRecords:
        # These name lines.
        raise
    except InvalidArgument as error:
        if error.field not in names:
            raise
        metadata = {key: value for key, value in error.metadata.items() if key != "field"}
        raise InvalidArgument(
            names[error.field], error.description, reason=error.reason, **metadata
        ) from error
    except FailedPrecondition as error:
        field = error.metadata.get("field", "")
        error.metadata |= {"field": names[field]} if field in names else {}
        raise

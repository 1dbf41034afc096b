"""One side's answer, sent to the page's script as it comes: JSON, a line for each piece."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Generator
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tailorbird.console import words
from tailorbird.console.chat import SIDES, asked, finish_name
from tailorbird.console.failure import failure_of
from tailorbird.console.live import Streams, live_response
from tailorbird.console.visit import Visit, form_of, stalled, unexpected
from tailorbird.errors import InvalidArgument, TailorbirdError
from tailorbird.serving.v1 import inference_service_pb2 as serving


async def answer(request: Request) -> Response:
    """Answer for the side that the form names.

    Lines are {"text"}, and last {"version", "tokens", "finish"} or {"failed"}.
    """
    try:
        form = await form_of(request)
    except ClientDisconnect:
        return Response(status_code=400)
    except TimeoutError:
        return JSONResponse({"failed": stalled().message}, 408)
    if form is None:
        return JSONResponse({"failed": "that is too large"}, 413)
    lines = _lines(Visit(request, form), request.app.state.streams)
    return live_response(lines, "application/x-ndjson")


async def _lines(visit: Visit, streams: Streams) -> AsyncIterator[str]:
    try:
        side, wanted = visit.field("side"), asked(visit)
        if side not in SIDES or not wanted.models[side]:
            raise InvalidArgument("side", f"it is none of {', '.join(SIDES)}, or has no model")
        request = wanted.request(visit.parent, side)

        def stream() -> Generator[serving.StreamGenerateResponse, None, None]:
            return visit.backend.serving.stream_generate(request)

        end: dict[str, Any] = {"version": "", "tokens": 0, "finish": ""}
        async for piece in streams.read(stream):
            end["version"] = words.last_part(piece.version) or end["version"]
            end["tokens"] = piece.usage.completion_tokens or end["tokens"]
            end["finish"] = finish_name(piece.finish_reason)
            if piece.text:
                yield _line({"text": words.printable(piece.text)})
        yield _line(end)
    except TailorbirdError as error:
        failure = failure_of(error)
        yield _line({"failed": f"{failure.reason}: {failure.message}"})
    except Exception:
        yield _line({"failed": unexpected().message})
    finally:
        visit.backend.close()


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value) + "\n"

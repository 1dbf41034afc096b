"""What goes to a page piece by piece."""

from __future__ import annotations

from tailorbird.console.live import sse


def test_no_text_begins_an_event_of_its_own() -> None:
    said = sse("lost", "a\revent: job\r\ndata: <b>\n\nretry: 1")
    assert said == (
        "event: lost\ndata: a\ndata: event: job\ndata: data: <b>\ndata: \ndata: retry: 1\n\n"
    )
    assert sse("end", "") == "event: end\ndata: \n\n"

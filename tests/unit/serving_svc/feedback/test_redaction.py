"""Records are rid of personal data wherever it stands, tenants in turn."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving_svc.feedback import redaction
from serving_svc.feedback.redaction import Redactor
from tailorbird.errors import PatternTimedOut, ResourceExhausted, Unavailable
from tailorbird.feedback import Answer, Call, FeedbackRecord, Function, Tool, ToolFunction, Turn
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.modes import Mode
from tests.unit.serving_svc.feedback.held import EndlessScanner, held
from tests.unit.tailorbird.feedback_values import a_record

ADDRESS, PHONE = "jane.roe@web.de", "415-555-2671"


def a_call(arguments: str) -> Call:
    return Call(id="call-1", function=Function(name="find", arguments=arguments))


def calling(arguments: str) -> FeedbackRecord:
    return a_record(answer=Answer(tool_calls=(a_call(arguments),)))


async def test_every_text_is_redacted_and_only_counts_are_left(redactor: Redactor) -> None:
    said = f"I am {ADDRESS}"
    record = a_record(
        messages=(
            Turn(role="system", content=said),
            Turn(role="user", content=said),
            Turn(role="assistant", tool_calls=(a_call(json.dumps({"email": ADDRESS})),)),
            Turn(role="tool", tool_call_id="call-1", content=said),
        ),
        tools=(
            Tool(
                function=ToolFunction(
                    name="find", description=said, parameters={"default": ADDRESS}
                )
            ),
        ),
        answer=Answer(content=said),
        correction=Answer(content=said),
        labels={"customer": ADDRESS},
    )
    kept = await redactor.redacted(record, "acme")
    assert ADDRESS not in kept.model_dump_json()
    assert kept.redactions == {"email": 9}
    assert kept.messages[0].content == "I am <EMAIL>"
    assert json.loads(kept.messages[2].tool_calls[0].function.arguments) == {"email": "<EMAIL>"}
    assert kept.labels == {"customer": "<EMAIL>"}
    same = {"name", "version", "create_time", "subject", "route_generation", "rating"}
    assert kept.model_dump(include=same) == record.model_dump(include=same)


async def test_a_prompt_is_redacted(redactor: Redactor) -> None:
    kept = await redactor.redacted(a_record(messages=(), prompt=f"Dear {ADDRESS},"), "acme")
    assert (kept.prompt, kept.messages) == ("Dear <EMAIL>,", ())


async def test_a_record_in_which_nothing_is_found_is_itself(redactor: Redactor) -> None:
    record = calling('{"order":  17}')
    assert await redactor.redacted(record, "acme") == record


async def test_the_same_request_again_has_the_same_stand_ins() -> None:
    redactor = Redactor(partial(load_scanner, scan_options(kinds=("email",))), Mode.SUBSTITUTE)
    record = a_record(answer=Answer(content=ADDRESS), correction=Answer(content=ADDRESS))
    kept = await redactor.redacted(record, "acme")
    assert kept.correction
    assert kept.answer.content == kept.correction.content != ADDRESS
    assert await redactor.redacted(record, "acme") == kept
    other = await redactor.redacted(record.model_copy(update={"name": "other"}), "acme")
    assert other.answer != kept.answer
    redactor.close()


@pytest.mark.parametrize("field", ["answer", "correction", "messages"])
async def test_arguments_stay_an_object_where_a_number_is_replaced(
    redactor: Redactor, field: str
) -> None:
    call = a_call('{"phone": 4155552671, "order": 17, "share": 0.5, "also": "' + PHONE + '"}')
    said: Any = Answer(tool_calls=(call,))
    if field == "messages":
        said = (Turn(role="assistant", tool_calls=(call,)),)
    record = a_record().model_copy(update={field: said})
    kept = await redactor.redacted(record, "acme")
    found = kept.messages[0] if field == "messages" else getattr(kept, field)
    arguments = json.loads(found.tool_calls[0].function.arguments)
    assert arguments == {"phone": "<PHONE>", "order": 17, "share": 0.5, "also": "<PHONE>"}
    assert kept.redactions == {"phone": 2}


async def test_a_pattern_that_takes_too_long_is_told_and_the_next_record_is_taken() -> None:
    options = scan_options(kinds=("email",), patterns={"slow": "(a|aa)+$"})
    object.__setattr__(options, "pattern_seconds", 0.05)
    redactor = Redactor(partial(load_scanner, options), Mode.REDACT)
    with pytest.raises(PatternTimedOut, match=r"the pattern for slow did not end") as caught:
        await redactor.redacted(a_record(answer=Answer(content="a" * 200 + "!")), "acme")
    assert caught.value.reason == "PATTERN_TIMED_OUT"
    assert caught.value.metadata == {"kind": "slow", "seconds": "0.05"}
    kept = await redactor.redacted(a_record(answer=Answer(content=ADDRESS)), "acme")
    assert kept.answer.content == "<EMAIL>"
    redactor.close()


def of(redactor: Redactor, tenant: str) -> asyncio.Task[FeedbackRecord]:
    record = a_record(answer=Answer(content=f"from {tenant}"))
    return asyncio.create_task(redactor.redacted(record, tenant))


async def until(began: threading.Event) -> None:
    assert await asyncio.to_thread(began.wait, 30)


async def test_a_tenant_with_many_delays_another_by_one_and_the_loop_not_at_all(
    tmp_path: Path,
) -> None:
    with held(tmp_path) as (redactor, holder):
        many = [of(redactor, "acme") for _ in range(5)]
        # The loop is free while the process is held.
        await until(holder.began)
        other = of(redactor, "globex")
        await asyncio.sleep(0)
        holder.go_on.set()
        await asyncio.gather(*many, other)
        assert holder.read.index("globex") <= 2


async def test_too_many_waiting_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(tmp_path) as (redactor, holder):
        waiting = [of(redactor, "acme") for _ in range(17)]
        await until(holder.began)
        with pytest.raises(ResourceExhausted) as caught:
            await of(redactor, "acme")
        assert caught.value.reason == "FEEDBACK_WAITING"
        monkeypatch.setattr(redaction, "_ALL_WAITING", 18)
        waiting.append(of(redactor, "globex"))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="18 records") as caught:
            await of(redactor, "initech")
        assert caught.value.reason == "FEEDBACK_WAITING"
        holder.go_on.set()
        await asyncio.gather(*waiting)
        await of(redactor, "initech")


async def test_who_gives_up_leaves_its_place(tmp_path: Path) -> None:
    with held(tmp_path) as (redactor, holder):
        first = of(redactor, "acme")
        await until(holder.began)
        waiting = [of(redactor, "acme") for _ in range(16)]
        await asyncio.sleep(0)
        for task in (first, *waiting):
            task.cancel()
        await asyncio.wait([first, *waiting])
        last = of(redactor, "acme")
        await asyncio.sleep(0)
        holder.go_on.set()
        await last
        assert holder.read == ["acme", "acme"]


async def test_what_waits_at_the_end_is_told(tmp_path: Path) -> None:
    with held(tmp_path) as (redactor, holder):
        first = of(redactor, "acme")
        await until(holder.began)
        waits = of(redactor, "globex")
        await asyncio.sleep(0)
        redactor.close()
        holder.go_on.set()
        with suppress(Unavailable):
            await first
        with pytest.raises(Unavailable) as caught:
            await waits
        assert caught.value.reason == "SHUTTING_DOWN"


async def test_what_has_not_begun_at_the_end_is_told(tmp_path: Path) -> None:
    with held(tmp_path) as (redactor, holder):
        first = of(redactor, "acme")
        await until(holder.began)
        # Its turn is over, while the process is still at it.
        first.cancel()
        await asyncio.wait({first})
        queued = of(redactor, "globex")
        await asyncio.sleep(0)
        redactor.close()
        with pytest.raises(Unavailable) as caught:
            await queued
        assert caught.value.reason == "SHUTTING_DOWN"


async def test_a_long_record_of_a_tenant_delays_others_by_a_piece_and_its_own_by_all(
    tmp_path: Path,
) -> None:
    with held(tmp_path, EndlessScanner) as (redactor, holder):
        holder.go_on.set()
        long = of(redactor, "acme")
        behind = asyncio.create_task(redactor.redacted(a_record(), "acme"))
        async with asyncio.timeout(30):
            await asyncio.gather(*(of(redactor, "globex") for _ in range(3)))
        assert not long.done()
        assert not behind.done()
        # What is given up is neither read on nor kept.
        long.cancel()
        async with asyncio.timeout(30):
            await behind
        assert holder.read == [*["globex"] * 3, "given up"]

"""The pages about jobs: the list, one job with its curves, and what can be done about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Generator
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tailorbird.client import CallError, is_terminal
from tailorbird.console import words
from tailorbird.console.curves import charts
from tailorbird.console.failure import failure_of
from tailorbird.console.history import History
from tailorbird.console.live import Streams, live_response, past, sse
from tailorbird.console.visit import Visit, unexpected
from tailorbird.errors import InvalidArgument, TailorbirdError
from tailorbird.names import check_id
from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning

_STATES = {words.state(value): value for value in job_pb2.JobState.values() if value}
_WATCH_SECONDS = 30.0
_PAUSE_SECONDS = 1.0
"""Between two pictures of a job that goes on."""
_QUIET_SECONDS = 0.2
_MOST_SECONDS = 10.0
"""The first picture waits until the past is told, which ends in so much quiet, but no longer."""
_BEAT_SECONDS = 15.0
"""After so long without news a comment is sent, by which proxies know that somebody is there."""


def list_jobs(visit: Visit) -> Response:
    """Show a page of a tenant's jobs, by state and adapter."""
    state, adapter = visit.query("state"), visit.query("adapter").strip()
    if state and state not in _STATES:
        raise InvalidArgument("state", f"{state[:40]!r} is none of {', '.join(_STATES)}")
    found = visit.backend.list_jobs(
        visit.parent,
        _STATES.get(state, job_pb2.JOB_STATE_UNSPECIFIED),
        f"{visit.parent}/adapters/{check_id('adapter', adapter)}" if adapter else "",
        visit.query("page"),
    )
    return visit.show(
        "jobs.html",
        jobs=found.items,
        next_token=found.next_token,
        states=list(_STATES),
        state=state,
        adapter=adapter,
        is_first=not visit.query("page"),
    )


def show_job(visit: Visit) -> Response:
    """Show one job, with what its events say until now."""
    name = visit.name("jobs")
    job = visit.backend.trainer.get_job(name)
    asked_at = time.time()
    history = History()

    def is_new(response: tuning.WatchJobResponse) -> bool:
        # A trainer's clock may be ahead, and a run that went on from a checkpoint repeats steps.
        event = response.event
        is_further = event.step_progress.step > job.progress.step
        return is_further and event.time.ToSeconds() > asked_at

    for response in past(visit.backend.watch(name, _WATCH_SECONDS), is_new):
        history.add(response.event)
    return visit.show("job.html", **_values(job, history))


def cancel(visit: Visit) -> Response:
    """Stop a job."""
    visit.backend.trainer.cancel_job(visit.name("jobs"))
    return _back(visit)


def pause(visit: Visit) -> Response:
    """Hold a job back."""
    visit.backend.trainer.pause_job(visit.name("jobs"))
    return _back(visit)


def resume(visit: Visit) -> Response:
    """Let a paused job go on."""
    visit.backend.trainer.resume_job(visit.name("jobs"))
    return _back(visit)


def delete(visit: Visit) -> Response:
    """Delete a job that has ended; the version that it published stays."""
    visit.backend.trainer.delete_job(visit.name("jobs"))
    return visit.go("jobs")


def _back(visit: Visit) -> Response:
    return visit.go("jobs", visit.request.path_params["jobs"])


async def follow(request: Request) -> Response:
    """Send a job's page anew whenever something has happened, until the job has ended."""
    visit = Visit(request, [])
    return live_response(_pictures(visit, request.app.state.streams), "text/event-stream")


async def _pictures(visit: Visit, streams: Streams) -> AsyncIterator[str]:
    history = History()
    news, ended = asyncio.Event(), asyncio.Event()
    reading: asyncio.Task[None] | None = None
    is_first = True
    try:
        name = visit.name("jobs")

        def watch() -> Generator[tuning.WatchJobResponse, None, None]:
            return visit.backend.watch(name)

        async def read() -> None:
            try:
                async for response in streams.read(watch):
                    history.add(response.event)
                    news.set()
            finally:
                ended.set()
                news.set()

        reading = asyncio.create_task(read())
        while True:
            try:
                await asyncio.wait_for(news.wait(), _BEAT_SECONDS)
            except TimeoutError:
                yield ": still watching\n\n"
                continue
            if is_first:
                await _quiet(news, ended)
                is_first = False
            news.clear()
            is_over = ended.is_set()
            if is_over:
                await reading
            job = await asyncio.to_thread(visit.backend.trainer.get_job, name)
            yield sse("job", visit.text("job_live.html", **_values(job, history)))
            if is_over or is_terminal(job.state):
                yield sse("end", "")
                return
            await asyncio.sleep(_PAUSE_SECONDS)
    except TailorbirdError as error:
        yield sse("lost", failure_of(error).message)
    except Exception:
        yield sse("lost", unexpected().message)
    finally:
        visit.backend.close()
        if reading is not None:
            reading.cancel()
            with suppress(asyncio.CancelledError, TailorbirdError):
                await reading


async def _quiet(news: asyncio.Event, ended: asyncio.Event) -> None:
    """Return when the past has been told: what a page shows already must not be undone."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_MOST_SECONDS):
            while not ended.is_set():
                news.clear()
                async with asyncio.timeout(_QUIET_SECONDS):
                    await news.wait()


def _values(job: job_pb2.Job, history: History) -> dict[str, Any]:
    total = job.progress.total_steps
    ended = is_terminal(job.state)
    paused = job.state == job_pb2.JOB_STATE_PAUSED
    step = job.progress.step
    return {
        "job": job,
        "job_id": words.last_part(job.name),
        "history": history,
        "charts": charts(history, total),
        "ended": ended,
        "paused": paused,
        "failed": job.state == job_pb2.JOB_STATE_FAILED,
        "running": job.state == job_pb2.JOB_STATE_RUNNING,
        "done": step / total if total else 0.0,
        "has_error": job.HasField("error"),
        "error": _why(job) if job.HasField("error") else None,
        "settings": _settings(job, history),
    }


def _why(job: job_pb2.Job) -> tuple[str, str]:
    """Return the reason and the message of a job's error."""
    error = CallError.from_status(job.error)
    return error.reason, error.message


def _settings(job: job_pb2.Job, history: History) -> list[tuple[str, str, str]]:
    """Return the hyperparameters used: name, value, why it was chosen."""
    reasons = history.prepared.reasons if history.prepared is not None else {}
    used = job.effective_hyperparameters
    return [
        (field.name.replace("_", " "), words.number(float(value), 6), reasons.get(field.name, ""))
        for field, value in used.ListFields()
    ]

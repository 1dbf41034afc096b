"""The one thread that computes: many jobs step together; other work gets in between two steps."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

import structlog

from tailorbird.errors import Unavailable
from trainer_svc.engine.training.device_share import JUDGED_SHARE, DeviceShare
from trainer_svc.engine.training.forward import Bank
from trainer_svc.engine.training.group import Group, Outcome
from trainer_svc.engine.training.member import Ending, Member, Place
from trainer_svc.engine.training.memory import WorkerMemory

MICRO_TOKENS = 8192
"""Tokens of one forward pass at most, over all jobs."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class StepThread:
    """Owns the device from its construction on; every method but `close` returns at once.

    A boundary is the time between two forward passes. Jobs join and leave there, while others are
    in the middle of their steps or of an evaluation. After `close`, and if the thread should die,
    whatever is pending and whatever is asked for ends with Unavailable (STEP_THREAD_CLOSED).
    A future that is cancelled before its boundary does nothing; later, it cannot be cancelled.

    While any job steps, `pieces` take at most `judged_share` of the device's time by `clock`, in
    seconds, and all of it otherwise. A validation loss within training is training: it has its
    piece at every boundary, delays the steps of its own job, and counts as training's time. What
    `call` runs is short, and counts for nobody.
    """

    def __init__(
        self,
        bank: Bank,
        *,
        micro_tokens: int = MICRO_TOKENS,
        progress_interval: float = 1.0,
        judged_share: float = JUDGED_SHARE,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._bank = bank
        self._progress_interval = progress_interval
        self._group = Group(bank, micro_tokens)
        self._memory = WorkerMemory()
        self._places: dict[str, Place] = {}
        self._share = DeviceShare(judged_share, clock)
        self._works: deque[Callable[[], bool]] = deque()
        """Each runs one piece and tells whether there are more."""
        self._evaluations: deque[Callable[[], bool]] = deque()
        """As `_works`: the validation losses of those who step."""
        self.turn: int | None = None
        """Changes at each boundary, and with each order; None while there is nothing to do."""
        self._turns = 0
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._pending: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._serve, name="steps", daemon=True)
        self._thread.start()

    def join(self, member: Member) -> Future[Ending]:
        """Let a job step from the next boundary on, until it is done or interrupted.

        A finished run holds its best adapter. The future raises FailedPrecondition for a loss,
        gradient or weight that is not finite (NON_FINITE) and for a record that is too long for the
        device (OUT_OF_MEMORY), ValueError if the job steps already, and what the member's own
        callbacks raise.
        """
        ended: Future[Ending] = Future()
        self._order(ended, lambda: self._join(member, ended))
        return ended

    def interrupt(self, job: str, ending: Ending) -> None:
        """Let a job leave at the next boundary; nothing happens if it does not step.

        A step that is under way is given up: the job goes on from its last whole step.
        """
        self._orders.put(lambda: self._interrupt(job, ending))

    def call(self, action: Callable[[], T]) -> Future[T]:
        """Run `action` at the next boundary."""
        answer: Future[T] = Future()
        self._order(answer, lambda: _answer(answer, action))
        return answer

    def pieces(self, work: Generator[None, None, T]) -> Future[T]:
        """Run `work` piece by piece, at most one a boundary; the result is what it returns.

        All works share what `judged_share` leaves them, a piece of each in turn.
        """
        answer: Future[T] = Future()
        self._order(answer, lambda: self._works.append(lambda: _advance(work, answer)))
        return answer

    def close(self) -> None:
        """End the thread at the next boundary, and wait for that."""
        with self._lock:
            self._closed = True
        self._orders.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def wait(self) -> None:
        """Wait until the thread has ended, by `close` or by an error that nobody foresaw."""
        self._thread.join()

    def _order(self, future: Future[Any], order: Callable[[], None]) -> None:
        """Have `order` run at the next boundary, unless the future is cancelled by then."""
        with self._lock:
            if not self._closed:
                self._pending.add(future)
                future.add_done_callback(self._pending.discard)
                self._orders.put(lambda: order() if future.set_running_or_notify_cancel() else None)
                return
        future.set_exception(_closed())

    def _serve(self) -> None:
        try:
            while self._obey():
                self._boundary()
        except BaseException as error:
            log.critical("the step thread died", exc_info=error)
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._closed = True
            pending = list(self._pending)
        for future in pending:
            with suppress(InvalidStateError):
                future.set_exception(_closed())

    def _obey(self) -> bool:
        """Run what was asked for by now, waiting for it if there is nothing else; False: close."""
        idle = not (self._places or self._works or self._evaluations)
        self._turn(idle=idle)
        for _ in range(max(self._orders.qsize(), int(idle))):
            order = self._orders.get()
            self._turn(idle=False)
            if order is None:
                return False
            order()
        return True

    def _turn(self, *, idle: bool) -> None:
        self._turns += 1
        self.turn = None if idle else self._turns

    def _join(self, member: Member, ended: Future[Ending]) -> None:
        job = member.run.job
        if job in self._places:
            ended.set_exception(ValueError(f"{job} steps already"))
            return
        try:
            self._places[job] = Place(
                member, ended, self._bank, self._memory, self._progress_interval
            )
        except Exception as error:
            ended.set_exception(error)

    def _interrupt(self, job: str, ending: Ending) -> None:
        if job in self._places:
            self._places[job].asked = ending

    def _boundary(self) -> None:
        """Run one piece of other work if one is due, then let those step who do."""
        if self._works and self._share.due(training=bool(self._places)):
            with self._share.judging():
                _next_piece(self._works)
        with self._share.training():
            self._train()

    def _train(self) -> None:
        """Run one piece of evaluation, let go who ends here, and make one pass for the rest."""
        if self._evaluations:
            _next_piece(self._evaluations)
        for place in list(self._places.values()):
            self._guarded(place, self._settle)
        runs = {job: place.run for job, place in self._places.items() if not place.evaluating}
        if runs:
            for job, outcome in self._group.step(runs).items():
                self._stepped(self._places[job], outcome)

    def _settle(self, place: Place) -> None:
        judged = place.evaluating
        ending = place.settle(self._group.limit)
        if ending is not None:
            self._leave(place, ending)
        elif place.evaluating and not judged:
            self._evaluations.append(lambda: self._evaluate(place))

    def _evaluate(self, place: Place) -> bool:
        self._guarded(place, lambda place: place.evaluate())
        return place.evaluating

    def _stepped(self, place: Place, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self._leave(place, outcome)
        else:
            self._guarded(place, lambda place: place.stepped(outcome))

    def _guarded(self, place: Place, action: Callable[[Place], None]) -> None:
        """Let what goes wrong with one job end that job alone."""
        try:
            action(place)
        except Exception as error:
            self._leave(place, error)

    def _leave(self, place: Place, ending: Ending | Exception) -> None:
        place.gone()
        del self._places[place.run.job]
        self._group.left(place.run.job)
        if isinstance(ending, Exception):
            place.ended.set_exception(ending)
        else:
            place.ended.set_result(ending)


def _next_piece(works: deque[Callable[[], bool]]) -> None:
    """Run one piece of the first, which is the last then if there are more."""
    work = works.popleft()
    if work():
        works.append(work)


def _answer(answer: Future[T], action: Callable[[], T]) -> None:
    try:
        result = action()
    except BaseException as error:
        answer.set_exception(error)
    else:
        answer.set_result(result)


def _advance(work: Generator[None, None, T], answer: Future[T]) -> bool:
    """Run one piece; return whether there are more."""
    try:
        next(work)
    except StopIteration as stop:
        answer.set_result(stop.value)
    except BaseException as error:
        answer.set_exception(error)
    else:
        return True
    return False


def _closed() -> Unavailable:
    return Unavailable("the worker's step thread is closed", reason="STEP_THREAD_CLOSED")

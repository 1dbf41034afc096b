"""Which worker a job goes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tailorbird.names import JobName
from trainer_svc.dispatch.demand import Demand, Stock
from trainer_svc.dispatch.place import Place
from trainer_svc.jobs.model import Job, JobError


@dataclass(frozen=True)
class Rules:
    """What decides where a job may go. Bases are named by their digests."""

    jobs_per_worker: int
    must_be_alone: Callable[[Job], bool]
    suspected: Callable[[Job], bool]
    """Whether a job may have taken more memory than there is; it must be alone as well."""
    base_of: Callable[[Job], str]
    """Of a job that is not refused."""
    refused: Callable[[Job], JobError | None]
    """Why a job can be trained nowhere now, if it cannot."""
    sizes: Mapping[str, int]
    """Bytes of each base's weights."""


def slots_of(job: Job, place: Place, rules: Rules) -> int:
    """Return how many of the place's jobs a job counts for: the trials a sweep trains at a time.

    A sweep never waits for more room than a job does: it takes what there is, up to half of a
    worker that it shares, and its other trials wait for their turn. One that is suspected of what
    ended a worker takes its trials one after the other: what a job would do fits them, too.
    """
    if job.sweep is None or rules.suspected(job):
        return 1
    limit = rules.jobs_per_worker
    most = limit if rules.must_be_alone(job) else limit // 2
    return max(1, min(len(job.sweep.active), most, limit - place.count))


class Placement:
    """Jobs share workers that hold their base, the emptiest first, but for those that are alone.

    A worker that starts for the first time is as good as an empty one: a job waits for it rather
    than join others, so that the first worker to be ready does not take all that is queued.
    A job that must be alone, once it is its turn, closes a worker to newcomers until it is empty:
    jobs that go on coming in behind it do not keep it waiting. So does a job whose base no worker
    holds (see Demand), but of a worker that has just got ready: that one first takes of what waits
    for it as many as it has room for, lest a base is loaded for one job where many ask for it.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._look: Look | None = None

    def look(self, stock: Stock) -> Look:
        """Begin a look at the queue from its head."""
        before = self._look
        closed, leaving = (before.closed, before.demand.leaving) if before else ({}, ())
        self._look = Look(self._rules, stock, closed, Demand(stock, self._rules.sizes, leaving))
        return self._look


class Look:
    """One look at the queue: `fits` is asked for its jobs in their order, until it says yes."""

    def __init__(
        self, rules: Rules, stock: Stock, closed_before: Mapping[JobName, Place], demand: Demand
    ) -> None:
        self._rules = rules
        self._expected = stock.expected
        self._closed_before = closed_before
        self._open = [place for place in stock.places if not place.alone]
        self.demand = demand
        self.closed: dict[JobName, Place] = {}
        """The workers that are closed, by the job that must be alone and waits for each."""
        self.chosen: Place | None = None
        """Where the job that fits goes."""
        self.refusal: JobError | None = None
        """Or why it goes nowhere, and need not wait."""
        self.passed: set[tuple[str, str]] = set()
        """Bases, by name and digest, of which this look places no job any more."""

    def may_change_anything(self) -> bool:
        """Whether a worker could take one more lease, or might have to end for another base."""
        return len(self._rules.sizes) > 1 or any(self._has_room(place) for place in self._open)

    def fits(self, job: Job) -> bool:
        """Tell whether there is a worker for `job` now, and choose it; or whether it is refused."""
        self.chosen, self.refusal = None, self._rules.refused(job)
        if self.refusal is not None:
            return True
        base = self._rules.base_of(job)
        if self._rules.must_be_alone(job):
            self.chosen = self._alone(job.name, base)
        else:
            room = [each for each in self._open if each.base == base and self._has_room(each)]
            self.chosen = min(room, key=lambda place: place.count, default=None)
        if self.chosen is not None:
            self.chosen.fresh &= self.chosen.taken + 1 < self._rules.jobs_per_worker
        elif job.name not in self.closed:
            for place in self.demand.need(base, self._open):
                self._open.remove(place)
            # Room only shrinks in a look, and what the demand was told it need not hear again.
            self.passed.add((job.spec.base_model, job.spec.base_model_digest))
        return self.chosen is not None

    def end(self) -> bool:
        """End a look that found nothing; tell whether another may find what is to be done.

        From now on workers of other bases may have to end that were just ready in this one.
        """
        fresh = [place for place in self._open if place.fresh]
        for place in fresh:
            place.fresh = False
        return bool(fresh) and self.demand.settled

    def _has_room(self, place: Place) -> bool:
        limit = 1 if place.base in self._expected else self._rules.jobs_per_worker
        return place.count < limit

    def _alone(self, job: JobName, base: str) -> Place | None:
        places = [place for place in self._open if place.base == base]
        emptiest = min(places, key=lambda place: place.count, default=None)
        before = self._closed_before.get(job)
        place = before if before in places else emptiest
        if place is None:
            return None
        self._open.remove(place)
        if place.count:
            self.closed[job] = place
            return None
        return place

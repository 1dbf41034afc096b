"""Which worker a job goes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tailorbird.names import JobName
from trainer_svc.dispatch.place import Place
from trainer_svc.jobs.model import Job


class Placement:
    """Jobs share workers, the emptiest first, but for those that must be alone.

    A worker that starts for the first time is as good as an empty one: a job waits for it rather
    than join others, so that the first worker to be ready does not take all that is queued.
    A job that must be alone, once it is its turn, closes a worker to newcomers until it is empty:
    jobs that go on coming in behind it do not keep it waiting.
    """

    def __init__(self, jobs_per_worker: int, must_be_alone: Callable[[Job], bool]) -> None:
        self._limit = jobs_per_worker
        self._must_be_alone = must_be_alone
        self._closed: dict[JobName, Place] = {}

    def look(self, places: Iterable[Place], *, starting: int = 0) -> Look:
        """Begin a look at the queue from its head, while `starting` workers get ready."""
        look = Look(places, self._limit, self._must_be_alone, self._closed, starting)
        self._closed = look.closed
        return look


class Look:
    """One look at the queue: `fits` is asked for its jobs in their order, until it says yes."""

    def __init__(
        self,
        places: Iterable[Place],
        limit: int,
        must_be_alone: Callable[[Job], bool],
        closed_before: Mapping[JobName, Place],
        starting: int,
    ) -> None:
        self._limit = limit
        self._must_be_alone = must_be_alone
        self._closed_before = closed_before
        self._starting = starting
        self._open = [place for place in places if not place.alone]
        self.closed: dict[JobName, Place] = {}
        """The workers that are closed, by the job that waits for each."""
        self.chosen: Place | None = None
        """Where the job that fits goes."""

    def has_room(self) -> bool:
        """Whether any worker could take one more lease."""
        return any(self._has_room(place) for place in self._open)

    def fits(self, job: Job) -> bool:
        """Tell whether there is a worker for `job` now, and choose it."""
        if self._must_be_alone(job):
            return self._fits_alone(job.name)
        room = [place for place in self._open if self._has_room(place)]
        self.chosen = min(room, key=lambda place: place.count, default=None)
        return self.chosen is not None

    def _has_room(self, place: Place) -> bool:
        return place.count < (1 if self._starting else self._limit)

    def _fits_alone(self, job: JobName) -> bool:
        emptiest = min(self._open, key=lambda place: place.count, default=None)
        before = self._closed_before.get(job)
        place = before if before in self._open else emptiest
        if place is None:
            return False
        self._open.remove(place)
        if place.count:
            self.closed[job] = place
            return False
        self.chosen = place
        return True

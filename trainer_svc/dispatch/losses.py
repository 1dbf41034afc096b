"""Which jobs processes died of, as far as one can tell."""

from __future__ import annotations

from tailorbird.names import JobName


class Losses:
    """Counts the workers that died under each job, until it has ended, and knows who is alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: dict[JobName, int] = {}
        self._tokenising: dict[JobName, int] = {}

    def add(self, job: JobName, *, at_work: bool) -> bool:
        """Note a worker that died with the job, and tell whether it was one too many.

        It counts if the job was `at_work`: trained or judged. In another phase it may have been
        anybody's doing, and makes the job a suspect; a suspect is alone, so whatever it dies of
        next was its own.
        """
        counts = at_work or job in self._counts
        self._counts[job] = self._counts.get(job, 0) + int(counts)
        return self._counts[job] >= self._most

    def suspect(self, job: JobName) -> None:
        """Let the job be alone from now on: then it is seen whether a failure is its own doing."""
        self._counts.setdefault(job, 0)

    def suspects(self, job: JobName) -> bool:
        """Whether the job gets its next worker for itself."""
        return job in self._counts

    def count(self, job: JobName) -> int:
        """Return how many workers died under the job."""
        return self._counts.get(job, 0)

    def add_tokenising(self, job: JobName) -> bool:
        """Note that the process of the job's data died, and tell whether it was one too many.

        No worker was harmed: it makes no suspect, and does not count as a worker's death.
        """
        self._tokenising[job] = self.tokenising(job) + 1
        return self._tokenising[job] >= self._most

    def tokenising(self, job: JobName) -> int:
        """Return how many processes died of the job's data."""
        return self._tokenising.get(job, 0)

    def forget(self, job: JobName) -> None:
        """Forget a job that has ended."""
        self._counts.pop(job, None)
        self._tokenising.pop(job, None)

# Made by tools/twins.py from aio/trainer_client.py, with `make twins`: change that file instead.
"""The trainer's client: see `tailorbird.client`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Self

import grpc

from tailorbird.absence import Absence, is_away
from tailorbird.call_error import CallError, Unavailable
from tailorbird.channel import TIMEOUT
from tailorbird.connection import Connection
from tailorbird.creation import id_of, patience_for, tell
from tailorbird.job_end import JobFailed, is_terminal
from tailorbird.retry import RETRIES, Deadline
from tailorbird.trainer_data import TrainerData
from tailorbird.tuning.v1 import dataset_pb2, job_pb2, preflight_pb2, sweep_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning


class TrainerClient(TrainerData):
    """The trainer: datasets and fine-tuning jobs.

    `address` is host:port, or `dns:///host:port` for replicas that the client balances between. The
    channel is TLS, trusting `root_certificates` (PEM; None: gRPC's own), unless the address is
    loopback or `plaintext` is set. `retries` is how often a call that may be made again is, where
    the trainer is UNAVAILABLE.

    >>> from tailorbird.client import TrainerClient
    >>> with TrainerClient(address, "a token") as trainer:
    ...     print(trainer.trainer_info().device)
    cpu
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        root_certificates: bytes | None = None,
        plaintext: bool = False,
        retries: int = RETRIES,
    ) -> None:
        super().__init__(Connection(address, token, root_certificates, plaintext, retries))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls in flight, and later ones, are Cancelled (CLIENT_CLOSED).

        >>> trainer.close()
        """
        self._connection.close()

    def create_job(
        self,
        parent: str,
        spec: job_pb2.JobSpec,
        *,
        job_id: str = "",
        request_id: str = "",
        validate_only: bool = False,
        warned: Callable[[dataset_pb2.DataWarning], None] | None = None,
        checked: Callable[[preflight_pb2.Preflight], None] | None = None,
    ) -> job_pb2.Job:
        """Ask for a job. The same `request_id` again returns the job that exists.

        Datasets may be URIs; the call then lasts until they are read.

        `warned` hears of each fault in the data that does not keep the job from being made, and
        `checked` with `validate_only` of what the job would do with it.

        >>> from tailorbird.tuning.v1.job_pb2 import JobSpec
        >>> data = "tenants/acme/datasets/greetings"
        >>> spec = JobSpec(training_dataset=data, adapter="tenants/acme/adapters/support")
        >>> job = trainer.create_job("tenants/acme", spec)
        >>> job.name
        'tenants/acme/jobs/one'
        """
        request = tuning.CreateJobRequest(
            parent=parent,
            job=job_pb2.Job(spec=spec),
            job_id=job_id,
            request_id=id_of(request_id, validate_only=validate_only),
            validate_only=validate_only,
        )
        response = self._connection.call(
            self.stub.CreateJob,
            request,
            timeout=patience_for(spec, validate_only=validate_only),
            again=True,
        )
        tell(response, warned, checked)
        return response.job

    def get_job(self, name: str) -> job_pb2.Job:
        """Return one job.

        >>> job = trainer.get_job("tenants/acme/jobs/one")
        >>> is_terminal(job.state)
        False
        """
        request = tuning.GetJobRequest(name=name)
        response = self._connection.call(self.stub.GetJob, request, again=True)
        return response.job

    def list_jobs(
        self,
        parent: str,
        *,
        state: job_pb2.JobState.ValueType = job_pb2.JOB_STATE_UNSPECIFIED,
        adapter: str = "",
    ) -> Iterator[job_pb2.Job]:
        """Yield a tenant's jobs, newest first; pages are fetched as they are needed.

        >>> names = [job.name for job in trainer.list_jobs("tenants/acme")]
        >>> len(names)
        6
        """
        request = tuning.ListJobsRequest(parent=parent, state=state, adapter=adapter)
        return self._connection.items(self.stub.ListJobs, request, lambda page: page.jobs)

    def cancel_job(self, name: str) -> job_pb2.Job:
        """Ask for a job to be stopped.

        >>> job = trainer.cancel_job("tenants/acme/jobs/one")
        """
        request = tuning.CancelJobRequest(name=name)
        response = self._connection.call(self.stub.CancelJob, request, again=True)
        return response.job

    def pause_job(self, name: str) -> job_pb2.Job:
        """Ask for a job to be held back until it is resumed.

        >>> job = trainer.pause_job("tenants/acme/jobs/one")
        """
        request = tuning.PauseJobRequest(name=name)
        response = self._connection.call(self.stub.PauseJob, request, again=True)
        return response.job

    def resume_job(self, name: str) -> job_pb2.Job:
        """Let a paused job go on.

        >>> job = trainer.resume_job("tenants/acme/jobs/one")
        """
        request = tuning.ResumeJobRequest(name=name)
        response = self._connection.call(self.stub.ResumeJob, request, again=True)
        return response.job

    def delete_job(self, name: str) -> None:
        """Delete a job that has ended, with its history; the version that it published stays.

        >>> trainer.delete_job("tenants/acme/jobs/one")
        """
        self._connection.call(self.stub.DeleteJob, tuning.DeleteJobRequest(name=name))

    def watch_job(
        self,
        name: str,
        after_sequence: int = 0,
        *,
        timeout: float | None = None,
        patience: float = 900.0,
        lost: Callable[[CallError, float], None] | None = None,
        back: Callable[[], None] | None = None,
    ) -> Generator[job_pb2.JobEvent]:
        """Yield a job's events, those of the past first, up to the one that ends it.

        A connection that breaks is made again after the last event seen, so that none is missed
        and none comes twice; CallError when no trainer answers for `patience` seconds. The default
        covers a trainer that moves to another machine and reads a large base there. After `timeout`
        seconds in all it is DeadlineExceeded.

        `lost` hears of each attempt that failed, and for how many seconds it is still tried again;
        `back` of the first answer after that. Both are called by whoever takes the events.

        >>> for event in trainer.watch_job("tenants/acme/jobs/one"):
        ...     if event.HasField("evaluation"):
        ...         print(event.evaluation.step, event.evaluation.validation_loss)
        4 0.25
        """
        absence, deadline = Absence(patience, back), Deadline(timeout)
        while True:
            request = tuning.WatchJobRequest(name=name, after_sequence=after_sequence)
            watch = self._connection.stream(
                self.stub.WatchJob, request, timeout=deadline.left(), heard=absence.is_over
            )
            try:
                with closing(watch) as responses:
                    for response in responses:
                        after_sequence = response.event.sequence
                        absence.is_over()
                        yield response.event
                        if is_terminal(response.event.state_changed.state):
                            return
                return
            except CallError as error:
                self._wait_out(error, absence, deadline, lost)

    def wait_for_job(
        self,
        name: str,
        *,
        timeout: float | None = None,
        patience: float = 900.0,
        heard: Callable[[job_pb2.JobEvent], None] | None = None,
        lost: Callable[[CallError, float], None] | None = None,
        back: Callable[[], None] | None = None,
    ) -> job_pb2.Job:
        """Return a job when it has succeeded; JobFailed when it has failed or was cancelled.

        A job that is paused is waited for: it may be resumed. `heard` is told each of its events;
        the rest is as `watch_job` has it.

        >>> job = trainer.wait_for_job("tenants/acme/jobs/done")
        >>> job.version.rpartition("/")[2]
        '20261122T100000-job-1'
        """
        absence, deadline = Absence(patience, back), Deadline(timeout)
        watch = self.watch_job(name, timeout=timeout, patience=patience, lost=lost, back=back)
        with closing(watch) as events:
            for event in events:
                if heard is not None:
                    heard(event)
        while True:
            try:
                job = self._job_by(deadline, name)
                break
            except CallError as error:
                self._wait_out(error, absence, deadline, lost)
        absence.is_over()
        if job.state == job_pb2.JOB_STATE_SUCCEEDED:
            return job
        if is_terminal(job.state):
            raise JobFailed.of(job)
        state = job_pb2.JobState.Name(job.state)
        raise Unavailable(
            grpc.StatusCode.UNAVAILABLE, f"the trainer tells no more of {name}, which is {state}"
        )

    def _job_by(self, deadline: Deadline, name: str) -> job_pb2.Job:
        left = deadline.left()
        timeout = TIMEOUT if left is None else min(TIMEOUT, left)
        request = tuning.GetJobRequest(name=name)
        response = self._connection.call(self.stub.GetJob, request, timeout=timeout)
        return response.job

    def _wait_out(
        self,
        error: CallError,
        absence: Absence,
        deadline: Deadline,
        lost: Callable[[CallError, float], None] | None,
    ) -> None:
        """Let time pass before the next attempt; raise `error` if there is none."""
        if not is_away(error) or (left := absence.left()) < 0:
            raise error
        if lost is not None:
            lost(error, left)
        delay, remaining = absence.delay(), deadline.left()
        self._connection.sleep(delay if remaining is None else min(delay, remaining))

    def create_sweep(
        self,
        parent: str,
        sweep: sweep_pb2.Sweep,
        *,
        sweep_id: str = "",
        request_id: str = "",
        validate_only: bool = False,
        warned: Callable[[dataset_pb2.DataWarning], None] | None = None,
        checked: Callable[[preflight_pb2.Preflight], None] | None = None,
    ) -> sweep_pb2.Sweep:
        """Ask for a sweep. The same `request_id` again returns the sweep that exists.

        `warned` and `checked` are as `create_job` has them.

        >>> from tailorbird.tuning.v1.sweep_pb2 import Sweep
        >>> sweep = trainer.create_sweep("tenants/acme", Sweep())
        >>> sweep.job
        'tenants/acme/jobs/rates'
        """
        request = tuning.CreateSweepRequest(
            parent=parent,
            sweep=sweep,
            sweep_id=sweep_id,
            request_id=id_of(request_id, validate_only=validate_only),
            validate_only=validate_only,
        )
        response = self._connection.call(
            self.stub.CreateSweep,
            request,
            timeout=patience_for(sweep.spec, validate_only=validate_only),
            again=True,
        )
        tell(response, warned, checked)
        return response.sweep

    def get_sweep(self, name: str) -> sweep_pb2.Sweep:
        """Return one sweep with its trials' figures; its job's events say when they change.

        >>> sweep = trainer.get_sweep("tenants/acme/sweeps/rates")
        """
        request = tuning.GetSweepRequest(name=name)
        response = self._connection.call(self.stub.GetSweep, request, again=True)
        return response.sweep

    def list_sweeps(self, parent: str) -> Iterator[sweep_pb2.Sweep]:
        """Yield a tenant's sweeps, newest first; pages are fetched as they are needed.

        >>> names = [sweep.name for sweep in trainer.list_sweeps("tenants/acme")]
        """
        request = tuning.ListSweepsRequest(parent=parent)
        return self._connection.items(self.stub.ListSweeps, request, lambda page: page.sweeps)

    def cancel_sweep(self, name: str) -> sweep_pb2.Sweep:
        """Ask for a sweep to be stopped with all its trials.

        >>> sweep = trainer.cancel_sweep("tenants/acme/sweeps/rates")
        """
        request = tuning.CancelSweepRequest(name=name)
        response = self._connection.call(self.stub.CancelSweep, request, again=True)
        return response.sweep

    def trainer_info(self) -> tuning.GetTrainerInfoResponse:
        """Return what this trainer offers.

        >>> info = trainer.trainer_info()
        >>> [base.name for base in info.base_models]
        ['demo']
        """
        request = tuning.GetTrainerInfoRequest()
        return self._connection.call(self.stub.GetTrainerInfo, request, again=True)

"""The trainer's client: see `tailorbird.client`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from typing import Self

import grpc

from tailorbird.call_error import CallError
from tailorbird.connection import TIMEOUT, Connection
from tailorbird.trainer_data import TrainerData
from tailorbird.tuning.v1 import dataset_pb2, job_pb2, preflight_pb2, sweep_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning
from tailorbird.tuning.v1.tuning_service_pb2_grpc import TuningServiceStub

_CHECK_TIMEOUT = 3600.0
"""All of the data is read, after that of others: the trainer gives up before."""
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0


def is_terminal(state: job_pb2.JobState.ValueType) -> bool:
    """Tell whether a job in this state has ended."""
    return state in {
        job_pb2.JOB_STATE_SUCCEEDED,
        job_pb2.JOB_STATE_FAILED,
        job_pb2.JOB_STATE_CANCELLED,
    }


class TrainerClient(TrainerData):
    """The trainer: datasets and fine-tuning jobs.

    `address` is host:port. The channel is TLS, trusting `root_certificates` (PEM; None: gRPC's
    own), unless the address is loopback or `plaintext` is set.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        root_certificates: bytes | None = None,
        plaintext: bool = False,
    ) -> None:
        connection = Connection(address, token, root_certificates, plaintext)
        super().__init__(connection, TuningServiceStub(connection.channel))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls in flight end as cancelled."""
        self._connection.channel.close()

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
        """
        request = tuning.CreateJobRequest(
            parent=parent,
            job=job_pb2.Job(spec=spec),
            job_id=job_id,
            request_id=request_id,
            validate_only=validate_only,
        )
        response = self._connection.call(
            self._stub.CreateJob, request, timeout=_patience(spec, validate_only=validate_only)
        )
        _tell(response, warned, checked)
        return response.job

    def get_job(self, name: str) -> job_pb2.Job:
        """Return one job."""
        return self._connection.call(self._stub.GetJob, tuning.GetJobRequest(name=name)).job

    def list_jobs(
        self,
        parent: str,
        *,
        state: job_pb2.JobState.ValueType = job_pb2.JOB_STATE_UNSPECIFIED,
        adapter: str = "",
    ) -> Iterator[job_pb2.Job]:
        """Yield a tenant's jobs, newest first; pages are fetched as they are needed."""
        request = tuning.ListJobsRequest(parent=parent, state=state, adapter=adapter)
        for page in self._connection.pages(self._stub.ListJobs, request):
            yield from page.jobs

    def cancel_job(self, name: str) -> job_pb2.Job:
        """Ask for a job to be stopped."""
        return self._connection.call(self._stub.CancelJob, tuning.CancelJobRequest(name=name)).job

    def pause_job(self, name: str) -> job_pb2.Job:
        """Ask for a job to be held back until it is resumed."""
        return self._connection.call(self._stub.PauseJob, tuning.PauseJobRequest(name=name)).job

    def resume_job(self, name: str) -> job_pb2.Job:
        """Let a paused job go on."""
        return self._connection.call(self._stub.ResumeJob, tuning.ResumeJobRequest(name=name)).job

    def delete_job(self, name: str) -> None:
        """Delete a job that has ended, with its history; the version that it published stays."""
        self._connection.call(self._stub.DeleteJob, tuning.DeleteJobRequest(name=name))

    def watch_job(
        self,
        name: str,
        after_sequence: int = 0,
        *,
        patience: float = 900.0,
        lost: Callable[[CallError, float], None] | None = None,
        back: Callable[[], None] | None = None,
    ) -> Generator[job_pb2.JobEvent, None, None]:
        """Yield a job's events, those of the past first, up to the one that ends it.

        A connection that breaks is made again after the last event seen, so that none is missed
        and none comes twice; CallError when no trainer answers for `patience` seconds. The default
        covers a trainer that moves to another machine and reads a large base there.

        `lost` hears of each attempt that failed, and for how many seconds it is still tried again;
        `back` of the first answer after that. Both are called by whoever takes the events.
        """
        absence = _Absence(patience, back)
        while True:
            request = tuning.WatchJobRequest(name=name, after_sequence=after_sequence)
            responses = self._connection.stream(self._stub.WatchJob, request, heard=absence.is_over)
            try:
                for response in responses:
                    after_sequence = response.event.sequence
                    absence.is_over()
                    yield response.event
                    if is_terminal(response.event.state_changed.state):
                        return
                return
            except CallError as error:
                if not _away(error) or (left := absence.left()) < 0:
                    raise
                if lost is not None:
                    lost(error, left)
            absence.sleep()

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
        """
        request = tuning.CreateSweepRequest(
            parent=parent,
            sweep=sweep,
            sweep_id=sweep_id,
            request_id=request_id,
            validate_only=validate_only,
        )
        response = self._connection.call(
            self._stub.CreateSweep,
            request,
            timeout=_patience(sweep.spec, validate_only=validate_only),
        )
        _tell(response, warned, checked)
        return response.sweep

    def get_sweep(self, name: str) -> sweep_pb2.Sweep:
        """Return one sweep with its trials' figures; its job's events say when they change."""
        return self._connection.call(self._stub.GetSweep, tuning.GetSweepRequest(name=name)).sweep

    def list_sweeps(self, parent: str) -> Iterator[sweep_pb2.Sweep]:
        """Yield a tenant's sweeps, newest first; pages are fetched as they are needed."""
        request = tuning.ListSweepsRequest(parent=parent)
        for page in self._connection.pages(self._stub.ListSweeps, request):
            yield from page.sweeps

    def cancel_sweep(self, name: str) -> sweep_pb2.Sweep:
        """Ask for a sweep to be stopped with all its trials."""
        request = tuning.CancelSweepRequest(name=name)
        return self._connection.call(self._stub.CancelSweep, request).sweep

    def trainer_info(self) -> tuning.GetTrainerInfoResponse:
        """Return what this trainer offers."""
        return self._connection.call(self._stub.GetTrainerInfo, tuning.GetTrainerInfoRequest())


def _patience(spec: job_pb2.JobSpec, *, validate_only: bool) -> float | None:
    """Return the seconds that it may take to accept a specification; None: no limit.

    Data that is named by a URI is read first.
    """
    if "://" in spec.training_dataset + spec.validation_dataset:
        return None
    return _CHECK_TIMEOUT if validate_only else TIMEOUT


def _tell(
    response: tuning.CreateJobResponse | tuning.CreateSweepResponse,
    warned: Callable[[dataset_pb2.DataWarning], None] | None,
    checked: Callable[[preflight_pb2.Preflight], None] | None,
) -> None:
    if warned is not None:
        for warning in response.warnings:
            warned(warning)
    if checked is not None and response.HasField("preflight"):
        checked(response.preflight)


class _Absence:
    """How long no trainer has answered, and when to ask again."""

    def __init__(self, patience: float, back: Callable[[], None] | None) -> None:
        self._patience = patience
        self._back = back
        self._since: float | None = None
        self._delay = _FIRST_DELAY

    def is_over(self) -> None:
        """A trainer answers: its next absence is a new one."""
        was_away = self._since is not None
        self._since, self._delay = None, _FIRST_DELAY
        if was_away and self._back is not None:
            self._back()

    def left(self) -> float:
        """Return for how many seconds it is worth to ask again; below 0: no more."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return self._since + self._patience - now

    def sleep(self) -> None:
        time.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads reconnects
        self._delay = min(2 * self._delay, _LONGEST_DELAY)


def _away(error: CallError) -> bool:
    """Tell whether the trainer is gone: it says so, or what stands before it cut the stream.

    An INTERNAL error of the trainer's own carries an id; a proxy whose trainer died sends none. A
    server that closes as a call arrives cancels it; nobody here cancels a watch and reads on.
    """
    cut = error.code is grpc.StatusCode.INTERNAL and not error.metadata
    return cut or error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

"""How a job ends."""

from __future__ import annotations

import grpc

from tailorbird.call_error import CallError
from tailorbird.tuning.v1 import job_pb2


def is_terminal(state: job_pb2.JobState.ValueType) -> bool:
    """Tell whether a job in this state has ended.

    >>> is_terminal(job_pb2.JOB_STATE_SUCCEEDED), is_terminal(job_pb2.JOB_STATE_PAUSED)
    (True, False)
    """
    return state in {
        job_pb2.JOB_STATE_SUCCEEDED,
        job_pb2.JOB_STATE_FAILED,
        job_pb2.JOB_STATE_CANCELLED,
    }


class JobFailed(CallError):
    """A job that was waited for ended without a version: `job` has failed or was cancelled.

    `reason`, `message` and `metadata` are of the error that the job carries; the reason of one that
    was cancelled is JOB_CANCELLED.

    >>> job = job_pb2.Job(name="tenants/acme/jobs/two", state=job_pb2.JOB_STATE_CANCELLED)
    >>> JobFailed.of(job).reason
    'JOB_CANCELLED'
    """

    job: job_pb2.Job

    @classmethod
    def of(cls, job: job_pb2.Job) -> JobFailed:
        """Return the error of a job that has ended without success."""
        if job.state == job_pb2.JOB_STATE_CANCELLED:
            error = cls(
                grpc.StatusCode.CANCELLED, f"{job.name} was cancelled", reason="JOB_CANCELLED"
            )
        else:
            of = CallError.from_status(job.error)
            error = cls(
                of.code,
                of.message,
                reason=of.reason,
                violations=of.violations,
                quotas=of.quotas,
                retry_after=of.retry_after,
                metadata=of.metadata,
            )
        error.job = job
        return error

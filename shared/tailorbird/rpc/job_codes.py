"""Whose fault it was that a job ended: the status code of each reason that is stored with one.

A job's record has the reason alone, also those of earlier releases. What the table does not have,
as a reason that a later release has stored, is UNKNOWN: nobody should try again for it.

A reason has the code of a call that it ends. Not so where the job had been tried as often as it may
be: then it is not for the caller to try again.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

_REASONS: Mapping[grpc.StatusCode, str] = {
    # The specification asks for what cannot be.
    grpc.StatusCode.INVALID_ARGUMENT: """
        GRADER_NEEDS_A_MODEL INVALID_ARGUMENT INVALID_NAME LACKS_FIELD LORA_MISMATCH
        METRIC_NOT_APPLICABLE SCHEMA_MET_BY_NONE UNKNOWN_GRADER UNKNOWN_GRADER_FIELD
        UNKNOWN_SLICE_FIELD UNKNOWN_TARGET_MODULE VERSION_NOT_TRAINABLE WORDS_IN_NO_PROMPT
    """,
    # The data, the base or what training made of both is not fit for it.
    grpc.StatusCode.FAILED_PRECONDITION: """
        BASE_HAS_NO_CHAT_TEMPLATE BASE_MISMATCH BASE_NOT_HELD BASE_NOT_SERVABLE BASE_UNSUPPORTED
        BASE_UNUSABLE CHAT_TEMPLATE_REFUSED CHAT_TEMPLATE_UNSUPPORTED FAILED_PRECONDITION
        INVALID_RECORD NON_FINITE NO_EFFECT NO_TRAINABLE_RECORDS NO_TRIAL_LEFT NO_VALIDATION_DATA
        PATTERN_TIMED_OUT RAY_NOT_INSTALLED RAY_OTHER_RELEASE RECORDS_TOO_LONG
        TEMPLATE_WITHOUT_TOOLS TENSOR_MISMATCH TOO_MANY_TOO_LONG WORKER_CANNOT_START WORSE_THAN_BASE
    """,
    # Deleted since the job was made.
    grpc.StatusCode.NOT_FOUND: """
        DATASET_NOT_FOUND NOT_FOUND OBJECT_NOT_FOUND VERSION_DELETED VERSION_NOT_FOUND
    """,
    # A smaller job, or one on a machine with more room, may end otherwise.
    grpc.StatusCode.RESOURCE_EXHAUSTED: """
        DISK_FULL OBJECT_TOO_LARGE OUT_OF_MEMORY RAY_NO_ROOM RESOURCE_EXHAUSTED
    """,
    # Stored bytes are not what was written.
    grpc.StatusCode.DATA_LOSS: """
        DATASET_CORRUPT DATA_CORRUPT DIGEST_MISMATCH INDEX_INVALID INDEX_MISSING MANIFEST_CHANGED
        MANIFEST_INVALID PROBES_INVALID REPORT_INVALID ROUTE_INVALID
    """,
    # What was needed was down; the same job may go through when it is back.
    grpc.StatusCode.UNAVAILABLE: """
        DATABASE_UNAVAILABLE RAY_UNREACHABLE SCREENING_WAITING STEP_THREAD_CLOSED STORE_UNAVAILABLE
        UNAVAILABLE
    """,
    # It was ended from outside; the same job may go through.
    grpc.StatusCode.ABORTED: "ABORTED CANCEL_REQUESTED CONFLICT LEASE_LOST STOPPED",
    # A bug, or a process that died as often as is borne; whoever runs the trainer finds the cause.
    grpc.StatusCode.INTERNAL: "INTERNAL TOKENISING_LOST VALUE_REFUSED WORKER_LOST",
}

CODES: Mapping[str, grpc.StatusCode] = {
    reason: code for code, reasons in _REASONS.items() for reason in reasons.split()
}
"""The code of each reason."""


def code_of_job(reason: str) -> grpc.StatusCode:
    """Return the code of a job that ended for a stored reason."""
    return CODES.get(reason, grpc.StatusCode.UNKNOWN)

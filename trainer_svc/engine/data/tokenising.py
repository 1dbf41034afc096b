"""`python -m trainer_svc.engine.data.tokenising <fd>`: tokenises one dataset, and ends.

The inherited socket brings one Work and takes one Outcome. When its other end closes the process
exits at once, whatever it is doing: it never outlives the worker. It has no torch, whose import
takes longer than that of all the rest and six times its memory.
"""

from __future__ import annotations

import sys

from tailorbird.errors import DataCorrupt, FailedPrecondition, TailorbirdError, Unavailable
from trainer_svc.engine.aside import serve_one
from trainer_svc.engine.data.work import Outcome, Work
from trainer_svc.jobs.model import JobError


def main(fd: int) -> None:
    """Take the work, do it, and say how it ended; what nobody foresaw ends the process."""
    serve_one(fd, lambda line: _outcome(Work.model_validate_json(line)))


def _outcome(work: Work) -> Outcome:
    try:
        _tokenise(work)
    except FailedPrecondition as error:
        return Outcome(kind="refused", error=_told(error))
    except DataCorrupt as error:
        return Outcome(kind="corrupt", error=_told(error))
    except Unavailable as error:
        return Outcome(kind="unavailable", error=_told(error))
    except OSError as error:
        if error.errno is None:
            raise
        return Outcome(kind="system", errno=error.errno)
    return Outcome(kind="done")


def _tokenise(work: Work) -> None:
    # What asks for torch is told that there is none, and transformers then does without.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from transformers import AutoTokenizer

    from trainer_svc.engine.data.tokenizer_digest import tokenizer_digest
    from trainer_svc.engine.data.writing import write_dataset

    tokenizer = AutoTokenizer.from_pretrained(work.base, local_files_only=True)
    if tokenizer_digest(tokenizer) != work.tokenizer_digest:
        # Nothing is wrong with the job, and a worker that starts anew may have it.
        raise Unavailable(
            "the base's tokenizer on disk is not the one that the worker has loaded: restore it, "
            "or restart the trainer",
            reason="BASE_MISMATCH",
        )
    write_dataset(work.folder, work.source, tokenizer)


def _told(error: TailorbirdError) -> JobError:
    return JobError(reason=error.reason, message=error.message, metadata=error.metadata)


if __name__ == "__main__":
    main(int(sys.argv[1]))

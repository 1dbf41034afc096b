"""report.json: how a version was trained, and what was found out about it."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt

from tailorbird.manifest import EvaluationSummary, Lineage
from trainer_svc.datasets.personal_data import PersonalDataReport
from trainer_svc.jobs.events import DataReport, JobWarning
from trainer_svc.jobs.model import Hyperparameters, LoraSpec
from trainer_svc.judgement.model import Judgement, SafetyFinding
from trainer_svc.record import Record

_MOST_BINS = 24
_SHOWN_SHARE = 0.99
_WIDTHS = tuple(digit * 10**power for power in range(9) for digit in (1, 2, 5))


class Lengths(Record):
    """How long the training sequences are: bin i counts those of i * width to (i + 1) * width - 1.

    The last bin counts all longer ones as well. Everything is in tokens.
    """

    width: int
    counts: tuple[int, ...]
    median: int
    longest: int

    @classmethod
    def of(cls, lengths: npt.NDArray[np.int64]) -> Lengths:
        """Count `lengths`, [sequences], at least one, into at most 24 bins of a round width.

        A few very long ones do not make the bins wide: 99% decide.
        """
        shown = int(np.quantile(lengths, _SHOWN_SHARE))
        width = next(width for width in _WIDTHS if shown < width * _MOST_BINS)
        bins = np.minimum(lengths // width, shown // width)
        return cls(
            width=width,
            counts=tuple(np.bincount(bins).tolist()),
            median=int(np.median(lengths)),
            longest=int(lengths.max()),
        )


class Report(Record):
    """A version's report. Later releases may add to it; losses are in nats per trained token."""

    schema_version: int = 1
    create_time: datetime
    adapter: str = ""
    base_model: str
    base_model_digest: str = ""
    target_modules: tuple[str, ...] = ()
    """Layers that have an update."""
    trainable_parameters: int = 0
    tokens: int = 0
    """That training read, those of the prompts included; 0 in reports of earlier releases."""
    lora: LoraSpec
    hyperparameters: Hyperparameters
    lineage: Lineage
    training_data: DataReport
    validation_data: DataReport | None
    training_personal_data: PersonalDataReport | None = None
    """What was found in the dataset at its upload, and what was done about it; None: not known.

    Records that were held out of the training dataset are counted in it.
    """
    validation_personal_data: PersonalDataReport | None = None
    data_warnings: tuple[JobWarning, ...] = ()
    """What the job was warned of when it was created; () in reports of earlier releases."""
    training_screened: int | None = None
    """Training records that were held against the operator's safety lists; None: there are none."""
    training_safety: tuple[SafetyFinding, ...] = ()
    """What they find there; the same stands in the judgement, if there is one."""
    lengths: Lengths | None = None
    training_curve: tuple[tuple[int, float, float], ...]
    """(step, loss, learning rate), thinned to a few hundred."""
    validation_curve: tuple[tuple[int, float], ...]
    """(step, loss); step 0 is the base, or the version that was trained on from."""
    throughput: tuple[tuple[int, float], ...] = ()
    """(step, tokens per second since the point before), thinned to a few hundred."""
    best_step: int | None
    evaluation: EvaluationSummary
    judgement: Judgement | None
    """None: there were no held-out records, or they could not be answered."""
    promoted_always: bool = False
    """The job's policy promotes the version, whatever was found out about it."""

    def to_json(self) -> bytes:
        """Return the bytes to store."""
        return self.model_dump_json(indent=1).encode()

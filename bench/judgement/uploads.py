"""What is planted in the data, and found at upload or when a job is asked for: no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.judgement import chats
from bench.judgement.faults import Checked, Fault
from bench.judgement.personal import sentence_with
from bench.judgement.trainer import TENANT, Trainer
from examples.datasets import Record
from examples.demo.tenants import INVOICES, SUPPORT
from tailorbird.personal_data.kinds import BY_MODEL, KINDS
from tailorbird.tuning.v1 import dataset_pb2, job_pb2

_RECORDS = 200
_COPIES = 6
_SCAN = dataset_pb2.PERSONAL_DATA_MODE_SCAN
_REFUSE = dataset_pb2.PERSONAL_DATA_MODE_REFUSE


@dataclass(frozen=True)
class Upload:
    """A file in which faults were planted. With `against`, its training data is that file."""

    name: str
    lines: Sequence[str]
    faults: Sequence[Fault]
    personal_data: dataset_pb2.PersonalDataMode.ValueType = _SCAN


def planted_uploads() -> list[Upload]:
    """Return the files whose faults an upload tells of."""
    return [_faulty_records(), _one_sided(), _malformed(), _personal(), _refused()]


def check_uploads(trainer: Trainer) -> tuple[list[Checked], list[Checked]]:
    """Put all files to the product; return what it said of the planted ones and of clean ones."""
    planted = [
        Checked(
            each.name, each.faults, trainer.upload(each.name, each.lines, each.personal_data)[1]
        )
        for each in planted_uploads()
    ]
    return [*planted, *_leaks(trainer)], _clean(trainer)


def _faulty_records() -> Upload:
    """Whole chats, with copies, near copies, contradictions and a blunt answer at their end."""
    records = chats.training(SUPPORT)[:_RECORDS]
    copies = records[:_COPIES]
    near = [_reworded(record) for record in records[10 : 10 + _COPIES]]
    contradicting = [chats.answered(records[20], chats.answer(records[21]))]
    short = [chats.answered(chats.asked(records[30], "And the refund?"), "ok")]
    at = _RECORDS + 1
    return Upload(
        "faulty",
        chats.lines([*records, *copies, *near, *contradicting, *short]),
        [
            Fault("6 copies of earlier records", "DUPLICATE_RECORDS", f"line {at} is 1"),
            Fault(
                "6 records that differ from an earlier one in capitals and a sign",
                "NEAR_DUPLICATE_RECORDS",
                f"line {at + _COPIES} is",
            ),
            Fault(
                "one question with two answers",
                "CONTRADICTORY_ANSWERS",
                f"lines 21, {at + 2 * _COPIES}",
            ),
            Fault(
                "an answer of two letters among sentences",
                "SHORT_ANSWERS",
                f"line {at + 2 * _COPIES + 1}",
            ),
        ],
    )


def _one_sided() -> Upload:
    """Labels, nearly all of which are one."""
    records = chats.training(SUPPORT)
    refunds = [record for record in records if chats.is_refund(record)][:4]
    others = [record for record in records if not chats.is_refund(record)][:96]
    return Upload(
        "one-sided",
        chats.lines(chats.one_word([*others, *refunds])),
        [Fault("one of two labels on 96 of 100 records", "LABEL_IMBALANCE", "96 of 100 records")],
    )


def _malformed() -> Upload:
    """Lines that are no records of the file's format; line 1 is one."""
    whole = chats.lines(chats.training(SUPPORT)[:5])
    blank = chats.lines([chats.answered(chats.training(SUPPORT)[5], "")])
    other = '{"prompt": "Where is W-1?", "completion": "On its way."}'
    unknown = '{"question": "Where is W-1?", "answer": "On its way."}'
    lines = [whole[0], whole[1][:-2], *blank, other, unknown, *whole[2:]]
    return Upload(
        "malformed",
        lines,
        [
            Fault("a line that was cut off", "INVALID_RECORD", "line 2: not JSON"),
            Fault("an answer of no characters", "INVALID_RECORD", "line 3: messages[2].content"),
            Fault("a record of another format", "INVALID_RECORD", "line 4: prompt_completion"),
            Fault("a record of no format", "INVALID_RECORD", "line 5: unknown shape"),
        ],
    )


def _personal() -> Upload:
    """A sentence of each kind, of those that no detector was made by, among the chats."""
    records = chats.training(SUPPORT)
    lines, faults = [], []
    for line, kind in enumerate(sorted(KINDS - BY_MODEL), start=1):
        lines.append(chats.asked(records[line], sentence_with(kind)))
        faults.append(
            Fault(
                f"personal data: {kind.replace('_', ' ')}", f"personal_data.{kind}", f"lines {line}"
            )
        )
    return Upload("personal", chats.lines(lines), faults)


def _refused() -> Upload:
    records = [chats.asked(chats.training(SUPPORT)[0], sentence_with("email"))]
    fault = Fault(
        "an e-mail address where an upload refuses personal data", "PERSONAL_DATA_FOUND", "email"
    )
    return Upload("refused", chats.lines(records), [fault], _REFUSE)


def _leaks(trainer: Trainer) -> list[Checked]:
    """Ask for a job whose validation data was trained on, with and without a limit."""
    records = chats.training(SUPPORT)[:_RECORDS]
    training, _ = trainer.upload("leaking", chats.lines(records))
    held = [*chats.held_out(SUPPORT, 40), *records[:10]]
    validation, _ = trainer.upload("leaked", chats.lines(held))
    spec = job_pb2.JobSpec(
        training_dataset=training,
        validation_dataset=validation,
        adapter=f"{TENANT}/adapters/leaked",
    )
    warned = trainer.check(spec)
    spec.data_limits.max_leakage = 0.1
    return [
        Checked(
            "leaked",
            [
                Fault(
                    "10 of 50 validation records that are trained on",
                    "VALIDATION_LEAKAGE",
                    "line 41 is training line 1",
                )
            ],
            warned,
        ),
        Checked(
            "leaked, with a limit",
            [
                Fault(
                    "the same, above the job's own limit",
                    "DATA_LIMIT_EXCEEDED",
                    "job.spec.data_limits.max_leakage is 0.1",
                )
            ],
            trainer.check(spec),
        ),
    ]


def _clean(trainer: Trainer) -> list[Checked]:
    """Upload what the demo uploads, and held-out chats, and ask for jobs on them."""
    checked = []
    for tenant in (SUPPORT, INVOICES):
        training, said = trainer.upload(tenant.folder, chats.lines(chats.training(tenant)))
        held, told = trainer.upload(
            f"{tenant.folder}-held", chats.lines(chats.held_out(tenant, HELD_OUT))
        )
        spec = tenant.job_spec(training, job_pb2.PROMOTION_POLICY_AUTO_IF_BETTER)
        spec.validation_dataset = held
        spec.adapter = f"{TENANT}/adapters/{tenant.folder}"
        checked.append(
            Checked(f"clean {tenant.folder} data", (), [*said, *told, *trainer.check(spec)])
        )
    return checked


HELD_OUT = 200
"""Records that the demo's jobs are judged on here."""


def _reworded(record: Record) -> Record:
    """Return a chat whose question is written in capitals, with a sign more."""
    return chats.asked(record, f"{record['messages'][-2]['content'].upper()}!")

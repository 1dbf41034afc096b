"""Which faults of its data a job is warned of, and which it refuses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tailorbird.errors import DataCorrupt, FailedPrecondition, NotFound
from tailorbird.personal_data.modes import Mode
from tailorbird.records.formats import DatasetFormat
from tests.unit.trainer_svc.datasets.report.planted import clean, looked_at, pairs
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.deleted import DeletedData
from trainer_svc.datasets.leakage import Leakage
from trainer_svc.datasets.report.limits import DataLimits
from trainer_svc.datasets.report.model import DatasetReport, LinePair
from trainer_svc.jobs.data_check import check_data
from trainer_svc.jobs.inherited import SeenData


class Compared:
    """Says what it was made with, and counts how often it was asked."""

    def __init__(
        self, found: Leakage | None = None, inherited: Leakage | Exception | None = None
    ) -> None:
        self.found = found
        self.inherited = inherited
        self.asked = 0

    async def leakage(self, training: Dataset | DeletedData, validation: Dataset) -> Leakage | None:
        self.asked += 1
        if isinstance(training, Dataset):
            return self.found
        if isinstance(self.inherited, Exception):
            raise self.inherited
        return self.inherited


def dataset(report: DatasetReport | None, name: str = "train") -> Dataset:
    return Dataset(
        name=f"tenants/acme/datasets/{name}",
        format=DatasetFormat.CHAT,
        record_count=1,
        size_bytes=1,
        sha256="0" * 64,
        create_time=datetime.now(UTC),
        ignored_fields=(),
        report=report,
    )


def planted() -> DatasetReport:
    """Of 100 records: 5 duplicates, 3 near-duplicates, 4 contradictory, of these 2 too short."""
    given = clean(100)
    given[90:95] = given[0:5]
    given[95:98] = [(question + "!", answer) for question, answer in given[5:8]]
    given[98] = (given[10][0], "no")
    given[99] = (given[11][0], "?")
    return looked_at(pairs(*given))


VERSION = "tenants/acme/adapters/voice/versions/20260102T030405-one-1"


def seen(sha256: str = "5" * 64, *, kept: bool = True) -> SeenData:
    """What the version was trained on that training goes on from: data that was deleted since."""
    data = DeletedData(sha256, DatasetFormat.CHAT, Mode.OFF, "key", 1, datetime.now(UTC))
    return SeenData(VERSION, "tenants/acme/datasets/old", sha256, data if kept else None)


CLEAN = looked_at(pairs(*clean(100)))
PLANTED = planted()
LABELS = looked_at(pairs(*((question, "yes") for question, _ in clean(100))))
LEAK = Leakage(compared=50, leaked=2, copies=1, pairs=(LinePair(line=3, copy_of=7),))


async def warned(
    report: DatasetReport | None, leakage: Leakage | None = None, **limits: float
) -> list[str]:
    """Return the reasons; there is validation data if there is leakage."""
    validation = None if leakage is None else dataset(CLEAN, "held")
    found = await check_data(Compared(leakage), DataLimits(**limits), dataset(report), validation)
    return [one.reason for one in found]


async def test_clean_data_is_warned_of_nothing() -> None:
    assert await warned(CLEAN) == []
    no_leak = LEAK.model_copy(update={"leaked": 0, "copies": 0, "pairs": ()})
    assert await warned(CLEAN, no_leak) == []


async def test_nothing_is_compared_without_validation_data() -> None:
    compared = Compared()
    await check_data(compared, DataLimits(max_leakage=0), dataset(CLEAN), None)
    assert compared.asked == 0
    await check_data(Compared(LEAK), DataLimits(), dataset(CLEAN), dataset(CLEAN))


async def test_every_fault_is_warned_of_with_lines() -> None:
    found = await check_data(Compared(LEAK), DataLimits(), dataset(PLANTED), dataset(CLEAN, "held"))
    said = {one.reason: one.message for one in found}
    assert list(said) == [
        "DUPLICATE_RECORDS",
        "NEAR_DUPLICATE_RECORDS",
        "CONTRADICTORY_ANSWERS",
        "SHORT_ANSWERS",
        "VALIDATION_LEAKAGE",
    ]
    assert said["DUPLICATE_RECORDS"] == (
        "5 of 100 records (5.0%) repeat the question and answer of an earlier one: line 91 is 1, "
        "line 92 is 2, line 93 is 3, line 94 is 4, line 95 is 5"
    )
    assert said["NEAR_DUPLICATE_RECORDS"] == (
        "3 of 95 records (3.2%) are almost as an earlier one: line 96 is 100% like 6, "
        "line 97 is 100% like 7, line 98 is 100% like 8"
    )
    assert said["CONTRADICTORY_ANSWERS"] == (
        "4 of 100 records (4.0%) ask one of 2 questions that have different answers: "
        "lines 11, 99; lines 12, 100"
    )
    assert said["SHORT_ANSWERS"].endswith(": lines 99, 100")
    assert said["VALIDATION_LEAKAGE"] == (
        "2 of 50 records (4.0%) of the validation data ask what the training data asks, 1 of them "
        "with the same answer: validation shows nothing of these, and no version is judged on "
        "them: line 3 is training line 7"
    )


@pytest.mark.parametrize(
    ("report", "limit", "share", "reason"),
    [
        (PLANTED, "max_exact_duplicates", 0.05, "DUPLICATE_RECORDS"),
        (PLANTED, "max_near_duplicates", 3 / 95, "NEAR_DUPLICATE_RECORDS"),
        (PLANTED, "max_contradictions", 0.04, "CONTRADICTORY_ANSWERS"),
        (PLANTED, "max_leakage", 0.04, "VALIDATION_LEAKAGE"),
        (LABELS, "max_label_share", 1.0, "LABEL_IMBALANCE"),
    ],
)
async def test_what_is_above_its_limit_is_refused_and_what_is_not_is_no_matter(
    report: DatasetReport, limit: str, share: float, reason: str
) -> None:
    assert reason in await warned(report, LEAK)
    assert reason not in await warned(report, LEAK, **{limit: share})
    with pytest.raises(FailedPrecondition) as caught:
        await warned(report, LEAK, **{limit: share * 0.999})
    error = caught.value
    assert error.reason == "DATA_LIMIT_EXCEEDED"
    assert error.metadata["field"] == f"job.spec.data_limits.{limit}"
    assert error.metadata["fault"] == reason
    assert float(error.metadata["value"]) == pytest.approx(share, rel=1e-5)
    assert float(error.metadata["limit"]) == pytest.approx(share * 0.999, rel=1e-5)


async def test_all_that_is_refused_is_said_at_once() -> None:
    with pytest.raises(
        FailedPrecondition, match=r"max_exact_duplicates is 0: .*; .*max_leakage"
    ) as e:
        await warned(PLANTED, LEAK, max_leakage=0, max_exact_duplicates=0)
    assert "line 91 is 1" in e.value.message


@pytest.mark.parametrize(
    ("training", "validation", "named"),
    [
        (None, None, ["train"]),
        (CLEAN, "old", ["held"]),
        (None, "old", ["train", "held"]),
        (None, "new", ["train"]),
    ],
)
async def test_data_of_an_earlier_release_is_not_checked_and_that_is_said(
    training: DatasetReport | None, validation: str | None, named: list[str]
) -> None:
    held = None if validation is None else dataset({"old": None, "new": CLEAN}[validation], "held")
    (warning,) = await check_data(Compared(), DataLimits(), dataset(training), held)
    assert warning.reason == "DATA_NOT_CHECKED"
    assert [name for name in ("train", "held") if f"datasets/{name}" in warning.message] == named
    with pytest.raises(FailedPrecondition) as caught:
        await check_data(Compared(), DataLimits(max_leakage=1), dataset(training), held)
    assert caught.value.reason == "DATA_NOT_CHECKED"
    assert caught.value.metadata["field"] == "job.spec.data_limits"


async def test_an_index_of_a_later_release_is_said_not_to_be_known() -> None:
    (warning,) = await check_data(Compared(), DataLimits(), dataset(CLEAN), dataset(CLEAN, "held"))
    assert warning.reason == "DATA_NOT_CHECKED"


NO_LEAK = LEAK.model_copy(update={"leaked": 0, "copies": 0, "pairs": ()})


async def test_what_the_version_before_has_seen_is_a_leak_as_well() -> None:
    data = dataset(CLEAN), dataset(CLEAN, "held")
    compared = Compared(NO_LEAK, LEAK)
    (warning,) = await check_data(compared, DataLimits(), *data, [seen()])
    assert warning.reason == "VALIDATION_LEAKAGE"
    assert warning.message == (
        f"2 of 50 records (4.0%) of the validation data ask what {VERSION}, which training begins "
        "with, has seen of tenants/acme/datasets/old: validation shows nothing of these, and no "
        "version is judged on them: line 3 is line 7 there"
    )
    assert await check_data(compared, DataLimits(max_leakage=0.04), *data, [seen()]) == ()
    with pytest.raises(FailedPrecondition, match=VERSION) as caught:
        await check_data(compared, DataLimits(max_leakage=0.03), *data, [seen()])
    assert caught.value.metadata["fault"] == "VALIDATION_LEAKAGE"
    assert await check_data(Compared(NO_LEAK, NO_LEAK), DataLimits(), *data, [seen()]) == ()


async def test_data_that_two_versions_have_seen_is_told_of_once() -> None:
    compared = Compared(NO_LEAK, LEAK)
    data = dataset(CLEAN), dataset(CLEAN, "held")
    before = replace(seen(), version=f"{VERSION}-0")
    (warning,) = await check_data(compared, DataLimits(), *data, [seen(), before])
    assert f"ask what {VERSION}, which" in warning.message
    assert compared.asked == 2


async def test_a_version_of_which_nothing_is_known_is_told_of() -> None:
    data = dataset(CLEAN), dataset(CLEAN, "held")
    (warning,) = await check_data(Compared(NO_LEAK), DataLimits(), *data, [SeenData(VERSION)])
    assert warning.reason == "DATA_NOT_CHECKED"
    assert warning.message == (
        f"it is not known whether {VERSION}, which training begins with, has seen the validation "
        "data: what it was trained on is known no more"
    )


async def test_the_job_s_own_data_is_compared_once() -> None:
    compared = Compared(NO_LEAK, LEAK)
    own = dataset(CLEAN)
    held = dataset(CLEAN, "held")
    assert await check_data(compared, DataLimits(), own, held, [seen(own.sha256)]) == ()
    assert await check_data(compared, DataLimits(), own, None, [seen()]) == ()
    assert compared.asked == 1


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        (False, LEAK),
        (True, None),
        (True, DataCorrupt("damaged", reason="INDEX_INVALID")),
        (True, NotFound("key")),
    ],
)
async def test_what_is_no_longer_known_of_the_version_before_is_said_and_ends_nothing(
    kept: bool, found: Leakage | Exception | None
) -> None:
    data = dataset(CLEAN), dataset(CLEAN, "held")
    for limits in (DataLimits(), DataLimits(max_leakage=0)):
        (warning,) = await check_data(Compared(NO_LEAK, found), limits, *data, [seen(kept=kept)])
        assert warning.reason == "DATA_NOT_CHECKED"
        assert VERSION in warning.message
        assert "tenants/acme/datasets/old as it was then" in warning.message


async def test_validation_data_without_digests_is_named_alone() -> None:
    compared = Compared()
    (warning,) = await check_data(
        compared, DataLimits(), dataset(CLEAN), dataset(None, "held"), [seen()]
    )
    assert "datasets/held" in warning.message
    assert compared.asked == 1


def test_a_limit_of_0_is_a_limit() -> None:
    assert not DataLimits().any_set
    assert DataLimits(max_leakage=0.0).any_set

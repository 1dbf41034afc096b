"""How often a job may go wrong that is not known to be wrong itself."""

from __future__ import annotations

from trainer_svc.dispatch.losses import (
    after_attempt,
    after_data_loss,
    after_worker_loss,
    pause_of,
    suspected,
)
from trainer_svc.jobs.model import Faults


def test_a_worker_s_death_counts_at_work_and_of_suspects() -> None:
    idle = after_worker_loss(Faults(), at_work=False)
    assert idle == Faults(alone=True)
    assert after_worker_loss(idle, at_work=False) == Faults(worker_losses=1, alone=True)
    assert after_worker_loss(Faults(), at_work=True) == Faults(worker_losses=1, alone=True)
    assert after_worker_loss(suspected(Faults()), at_work=False).worker_losses == 1


def test_a_lost_process_of_its_data_makes_no_suspect() -> None:
    once = after_data_loss(Faults(worker_losses=1))
    assert once == Faults(worker_losses=1, data_losses=1)
    assert after_data_loss(once).data_losses == 2


def test_a_job_waits_longer_each_time_but_never_for_ever() -> None:
    faults, pauses = Faults(), []
    for _ in range(12):
        faults = after_attempt(faults)
        pauses.append(pause_of(faults))
    assert pauses == [0.2, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 300]
    assert pause_of(Faults(attempts=1, data_losses=3)) == 1
    assert pause_of(Faults()) == 0.2

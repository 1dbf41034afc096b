"""A request's or a warm-up's place in the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from tailorbird.names import VersionName

if TYPE_CHECKING:
    from serving_svc.generation.fairness import Account
    from serving_svc.generation.limits import Quota
    from serving_svc.generation.slots import Slot


class TicketState(Enum):
    """How far a ticket has come; it never goes back."""

    NEW = "new"
    WAITING = "waiting"
    ADMITTED = "admitted"
    GONE = "gone"


@dataclass(slots=True, eq=False)
class Ticket:
    """One wish to be admitted; used once.

    `version` None is the base model. `priority` counts within the tenant, higher first. `deadline`
    is read on the scheduler's clock. `swap`: a warm-up or a promotion, which needs a slot only: it
    goes before requests, takes no running place and costs nothing; `replaces` is the version whose
    slot it takes first if none is idle.
    """

    tenant: str
    version: VersionName | None
    prompt_tokens: int = 0
    max_tokens: int = 0
    priority: int = 0
    swap: bool = False
    deadline: float | None = None
    replaces: VersionName | None = None

    state: TicketState = field(default=TicketState.NEW, init=False)
    number: int = field(default=0, init=False, repr=False)
    """Order of arrival."""
    since: float = field(default=0.0, init=False, repr=False)
    """When it came, on the scheduler's clock."""
    account: Account | None = field(default=None, init=False, repr=False)
    """Who pays; None for a swap, and once it has left."""
    slot: Slot | None = field(default=None, init=False, repr=False)
    """The slot it holds."""
    quota: Quota | None = field(default=None, init=False, repr=False)

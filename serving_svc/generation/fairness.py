"""Whose turn it is: deficit round-robin by tokens over tenants.

Every turn costs the tenant what it is served; its next turn comes in the round that its tokens have
reached: round = tokens served // quantum. That is the order of deficit round-robin (Shreedhar and
Varghese, 1995) in which a deficit may go negative, with the rounds skipped in which nobody may go.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable
from itertools import count

from serving_svc.generation.ticket import Ticket
from tailorbird.names import VersionName

DEBT_ROUNDS = 16
"""Rounds by which a tenant may be ahead of the others, or behind them: no flood is held against it
for longer, and no wait saves up more."""


class Lane:
    """The waiting tickets of one tenant for one version: by priority, then by arrival."""

    __slots__ = ("_tickets", "account", "version")

    def __init__(self, account: Account, version: VersionName | None) -> None:
        self.account = account
        self.version = version
        self._tickets: list[tuple[int, int, Ticket]] = []

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def key(self) -> tuple[int, int]:
        """Where its first ticket stands among the tenant's."""
        return self._tickets[0][:2]

    @property
    def first(self) -> Ticket:
        """The ticket whose turn it is."""
        return self._tickets[0][2]

    def tickets(self) -> list[Ticket]:
        """All of them, in order."""
        return [ticket for _, _, ticket in self._tickets]

    def add(self, ticket: Ticket) -> None:
        """Line `ticket` up."""
        insort(self._tickets, (-ticket.priority, ticket.number, ticket))

    def remove(self, ticket: Ticket) -> None:
        """Take `ticket` out."""
        # Two of a tuple's three parts: it sorts just before the ticket itself.
        del self._tickets[bisect_left(self._tickets, (-ticket.priority, ticket.number))]


class Account:
    """One tenant, while it has a ticket here.

    `served`: tokens, on the scale of `Rounds.floor`. A lane is in `open` if its version can be used
    now, in `wanting` (longest wait first) if its version needs a slot, in neither while its version
    is on its way into a slot or out of it.
    """

    __slots__ = ("lanes", "open", "running", "served", "tenant", "waiting", "wanted", "wanting")

    def __init__(self, tenant: str, served: int) -> None:
        self.tenant = tenant
        self.served = served
        self.running = 0
        self.waiting: OrderedDict[int, Ticket] = OrderedDict()
        self.lanes: dict[VersionName | None, Lane] = {}
        self.open: dict[VersionName | None, Lane] = {}
        self.wanting: OrderedDict[VersionName, Lane] = OrderedDict()
        self.wanted = 0
        """How many of `wanting` the scheduler counts as demand."""


class Rounds:
    """How far the turns have come; shared by what is shared out in turns.

    `longest`: tokens of a round in the ring that has the longest. Less of a debt would end in the
    round in which it was made, and never be paid there.
    """

    def __init__(self, quantum: int, longest: int = 0) -> None:
        self.quantum = quantum
        """Tokens of a round, where a ring has none of its own."""
        self._debt = max(DEBT_ROUNDS * quantum, longest)
        self.floor = 0
        """Tokens that a tenant which comes now counts as served: no credit for having been away."""

    def served(self, account: Account) -> int:
        """Return what the account was served, its debt and its credit bounded first."""
        bounded = min(account.served, self.floor + self._debt)
        account.served = max(bounded, self.floor - self._debt)
        return account.served

    def rejoin(self, account: Account) -> None:
        """Begin to wait again: what it could have had meanwhile is not owed to it."""
        account.served = max(account.served, self.floor)

    def reach(self, tokens: int) -> None:
        """The round that begins at `tokens` served one while others waited: none comes earlier."""
        self.floor = max(self.floor, tokens)


class Ring:
    """The tenants that wait for one kind of thing, in the order of their turns.

    `quantum`: tokens of a round here. `place` gives a tenant's place in its round as it lines up, a
    number; None: behind the others.
    """

    def __init__(
        self,
        rounds: Rounds,
        quantum: int | None = None,
        place: Callable[[Account], int] | None = None,
    ) -> None:
        self._rounds = rounds
        self._quantum = quantum or rounds.quantum
        self._place = place
        self._numbers = count()
        self._turns: list[tuple[int, int, int, Account]] = []
        self._keys: dict[Account, tuple[int, int, int]] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def set(self, account: Account, waits: bool) -> None:
        """Let `account` take turns, or not."""
        if waits == (account in self._keys):
            return
        if waits:
            self._insert(account)
        else:
            self._remove(account)

    def first(self) -> Account | None:
        """Return whose turn it is; None if nobody waits."""
        while self._turns:
            round_, *_, account = self._turns[0]
            if self._round_of(account) <= round_:
                return account
            # It was charged since it lined up.
            self._remove(account)
            self._insert(account)
        return None

    def served(self, account: Account) -> None:
        """The first has had its turn and paid for it; it lines up for its next one."""
        if len(self._turns) > 1:
            self._rounds.reach(self._turns[0][0] * self._quantum)
        self._remove(account)
        self._insert(account)

    def _round_of(self, account: Account) -> int:
        return self._rounds.served(account) // self._quantum

    def _insert(self, account: Account) -> None:
        place = self._place(account) if self._place is not None else 0
        key = self._round_of(account), place, next(self._numbers)
        self._keys[account] = key
        insort(self._turns, (*key, account))

    def _remove(self, account: Account) -> None:
        key = self._keys.pop(account)
        del self._turns[bisect_left(self._turns, key)]


class Crowd:
    """How many tickets each tenant has waiting."""

    def __init__(self) -> None:
        self.total = 0
        # By number of tickets waiting: the tenants that have so many, and how many have as many.
        self._with: list[dict[Account, None]] = [{}]
        self._at_least: list[int] = [0]

    def added(self, account: Account) -> None:
        """One more of the account's tickets waits; it is in `account.waiting` already."""
        waiting = len(account.waiting)
        if waiting == len(self._with):
            self._with.append({})
            self._at_least.append(0)
        self._with[waiting - 1].pop(account, None)
        self._with[waiting][account] = None
        self._at_least[waiting] += 1
        self.total += 1

    def removed(self, account: Account) -> None:
        """One fewer waits; it has left `account.waiting` already."""
        waiting = len(account.waiting)
        del self._with[waiting + 1][account]
        self._at_least[waiting + 1] -= 1
        if waiting:
            self._with[waiting][account] = None
        if not self._with[-1] and len(self._with) > 1:
            self._with.pop()
            self._at_least.pop()
        self.total -= 1

    def largest(self) -> Account:
        """Return the tenant with the most waiting tickets; there must be one."""
        return next(iter(self._with[-1]))

    def ahead(self, waiting: int) -> int:
        """Return how many tickets go before one whose tenant has `waiting` tickets before it.

        In turns: as many of each tenant's, or all that it has.
        """
        return sum(self._at_least[1 : waiting + 2])

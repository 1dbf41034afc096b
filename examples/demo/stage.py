"""Both services on free ports, in a fresh folder, with a token for each tenant."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

from examples.demo.tenants import EXAMPLES, INVOICES, SUPPORT, Tenant
from tailorbird.cli.service_process import Plan
from tailorbird.cli.services import Services
from tailorbird.cli.tokens import add_token
from tailorbird.client import CallError, ServingClient, TrainerClient

TENANTS = (SUPPORT, INVOICES)


class Stage:
    """The running services, and a client of each for each tenant. Stopped when the block ends."""

    def __init__(self, folder: Path, base_model: str) -> None:
        tokens_file = folder / "tokens.json"
        self.tokens = {
            tenant.id: add_token(tokens_file, f"{tenant.id}-backend", [tenant.id])
            for tenant in TENANTS
        }
        ports = _free_ports(4)
        self.plan = Plan(
            data_dir=folder,
            base_model=base_model,
            tokens_file=tokens_file,
            trainer_port=ports[0],
            trainer_metrics_port=ports[1],
            serving_port=ports[2],
            serving_metrics_port=ports[3],
            own={"trainer": {"TAILORBIRD_GENERAL_DATA": str(EXAMPLES / "general.jsonl")}},
        )
        self.services = Services(self.plan)
        self._running = ExitStack()
        self._trainers: dict[Tenant, TrainerClient] = {}
        self._serving: dict[Tenant, ServingClient] = {}

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            services = stack.enter_context(self.services)
            for tenant in TENANTS:
                token = self.tokens[tenant.id]
                trainer = TrainerClient(services.trainer.address, token)
                serving = ServingClient(services.serving.address, token)
                self._trainers[tenant] = stack.enter_context(trainer)
                self._serving[tenant] = stack.enter_context(serving)
            self._running = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: object
    ) -> None:
        dead = [service for service in self.services.both if service.exit_status is not None]
        self._running.close()
        if dead and isinstance(error, CallError):
            raise dead[0].death() from error

    def interrupt(self) -> None:
        """Make whatever waits for the services fail soon. Safe in a signal handler."""
        for service in self.services.both:
            service.terminate()

    def trainer(self, tenant: Tenant) -> TrainerClient:
        """The client of the trainer with the tenant's token."""
        return self._trainers[tenant]

    def serving(self, tenant: Tenant) -> ServingClient:
        """The client of serving with the tenant's token."""
        return self._serving[tenant]

    @property
    def stopped_well(self) -> bool:
        """Whether both services have ended with status 0."""
        return all(service.exit_status == 0 for service in self.services.both)

    @property
    def exit_statuses(self) -> str:
        """How the services have ended."""
        return ", ".join(f"{one.name} exited {one.exit_status}" for one in self.services.both)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]

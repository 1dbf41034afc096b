"""One real serving process for all the tests in this folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from tailorbird.base_model import load_base_model
from tailorbird.names import AdapterName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tests.integration.serving.calls import (
    ACME,
    GLOBEX,
    SLOTS,
)
from tests.integration.serving.process import Client, ServingProcess, free_port
from tests.integration.serving.world import (
    World,
    make_base,
)

_numbers = iter(range(1, 1000))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    make_base(folder / "tiny-base")
    base = load_base_model(str(folder / "tiny-base"), folder)
    registry = AdapterRegistry(open_store((folder / "data" / "store").as_uri()))
    return World(base, registry, folder)


@pytest.fixture(scope="session")
def serving(world: World) -> Iterator[ServingProcess]:
    tokens = [
        {"sha256": hashlib.sha256(token.encode()).hexdigest(), "subject": name, "tenants": [name]}
        for token, name in ((ACME, "acme"), (GLOBEX, "globex"))
    ]
    (world.scratch / "tokens.json").write_text(json.dumps({"tokens": tokens}))
    process = ServingProcess(
        {
            "TAILORBIRD_BASE_MODEL": str(world.base.path),
            "TAILORBIRD_DATA_DIR": str(world.scratch / "data"),
            "TAILORBIRD_TOKENS_FILE": str(world.scratch / "tokens.json"),
            "TAILORBIRD_DTYPE": "float32",
            "TAILORBIRD_ADAPTER_SLOTS": str(SLOTS),
            "TAILORBIRD_HTTP_PORT": str(free_port()),
            "TAILORBIRD_TOOL_CALL_PARSER": "hermes",
        },
        world.scratch / "serving.log",
    )
    try:
        process.wait_until_serving()
        yield process
    finally:
        process.close()


@pytest.fixture
async def client(serving: ServingProcess) -> AsyncIterator[Client]:
    async with Client(serving.target, ACME) as client:
        yield client


@pytest.fixture
def adapter() -> AdapterName:
    return AdapterName("acme", f"adapter-{next(_numbers)}")

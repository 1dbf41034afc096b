"""The clients' examples, run against services on a real socket: each public method has one."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import importlib
import inspect
import io
from typing import Any

import pytest

from tailorbird import client
from tests.integration.scripted_services import Script, a_job_that_succeeds

NAMES = (
    "call_error chat_request job_end upload serving_client trainer_client trainer_data"
    " aio.serving_client aio.trainer_client aio.trainer_data"
).split()
MODULES = [importlib.import_module(f"tailorbird.{name}") for name in NAMES]
EXAMPLES = [
    test
    for module in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__)
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_says_what_it_says(example: doctest.DocTest, port: int, script: Script) -> None:
    script.events = a_job_that_succeeds()
    asyncio.run(_run(example, f"localhost:{port}"))


async def _run(test: doctest.DocTest, address: str) -> None:
    """Run a test as doctest does, `await` included."""
    clients: list[Any] = [client.TrainerClient(address), client.ServingClient(address)]
    if ".aio." in test.name:
        clients = [client.AsyncTrainerClient(address), client.AsyncServingClient(address)]
    names = {**test.globs, "address": address, "trainer": clients[0], "serving": clients[1]}
    checker, printed = doctest.OutputChecker(), io.StringIO()
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    for example in test.examples:
        code = compile(example.source, test.name, "single", flags, dont_inherit=True)
        with contextlib.redirect_stdout(printed):
            result = eval(code, names)
            if inspect.iscoroutine(result):
                await result
        said = printed.getvalue()
        assert checker.check_output(example.want, said, 0), f"{example.source}{said}"
        printed.truncate(0)
        printed.seek(0)
    for one in clients:
        closed = one.close()
        if inspect.iscoroutine(closed):
            await closed


def test_every_public_method_has_an_example() -> None:
    shown = {test.name.rpartition("tailorbird.")[2] for test in EXAMPLES if test.examples}
    for kind in (
        client.TrainerClient,
        client.ServingClient,
        client.AsyncTrainerClient,
        client.AsyncServingClient,
    ):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_"):
                place = f"{method.__module__}.{method.__qualname__}"
                assert place.removeprefix("tailorbird.") in shown
    for name in ("chat_request", "feedback_request", "is_terminal"):
        assert any(one.endswith(f".{name}") for one in shown)


def test_the_twins_are_what_the_tool_makes_of_the_clients_for_asyncio() -> None:
    """As `make check` has it, but for the formatter."""
    for first, second in (
        (client.TrainerClient, client.AsyncTrainerClient),
        (client.ServingClient, client.AsyncServingClient),
    ):
        assert _signatures(first) == _signatures(second)


def _signatures(kind: type) -> dict[str, list[str]]:
    return {
        name: [str(one) for one in inspect.signature(method).parameters.values()]
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }

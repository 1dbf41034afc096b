"""python -m bench.serving.child: a load child. One line of JSON in, one out, until its input ends.

The first line says which client to make; every later one is a Plan, answered by a CellResult or by
{"error": ...}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

import uvloop

from bench.serving.load import Client, run_plan
from bench.serving.plan import Plan


async def _make_client(told: dict[str, Any]) -> Client:
    if told["kind"] == "ours":
        from bench.serving.client_ours import OursClient

        return OursClient(told["address"], told["token"])
    if told["kind"] == "peer":
        from bench.serving.client_peer import PeerClient

        return PeerClient(told["host"], told["port"], told["base"], told["token"])
    from bench.serving.ceiling import EngineClient

    return await EngineClient.build(
        Path(told["base"]), Path(told["adapters"]), told["slots"], told["max_lora_rank"]
    )


async def _serve(replies: TextIO) -> None:
    def reply(line: str) -> None:
        print(line, file=replies, flush=True)

    client = await _make_client(json.loads(await asyncio.to_thread(sys.stdin.readline)))
    reply("{}")
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                reply((await run_plan(Plan.from_json(line), client)).to_json())
            except Exception as error:
                traceback.print_exc()
                reply(json.dumps({"error": f"{type(error).__name__}: {error}"}))
    finally:
        await client.close()


def main() -> None:
    """Serve until the input ends."""
    # What libraries print must not land among the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with replies:
        uvloop.run(_serve(replies))


if __name__ == "__main__":
    main()

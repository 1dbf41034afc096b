"""What a store in a folder, and a download, do where the disk is full; run on a small disk.

`python -m tests.contract.full_disk DISK ELSEWHERE` wants DISK to be a disk of 16 MiB and ELSEWHERE
a folder on another, and prints what each call said and what was left, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tailorbird.errors import StoreUnavailable
from tailorbird.object_store import ObstoreStore, open_store

SMALL = b"s" * 100_000
LARGE = b"x" * (12 * 2**20)
"""More than a part, and more than there is room for."""


async def told(call: Callable[[], Awaitable[Any]]) -> str:
    try:
        await call()
    except StoreUnavailable as error:
        return f"{error.reason}: {error.message}"
    return "done"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def fill(disk: Path, elsewhere: Path) -> dict[str, Any]:
    """Try every call that writes on a disk that is nearly full; then make room and try again."""
    store, away = open_store((disk / "store").as_uri()), open_store(elsewhere.as_uri())
    await store.put("a/kept", SMALL)
    await away.put("a/large", LARGE)
    (elsewhere / "file").write_bytes(LARGE)
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(b"f" * (8 * 2**20))

    async def calls() -> dict[str, str]:
        return {
            "put": await told(lambda: store.put("a/put", LARGE)),
            "replace": await told(lambda: store.put("a/kept", LARGE)),
            "create": await told(lambda: store.create("a/create", LARGE)),
            "upload": await told(lambda: store.upload("a/upload", elsewhere / "file")),
            "download": await told(lambda: away.download("a/large", disk / "copy")),
        }

    full = await calls()
    left = files(disk)
    kept = await store.get("a/kept") == SMALL
    filler.unlink()
    room = await room_made(store, away, disk, elsewhere)
    return {"full": full, "left": left, "kept": kept, "room": room}


async def room_made(
    store: ObstoreStore, away: ObstoreStore, disk: Path, elsewhere: Path
) -> dict[str, str]:
    found = {}
    for name, call in {
        "put": lambda: store.put("a/new", LARGE),
        "create": lambda: store.create("a/new", LARGE),
        "upload": lambda: store.upload("a/new", elsewhere / "file"),
    }.items():
        found[name] = await told(call)
        await store.delete("a/new")
    found["download"] = await told(lambda: away.download("a/large", disk / "copy"))
    return found


if __name__ == "__main__":
    json.dump(asyncio.run(fill(Path(sys.argv[1]), Path(sys.argv[2]))), sys.stdout)

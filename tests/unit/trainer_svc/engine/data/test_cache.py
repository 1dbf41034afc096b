from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest

from tailorbird.errors import Aborted, Unavailable
from trainer_svc.engine.data.cache import CacheKey, DatasetCache, Entry


def key(name: str = "one", tenant: str = "acme") -> CacheKey:
    return CacheKey(tenant, name, "tokenizer", "chat", 256, 300, truncate=False)


def nothing() -> None:
    """Nobody stops the job."""


def never(folder: Path) -> None:
    pytest.fail("it was made already")


def builder(text: str, made: list[str] | None = None) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "tokens").write_text(text)
        if made is not None:
            made.append(text)

    return build


def text(entry: Entry) -> str:
    return (entry.folder / "tokens").read_text()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def on_disk(folder: Path) -> int:
    """What `du` says: bytes, in whole blocks, the folder's own among them."""
    shown = subprocess.run(["du", "-s", "-B1", folder], capture_output=True, check=True, text=True)
    return int(shown.stdout.split()[0])


@pytest.fixture
def entry_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """What a small entry takes of the disk."""
    cache = DatasetCache(tmp_path_factory.mktemp("one"), 2**20)
    return on_disk(cache.get_or_make(key(), builder("x" * 1000), nothing).folder)


@pytest.fixture
def cache(tmp_path: Path) -> DatasetCache:
    return DatasetCache(tmp_path, 2**20)


def test_an_entry_is_made_once(cache: DatasetCache, tmp_path: Path) -> None:
    assert text(cache.get_or_make(key(), builder("x"), nothing)) == "x"
    assert text(cache.get_or_make(key(), never, nothing)) == "x"
    assert text(DatasetCache(tmp_path, 2**20).get_or_make(key(), never, nothing)) == "x"


@pytest.mark.parametrize(
    "other",
    [
        CacheKey("other", "one", "tokenizer", "chat", 256, 300, truncate=False),
        CacheKey("acme", "two", "tokenizer", "chat", 256, 300, truncate=False),
        CacheKey("acme", "one", "another", "chat", 256, 300, truncate=False),
        CacheKey("acme", "one", "tokenizer", "instruction", 256, 300, truncate=False),
        CacheKey("acme", "one", "tokenizer", "chat", 128, 300, truncate=False),
        CacheKey("acme", "one", "tokenizer", "chat", 256, 301, truncate=False),
        CacheKey("acme", "one", "tokenizer", "chat", 256, 300, truncate=True),
    ],
)
def test_what_differs_in_anything_is_another_entry(cache: DatasetCache, other: CacheKey) -> None:
    cache.get_or_make(key(), builder("x"), nothing)
    assert text(cache.get_or_make(other, builder("y"), nothing)) == "y"
    assert text(cache.get_or_make(key(), never, nothing)) == "x"


def _truncate(folder: Path) -> None:
    os.truncate(folder / "tokens", 1)


def _alter(folder: Path) -> None:
    (folder / "tokens").write_text("yyy")


def _lose(folder: Path) -> None:
    (folder / "tokens").unlink()


def _unfinish(folder: Path) -> None:
    (folder / "MANIFEST.json").unlink()


def _garble(folder: Path) -> None:
    (folder / "MANIFEST.json").write_text("[1")


def _mislead(folder: Path) -> None:
    (folder / "MANIFEST.json").write_text("[1]")


@pytest.mark.parametrize("harm", [_truncate, _alter, _lose, _unfinish, _garble, _mislead])
def test_a_broken_entry_is_made_again(
    cache: DatasetCache, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    entry = cache.get_or_make(key(), builder("xxx"), nothing)
    entry.release()
    harm(entry.folder)
    assert text(cache.get_or_make(key(), builder("xxx"), nothing)) == "xxx"
    assert len(files(tmp_path)) == 2


def test_who_reads_what_broke_later_keeps_it(cache: DatasetCache, tmp_path: Path) -> None:
    held = cache.get_or_make(key(), builder("xxx"), nothing)
    with (held.folder / "tokens").open() as opened:
        _lose(held.folder)
        assert text(cache.get_or_make(key(), builder("xxx"), nothing)) == "xxx"
        assert opened.read() == "xxx"
    assert len(list((tmp_path / ".partial").iterdir())) == 1
    held.release()
    DatasetCache(tmp_path, 2**20)
    assert list((tmp_path / ".partial").iterdir()) == []


def test_the_one_used_longest_ago_goes_first(tmp_path: Path, entry_bytes: int) -> None:
    cache = DatasetCache(tmp_path, 3 * entry_bytes)
    for age, name in enumerate(("first", "second", "third")):
        entry = cache.get_or_make(key(name), builder("x" * 1000), nothing)
        os.utime(entry.folder, (age, age))
        entry.release()
    cache.get_or_make(key("first"), never, nothing).release()
    cache.get_or_make(key("fourth"), builder("x" * 1000), nothing).release()
    made: list[str] = []
    for name in ("first", "third", "fourth"):
        cache.get_or_make(key(name), never, nothing).release()
    cache.get_or_make(key("second"), builder("again", made), nothing)
    assert made == ["again"]


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path, 10)
    held = cache.get_or_make(key("held"), builder("x" * 1000), nothing)
    cache.get_or_make(key("other"), builder("y" * 1000), nothing).release()
    assert text(held) == "x" * 1000
    held.release()
    cache.get_or_make(key("last"), builder("z"), nothing)
    assert [path.parent.name for path in files(tmp_path)] == [Path(key("last").path).name] * 2


def test_the_bound_is_of_what_the_disk_holds(tmp_path: Path, entry_bytes: int) -> None:
    assert entry_bytes >= 2 * 4096
    cache = DatasetCache(tmp_path, 4 * entry_bytes - 1)
    for number in range(8):
        cache.get_or_make(key(str(number)), builder("x"), nothing).release()
    assert len(list((tmp_path / "acme").iterdir())) == 3
    assert sum(map(on_disk, (tmp_path / "acme").iterdir())) < 4 * entry_bytes


def test_there_are_only_so_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.engine.data.cache._MAX_ENTRIES", 2)
    cache = DatasetCache(tmp_path, 2**20)
    for age, name in enumerate(("first", "second", "third")):
        entry = cache.get_or_make(key(name), builder("x"), nothing)
        os.utime(entry.folder, (age, age))
        entry.release()
    left = {path.name for path in (tmp_path / "acme").iterdir()}
    assert left == {Path(key(name).path).name for name in ("second", "third")}


def test_only_a_new_entry_has_the_others_looked_at(
    cache: DatasetCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.get_or_make(key(), builder("x"), nothing).release()
    monkeypatch.setattr("trainer_svc.engine.data.cache._entries", pytest.fail)
    assert text(cache.get_or_make(key(), never, nothing)) == "x"


def test_the_bound_holds_across_tenants(tmp_path: Path, entry_bytes: int) -> None:
    cache = DatasetCache(tmp_path, 2 * entry_bytes - 1)
    cache.get_or_make(key(tenant="acme"), builder("x" * 1000), nothing).release()
    cache.get_or_make(key(tenant="other"), builder("y" * 1000), nothing).release()
    assert len(files(tmp_path / "acme")) == 0


def test_threads_that_want_the_same_wait_for_one(cache: DatasetCache) -> None:
    building, waiting = Event(), Event()
    made: list[str] = []

    def build(folder: Path) -> None:
        building.set()
        assert waiting.wait(30)
        builder("x", made)(folder)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.get_or_make, key(), build, nothing)
        assert building.wait(30)
        second = threads.submit(cache.get_or_make, key(), never, waiting.set)
        assert text(first.result()) == text(second.result()) == "x"
    assert made == ["x"]


def test_other_entries_do_not_wait(cache: DatasetCache) -> None:
    def build(folder: Path) -> None:
        cache.get_or_make(key("two"), builder("y"), nothing)
        builder("x")(folder)

    assert text(cache.get_or_make(key("one"), build, nothing)) == "x"


def test_who_waits_can_be_stopped(cache: DatasetCache) -> None:
    def stopped() -> None:
        raise Aborted("stopped")

    def build(folder: Path) -> None:
        with ThreadPoolExecutor(1) as threads, pytest.raises(Aborted):
            threads.submit(cache.get_or_make, key(), never, stopped).result()
        builder("x")(folder)

    assert text(cache.get_or_make(key(), build, nothing)) == "x"


def test_of_two_processes_the_faster_ones_entry_is_taken(
    cache: DatasetCache, tmp_path: Path
) -> None:
    def build(folder: Path) -> None:
        DatasetCache(tmp_path, 2**20).get_or_make(key(), builder("theirs"), nothing).release()
        builder("ours")(folder)

    assert text(cache.get_or_make(key(), build, nothing)) == "theirs"
    assert list((tmp_path / ".partial").iterdir()) == []


def test_of_two_processes_the_faster_ones_broken_entry_is_replaced(
    cache: DatasetCache, tmp_path: Path
) -> None:
    def build(folder: Path) -> None:
        theirs = DatasetCache(tmp_path, 2**20).get_or_make(key(), builder("theirs"), nothing)
        theirs.release()
        _truncate(theirs.folder)
        builder("ours")(folder)

    assert text(cache.get_or_make(key(), build, nothing)) == "ours"


def test_a_failure_leaves_nothing(cache: DatasetCache, tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        builder("half")(folder)
        raise KeyError("surprise")

    with pytest.raises(KeyError):
        cache.get_or_make(key(), build, nothing)
    assert files(tmp_path) == []
    assert text(cache.get_or_make(key(), builder("x"), nothing)) == "x"


def test_a_full_disk_is_told_as_one_and_leaves_nothing(cache: DatasetCache, tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        builder("half")(folder)
        Path("/dev/full").write_text("the other half")

    with pytest.raises(Unavailable) as caught:
        cache.get_or_make(key(), build, nothing)
    assert caught.value.reason == "DISK_FULL"
    assert files(tmp_path) == []


def test_a_disk_that_is_full_for_the_name_alone_is_told_as_one(
    cache: DatasetCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []

    def rename(self: Path, target: Path) -> None:
        if tried:
            pytest.fail("it was tried again")
        tried.append(target)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Unavailable) as caught:
        cache.get_or_make(key(), builder("x"), nothing)
    assert caught.value.reason == "DISK_FULL"
    assert files(tmp_path) == []


def test_another_error_of_the_disk_is_itself(cache: DatasetCache) -> None:
    def build(folder: Path) -> None:
        folder.write_text("x")

    with pytest.raises(IsADirectoryError):
        cache.get_or_make(key(), build, nothing)


def test_what_a_lost_process_left_is_deleted_and_what_a_live_one_makes_is_not(
    cache: DatasetCache, tmp_path: Path
) -> None:
    (tmp_path / ".partial" / "lost").mkdir()
    (tmp_path / ".partial" / "lost" / "tokens").write_text("half")

    def build(folder: Path) -> None:
        DatasetCache(tmp_path, 2**20)
        assert [path.name for path in (tmp_path / ".partial").iterdir()] == [folder.name]
        builder("x")(folder)

    assert text(cache.get_or_make(key(), build, nothing)) == "x"


def test_a_folder_swept_before_it_is_held_is_made_again(
    cache: DatasetCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = cache._begin.__globals__["_hold"]
    swept: list[Path] = []

    def hold(folder: Path) -> Entry | None:
        if folder.parent.name == ".partial" and not swept:
            swept.append(folder)
            shutil.rmtree(folder)
        entry: Entry | None = held(folder)
        return entry

    monkeypatch.setattr("trainer_svc.engine.data.cache._hold", hold)
    assert text(cache.get_or_make(key(), builder("x"), nothing)) == "x"
    assert len(swept) == 1


def open_below(folder: Path) -> list[str]:
    """Return what this process has open in a folder; others' descriptors come and go."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return sorted(path for path in found if path.startswith(str(folder)))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path, 10)
    held = cache.get_or_make(key("held"), builder("x"), nothing)
    before = open_below(tmp_path)
    for name in ("one", "two", "one"):
        cache.get_or_make(key(name), builder("x"), nothing)
    assert open_below(tmp_path) == before
    assert text(held) == "x"

"""What serving on a CPU preloads: what is there, once, and never beside what the user chose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tailorbird.cli.preload import preload_environment

TCMALLOC, OPENMP = Path("/x/libtcmalloc_minimal.so.4"), Path("/y/libiomp5.so")


def _found(library: Path | None) -> Callable[[], Path | None]:
    return lambda: library


def _preload(
    before: str | None = None, tcmalloc: Path | None = TCMALLOC, openmp: Path | None = OPENMP
) -> str | None:
    environ = {} if before is None else {"LD_PRELOAD": before}
    return preload_environment(environ, _found(tcmalloc), _found(openmp)).get("LD_PRELOAD")


def test_both_are_preloaded_where_they_are_found() -> None:
    assert _preload() == f"{TCMALLOC}:{OPENMP}"
    assert _preload(tcmalloc=None) == str(OPENMP)
    assert _preload(openmp=None) == str(TCMALLOC)


def test_where_nothing_is_found_nothing_is_set() -> None:
    assert _preload(tcmalloc=None, openmp=None) is None
    assert _preload("/u/libmine.so", tcmalloc=None, openmp=None) is None


def test_what_the_user_preloads_comes_first() -> None:
    assert _preload("/u/libmine.so") == f"/u/libmine.so:{TCMALLOC}:{OPENMP}"


@pytest.mark.parametrize("own", ["libjemalloc.so.2", "libtcmalloc.so.4", "libmimalloc.so"])
def test_an_allocator_of_the_users_stands(own: str) -> None:
    assert _preload(f"/u/{own}") == f"/u/{own}:{OPENMP}"


@pytest.mark.parametrize("own", ["libgomp.so.1", "libiomp5.so", "libomp.so"])
def test_an_openmp_of_the_users_stands(own: str) -> None:
    assert _preload(f"/u/{own}") == f"/u/{own}:{TCMALLOC}"


@pytest.mark.parametrize("folder", ["/a b", "/a:b"])
def test_a_path_that_the_loader_would_cut_is_left_out(folder: str) -> None:
    assert _preload(tcmalloc=Path(folder, "libtcmalloc_minimal.so.4")) == str(OPENMP)


def test_other_systems_have_no_such_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert _preload() is None


def test_tcmalloc_is_found_in_the_environments_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lib").mkdir()
    library = tmp_path / "lib" / "libtcmalloc_minimal.so.4"
    library.touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    found = preload_environment({}, find_openmp=_found(None))
    assert found == {"LD_PRELOAD": str(library)}


def test_a_machine_without_openmps_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    assert preload_environment({}, find_tcmalloc=_found(None)) == {}


def test_the_loader_takes_what_is_found_here() -> None:
    found = preload_environment({})
    told = subprocess.run(
        [sys.executable, "-S", "-c", "print(open('/proc/self/maps').read())"],
        env={**os.environ, **found},
        capture_output=True,
        check=True,
        text=True,
    )
    assert not told.stderr
    for library in filter(None, found.get("LD_PRELOAD", "").split(":")):
        assert library in told.stdout

"""The report's page in a real browser: it renders, fetches nothing, and runs nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.unit.trainer_svc.report.datasets import full_dataset
from tests.unit.trainer_svc.report.hostile import TEXTS, with_text
from tests.unit.trainer_svc.report.outline import outline
from tests.unit.trainer_svc.report.reports import full_report
from tests.unit.trainer_svc.report.test_page import SECTIONS, ids, shape
from trainer_svc.report.dataset import dataset_page
from trainer_svc.report.page import report_page

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium; `make setup` installs it where it runs as root"
)
ATTACK = '<script>document.title="owned"</script><img src="http://evil.example/x.png">'
DARK = "--blink-settings=preferredColorScheme=0"
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1000,1400"),
)
_BROWSER = "not an origin"
"""The initiator of what the browser asks for itself."""


@dataclass(frozen=True)
class Seen:
    """What the browser made of a page."""

    dom: str
    fetched: list[str]
    """Addresses that the page asked for; what the browser asks for itself is left out."""
    grey: bytes
    """The picture, row by row; 0 is black."""

    @property
    def title(self) -> str:
        return self.dom.partition("<title>")[2].partition("</title>")[0]


Browse = Callable[..., Seen]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    def browse(page: str, *flags: str) -> Seen:
        file, log, picture = (tmp_path / name for name in ("page.html", "net.json", "page.png"))
        file.write_text(page, "utf-8")
        own = (f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}")
        shown = (f"--screenshot={picture}", "--dump-dom", file.as_uri())
        ran = subprocess.run(
            [str(CHROMIUM), *_FLAGS, *own, *flags, *shown],
            capture_output=True,
            timeout=60,
            check=True,
        )
        with Image.open(picture) as opened:
            grey = opened.convert("L").tobytes()
        return Seen(ran.stdout.decode(), _fetched(json.loads(log.read_text())), grey)

    return browse


def _fetched(log: dict[str, Any]) -> list[str]:
    asked = [event.get("params") or {} for event in log["events"]]
    return [each["url"] for each in asked if each.get("initiator", _BROWSER) != _BROWSER]


def test_a_report_renders_light_and_dark_and_fetches_nothing(browse: Browse) -> None:
    page = report_page(full_report())
    light, dark = browse(page), browse(page, DARK)
    for seen in (light, dark):
        assert ids(outline(seen.dom)) == SECTIONS
        assert shape(outline(seen.dom)) == shape(outline(page))
        assert seen.fetched == []
        assert max(seen.grey) - min(seen.grey) > 150, "it is blank"
    assert light.grey[0] > 230
    assert dark.grey[0] < 40


def test_a_page_without_our_care_would_be_owned(browse: Browse) -> None:
    # What shows that the other tests can fail.
    seen = browse(f"<!DOCTYPE html><html><head><title>mine</title></head><body>{ATTACK}</body>")
    assert seen.title == "owned"
    assert seen.fetched == ["http://evil.example/x.png"]


def test_hostile_text_neither_runs_nor_fetches(browse: Browse) -> None:
    text = " ".join([*TEXTS, ATTACK])
    seen = browse(report_page(with_text(full_report(), text)))
    assert seen.title != "owned"
    assert seen.fetched == []
    harmless = outline(report_page(with_text(full_report(), "x")))
    assert shape(outline(seen.dom)) == shape(harmless)


def test_even_what_was_not_escaped_neither_runs_nor_fetches(browse: Browse) -> None:
    page = report_page(full_report()).replace("<main>", f"<main>{ATTACK}")
    seen = browse(page)
    assert "evil.example" in seen.dom
    assert seen.title == "ticket-triage: report of a version"
    assert seen.fetched == []


def test_a_dataset_s_page_renders_and_fetches_nothing(browse: Browse) -> None:
    page = dataset_page(full_dataset())
    light, dark = browse(page), browse(page, DARK)
    for seen in (light, dark):
        assert ids(outline(seen.dom)) == ids(outline(page))
        assert shape(outline(seen.dom)) == shape(outline(page))
        assert seen.fetched == []
        assert max(seen.grey) - min(seen.grey) > 150, "it is blank"
    assert light.grey[0] > 230
    assert dark.grey[0] < 40


def test_hostile_text_of_a_dataset_neither_runs_nor_fetches(browse: Browse) -> None:
    seen = browse(dataset_page(full_dataset(" ".join([*TEXTS, ATTACK]))))
    assert seen.title == "tickets: report on a dataset"
    assert seen.fetched == []
    assert shape(outline(seen.dom)) == shape(outline(dataset_page(full_dataset("x"))))

"""The console in a real Chromium: it works, by its own policy and whatever its users have written.

TAILORBIRD_PICTURES=docs/pictures makes the pictures of docs/console.md anew:

    TAILORBIRD_PICTURES=docs/pictures python -m pytest tests/integration/console/test_in_browser.py
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.console.browser import Tab, browser
from tests.integration.console.conftest import Site
from tests.integration.console.test_pages import ATTACK, PAGES
from tests.integration.console.world import TOKEN, VERSIONS, World

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium; `make setup` installs it where it runs as root"
)
TENANT = "/tenants/acme"
_MAX_PICTURE_BYTES = 150_000


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(str(CHROMIUM), tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def at(tab: Tab, site: Site) -> Iterator[str]:
    """Where the console is; afterwards the browser has asked nobody else, and said nothing."""
    tab.said.clear()
    tab.asked.clear()
    address = f"http://127.0.0.1:{site.port}"
    tab.look(1180, 860)
    yield address
    tab.go("about:blank")
    assert [one for one in tab.asked if not one.startswith((address, "about:"))] == []


def test_a_person_signs_in_looks_promotes_and_signs_out(tab: Tab, at: str, world: World) -> None:
    world.token = TOKEN
    tab.go(f"{at}{TENANT}/adapters/support")
    assert "Sign in" in tab.text()
    assert tab.run("document.getElementById('tenant').value") == "acme"
    tab.fill("#token", TOKEN)
    tab.click("button.primary")
    assert tab.run("location.pathname") == f"{TENANT}/adapters/support"
    assert TOKEN not in tab.run("document.documentElement.outerHTML")
    assert tab.run("document.cookie") == ""
    tab.click("tbody th a")
    assert tab.run("location.pathname") == f"/{VERSIONS[0]}"
    tab.press("details.sure summary")
    tab.click("details.sure button")
    assert tab.run("location.pathname") == f"{TENANT}/adapters/support"
    assert "PromoteRequest" in [type(request).__name__ for request in world.requests]
    tab.click(".who button")
    tab.go(f"{at}{TENANT}/jobs")
    assert "Sign in" in tab.text()
    assert tab.said == []


def test_a_job_s_page_follows_it_to_its_end(tab: Tab, at: str, world: World) -> None:
    tab.go(f"{at}{TENANT}/jobs/support-1121")
    tab.until("document.getElementById('live-said').textContent.includes('follows')")
    assert tab.run("document.querySelectorAll('svg polyline').length") == 4
    assert "running" in tab.text()
    world.more.set()
    tab.until("document.getElementById('live-said').textContent.includes('ended')")
    assert "succeeded" in tab.text()
    assert "step\n240 of 240" in tab.text()
    assert tab.said == []


def test_a_job_s_page_that_nobody_sees_holds_no_connection(tab: Tab, at: str, world: World) -> None:
    tab.go(f"{at}{TENANT}/jobs/support-1121")
    tab.until("document.getElementById('live-said').textContent.includes('follows')")
    # What the page itself has asked for is over; the watch is not.
    world.left.clear()
    show = (
        "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    tab.run(show.format("true"))
    assert world.left.wait(30), "the watch goes on"
    world.more.set()
    tab.run(show.format("false"))
    tab.until("document.getElementById('live-said').textContent.includes('ended')")
    assert "succeeded" in tab.text()
    assert tab.said == []


def test_two_answers_come_side_by_side_and_are_text(tab: Tab, at: str, world: World) -> None:
    world.text = ["<b>Good</b> ", ATTACK]
    tab.go(f"{at}{TENANT}/chat?left=support&right=base")
    tab.fill("#text", ATTACK)
    tab.press("#send")
    tab.until("document.querySelectorAll('.answer .from').length === 2")
    assert tab.run("document.querySelectorAll('.answer b, .answer img, .asked img').length") == 0
    assert tab.text().count("<b>Good</b>") == 2
    assert tab.run("document.title") == "Chat · Tailorbird"
    tab.until("!document.getElementById('send').disabled")
    tab.fill("#text", "And now?")
    tab.press("#send")
    tab.until("document.querySelectorAll('.answer .from').length === 4")
    asked = [one for one in world.requests if type(one).__name__ == "StreamGenerateRequest"]
    assert [len(one.request.chat.messages) for one in asked] == [1, 1, 3, 3]
    assert tab.said == []


def test_a_file_is_uploaded(tab: Tab, at: str, world: World) -> None:
    tab.go(f"{at}{TENANT}/datasets")
    tab.fill("#dataset_id", "chats")
    tab.run(
        "(() => { const some = new DataTransfer(); some.items.add(new File(['{}\\n'], 'x.jsonl'));"
        " document.getElementById('file').files = some.files; })()"
    )
    tab.click("form.stack button")
    assert tab.run("location.pathname") == f"{TENANT}/datasets/chats"
    assert bytes(world.uploaded) == b"{}\n"
    assert tab.said == []


def test_what_users_wrote_does_not_run(tab: Tab, at: str, world: World) -> None:
    world.__init__(ATTACK)  # type: ignore[misc]  # the same services, with other words
    for path in PAGES:
        tab.go(f"{at}{path}")
        assert tab.run("document.title") != "owned"
        assert tab.run("document.querySelectorAll('main img').length") == 0
    assert [one for one in tab.said if "report" not in one] == []


def test_even_what_was_not_escaped_does_not_run(tab: Tab, at: str) -> None:
    # What shows that the other tests can fail, and that the policy is a second wall.
    tab.go(f"{at}{TENANT}/jobs")
    tab.run(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{textContent: 'document.title = \"owned\"'}))"
    )
    tab.run("document.body.insertAdjacentHTML('beforeend', '<img src=/nothing onerror=\"x()\">')")
    tab.until("document.querySelector('body > img:last-child').complete")
    assert tab.run("document.title") == "Jobs of acme · Tailorbird"
    assert any("Content Security Policy" in one for one in tab.said)


@pytest.mark.parametrize("path", [f"/{VERSIONS[0]}/report", f"{TENANT}/datasets/invoices/report"])
def test_a_report_runs_nothing_and_has_no_origin(
    tab: Tab, at: str, world: World, path: str
) -> None:
    world.__init__(ATTACK)  # type: ignore[misc]
    tab.go(f"{at}{path}")
    assert tab.run("document.title") != "owned"
    assert tab.run("self.origin") == "null"


def test_pages_read_without_a_script_and_on_a_phone(
    tmp_path: Path, site: Site, world: World
) -> None:
    with browser(str(CHROMIUM), tmp_path) as tab:
        tab.without_script()
        tab.look(390, 780)
        for path, shown in PAGES.items():
            tab.go(f"http://127.0.0.1:{site.port}{path}")
            assert shown in tab.text() or path == f"{TENANT}/residency"
            wide = "document.documentElement.scrollWidth"
            assert tab.run(wide) <= 390, f"{path} is wider than a phone"


SHOTS = {
    "console_jobs": (f"{TENANT}/jobs", False),
    "console_job": (f"{TENANT}/jobs/support-1121", False),
    "console_adapter": (f"{TENANT}/adapters/support", True),
    "console_chat": (f"{TENANT}/chat?left=support&right=base", False),
}


@pytest.mark.parametrize("name", SHOTS)
def test_a_page_is_drawn_light_and_dark(
    tab: Tab, at: str, world: World, name: str, tmp_path: Path
) -> None:
    path, is_dark = SHOTS[name]
    world.text = ["Your order left our warehouse this morning, ", "and should arrive on Thursday."]
    for dark in (not is_dark, is_dark):
        tab.look(1180, 860, dark=dark)
        tab.go(f"{at}/sign-in")
        tab.click("button.primary")
        tab.go(f"{at}{path}")
        if "/jobs/" in path:
            tab.until("document.getElementById('live-said').textContent.includes('follows')")
        if "chat" in path:
            tab.fill("#text", "Where is my order?")
            tab.press("#send")
            tab.until("document.querySelectorAll('.answer .from').length === 2")
        picture = tmp_path / f"{name}.png"
        picture.write_bytes(tab.picture())
        with Image.open(picture) as opened:
            grey = opened.convert("L")
            assert (grey.getpixel((4, 800)) < 60) is dark  # type: ignore[operator]
            low, high = grey.getextrema()
            assert high - low > 150, "it is blank"  # type: ignore[operator]
            small = opened.convert("RGB").quantize(128)
            small.save(picture, optimize=True)
    assert picture.stat().st_size < _MAX_PICTURE_BYTES
    if folder := os.environ.get("TAILORBIRD_PICTURES"):
        shutil.copy(picture, Path(folder) / picture.name)

"""Every page: what it shows, what it may do, and that nothing of a user's becomes a part of it."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from tailorbird.console.config import Config
from tailorbird.console.guard import POLICY, REPORT_POLICY
from tailorbird.errors import FailedPrecondition
from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning_pb
from tests.integration.console.conftest import Site, Start
from tests.integration.console.world import VERSIONS, World

TENANT = "/tenants/acme"
VERSION = f"/{VERSIONS[0]}"
PAGES = {
    "/sign-in": "Sign in",
    f"{TENANT}/jobs": "support-1121",
    f"{TENANT}/jobs?state=running&adapter=support": "support-1121",
    f"{TENANT}/jobs/support-1121": "support-tickets",
    f"{TENANT}/datasets": "support-heldout",
    f"{TENANT}/datasets/invoices": "DUPLICATE_RECORDS",
    f"{TENANT}/adapters": "support",
    f"{TENANT}/adapters/support": "Split the traffic",
    VERSION: "label accuracy",
    f"{TENANT}/residency": "serving-0",
    f"{TENANT}/chat?left=support&right=base": "Who answers",
}
ATTACK = (
    "</style></title></textarea>'\"><script>document.title='owned'</script><img src=x onerror=1>"
)


class _Outline(HTMLParser):
    """What a page is made of: its elements, with the attributes that could act."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.acting: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.acting += [name for name, _ in attrs if name.startswith("on") or name == "style"]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_shows_what_it_is_about_and_may_run_nothing_of_its_own(
    site: Site, path: str
) -> None:
    answer = site.get(path)
    assert answer.status == 200
    assert PAGES[path] in answer.text
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    outline = _Outline(answer.text)
    assert outline.acting == []
    assert outline.tags.count("h1") == 1
    assert outline.tags.count("script") == 1


@pytest.mark.parametrize("path", PAGES)
def test_what_users_wrote_is_text_on_every_page(
    services: str, start: Start, world: World, path: str
) -> None:
    site = start(Config(trainer=services, serving=services))
    harmless = _Outline(site.get(path).text)
    world.__init__(ATTACK)  # type: ignore[misc]  # the same services, with other words
    hostile = site.get(path)
    outline = _Outline(hostile.text)
    assert "<script>document" not in hostile.text
    assert outline.acting == []
    assert {*outline.tags} <= {*harmless.tags, "p"}
    assert "img" not in outline.tags[outline.tags.index("main") :]


def test_an_answer_with_html_is_text(site: Site, world: World) -> None:
    world.text = ["<b>Good</b> ", ATTACK]
    fields = {"left": "support", "right": "base", "text": ATTACK}
    answer = site.post(f"{TENANT}/chat", fields)
    assert answer.status == 200
    assert "&lt;b&gt;Good&lt;/b&gt;" in answer.text
    assert "<script>document" not in answer.text
    tags = _Outline(answer.text).tags
    assert "img" not in tags[tags.index("main") :]
    lines = site.post(f"{TENANT}/chat/answer", {**fields, "side": "left"}).text.splitlines()
    assert [json.loads(line).get("text") for line in lines][:2] == world.text


@pytest.mark.parametrize("path", [f"{TENANT}/datasets/invoices/report", f"{VERSION}/report"])
def test_a_report_is_a_page_of_no_origin(site: Site, path: str) -> None:
    answer = site.get(path)
    assert "weekly batch" in answer.text
    assert answer.headers["content-security-policy"] == REPORT_POLICY
    assert REPORT_POLICY.startswith("sandbox;")
    assert "script-src" not in REPORT_POLICY


def test_a_page_of_jobs_is_the_one_that_was_asked_for(site: Site, world: World) -> None:
    first = site.get(f"{TENANT}/jobs?state=failed&adapter=support")
    assert world.requests[-1] == tuning_pb.ListJobsRequest(
        parent="tenants/acme",
        page_size=25,
        state=job_pb2.JOB_STATE_FAILED,
        adapter="tenants/acme/adapters/support",
    )
    assert "?state=failed&amp;adapter=support&amp;page=more%26rows" in first.text
    second = site.get(f"{TENANT}/jobs?state=failed&page=more%26rows")
    assert world.requests[-1].page_token == "more&rows"
    assert "First page" in second.text


def test_a_job_has_its_curves_its_data_and_its_events(site: Site) -> None:
    page = site.get(f"{TENANT}/jobs/support-1121").text
    assert page.count("<polyline") == 4
    assert 'aria-label="Loss: training from' in page
    assert "2,388 of 2,400" in page
    assert "FEW_RECORDS" in page
    assert "150 / 240" not in page
    assert "step 150 of 240" in page


def test_a_job_has_its_past_where_the_trainer_s_clock_is_ahead(site: Site, world: World) -> None:
    for event in world.events:
        event.time.seconds += 100 * 365 * 86_400
    page = site.get(f"{TENANT}/jobs/support-1121").text
    assert page.count("<polyline") == 4
    assert "FEW_RECORDS" in page


@pytest.mark.parametrize("what", ["cancel", "pause", "resume", "delete"])
def test_a_job_can_be_stopped_and_let_go_on(site: Site, world: World, what: str) -> None:
    answer = site.post(f"{TENANT}/jobs/support-1121/{what}")
    assert answer.status == 303
    assert type(world.requests[-1]).__name__ == f"{what.capitalize()}JobRequest"
    assert world.requests[-1].name == "tenants/acme/jobs/support-1121"


def test_a_version_can_be_promoted_and_rolled_back_and_share_the_traffic(
    site: Site, world: World
) -> None:
    assert site.post(f"{VERSION}/promote").headers["location"] == f"{TENANT}/adapters/support"
    assert world.requests[-1].name == VERSIONS[0]
    assert site.post(f"{TENANT}/adapters/support/rollback").status == 303
    assert type(world.requests[-1]).__name__ == "RollbackRequest"
    ids = [name.rpartition("/")[2] for name in VERSIONS]
    fields = [("generation", "3"), ("version", ids[0]), ("weight", "30"), ("version", ids[1])]
    assert site.post(f"{TENANT}/adapters/support/split", [*fields, ("weight", "0")]).status == 303
    asked = world.requests[-1]
    assert [(one.version, one.weight) for one in asked.versions] == [(VERSIONS[0], 30)]
    assert asked.expected_generation == 3


@pytest.mark.parametrize(
    ("weight", "said"), [("1.5", "1.5"), ("1001", "1001"), ("9" * 5000, "999"), ("0", "above 0")]
)
def test_a_weight_that_is_none_is_named(site: Site, weight: str, said: str) -> None:
    fields = {"version": "x", "weight": weight}
    answer = site.post(f"{TENANT}/adapters/support/split", fields)
    assert answer.status == 400
    assert said in answer.text


def test_a_dataset_can_be_deleted(site: Site, world: World) -> None:
    assert site.post(f"{TENANT}/datasets/invoices/delete").status == 303
    assert world.requests[-1].name == "tenants/acme/datasets/invoices"


def test_two_sides_are_asked_the_same_each_with_its_own_past(site: Site, world: World) -> None:
    history = json.dumps([{"text": "Hi", "left": "Hello.", "right": "Yes?"}])
    version = VERSIONS[1].rpartition("/")[2]
    fields = {"left": f"support@{version}", "right": "base", "text": "More", "history": history}
    answer = site.post(f"{TENANT}/chat", {**fields, "system": "Be kind.", "temperature": "0.5"})
    assert answer.text.count("Good morning.") >= 2
    asked = {
        request.WhichOneof("model"): request
        for request in world.requests
        if type(request).__name__ == "GenerateRequest"
    }
    assert asked["adapter"].version == version
    said = [message.content for message in asked["adapter"].chat.messages]
    assert said == ["Be kind.", "Hi", "Hello.", "More"]
    assert [message.content for message in asked["parent"].chat.messages][2] == "Yes?"
    assert asked["parent"].sampling.temperature == 0.5


def test_an_error_says_code_reason_field_and_what_to_do(site: Site, world: World) -> None:
    world.error = FailedPrecondition("job one has ended: succeeded", reason="JOB_NOT_PAUSABLE")
    answer = site.post(f"{TENANT}/jobs/support-1121/pause")
    assert answer.status == 409
    for word in ("FAILED_PRECONDITION", "JOB_NOT_PAUSABLE", "has ended", "Nothing was changed"):
        assert word in answer.text
    world.error = None
    field = site.get(f"{TENANT}/jobs?state=sleeping")
    assert field.status == 400
    assert "INVALID_ARGUMENT" in field.text
    assert '<dt dir="auto">state</dt>' in field.text


def test_a_service_that_is_down_is_said_to_be_with_a_way_to_try_again(start: Start) -> None:
    site = start(Config(trainer="127.0.0.1:1", serving="127.0.0.1:1"))
    for path in (f"{TENANT}/jobs", f"{TENANT}/adapters", f"{TENANT}/jobs/one"):
        answer = site.get(path)
        assert answer.status == 503
        assert "A service does not answer" in answer.text
        assert f'href="{path}">Try again' in answer.text
    done = site.post(f"{TENANT}/jobs/one/cancel")
    assert done.status == 503
    assert "Try again" not in done.text, "a link leads to no form"
    assert site.get("/livez").status == site.get("/readyz").status == 200


def test_what_is_not_there_is_404(site: Site) -> None:
    assert site.get(f"{TENANT}/nothing").status == 404
    assert site.get(f"{TENANT}/jobs/").status == 404
    assert site.get(f"{TENANT}/jobs/missing").status == 404
    assert site.get("/static/../app.py").status == 404
    assert site.get("/tenants/UPPER/jobs").status == 400


@pytest.mark.parametrize(
    "history",
    [
        "no JSON",
        "[7]",
        '[{"left": "x"}]',
        '[{"text": 1}]',
        '[{"text": "\\ud800", "left": "x"}]',
        json.dumps([{"text": "x"}] * 51),
        "[" * 100_000,
    ],
)
def test_a_past_that_the_page_has_not_sent_is_named(site: Site, history: str) -> None:
    fields = {"left": "support", "text": "Hello", "history": history}
    answer = site.post(f"{TENANT}/chat", fields)
    assert answer.status == 400
    assert '<dt dir="auto">history</dt>' in answer.text

"""`tailorbird chat`, from a pipe and on a terminal: whom it asks, what it says, how it ends."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tailorbird import errors
from tailorbird.serving.v1 import inference_service_pb2 as serving_pb
from tests.integration.scripted_services import ADAPTER, VERSIONS, Script, serve
from tests.integration.test_cli import Ran, Run, run, stdin

__all__ = ["run"]

NEW, OLD = (name.rpartition("/")[2] for name in VERSIONS)
Say = Callable[..., Ran]


@pytest.fixture
def say(run: Run, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Chat from a pipe: the lines, and then its options."""

    def say(lines: str | bytes, *options: str) -> Ran:
        data = lines if isinstance(lines, bytes) else lines.encode()
        monkeypatch.setattr(sys, "stdin", stdin(data))
        return run("chat", *options)

    return say


def _asked(script: Script) -> list[serving_pb.GenerateRequest]:
    return [each.request for each in script.requests if hasattr(each, "request")]


def _said(request: serving_pb.GenerateRequest) -> list[str]:
    return [message.content for message in request.chat.messages]


def test_a_chat_goes_on_from_what_was_said(say: Say, script: Script) -> None:
    ran = say(
        "Hello?\n\nAnd now?\n", "--adapter", "support", "--system", "Be kind.", "--max-tokens", "9"
    )
    assert (ran.status, ran.out, ran.err) == (0, "Good morning.\n" * 2, "")
    first, second = _asked(script)
    assert (first.adapter, first.version, first.sampling.max_tokens) == (ADAPTER, "", 9)
    assert _said(first) == ["Be kind.", "Hello?"]
    assert _said(second) == ["Be kind.", "Hello?", "Good morning.", "And now?"]
    assert [message.role for message in second.chat.messages] == [
        serving_pb.ROLE_SYSTEM,
        serving_pb.ROLE_USER,
        serving_pb.ROLE_ASSISTANT,
        serving_pb.ROLE_USER,
    ]
    # Of several versions behind a route, one answers all of it.
    assert first.routing_key == second.routing_key != ""


def test_who_answers_and_how_is_changed_on_the_way(say: Say, script: Script) -> None:
    ran = say(
        f"a\n/adapter support\nb\n/version {OLD}\nc\n/version route\nd\n/adapter support@{NEW}\ne\n"
        "/base\nf\n/temperature 0.5\n/max-tokens 7\n/system Be brief.\ng\n"
        "/temperature\n/max-tokens\n/system\n/reset\nh\n"
    )
    assert (ran.status, ran.err) == (0, "")
    asked = _asked(script)
    assert [(each.adapter or each.parent, each.version) for each in asked] == [
        ("tenants/acme", ""),
        (ADAPTER, ""),
        (ADAPTER, OLD),
        (ADAPTER, ""),
        (ADAPTER, NEW),
        *[("tenants/acme", "")] * 3,
    ]
    g, h = asked[-2:]
    assert (g.sampling.temperature, g.sampling.max_tokens, _said(g)[0]) == (0.5, 7, "Be brief.")
    assert (h.sampling, _said(h)) == (serving_pb.SamplingParameters(), ["h"])
    assert h.routing_key != g.routing_key
    assert _said(asked[1]) == ["a", "Good morning.", "b"]


def test_two_are_compared(say: Say, script: Script) -> None:
    ran = say(f"a\n/compare support@{OLD} base\nb\nc\n/compare\nd\n", "--adapter", "support")
    assert ran.status == 0, ran.err
    answer = "Good morning.\n"
    both = f"[support@{OLD}]\n{answer}[base]\n{answer}"
    assert ran.out == answer + both * 2 + answer
    asked = _asked(script)
    assert [each.version for each in asked] == ["", OLD, "", OLD, "", OLD]
    assert [each.parent for each in asked] == ["", "", "tenants/acme", "", "tenants/acme", ""]
    assert _said(asked[2]) == ["a", "Good morning.", "b"]
    assert [said for said in _said(asked[-1]) if said != "Good morning."] == ["a", "b", "c", "d"]


def test_a_version_s_id_alone_is_of_the_present_adapter(say: Say, script: Script) -> None:
    assert say(f"/compare {NEW} {VERSIONS[1]}\nb\n", "--adapter", ADAPTER).status == 0
    assert [each.version for each in _asked(script)] == [NEW, OLD]
    ran = say(f"/compare {NEW} base\n")
    assert ran.err.startswith(f"error: version: {NEW}: of which adapter? say ADAPTER@{NEW}")


def test_what_there_is_is_listed(say: Say) -> None:
    ran = say("/adapter\n/adapter support\n/version\n/help\n")
    lines = ran.out.splitlines()
    assert lines[1].split() == ["support", OLD]
    assert [line.split()[0] for line in lines[3:5]] == [NEW, OLD]
    assert "/compare [A B]" in ran.out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/adaptor x", "error: /adaptor: is no command; did you mean /adapter?"),
        ("/", "error: /: is no command; /help lists them"),
        ("/adapter none", "error: NOT_FOUND tenants/acme/adapters/none does not exist"),
        ("/version 3", "error: /version: the base model has none; choose an /adapter first"),
        ("/temperature warm", "error: /temperature: 'warm' is not between 0 and 2"),
        ("/temperature 3", "error: /temperature: '3' is not between 0 and 2"),
        ("/max-tokens 0", "error: /max-tokens: '0' is not a number of tokens, at least 1"),
        ("/compare base", "error: /compare: two are compared, 1 are named"),
    ],
)
def test_a_command_that_cannot_be_done_changes_nothing(
    say: Say, script: Script, line: str, said: str
) -> None:
    ran = say(f"{line}\nstill there?\n")
    assert ran.status == (3 if "NOT_FOUND" in said else 2)
    assert ran.err.startswith(said)
    assert ran.err.count("\n") == 1
    (asked,) = _asked(script)
    assert (asked.parent, _said(asked)) == ("tenants/acme", ["still there?"])


def test_a_line_may_begin_with_a_slash_and_go_on_in_the_next(say: Say, script: Script) -> None:
    assert say("//etc/passwd\\\nand more\\\n/quit\nno\\").status == 0
    assert [_said(each)[-1] for each in _asked(script)] == ["/etc/passwd\nand more\n/quit", "no"]


def test_a_chat_ends_where_it_is_told_to(say: Say, script: Script) -> None:
    assert say("a\n/quit\nb\n").status == 0
    assert len(_asked(script)) == 1


def test_an_answer_that_fails_is_no_part_of_the_chat(say: Say, script: Script) -> None:
    script.error = errors.ResourceExhausted("too many", quota="requests", subject="tenants/acme")
    ran = say("a\nb\n")
    assert (ran.status, ran.out, ran.err.count("RESOURCE_EXHAUSTED")) == (7, "", 2)
    assert [_said(each) for each in _asked(script)] == [["a"], ["b"]]


def test_what_is_not_utf_8_is_one_line(say: Say, script: Script) -> None:
    ran = say(b"a\xff\nb\n")
    assert (ran.status, ran.err) == (2, "error: text: byte 2 is not UTF-8\n")
    assert [_said(each) for each in _asked(script)] == [["b"]]


def test_a_version_needs_its_adapter(say: Say) -> None:
    assert say("", "--version", NEW).status == 2


class Terminal:
    """`tailorbird chat` on a terminal of its own."""

    def __init__(self, port: int, *options: str) -> None:
        self._main, side = pty.openpty()
        environment = {
            **os.environ, "TAILORBIRD_SERVING": f"localhost:{port}", "TAILORBIRD_TENANT": "acme",
            "TERM": "xterm", "COLUMNS": "80", "LINES": "24",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tailorbird.cli", "chat", *options],
            stdin=side, stdout=side, stderr=side, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(side)
        self.seen = ""

    def wait_for(self, text: str) -> str:
        """Return what was shown up to `text`, which has not been returned before."""
        while text not in self.seen:
            try:
                data = os.read(self._main, 4096)
            except OSError:
                data = b""
            assert data, f"{text!r} did not come: {self.seen}"
            self.seen += data.decode()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._main)


@pytest.fixture
def terminal(script: Script) -> Iterator[Terminal]:
    server, port = serve(script)
    terminal = Terminal(port, "--adapter", "support")
    yield terminal
    script.go_on.set()
    terminal.close()
    server.stop(None).wait()


def test_ctrl_c_stops_the_answer_and_not_the_chat(terminal: Terminal, script: Script) -> None:
    terminal.wait_for("support> ")
    script.go_on.clear()
    terminal.type("Hello?\n")
    terminal.wait_for("Good ")
    terminal.interrupt()
    terminal.wait_for("stopped")
    script.go_on.set()
    assert script.cancelled.wait(30)
    terminal.wait_for("support> ")
    # readline may not wait yet, and would not be woken by the signal alone.
    terminal.interrupt()
    terminal.type("\n")
    terminal.wait_for("/quit ends")
    terminal.type("Again?\n")
    assert "Good morning." in terminal.wait_for(f"{NEW} · 2 tokens")
    terminal.wait_for("support> ")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0
    assert _said(_asked(script)[1]) == ["Hello?", "Good ", "Again?"]


def test_two_answers_stand_side_by_side(terminal: Terminal, script: Script) -> None:
    script.text = ["Good\x1b[2J ", "morning."]
    terminal.wait_for("support> ")
    terminal.type("/compare support base\n")
    terminal.wait_for("support | base> ")
    terminal.type("Hello?\n")
    shown = terminal.wait_for("the base model · 2 tokens")
    assert "Good\\x1b[2J morning." in shown
    shown += terminal.wait_for("support | base> ")
    (answers,) = {line for line in shown.splitlines() if line.count("morning.") == 2}
    assert answers.index("morning.") < 40 < answers.rindex("morning.")
    terminal.type("/quit\n")
    assert terminal.process.wait(30) == 0

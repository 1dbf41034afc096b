"""What libraries print, as records."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import logging, sys, traceback, warnings
from tailorbird.printed import PlainStderr, log_as_the_parent
from tailorbird.telemetry import log_formatter
log_as_the_parent()
log_as_the_parent()
sys.stderr.write("half a ")
sys.stderr.write("line\\n10%\\r20%\\r\\n\\n")
warnings.warn("careful")
try:
    raise ValueError("as a process ends")
except ValueError:
    traceback.print_exc()
handler = PlainStderr()
handler.setFormatter(log_formatter(console=False))
logging.getLogger().handlers = [handler]
logging.getLogger("library").error("configured anew")
sys.stderr.flush()
assert not sys.stderr.isatty() and sys.stderr.fileno() == 2 and sys.stderr.encoding
raise RuntimeError("nobody catches it")
"""


def test_each_line_is_a_record_where_logs_are_json() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={"TAILORBIRD_LOG_FORMAT": "json", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[:3] == ["half a line", "10%", "20%"]
    assert "configured anew" in events
    for text in ("careful", "ValueError: as a process ends", "RuntimeError: nobody catches it"):
        assert any(text in event for event in events), text


def test_people_read_what_is_printed_as_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={"TAILORBIRD_LOG_FORMAT": "console", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "half a line\n10%\n20%" in done.stderr


def test_a_log_that_cannot_be_written_is_not_complained_of_for_ever() -> None:
    code = """
import logging, os, sys
from tailorbird.printed import log_as_the_parent
log_as_the_parent()
os.close(2)
sys.stderr.write("to nobody\\n")
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"TAILORBIRD_LOG_FORMAT": "json", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0


def test_nothing_is_lost_of_lines_that_do_not_end_or_come_from_many_threads() -> None:
    code = """
import sys
from threading import Thread
from tailorbird.printed import log_as_the_parent
log_as_the_parent()
sys.setswitchinterval(1e-6)
def work(number):
    for step in range(300):
        sys.stderr.write(f"<{number}.{step}>\\n")
threads = [Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
for _ in range(3000):
    sys.stderr.write("." * 100)
sys.stderr.write("the last words")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"TAILORBIRD_LOG_FORMAT": "json", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    printed = sorted(event for event in events if event.startswith("<"))
    assert printed == sorted(f"<{number}.{step}>" for number in range(4) for step in range(300))
    dots = [event for event in events if event.startswith(".")]
    assert len(dots) > 3
    assert "".join(dots) == "." * 300_000 + "the last words"

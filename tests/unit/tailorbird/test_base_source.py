"""What is wrong with a base's name, told in one sentence; the hub is one of our own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from tailorbird.base_model import load_base_model
from tailorbird.base_source import check_base_source
from tailorbird.doctor.base import base_model
from tailorbird.doctor.finding import Status
from tailorbird.errors import InvalidArgument


class Hub(BaseHTTPRequestHandler):
    """Has org/model, org/huge, org/gated for nobody, org/pickled in another format, no more."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/org/model/revision/"):
            self._answer(404, {}, "RevisionNotFound")
        elif self.path.startswith("/api/models/org/model"):
            self._answer(200, files("config.json", "model.safetensors", "tf_model.h5"))
        elif self.path.startswith("/api/models/org/huge"):
            self._answer(200, files("config.json", "model.safetensors", size=2**60))
        elif self.path.startswith("/api/models/org/pickled"):
            self._answer(200, files("config.json", "pytorch_model.bin"))
        elif self.path.startswith("/api/models/org/gated"):
            self._answer(403, {}, "GatedRepo")
        else:
            self._answer(404, {}, "RepoNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, content: object, error: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def files(*names: str, size: int = 1000) -> dict[str, object]:
    return {"id": "org/x", "siblings": [{"rfilename": name, "size": size} for name in names]}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with models/llama, a base, and notes.txt."""
    folder = tmp_path / "here"
    (folder / "models" / "llama").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / "models" / "llama" / name).touch()
    (folder / "models" / "empty").mkdir()
    (folder / "notes.txt").touch()
    monkeypatch.chdir(folder)
    return folder


def problem(model: str) -> str:
    with pytest.raises(InvalidArgument) as refused:
        check_base_source(model)
    assert refused.value.field == "base_model"
    return refused.value.description


def test_a_folder_with_a_base_needs_nothing_fetched() -> None:
    assert check_base_source("models/llama") is None


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("./models/lama", "there is no folder ./models/lama: did you mean models/llama?"),
        ("../here/model/llama/", "no folder ../here/model/llama/: did you mean ../here/models/ll"),
        ("/nowhere/at/all", "there is no folder /nowhere/at/all: check the path"),
        ("models/llama/7b", "no folder models/llama/7b: check the path"),
        ("~/of-nobody", "there is no folder ~/of-nobody: check the path"),
        ("notes.txt", "notes.txt is a file: name the folder with the model's"),
        ("models/empty", "models/empty holds no config.json with *.safetensors beside it: name"),
    ],
)
def test_what_can_only_be_a_folder_is_told_without_the_hub(model: str, told: str) -> None:
    assert told in problem(model)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("org/none", "no folder org/none here, and no model of that name on the Hugging Face hub"),
        ("models/lama", "(did you mean models/llama?), and no model of that name on the Hugging"),
        ("org/none", "check the name; for a private model set HF_TOKEN"),
        ("org/gated", "gives org/gated only to those who accepted its conditions: do so"),
        ("org/model@v9", "org/model on the Hugging Face hub has no revision v9"),
        ("org/pickled", "org/pickled on the Hugging Face hub has no config.json with *.safet"),
        ("what is it", "no folder what is it here, and that is no Hugging Face id, which is like"),
    ],
)
def test_what_the_hub_does_not_have_is_told(model: str, told: str) -> None:
    assert told in problem(model)


@pytest.mark.usefixtures("hub")
def test_what_the_hub_has_is_measured_by_the_files_that_are_fetched(tmp_path: Path) -> None:
    found = check_base_source("org/model")
    assert found is not None
    assert (found.id, found.bytes) == ("org/model", 2000)
    assert found.folder == tmp_path / "hub" / "models--org--model"


@pytest.mark.usefixtures("hub")
def test_without_a_way_to_the_hub_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    told = problem("org/none")
    assert "and the Hugging Face hub cannot be asked for a model of that name (Conn" in told
    assert told.endswith("name a folder, or go online")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids to fetch one: name a folder, or unset it" in problem("org/none")


@pytest.mark.usefixtures("hub")
def test_services_say_the_same_when_the_fetch_fails(tmp_path: Path) -> None:
    for model in ("org/none", "./models/lama"):
        with pytest.raises(InvalidArgument) as refused:
            load_base_model(model, tmp_path / "cache")
        assert refused.value.description == problem(model)


@pytest.mark.usefixtures("hub")
def test_doctor_says_of_the_hub_s_what_is_to_be_fetched_and_whether_there_is_room(
    tmp_path: Path,
) -> None:
    (found,) = base_model("org/model")
    assert found.status is Status.OK
    assert found.found.startswith("org/model is fetched at the first start: 0.0 GiB to ")
    (found,) = base_model("org/huge")
    assert (found.status, found.advice) == (
        Status.FAILED, "make room, or set HF_HOME to a larger disk"
    )  # fmt: skip
    (found,) = base_model("org/none")
    assert (found.status, found.advice) == (
        Status.FAILED, "check the name; for a private model set HF_TOKEN"
    )  # fmt: skip
    kept = tmp_path / "hub" / "models--org--model"
    (kept / "snapshots" / "abc").mkdir(parents=True)
    (kept / "snapshots" / "abc" / "config.json").touch()
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    (found,) = base_model("org/model")
    assert (found.status, "in the Hugging Face cache" in found.found) == (Status.OK, True)

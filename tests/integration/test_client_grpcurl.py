"""The grpcurl lines in examples/clients: their methods and requests, sent without grpcurl."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory

from tests.integration.scripted_services import VERSIONS, Script
from tests.node import ROOT
from tools.protos_dist import files

README = (ROOT / "examples" / "clients" / "README.md").read_text(encoding="utf-8")
LINES = re.findall(
    r"^grpcurl \$(\w+) .*?-d '(.*?)' \\\n +localhost:(\d+) (\S+)/(\S+)$", README, re.M | re.S
)


def test_every_line_is_found() -> None:
    assert len(LINES) == README.count("\ngrpcurl $") == 5


@pytest.mark.parametrize(("protos", "body", "port_of", "service", "method"), LINES)
def test_a_line_asks_what_the_services_know(
    port: int, script: Script, protos: str, body: str, port_of: str, service: str, method: str
) -> None:
    script.text = ["5"]
    found = re.search(rf'^{protos}="\$protos -proto (\S+)"$', README, re.M)
    assert found
    assert found[1] in files(), "the archive has the proto"
    pool = descriptor_pool.Default()
    described = pool.FindFileByName(found[1]).services_by_name[service.rpartition(".")[2]]
    rpc = described.methods_by_name[method]
    assert service == described.full_name
    assert port_of == ("50051" if "tuning" in service else "50052")
    kind: Any = message_factory.GetMessageClass(rpc.input_type)
    answer: Any = message_factory.GetMessageClass(rpc.output_type)
    requests = [json_format.ParseDict(one, kind()) for one in _objects(body)]
    if method == "Promote":
        requests[0].name = VERSIONS[0]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        open_method = channel.stream_stream(
            f"/{service}/{method}",
            request_serializer=kind.SerializeToString,
            response_deserializer=answer.FromString,
        )
        answers = list(open_method(iter(requests), timeout=10))
    assert answers or method == "WatchJob"
    assert len(requests) == (2 if rpc.client_streaming else 1)


def test_the_chunk_is_the_record_that_is_named() -> None:
    (chunk,) = re.findall(r'"chunk": "([^"]+)"', README)
    (record,) = re.findall(r"chunk below is `(.+)`", README)
    assert base64.b64decode(chunk).decode() == record + "\n"


def _objects(body: str) -> list[Any]:
    """Return the JSON objects that stand one after the other, as grpcurl reads them."""
    decoder, found, body = json.JSONDecoder(), [], body.strip()
    while body:
        value, end = decoder.raw_decode(body)
        found.append(value)
        body = body[end:].lstrip()
    return found

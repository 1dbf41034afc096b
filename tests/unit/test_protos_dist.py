"""The protos' archive: complete, the same bytes each time, and with what the stubs were made of."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

from google.protobuf import descriptor_pb2

from tailorbird.serving.v1 import inference_service_pb2
from tools.protos_dist import PROTOS, ROOT, archive, files


def test_its_protos_compile_with_nothing_beside_them(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(files(), "protos"))) as tar:
        tar.extractall(tmp_path, filter="data")
    folder = tmp_path / "protos"
    protos = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.proto"))
    assert "google/rpc/error_details.proto" in protos
    image = tmp_path / "image.binpb"
    # A folder of its own: a warning is a fault, too, such as an import that nothing uses.
    made = subprocess.run(
        [
            *(sys.executable, "-I", "-m", "grpc_tools.protoc", f"-I{folder}"),
            *("--include_imports", f"--descriptor_set_out={image}", *protos),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (made.returncode, made.stderr) == (0, "")
    compiled = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    ours = next(file for file in compiled.file if file.name.endswith("inference_service.proto"))
    own = descriptor_pb2.FileDescriptorProto()
    inference_service_pb2.DESCRIPTOR.CopyToProto(own)
    ours.ClearField("source_code_info")
    for message in ours.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert ours.service == own.service
    assert ours.options == own.options


def test_it_is_the_same_bytes_each_time() -> None:
    first, second = archive(files(), "protos"), archive(files(), "protos")
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        entries = tar.getmembers()
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    assert {(entry.mtime, entry.uid, entry.gid, entry.mode) for entry in entries} == {
        (0, 0, 0, 0o644)
    }


def test_it_names_whose_it_is_and_how_it_is_used() -> None:
    contents = files()
    assert contents["LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert {"README.md", "buf.yaml"} <= contents.keys()
    for name in contents:
        if name.startswith("buf.gen."):
            assert f"`{name}`" in contents["README.md"].decode()


def test_every_proto_names_the_packages_of_generated_code() -> None:
    for path in PROTOS.rglob("*.proto"):
        room, version = path.parts[-3:-1]
        text = path.read_text(encoding="utf-8")
        assert f'option go_package = "tailorbird/{room}/{version};{room}{version}";' in text
        assert f'option java_package = "com.tailorbird.{room}.{version}";' in text
        assert "option java_multiple_files = true;" in text

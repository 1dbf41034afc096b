"""The protos as an archive for other languages. Usage: protos_dist.py FOLDER

Writes FOLDER/tailorbird-protos, with every proto that ours import beside them (but google/protobuf,
which protoc has), and the same as FOLDER/tailorbird-protos-VERSION.tar.gz: the same bytes from the
same sources, whenever and wherever they are packed.
"""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import tarfile
import tomllib
from pathlib import Path

import google.rpc

ROOT = Path(__file__).parents[1]
PROTOS = ROOT / "protos"
GOOGLE = Path(next(iter(google.rpc.__path__))).parents[1]
BESIDE = ("google/rpc/error_details.proto",)
"""Imported by none of ours: what a status's details are."""
OWN = ("README.md", "buf.yaml", "buf.gen.go.yaml", "buf.gen.java.yaml", "buf.gen.typescript.yaml")


def files() -> dict[str, bytes]:
    """Return what the archive holds, by path."""
    ours = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    found = {name: (PROTOS / name).read_bytes() for name in (*ours, *OWN)}
    for name in _imported([*ours, *BESIDE]) - found.keys():
        found[name] = (GOOGLE / name).read_bytes()
    found["LICENSE"] = (ROOT / "LICENSE").read_bytes()
    return dict(sorted(found.items()))


def _imported(names: list[str]) -> set[str]:
    """Return the protos that are needed to compile `names`, and are not protoc's own."""
    wanted, read = list(names), set[str]()
    while wanted:
        name = wanted.pop()
        if name in read or name.startswith("google/protobuf/"):
            continue
        read.add(name)
        path = PROTOS / name if (PROTOS / name).exists() else GOOGLE / name
        wanted += [
            line.split('"')[1]
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("import ")
        ]
    return read


def archive(contents: dict[str, bytes], folder: str) -> bytes:
    """Return a .tar.gz of `contents` under `folder`, which says nothing of when it was made."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data in contents.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def main() -> None:
    """Write the folder and the archive."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = Path(sys.argv[1])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    contents = files()
    unpacked = target / "tailorbird-protos"
    shutil.rmtree(unpacked, ignore_errors=True)
    for name, data in contents.items():
        path = unpacked / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    packed = target / f"tailorbird-protos-{project['version']}.tar.gz"
    packed.write_bytes(archive(contents, packed.name.removesuffix(".tar.gz")))
    print(f"{packed}: {len(contents)} files")


if __name__ == "__main__":
    main()
